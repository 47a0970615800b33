"""Clips of a live camera: which stamps they hold, limits of memory and disk, kills."""

import errno
import hashlib
import json
import logging
import shutil

import numpy as np
import pytest

from dyndepth_core.data import live
from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.collect import CameraFrame, CollectOptions, Preparation
from dyndepth_core.data.live import LiveCollector, LiveSettings
from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.ring import FrameRing

START, STEP = 10**18, 10**8
SIZE = (32, 48)
PLAIN = {"blur": 0.0, "exposure": 0.0, "standing_mps": 0.0}
IMAGES = np.random.default_rng(0).integers(0, 256, (7, *SIZE, 3), np.uint8)
ROOM = LiveSettings(before_s=1.0, after_s=0.5, cooldown_s=10.0, max_total=1e9, min_free=0.0)


class Rig:
    """A collector with a camera of 10 Hz and a clock that the test sets."""

    def __init__(self, root, settings=ROOM, max_bytes=10**9, calib=None, **options):
        self.now, self.settings = 0.0, settings
        options = CollectOptions(**{"rate_hz": 10.0, **PLAIN, **options})
        clock = lambda: self.now  # noqa: E731
        self.live = LiveCollector(root, options, lambda: self.settings, max_bytes, clock)
        self.live.camera(Preparation(calib or Calibration(48, 32, 40, 40, 23, 15), None), "/cam")

    def frame(self, index, stamp=None):
        stamp = START + index * STEP if stamp is None else stamp
        self.now += 0.1
        if self.live.wants(stamp):
            image = IMAGES[index % len(IMAGES)]
            self.live.take(CameraFrame(stamp, lambda: image), image.nbytes)
        self.live.drain()

    def frames(self, first, last):
        for index in range(first, last + 1):
            self.frame(index)


def indices(recording):
    return ((recording.stamps_ns - START) // STEP).tolist()


def manifest(root):
    return json.loads((root / "manifest.json").read_text())


def test_a_clip_is_what_came_before_and_after_the_moment(tmp_path):
    rig = Rig(tmp_path)
    rig.frames(0, 20)
    name = rig.live.save("request")
    rig.frames(21, 30)
    [recording] = open_recordings(tmp_path)
    assert recording.name == f"{name}_000" and name == "20010909-014642-request"
    assert indices(recording) == list(range(10, 26))  # 1 s before stamp 20, 0.5 s after it
    assert recording.calib.fx == 40 and rig.live.recording == ""
    assert rig.live.written == 16
    info = manifest(tmp_path)
    assert info["tool"] == "dyndepth collect_node" and info["frames"] == 16
    [clip] = info["clips"]
    assert (clip["reason"], clip["moment_ns"], clip["kept"]) == ("request", START + 20 * STEP, 16)
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "manifest.json"]
    assert info["files"] == {
        str(p.relative_to(tmp_path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
    assert rig.live.total() == sum(p.stat().st_size for p in files)


def test_a_second_request_prolongs_the_clip_and_none_is_written_twice(tmp_path):
    rig = Rig(tmp_path)
    rig.frames(0, 20)
    name = rig.live.save("request")
    rig.frames(21, 23)
    assert rig.live.save("request") == name
    rig.frames(24, 32)
    rig.live.save("request")  # 0.4 s after the last clip ended, 1 s before is wanted
    rig.frames(33, 40)
    first, second = open_recordings(tmp_path)
    assert indices(first) == list(range(10, 29)) and indices(second) == list(range(29, 38))


def test_the_rate_is_by_stamp_and_every_frame_is_accounted_for(tmp_path):
    rig = Rig(tmp_path, rate_hz=5.0)
    for index in range(20):
        rig.frame(index)
    rig.frame(0, START + 19 * STEP)
    rig.frame(0, START + 18 * STEP)
    rig.live.save("request")
    rig.live.close()
    [recording] = open_recordings(tmp_path)
    assert np.diff(recording.stamps_ns).tolist() == [2 * STEP] * (len(recording) - 1)
    assert rig.live.dropped["rate"] == 10
    assert rig.live.dropped["stamp_repeated"] == rig.live.dropped["stamp_backwards"] == 1
    assert rig.live.frames_in == 22


def test_a_jump_back_in_time_begins_anew(tmp_path, caplog):
    rig = Rig(tmp_path)
    rig.frames(30, 45)
    rig.live.save("request")
    rig.frames(46, 47)
    rig.frames(0, 4)
    rig.live.save("request")
    rig.live.close()
    found = {tuple(indices(recording)) for recording in open_recordings(tmp_path)}
    assert found == {tuple(range(35, 48)), tuple(range(5))}
    assert caplog.text.count("stamps jumped back by 4.700 s: the frame buffer begins anew") == 1


def test_another_camera_begins_another_clip(tmp_path):
    rig = Rig(tmp_path)
    rig.frames(0, 5)
    rig.live.save("request")
    rig.live.camera(Preparation(Calibration(48, 32, 50, 50, 23, 15), None), "/cam")
    with pytest.raises(ValueError, match="no frame has come yet"):
        rig.live.save("request")
    rig.frames(6, 10)
    rig.live.save("request")
    rig.live.close()
    first, second = sorted(open_recordings(tmp_path), key=lambda r: r.stamps_ns[0])
    assert (first.calib.fx, second.calib.fx) == (40, 50)
    assert indices(first) == list(range(6)) and indices(second) == list(range(6, 11))


def test_memory_is_bounded_by_bytes_and_says_so(tmp_path, caplog):
    size = IMAGES[0].nbytes
    rig = Rig(tmp_path, max_bytes=5 * size)
    rig.frames(0, 20)
    assert len(rig.live.ring) == 5 and rig.live.ring.bytes == 5 * size
    assert caplog.text.count("the frame buffer is full after 0.4 s") == 1
    ring = FrameRing(10)
    ring.push(START, 20, "one larger than all", 1.0)
    assert len(ring) == 1 and ring.short


def test_odometry_is_interpolated_even_where_it_comes_after_its_image(tmp_path):
    rig = Rig(tmp_path)
    nan = float("nan")
    for index in range(30):
        stamp = START + index * STEP
        rig.live.odometry.observe(stamp - STEP // 2, [nan] * 7 + [index - 0.5, 0.0])
        rig.frame(index)
        if index == 10:
            rig.live.save("request")
    [recording] = open_recordings(tmp_path)
    speeds = [recording.odometry(i)["speed"] for i in range(len(recording))]
    assert speeds == pytest.approx(indices(recording))


def test_a_camera_that_falls_silent_ends_its_clip(tmp_path):
    rig = Rig(tmp_path)
    rig.frames(0, 20)
    rig.live.save("request")
    rig.frames(21, 22)
    rig.now += live.SILENCE_S + 0.1
    rig.live.drain()
    assert rig.live.recording == "" and manifest(tmp_path)["frames"] == 13


def test_continuous_recording_loses_nothing_between_its_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "SEGMENT_S", 1.0)
    rig = Rig(tmp_path)
    for index in range(60):
        rig.frame(index)
        rig.live.go_on()
    rig.live.close()
    found = sorted(sum((indices(r) for r in open_recordings(tmp_path)), []))
    assert found == list(range(60)) and rig.live.manifest.clips > 3


def test_triggers_wait_for_the_cool_down(tmp_path):
    rig = Rig(tmp_path)
    rig.frames(0, 5)
    assert rig.live.trigger("residual")
    rig.frames(6, 20)
    assert not rig.live.trigger("moving")
    rig.now += ROOM.cooldown_s
    assert rig.live.trigger("moving").endswith("-moving")


@pytest.mark.parametrize(
    ("limit", "reason"), [({"max_total": 20e3}, "max_total"), ({"min_free": 1e18}, "min_free")]
)
def test_disk_limits_end_the_clip_with_one_error_and_recording_goes_on_after(
    tmp_path, caplog, limit, reason
):
    rig = Rig(tmp_path)
    rig.frames(0, 9)
    rig.live.save("request")
    rig.live.drain()
    rig.settings = LiveSettings(**{**vars(ROOM), **limit})
    rig.frames(10, 40)
    with pytest.raises(ValueError, match=reason):
        rig.live.save("request")
    assert not rig.live.trigger("moving") and reason in rig.live.blocked
    assert caplog.text.count("recording stops") == 1 and reason in caplog.text
    [clip] = manifest(tmp_path)["clips"]
    assert clip["frames_in"] == clip["kept"] + sum(clip["dropped"].values())
    assert clip["dropped"]["disk"] and rig.live.dropped["disk"] == clip["dropped"]["disk"]
    rig.settings = ROOM
    rig.frames(41, 50)
    rig.live.save("request")
    rig.live.close()
    assert rig.live.blocked == "" and manifest(tmp_path)["frames"] > clip["kept"]


def test_a_full_disk_leaves_what_is_there_valid(tmp_path, caplog, monkeypatch):
    from dyndepth_core.data import writer

    rig, real, left = Rig(tmp_path), writer.replace_file, [8]

    def full(path, data, durable=False):
        left[0] -= path.suffix == ".jpg"
        if left[0] < 0 and path.suffix == ".jpg":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, data, durable)

    monkeypatch.setattr(writer, "replace_file", full)
    rig.frames(0, 9)
    rig.live.save("request")
    rig.frames(10, 12)
    [recording] = open_recordings(tmp_path)
    assert indices(recording) == list(range(8)) and "No space left" in caplog.text
    clip = manifest(tmp_path)["clips"][0]
    assert clip["kept"] == 8 and clip["frames_in"] == 8 + sum(clip["dropped"].values())
    assert caplog.text.count("recording stops") == 1


def test_a_killed_run_is_taken_up_by_the_next(tmp_path):
    rig = Rig(tmp_path)
    rig.frames(0, 9)
    rig.live.save("request")
    rig.frames(10, 12)  # and then nothing more: as after a SIGKILL
    half = tmp_path / "20010909-014640-request_000/images/000099.jpg.part"
    half.write_bytes(b"half")
    empty = tmp_path / "20010909-014700-request_000"
    (empty / "images").mkdir(parents=True)
    (empty / "frames.csv").touch()
    [before] = [r for r in [open_recordings(half.parents[1])[0]] if len(r)]
    again = Rig(tmp_path)
    info = manifest(tmp_path)
    assert [clip["reason"] for clip in info["clips"]] == ["interrupted"] and not empty.exists()
    assert f"{before.name}/images/000012.jpg" in info["files"] and len(before) == 13
    again.frames(100, 109)
    again.live.save("request")
    again.live.close()
    assert len(manifest(tmp_path)["clips"]) == 2 and len(open_recordings(tmp_path)) == 2
    shutil.rmtree(before.path)
    assert not any(f.startswith(before.name) for f in Rig(tmp_path).live.manifest._files)


def test_a_clip_too_short_to_train_on_is_a_warning(tmp_path, caplog):
    rig = Rig(tmp_path, LiveSettings(before_s=0.0, after_s=0.0, min_free=0.0))
    rig.frame(0)
    rig.live.save("request")
    rig.live.close()
    assert "WARNING" in caplog.text and "1 left out (sequence_too_short)" in caplog.text


def test_names_are_free(tmp_path):
    rig = Rig(tmp_path)
    for _ in range(2):
        rig.frames(0, 9)
        rig.live.save("request")
        rig.live.close()
        rig.live._forget("test")
    assert sorted(r.name for r in open_recordings(tmp_path)) == [
        "20010909-014640-request-2_000", "20010909-014640-request_000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ['{"tool": "dyndepth synth", "clips": [], "files": {}}', "{", "[]"]
)
def test_a_folder_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="give another folder"):
        Rig(tmp_path)


def test_what_it_logs_is_short(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rig = Rig(tmp_path)
    rig.frames(0, 9)
    rig.live.save("request")
    rig.live.close()
    assert caplog.messages == [f"{tmp_path}/20010909-014640-request: 10 frames in 1 sequence"]
