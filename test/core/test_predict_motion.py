"""`dyndepth predict` with a model that has object motion, and the pictures of motion."""

import csv
import json

import cv2
import numpy as np
import pytest
import typer
from moving_model import DEPTH, SIZE, STEP, red_box, save_moving_model
from small_model import camera
from typer.testing import CliRunner

from dyndepth_core.cli import guarded
from dyndepth_core.commands.predict import command
from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.inference.depth_files import SideBySide
from dyndepth_core.inference.motion_drawing import arrow, color, draw_motion
from dyndepth_core.instances.motion import Motion, MovingObject

K = camera(SIZE, 60.0)
FRAMES = 6
APP = typer.Typer()
APP.command()(guarded(command))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "street"
    with RecordingWriter(path, Calibration.from_K(K, SIZE[1], SIZE[0]), "png") as writer:
        for i in range(FRAMES):
            left = 0.2 + i * STEP / DEPTH * 60 / SIZE[1]
            writer.add(red_box(left=left), 1_000_000_000 + i * 100_000_000)
    return path


def run(recording, out, *options):
    model = save_moving_model(out.parent / f"{out.name}.safetensors")
    words = [recording, "--out", out, "--model", model, "--device", "cpu", *options]
    result = CliRunner().invoke(APP, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    return json.loads((out / "summary.json").read_text()), " ".join(result.output.split())


def test_motion_becomes_files_a_recording_understands_a_table_and_a_video(recording, tmp_path):
    out = tmp_path / "out"
    summary, said = run(recording, out)
    names = [f"{i:06d}" for i in range(1, FRAMES)]  # of the first nothing is known
    for kind, suffix in (("velocity", "npz"), ("dynamic", "png"), ("instances", "png")):
        assert sorted(p.name for p in (out / kind).iterdir()) == [f"{n}.{suffix}" for n in names]
    (out / "images").symlink_to(recording / "images")
    found = Recording(out)
    red = found.image(5)[..., 0] > 200
    assert np.array_equal(found.dynamic(5), red)
    assert np.array_equal(found.instances(5), red.astype(np.int32))
    np.testing.assert_allclose(found.velocity(5)[red][:, 0], STEP / 0.1, rtol=1e-3)
    rows = list(csv.DictReader((out / "objects.csv").read_text().splitlines()))
    assert [(r["frame"], r["id"]) for r in rows] == [(n, "1") for n in names[2:]]
    assert float(rows[-1]["speed"]) == pytest.approx(STEP / 0.1, rel=0.02)
    assert float(rows[-1]["z"]) == pytest.approx(DEPTH, rel=0.01)
    assert summary["motion"] == {
        "frames": 5, "objects": 1, "speed_unit": "rel./s", "video": "motion.mp4"
    }  # fmt: skip
    assert "1 moving objects" in said and "rel./s" in said
    video = cv2.VideoCapture(str(out / "motion.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == FRAMES
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 960


def test_the_table_is_there_while_it_runs_and_where_a_video_fails(recording, tmp_path, monkeypatch):
    out, close, before = tmp_path / "out", SideBySide.close, []

    def fails(self):
        before.extend((out / "objects.csv").read_text().splitlines())
        close(self)
        if self.path.stem == "color":
            raise ValueError("the video could not be written")

    monkeypatch.setattr(SideBySide, "close", fails)
    with pytest.raises(AssertionError, match="could not be written"):
        run(recording, out)
    rows = (out / "objects.csv").read_text().splitlines()
    assert len(rows) == FRAMES - 2 and before[: len(rows)] == rows  # the header, 3 frames
    assert (out / "motion.mp4").exists()


def test_without_video_there_is_none(recording, tmp_path):
    summary, _ = run(recording, tmp_path / "out", "--no-video", "--size", "model")
    assert summary["motion"]["video"] is None and not list((tmp_path / "out").glob("*.mp4"))
    assert (tmp_path / "out" / "objects.csv").exists()


def moving(position, velocity, **changes):
    values = {
        "id": 1, "size": np.ones(3), "box": (40.0, 25.0, 55.0, 40.0), "age_s": 1.0, "missed": 0,
    }  # fmt: skip
    velocity = np.array(velocity, float)
    return MovingObject(
        position=np.array(position, float), velocity=velocity,
        speed=float(np.linalg.norm(velocity)), **{**values, **changes},
    )  # fmt: skip


def test_an_arrow_ends_where_the_object_will_be_seen_in_half_a_second():
    start, end = arrow(moving((0, 0, 10), (4, 0, 0)), K)
    np.testing.assert_allclose(start, K[:2, 2])
    np.testing.assert_allclose(end, K[:2, 2] + (2 / 10 * 60, 0))
    start, end = arrow(moving((1, 0, 10), (0, 0, 10)), K)  # away: towards the vanishing point
    np.testing.assert_allclose(end - K[:2, 2], (1 / 15 * 60, 0))
    _, end = arrow(moving((1, 0, 10), (0, 0, -100)), K)  # past the camera
    assert np.isfinite(end).all() and end[0] > K[0, 2]


def test_the_picture_tints_the_mask_and_leaves_the_rest():
    image = np.full((*SIZE, 3), 90, np.uint8)
    ids = np.zeros(SIZE, np.int32)
    ids[25:41, 40:56], ids[:5, :5] = 1, 0
    mask = ids > 0
    mask[:5, :5] = True  # moves, nobody's yet
    motion = Motion(np.zeros((*SIZE, 3), np.float32), mask.astype(np.float32), mask, ids)
    drawn = draw_motion(image, motion, K, "m/s")
    assert drawn.shape == (640, 960, 3) and (drawn[300, 100] == 90).all()
    assert (drawn[300, 480] == (90 + np.array(color(1))) // 2).all()
    assert (drawn[10, 10] == (90 + np.array(color(0))) // 2).all()
    assert len({color(i) for i in range(1, 30)}) == 29 and (image == 90).all()
    motion.objects = [moving((0, 0, 10), (4, 0, 0))]
    with_arrow = draw_motion(image, motion, K, "m/s")
    changed = (with_arrow != drawn).any(-1)
    assert changed[320, 480:590].all()  # the shaft, from the middle to the right
    assert changed[:250].sum() > 100 and not changed[450:].any()  # the label above it
