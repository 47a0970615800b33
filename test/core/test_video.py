"""Video files read as recordings."""

import logging
import multiprocessing

import cv2
import numpy as np
import pytest

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.data.video import VideoRecording
from dyndepth_core.training.source import split_recordings


def film(path, count, code="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 30, (96, 64))
    grain = np.random.default_rng(0).integers(0, 21, (64, 96, 3), np.uint8)
    for i in range(count):
        writer.write(grain + np.uint8(10 + 10 * i))
    writer.release()
    return path


def shade(image):
    return round((image.mean() - 20) / 10)


@pytest.mark.parametrize(("name", "code"), [("a.avi", "MJPG"), ("a.mp4", "mp4v")])
def test_a_video_is_a_recording_in_any_order(tmp_path, name, code):
    (recording,) = open_recordings(film(tmp_path / name, 20, code))
    assert len(recording) == 20 and recording.name == "a" and recording.calib.K is None
    assert (recording.calib.height, recording.calib.width) == (64, 96)
    np.testing.assert_allclose(np.diff(recording.stamps_ns), 1e9 / 30, atol=2)
    for i in (0, 1, 2, 19, 3, 3, 12, 0):
        assert shade(recording.image(i)) == i
    part = recording.part(5, 9)
    assert [shade(part.image(i)) for i in (0, 4)] == [5, 9] and shade(recording.image(1)) == 1
    assert part.stamps_ns[0] == recording.stamps_ns[5]
    assert recording.depth(0) is None and recording.pose(0) is None


def test_a_video_of_one_frame_opens(tmp_path):
    recording = VideoRecording(film(tmp_path / "a.avi", 1))
    assert len(recording) == 1
    assert [shade(recording.image(0)) for _ in range(3)] == [0, 0, 0]


def test_a_video_that_was_cut_off_ends_at_its_last_whole_frame(tmp_path, caplog):
    data = film(tmp_path / "whole.avi", 20).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: int(0.55 * len(data))])
    with caplog.at_level(logging.WARNING):
        recording = VideoRecording(tmp_path / "cut.avi")
    assert 4 <= len(recording) <= 14 and "of 20 frames" in caplog.text
    assert [shade(recording.image(i)) for i in range(len(recording))] == list(range(len(recording)))


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a film" * 50)
    with pytest.raises(ValueError, match="a.mp4: cannot be opened"):
        open_recordings(tmp_path / "a.mp4")


def test_a_video_may_have_its_calibration_beside_it(tmp_path):
    Calibration(96, 64, 80, 80, 47.5, 31.5).save(tmp_path / "a.calib.json")
    assert VideoRecording(film(tmp_path / "a.avi", 2)).calib.fx == 80


def test_a_forked_worker_reads_a_video_that_its_parent_was_reading(tmp_path):
    """The parent's decoder has threads that the child has not: to close it there waits for them."""
    path = film(tmp_path / "a.mp4", 6, "mp4v")
    recording = VideoRecording(path)
    before = recording.image(3)
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    child = fork.Process(target=lambda: answers.put(recording.image(3)))
    child.start()
    child.join(20)
    stuck = child.is_alive()
    child.kill()
    assert not stuck and np.array_equal(answers.get(), before)
    assert np.array_equal(recording.image(3), before)


def test_a_training_learns_from_a_video(tmp_path):
    config = DataConfig(size=(64, 96), intrinsics="video")
    train, held_out = split_recordings([film(tmp_path / "a.avi", 24)], config)
    source = SampleSource(train, config, 2, seed=0)
    assert source.names == ["a"] and len(held_out) == 1
    assert source.batch(0).tgt.shape == (2, 3, 64, 96)
