"""`dyndepth synth` and write_clip: what is on disk is what was rendered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from dyndepth_core.commands.synth import command, parse_size
from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.synthetic import World, write_clip
from dyndepth_core.data.synthetic.look import Look

SIZE = (32, 104)


def test_a_written_clip_reads_back_as_rendered(tmp_path):
    world = World(4, 1, SIZE, frames=2)
    seen = []
    write_clip(tmp_path / "clip", world, on_frame=seen.append)
    (recording,) = open_recordings(tmp_path / "clip")
    assert len(recording) == 2 and seen == [0, 1]
    assert recording.stamps_ns.tolist() == [0, 100_000_000]
    np.testing.assert_allclose(recording.calib.K, world.calib.K)
    for i in (0, 1):
        frame = world.render(i)
        np.testing.assert_allclose(recording.depth(i), frame.depth, atol=1 / 256)
        np.testing.assert_array_equal(recording.instances(i), frame.instances)
        np.testing.assert_array_equal(recording.dynamic(i), frame.dynamic)
        np.testing.assert_allclose(recording.velocity(i), frame.velocity, atol=0.02)
        np.testing.assert_allclose(recording.pose(i), frame.T_world_cam, atol=1e-6)
        assert recording.odometry(i) == pytest.approx(frame.odometry)
        difference = recording.image(i).astype(float) - frame.image
        assert np.abs(difference).mean() < 6.0  # JPEG


def test_a_clip_without_a_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match="frames"):
        write_clip(tmp_path / "clip", World(0, 0, SIZE))


def test_synth_writes_clips_splits_and_a_manifest_and_can_be_given_again(tmp_path):
    out = tmp_path / "data"
    command(out=out, seed=5, clips=3, frames=1, size="32x104", workers=1)
    assert [r.name for r in open_recordings(out, "train")] == ["synth_005_000", "synth_005_001"]
    assert [r.name for r in open_recordings(out, "val")] == ["synth_005_002"]
    first = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for path in sorted((out / "synth_005_001").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (out / "synth_005_001").rmdir()
    command(out=out, seed=5, clips=3, frames=1, size="32x104", workers=1)
    again = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert first == again
    with zipfile.ZipFile(out / "synth_005_000" / "velocity" / "000000.npz") as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}  # no time of writing


def test_bad_options_are_named(tmp_path):
    with pytest.raises(ValueError, match="128x416"):
        parse_size("128,416")
    with pytest.raises(ValueError, match="split"):
        command(out=tmp_path / "x", clips=1, frames=1, split="all")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="notes.txt"):
        command(out=tmp_path / "y", clips=1, frames=1)


def test_a_walking_camera_has_no_odometry_and_turns_more_than_it_moves(tmp_path):
    turns, steps = {}, {}
    for camera in ("car", "hand"):
        out = tmp_path / camera
        command(out=out, seed=3, clips=1, frames=6, size="32x104", camera=camera, workers=1)
        recording = open_recordings(out)[0]
        motions = [np.linalg.inv(recording.pose(i)) @ recording.pose(i + 1) for i in range(5)]
        turns[camera] = np.mean([np.arccos((np.trace(T[:3, :3]) - 1) / 2) for T in motions])
        steps[camera] = np.mean([np.linalg.norm(T[:3, 3]) for T in motions])
        assert (recording.odometry(0) is None) is (camera == "hand")
    assert 0.1 < steps["hand"] < 0.2 < steps["car"]
    assert turns["hand"] > 0.008 and turns["hand"] / steps["hand"] > 5 * turns["car"] / steps["car"]
    with pytest.raises(ValueError, match="choose one of car, hand, vehicle"):
        command(out=tmp_path / "x", clips=1, frames=1, camera="drone")
    with pytest.raises(ValueError, match="camera car"):
        command(out=tmp_path / "car", seed=3, clips=1, frames=6, size="32x104", camera="hand")


def test_a_vehicle_has_one_camera_that_no_car_has():
    for seed in range(6):
        first, second = (World(seed, clip, SIZE, camera="vehicle") for clip in (0, 1))
        assert first.calib == second.calib and first.look == second.look != Look()
        assert first.mount.height == second.mount.height
        share = first.calib.fx / SIZE[1]
        assert 0.36 < share < 0.46 or 1.0 < share < 1.25
        assert 0.6 < first.mount.height < 1.0 or 2.4 < first.mount.height < 3.0
        car = World(seed, 0, SIZE)
        assert car.style == first.style and car.look == Look()  # the same street
    image = World(0, 0, SIZE, camera="vehicle").render(0).image
    assert image.dtype == np.uint8 and image.std() > 10


def test_clips_of_other_settings_are_not_passed_off_as_new_ones(tmp_path):
    command(out=tmp_path / "a", seed=5, clips=1, frames=1, size="32x104", workers=1)
    before = (tmp_path / "a" / "manifest.json").read_bytes()
    for change in ({"frames": 2}, {"size": "32x96"}, {"seed": 6}):
        with pytest.raises(ValueError, match="holds|other things"):
            command(**{"out": tmp_path / "a", "seed": 5, "clips": 1, "frames": 1,
                       "size": "32x104", "workers": 1, **change})  # fmt: skip
    assert (tmp_path / "a" / "manifest.json").read_bytes() == before
    command(out=tmp_path / "a", seed=5, clips=2, frames=1, size="32x104", workers=1)  # more is fine
    assert len(open_recordings(tmp_path / "a")) == 2
    about = json.loads((tmp_path / "a" / "manifest.json").read_text())
    del about["renderer"]  # rendered by an earlier one, whose pictures differ
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="holds clips of renderer 1: give a new folder"):
        command(out=tmp_path / "a", seed=5, clips=3, frames=1, size="32x104", workers=1)
    with pytest.raises(ValueError, match="4096"):
        command(out=tmp_path / "b", clips=1, frames=1, size="1000000x1000000")
    assert not (tmp_path / "b").exists()


def test_ctrl_c_is_one_line_and_what_is_complete_stays(tmp_path):
    words = [sys.executable, "-m", "dyndepth_core.cli", "synth", "--out", tmp_path / "a"]
    words += ["--clips", "4", "--frames", "500", "--size", "32x104"]
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = time.monotonic() + 150
    while len({p.parents[1] for p in tmp_path.glob("a/.*.part/images/*.jpg")}) < 2:  # both workers
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    for _ in range(2):  # to the whole process group, as a terminal does
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in text and "stopped" in text, text
