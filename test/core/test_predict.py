"""`dyndepth predict`: every kind of input in, depth files, video and summary out."""

import json

import cv2
import numpy as np
import pytest
import typer
from small_model import FOCAL, SIZE, camera, picture, save_small_model
from typer.testing import CliRunner

from dyndepth_core.cli import guarded
from dyndepth_core.commands.predict import command
from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.rectify import Rectifier
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.inference import depth_files
from dyndepth_core.inference.color import DepthColors
from dyndepth_core.inference.depth_files import DepthFiles, SideBySide, depth_to_png
from dyndepth_core.inference.model_file import BUNDLED, ModelScale
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.inference.sources import open_sources

FRAME = (72, 120)
APP = typer.Typer()
APP.command()(guarded(command))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "street"
    with RecordingWriter(path, Calibration.from_K(camera(FRAME), FRAME[1], FRAME[0]), "png") as w:
        for i in range(3):
            w.add(picture(FRAME, i), 1_000_000_000 + i * 50_000_000)
    return path


def run(*arguments):
    result = CliRunner().invoke(APP, [str(a) for a in arguments])
    return result, " ".join(result.output.split())


def predict(source, out, model, *options):
    result, said = run(source, "--out", out, "--model", model, "--device", "cpu", *options)
    assert result.exit_code == 0, said
    return json.loads((out / "summary.json").read_text()), said


def frames_of(video):
    capture, frames = cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def write_video(path, count, size=(64, 96)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, size[::-1])
    for i in range(count):
        writer.write(picture(size, i))
    writer.release()
    return path


def test_recording_becomes_depth_video_calibration_and_summary(recording, model, tmp_path):
    out = tmp_path / "out"
    copy = tmp_path / "more" / "copy.json"
    summary, said = predict(recording, out, model, "--json", copy)
    assert sorted(p.name for p in (out / "depth").iterdir()) == [f"{i:06d}.png" for i in range(3)]
    predictor = Predictor(model, device="cpu")
    for i in range(3):
        expected = predictor(Recording(recording).image(i), camera(FRAME), output_size="input")
        stored = cv2.imread(str(out / "depth" / f"{i:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint16 and stored.shape == FRAME
        assert np.array_equal(stored > 0, np.isfinite(expected.depth))
        seen = stored > 0
        np.testing.assert_allclose(stored[seen] / 256, expected.depth[seen], atol=1 / 256)
    np.testing.assert_allclose(Calibration.load(out / "calib.json").K, camera(FRAME))
    frames, fps = frames_of(out / summary["video"])
    assert len(frames) == 3 and fps == pytest.approx(20)
    assert frames[0].shape == (FRAME[0], 2 * FRAME[1], 3)
    left = frames[0][:, : FRAME[1], ::-1].astype(int)
    assert np.abs(left - Recording(recording).image(0)).mean() < 12  # lossy, but that picture
    assert (summary["frames"], summary["damaged"]) == (3, 0)
    assert summary["scale"] == {"value": 1.0, "variance": None, "source": "relative"}
    assert summary["depth_size"] == list(FRAME) and summary["network_size"] == list(SIZE)
    assert json.loads(copy.read_text()) == summary
    assert "no metric scale" in said and "look at" in said


def test_npz_at_model_size_without_video(recording, model, tmp_path):
    out = tmp_path / "out"
    options = ("--format", "npz", "--size", "model", "--no-video", "--assumed-scale", 2)
    summary, _ = predict(recording, out, model, *options)
    assert summary["video"] is None and not list(out.glob("color.*"))
    expected = Predictor(model, device="cpu", assumed_scale=2.0)(
        Recording(recording).image(1), camera(FRAME)
    )
    with np.load(out / "depth" / "000001.npz") as stored:
        np.testing.assert_allclose(stored["depth"], expected.depth, rtol=1e-5)
        np.testing.assert_allclose(stored["K"], expected.K)
    assert Calibration.load(out / "calib.json").K == pytest.approx(expected.K)


def test_max_range_leaves_out_what_is_farther(recording, model, tmp_path):
    depth = Predictor(model, device="cpu")(Recording(recording).image(0), camera(FRAME)).depth
    limit = float(np.nanmedian(depth))
    options = ("--max-range", limit, "--size", "model")
    summary, _ = predict(recording, tmp_path / "png", model, *options)
    stored = cv2.imread(str(tmp_path / "png" / "depth" / "000000.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(stored > 0, depth <= limit)
    assert summary["colour_range"][1] == pytest.approx(limit)
    predict(recording, tmp_path / "npz", model, *options, "--format", "npz")
    with np.load(tmp_path / "npz" / "depth" / "000000.npz") as stored:
        assert np.array_equal(np.isfinite(stored["depth"]), depth <= limit)


def test_one_frame_video_of_an_unknown_camera(model, tmp_path):
    video = write_video(tmp_path / "one.mp4", 1)
    summary, said = predict(video, tmp_path / "out", model, "--fps", 5)
    assert summary["frames"] == 1
    frames, fps = frames_of(tmp_path / "out" / summary["video"])
    assert len(frames) == 1 and fps == pytest.approx(5)
    assert "camera of one is unknown" in said and "calib.json" in said
    assert summary["K"][0][0] == pytest.approx(FOCAL)  # 64x96 is the network's own size


def test_video_with_a_calibration_beside_it(model, tmp_path):
    video = write_video(tmp_path / "two.mp4", 2)
    Calibration.from_K(camera(SIZE, 90.0), SIZE[1], SIZE[0]).save(tmp_path / "two.calib.json")
    summary, said = predict(video, tmp_path / "out", model)
    assert summary["K"][0][0] == 90.0 and "unknown" not in said


def test_folder_with_a_damaged_image_and_lens_distortion(model, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"frame{i}.png"), picture(FRAME, i))
    (folder / "frame1.png").write_bytes(b"not a picture")
    K = camera(FRAME)
    lens = {"model": "plumb_bob", "coeffs": [-0.1, 0.01, 0.0, 0.0, 0.0]}
    Calibration(
        FRAME[1], FRAME[0], K[0, 0], K[1, 1], K[0, 2], K[1, 2], distortion=lens, rectified=False
    ).save(folder / "calib.json")
    summary, said = predict(folder, tmp_path / "out", model)
    assert (summary["frames"], summary["damaged"]) == (2, 1)
    names = sorted(p.name for p in (tmp_path / "out" / "depth").iterdir())
    assert names == ["frame0.png", "frame2.png"]
    assert "1 damaged" in said and "distortion of pictures is removed" in said
    (source,) = open_sources(folder)
    rectifier = Rectifier(Calibration.load(folder / "calib.json"))
    seen = [frame.image for frame in source.frames()]
    assert np.array_equal(
        seen[0], rectifier.image(cv2.imread(str(folder / "frame0.png"))[..., ::-1])
    )
    assert seen[1] is None
    np.testing.assert_allclose(summary["K"], rectifier.K)


def test_a_root_gives_one_folder_for_each_recording(recording, model, tmp_path):
    root = tmp_path / "root"
    for name in ("a", "b"):
        (root / name / "images").mkdir(parents=True)
        cv2.imwrite(str(root / name / "images" / "000000.png"), picture(FRAME))
    result, said = run(
        root, "--out", tmp_path / "out", "--model", model, "--json", tmp_path / "all.json"
    )
    assert result.exit_code == 0, said
    for name in ("a", "b"):
        assert (tmp_path / "out" / name / "depth" / "000000.png").exists()
    assert len(json.loads((tmp_path / "all.json").read_text())["sources"]) == 2


def test_bag(recording, model, tmp_path):
    bag_writer = pytest.importorskip("dyndepth_core.data.bag_writer")
    bag = tmp_path / "drive"
    bag_writer.bag_from_recording(Recording(recording), bag)
    summary, _ = predict(bag, tmp_path / "out", model, "--no-video")
    assert summary["frames"] == 3
    np.testing.assert_allclose(summary["K"], camera(FRAME))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "images"),
        (lambda p: p.write_text("hello"), "not a video"),
    ],
)
def test_input_that_cannot_be_read(model, tmp_path, make, says):
    make(tmp_path / "input")
    result, said = run(tmp_path / "input", "--out", tmp_path / "out", "--model", model)
    assert result.exit_code == 2 and says in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_truncated_video(model, tmp_path):
    video = write_video(tmp_path / "cut.mp4", 3)
    video.write_bytes(video.read_bytes()[:200])
    result, said = run(video, "--out", tmp_path / "out", "--model", model)
    assert result.exit_code == 2 and "cannot be opened as a video" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--size", "huge"), "choose input or model"),
        (("--format", "jpg"), "choose png or npz"),
        (("--max-range", "-1"), "metres above 0"),
        (("--fps", "0"), "above 0"),
        (("--assumed-scale", "0"), "assumed_scale"),
        (("--device", "tpu"), "choose auto, cpu"),
        (("--image-topic", "/camera"), "not a bag"),
    ],
)
def test_bad_options(recording, model, tmp_path, options, says):
    result, said = run(recording, "--out", tmp_path / "out", "--model", model, *options)
    assert result.exit_code == 2 and says in said
    assert not (tmp_path / "out").exists()


def test_results_are_never_overwritten(recording, model, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    result, said = run(recording, "--out", tmp_path, "--model", model)
    assert result.exit_code == 2 and "not an empty folder" in said


def test_no_model_means_the_bundled_one_said_aloud(recording, model, tmp_path, monkeypatch):
    monkeypatch.setitem(BUNDLED, "motion", model)
    result, said = run(recording, "--out", tmp_path / "out", "--no-video")
    assert result.exit_code == 0, said
    assert "no --model given: the bundled model runs" in said


def test_calibration_of_another_size_is_refused(model, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), picture(FRAME))
    Calibration.from_K(camera((720, 1280)), 1280, 720).save(folder / "calib.json")
    result, said = run(folder, "--out", tmp_path / "out", "--model", model)
    assert result.exit_code == 2
    assert "image of 120x72, but the calibration is for 1280x720" in said


def test_depth_png_convention():
    depth = np.array([[np.nan, 0, -1, 1e-5, 1, 80, 255.99, 256, np.inf]], np.float32)
    assert depth_to_png(depth).tolist() == [[0, 0, 0, 1, 256, 20480, 65533, 0, 0]]
    assert depth_to_png(depth, 50).tolist() == [[0, 0, 0, 1, 256, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="png or npz"):
        DepthFiles(None, "exr", None)


@pytest.mark.parametrize("size", [(33, 51), (40, 300), (30, 2001)])
def test_video_of_odd_wide_and_large_frames(tmp_path, size):
    video = SideBySide(tmp_path / "film", 10)
    for i in range(2):
        video.add(picture(size, i), picture(size, i + 5))
    video.add(picture((size[0] // 2, size[1]), 0), picture((size[0] // 2, size[1]), 1))
    video.close()
    frames, _ = frames_of(video.path)
    assert len(frames) == video.count == 3
    assert frames[0].shape[1] <= 2 * depth_files.PANEL


def test_video_falls_back_to_motion_jpeg(tmp_path, monkeypatch):
    monkeypatch.setattr(depth_files, "CODECS", (("zzzz", ".mp4"), *depth_files.CODECS[1:]))
    video = SideBySide(tmp_path / "film", 10)
    video.add(picture(SIZE), picture(SIZE))
    video.close()
    assert video.path.suffix == ".avi" and len(frames_of(video.path)[0]) == 1
    monkeypatch.setattr(depth_files, "CODECS", (("zzzz", ".mp4"),))
    with pytest.raises(ValueError, match="--no-video"):
        SideBySide(tmp_path / "none", 10).add(picture(SIZE), picture(SIZE))


def test_metric_models_are_coloured_to_80_m(recording, tmp_path):
    metric = ModelScale(state="metric", source="odometry")
    path = save_small_model(tmp_path / "metric.safetensors", scale=metric)
    summary, said = predict(recording, tmp_path / "out", path)
    assert summary["colour_range"] == [4.0, 80.0] and "metric scale" not in said
    assert summary["scale"]["source"] == "checkpoint"


def test_colour_range_of_depth_without_metres():
    depth = np.linspace(2, 4, 1000, dtype=np.float32).reshape(20, 50)
    depth[0] = np.nan
    colours = DepthColors.for_depth(depth)
    assert 1.5 < colours.near < 2.2 and 3.9 < colours.far < 5
    assert DepthColors.for_depth(np.full((2, 2), np.nan)).far == 80
