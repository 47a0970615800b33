"""Recordings: what is written is read back, damage is named."""

import json

import cv2
import numpy as np
import pytest

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import DamagedImage, Recording, open_recordings
from dyndepth_core.data.writer import RecordingWriter, write_splits

H, W = 24, 32
CALIB = Calibration(W, H, 30.0, 31.0, 15.5, 11.5, source="test")
STEP = 100_000_000


def picture(i):
    image = np.full((H, W, 3), (10, 60, 200), np.uint8)
    image[2:8, i : i + 5] = (250, 20, 30)
    return image


def record(path, count=4, **options):
    with RecordingWriter(path, CALIB, "png") as writer:
        for i in range(count):
            writer.add(picture(i), i * STEP, **options)
    return path


# -- round trip -----------------------------------------------------------------------------------


def test_everything_written_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 90, (H, W)).astype(np.float32)
    depth[0, :5] = 0, np.nan, 300, np.inf, -1
    truth = {
        "instances": rng.integers(0, 60000, (H, W)),
        "dynamic": rng.random((H, W)) > 0.5,
        "velocity": rng.normal(0, 9, (H, W, 3)).astype(np.float32),
        "T_world_cam": np.vstack((rng.normal(size=(3, 4)), (0, 0, 0, 1))),
        "odometry": {"tx": 1 / 3, "speed": 7.1, "yaw_rate": -0.2},
    }
    record(tmp_path / "a", depth=depth, **truth)
    recording = Recording(tmp_path / "a")
    assert len(recording) == 4 and recording.name == "a" and recording.calib == CALIB
    assert recording.stamps_ns.tolist() == [0, STEP, 2 * STEP, 3 * STEP] and recording.keep.all()
    np.testing.assert_array_equal(recording.image(3), picture(3))
    np.testing.assert_allclose(recording.depth(1)[1:], depth[1:], atol=1 / 512 + 1e-6)
    assert (recording.depth(1)[0, :5] == 0).all()  # none, or too far for the format
    np.testing.assert_array_equal(recording.instances(1), truth["instances"])
    np.testing.assert_array_equal(recording.dynamic(1), truth["dynamic"])
    np.testing.assert_allclose(recording.velocity(1), truth["velocity"], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(recording.pose(2), truth["T_world_cam"])
    assert recording.odometry(0) == truth["odometry"]


def test_what_was_never_recorded_is_none(tmp_path):
    recording = Recording(record(tmp_path / "a"))
    for name in ("depth", "instances", "dynamic", "velocity", "pose", "odometry"):
        assert getattr(recording, name)(0) is None


def test_jpeg_images_come_back_in_their_colours(tmp_path):
    with RecordingWriter(tmp_path / "a", CALIB) as writer:
        writer.add(picture(5), 0)
    assert np.abs(Recording(tmp_path / "a").image(0).astype(int) - picture(5)).mean() < 6


def test_a_part_is_a_recording_with_its_own_frames(tmp_path):
    with RecordingWriter(tmp_path / "a", CALIB, "png") as writer:
        for i in range(6):
            T = np.eye(4)
            T[0, 3] = i
            writer.add(picture(i), i * STEP, T_world_cam=T, keep=i != 3, reason="dark")
    whole = Recording(tmp_path / "a")
    for part in (whole.part(2, 4), Recording(tmp_path / "a", 2, 4), whole.part(1, 5).part(1, 3)):
        assert len(part) == 3 and part.stamps_ns[0] == 2 * STEP
        assert part.keep.tolist() == [True, False, True]
        np.testing.assert_array_equal(part.image(1), picture(3))
        assert part.pose(2)[0, 3] == 4
    for first, last in ((-1, 2), (3, 2), (0, 6)):
        with pytest.raises(ValueError, match="0 to 5"):
            whole.part(first, last)
        with pytest.raises(ValueError, match="0 to 5"):
            Recording(tmp_path / "a", first, last)


def test_a_folder_of_pictures_is_a_recording_without_calibration(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"holiday {i}.png"), picture(i)[..., ::-1])
    (recording,) = open_recordings(tmp_path)
    assert recording.calib.K is None and (recording.calib.height, recording.calib.width) == (H, W)
    np.testing.assert_array_equal(recording.image(2), picture(2))
    assert (np.diff(recording.stamps_ns) > 0).all()


# -- damage ---------------------------------------------------------------------------------------


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "a" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match="a: no images"):
        Recording(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="b: empty"):
        open_recordings(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_recordings(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="notes.txt: not a video"):
        open_recordings(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"fx": float("nan")}, "finite"),
        ({"fx": -5.0}, "positive"),
        ({"fx": None}, "all of fx"),
        ({"fx": "wide"}, "calib.json"),
        ({"width": 0}, "whole numbers"),
        ({"width": 1e5}, "whole"),
        ({"fx": 10**400}, "calib.json"),
        ({"height": True}, "whole numbers"),
        ({"width": None}, "calib.json"),
        ({"distortion": {"model": "pillow", "coeffs": [1.0]}}, "pillow"),
        ({"distortion": {"model": "plumb_bob"}}, "coeffs"),
        ({"distortion": {"model": "plumb_bob", "coeffs": [0.1, float("nan")]}}, "coeffs"),
        ({"distortion": "much"}, "calib.json"),
    ],
)
def test_a_bad_calibration_is_named(tmp_path, change, word):
    path = record(tmp_path / "a") / "calib.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=word) as error:
        Recording(tmp_path / "a")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"fx"', "{}"])
def test_a_calibration_that_is_none_is_named(tmp_path, text):
    (record(tmp_path / "a") / "calib.json").write_text(text)
    with pytest.raises(ValueError, match="calib.json: not a valid calib.json"):
        Recording(tmp_path / "a")


def test_distortion_without_a_word_about_rectification_is_still_in_the_images(tmp_path):
    lens = {"model": "plumb_bob", "coeffs": [-0.3, 0.1, 0.0, 0.0, 0.0]}
    fields = {"width": W, "height": H, "fx": 30, "fy": 30, "cx": 15, "cy": 11}
    path = tmp_path / "calib.json"
    for extra, rectified in (({}, True), ({"distortion": lens}, False)):
        path.write_text(json.dumps({**fields, **extra}))
        assert Calibration.load(path).rectified is rectified
    path.write_text(json.dumps({**fields, "distortion": lens, "rectified": True}))
    assert Calibration.load(path).rectified


def test_a_calibration_may_be_unknown(tmp_path):
    Calibration(W, H).save(tmp_path / "calib.json")
    assert Calibration.load(tmp_path / "calib.json").K is None


def test_a_short_table_is_an_incomplete_recording(tmp_path):
    table = record(tmp_path / "a") / "frames.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:3]))
    with pytest.raises(ValueError, match="rows for 2 of 4 images"):
        Recording(tmp_path / "a")
    table.write_text("".join(lines).replace(str(STEP), "soon"))
    with pytest.raises(ValueError, match="integer index and stamp_ns"):
        Recording(tmp_path / "a")


def test_a_deleted_image_takes_its_row_along(tmp_path):
    """The remedy for a damaged image must not shift the stamps of those behind it."""
    record(tmp_path / "a", T_world_cam=np.eye(4))
    (tmp_path / "a" / "images" / "000001.png").unlink()
    recording = Recording(tmp_path / "a")
    assert recording.stamps_ns.tolist() == [0, 2 * STEP, 3 * STEP]
    np.testing.assert_array_equal(recording.image(1), picture(2))


def test_images_without_numbers_pair_in_order_or_not_at_all(tmp_path):
    images = record(tmp_path / "a") / "images"
    for i in range(4):
        (images / f"{i:06d}.png").rename(images / f"frame_{'abcd'[i]}.png")
    assert Recording(tmp_path / "a").stamps_ns[3] == 3 * STEP
    (images / "frame_b.png").unlink()
    with pytest.raises(ValueError, match="4 rows for 3 images"):
        Recording(tmp_path / "a")


@pytest.mark.parametrize("size", [0, 20, 60])
def test_a_truncated_image_is_named(tmp_path, size):
    with RecordingWriter(tmp_path / "a", CALIB) as writer:
        writer.add(picture(0), 0, depth=np.ones((H, W)))
    for folder, read in (("images/000000.jpg", "image"), ("depth/000000.png", "depth")):
        path = tmp_path / "a" / folder
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=path.name):
            getattr(Recording(tmp_path / "a"), read)(0)


def test_a_bad_table_of_poses_is_named_and_a_cut_one_is_used(tmp_path):
    table = record(tmp_path / "a", T_world_cam=np.eye(4)) / "poses.csv"
    text = table.read_text()
    table.write_text(text.replace("1.0", "one", 1))
    with pytest.raises(ValueError, match="poses.csv"):
        Recording(tmp_path / "a")
    table.write_text(text[: text.rindex(",0.0,1.0")])
    recording = Recording(tmp_path / "a")
    assert recording.pose(2) is not None and recording.pose(3) is None
    table.write_text(text.splitlines()[0] + "\n")
    assert Recording(tmp_path / "a").pose(0) is None


# -- roots and splits -----------------------------------------------------------------------------
def test_a_root_opens_as_its_sequences_whatever_else_lies_in_it(tmp_path):
    for name in ("b", "a", ".c.123.part"):  # the last one is being made
        record(tmp_path / name)
    cv2.imwrite(str(tmp_path / "contact_sheet.png"), picture(0))
    assert [r.name for r in open_recordings(tmp_path)] == ["a", "b"]
    assert [r.name for r in open_recordings(tmp_path / "b")] == ["b"]
    assert len(open_recordings(tmp_path / "b" / "images")[0]) == 4


def test_a_sequence_that_was_only_begun_is_none_and_one_that_lost_its_images_is_named(tmp_path):
    begun = [record(tmp_path / name) for name in "ab"][1]
    (begun / "images").rename(tmp_path / "elsewhere")
    (begun / "images").mkdir()
    with pytest.raises(ValueError, match="b: no images"):
        open_recordings(tmp_path)
    (begun / "frames.csv").write_text("index,stamp_ns\n")
    assert len(open_recordings(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("frames.csv", b"a,b,c\n1,2,3\n", "no column index"),
        ("frames.csv", b"\xb4\xff\x00", "frames.csv"),
        ("frames.csv", b"index,stamp_ns\n0," + b"9" * 30 + b"\n", "frames.csv"),
        ("frames.csv", b'index,stamp_ns\n0,"' + b"9" * 140_000, "frames.csv"),
        ("poses.csv", b"index\n" + b"inf," + b"0," * 11 + b"0\n", "poses.csv"),
        ("calib.json", b"[" * 100_000, "calib.json"),
    ],
)
def test_damaged_tables_are_named(tmp_path, name, content, word):
    path = record(tmp_path / "a")
    (path / name).write_bytes(content)
    with pytest.raises(ValueError, match=word) as error:
        Recording(path)
    assert name in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04cut", b"some text", None])
def test_damaged_velocity_is_named(tmp_path, content):
    path = record(tmp_path / "a")
    (path / "velocity").mkdir(exist_ok=True)
    file = path / "velocity" / "000000.npz"
    np.savez(file, other=np.zeros(3)) if content is None else file.write_bytes(content)
    with pytest.raises(ValueError, match="000000.npz: damaged ground-truth velocity"):
        Recording(path).velocity(0)


def test_a_truncated_image_is_damaged_not_grey(tmp_path):
    path = record(tmp_path / "a")
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    whole = cv2.imencode(".jpg", image)[1].tobytes()
    file = sorted((path / "images").iterdir())[0]
    file.unlink()
    file = file.with_suffix(".jpg")
    for content in (whole[: len(whole) // 2], whole[:-2], b"", b"text"):
        file.write_bytes(content)
        with pytest.raises(DamagedImage, match=file.name):
            Recording(path).image(0)
    for content in (whole, whole + b"\0" * 700, whole + b"trailer of a phone" * 9):
        file.write_bytes(content)
        assert Recording(path).image(0).shape == (64, 96, 3)


def test_splits_name_sequences_and_ranges(tmp_path):
    for name in ("a", "b"):
        record(tmp_path / name)
    write_splits(tmp_path, {"train": ["a 0 2", "b"], "val": ["a 3 3"], "test": []})
    train, val = open_recordings(tmp_path, "train"), open_recordings(tmp_path, "val")
    assert [(r.name, len(r)) for r in train] == [("a", 3), ("b", 4)]
    assert [(r.name, r.stamps_ns[0]) for r in val] == [("a", 3 * STEP)]
    assert len(open_recordings(tmp_path)) == 2
    with pytest.raises(ValueError, match=r"exam.txt.*\['test', 'train', 'val'\]"):
        open_recordings(tmp_path, "exam")
    with pytest.raises(ValueError, match="test.txt: names no sequence"):
        open_recordings(tmp_path, "test")
    for line in ("c", "a 1", "a one two", "a 0 9"):
        write_splits(tmp_path, {"bad": [line]})
        with pytest.raises(ValueError, match="a"):
            open_recordings(tmp_path, "bad")
