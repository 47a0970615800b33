"""Live clips when the camera changes, the disk goes away, odometry comes out of order."""

import shutil
from dataclasses import replace

import pytest
from test_live import IMAGES, ROOM, START, STEP, Rig, manifest

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.collect import CameraFrame, Preparation
from dyndepth_core.data.live import RETRY_S
from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.ring import OdometryMemory


def test_a_camera_that_changes_while_recording_goes_on_begins_a_clip_at_once(tmp_path):
    rig = Rig(tmp_path)
    for index in range(12):
        stamp = START + index * STEP
        assert rig.live.wants(stamp)
        if index == 5:  # between the two, as the node does it
            rig.live.camera(Preparation(Calibration(48, 32, 50, 50, 23, 15), None), "/cam")
        rig.live.take(CameraFrame(stamp, lambda: IMAGES[0]), IMAGES[0].nbytes)
        rig.live.go_on()
        rig.live.drain()
    rig.live.close()
    first, second = sorted(open_recordings(tmp_path), key=lambda r: r.stamps_ns[0])
    assert (first.calib.fx, second.calib.fx) == (40, 50)
    assert len(first) + len(second) == 12 and second.stamps_ns[0] == START + 5 * STEP


def test_a_trigger_before_the_first_frame_is_no_fault(tmp_path, caplog):
    """depth_node's mask may come where the camera's own topic is silent."""
    rig = Rig(tmp_path)
    assert rig.live.trigger("moving") == "" == rig.live.blocked and not caplog.text
    rig.frames(0, 9)
    assert rig.live.trigger("moving").endswith("-moving")


def test_a_disk_that_goes_away_is_said_and_asked_again(tmp_path, caplog):
    root = tmp_path / "disk"
    rig = Rig(root)
    rig.frames(0, 5)
    shutil.rmtree(root)
    assert not rig.live.trigger("moving")
    assert rig.live.blocked == f"{root}: No such file or directory; is its disk still there?"
    assert caplog.text.count("recording stops") == 1
    root.mkdir()
    rig.now += 100.0
    rig.frames(6, 8)
    assert rig.live.trigger("moving") and not rig.live.blocked
    rig.live.close()
    assert len(open_recordings(root)) == 1


def test_room_made_by_deleting_clips_is_seen_and_they_are_listed_no_more(tmp_path):
    rig = Rig(tmp_path, replace(ROOM, before_s=0.3))
    rig.frames(0, 9)
    first = rig.live.save("request", after_s=2.0)
    rig.frames(10, 40)
    rig.settings = replace(rig.settings, max_total=rig.live.total())
    rig.live.go_on()
    assert "max_total" in rig.live.blocked
    with pytest.raises(ValueError, match="max_total"):
        rig.live.save("request")
    [folder] = tmp_path.glob(f"{first}_*")
    shutil.rmtree(folder)
    rig.now += RETRY_S
    rig.live.go_on()
    assert rig.live.recording and not rig.live.blocked
    rig.live.close()
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert rig.live.total() == pytest.approx(sum(p.stat().st_size for p in files), rel=0.2)
    listed = manifest(tmp_path)["files"]
    assert not any(inner.startswith(folder.name) for inner in listed)
    assert set(listed) == {str(p.relative_to(tmp_path)) for p in files} - {"manifest.json"}


def test_the_bytes_of_a_clip_in_the_making_count_once(tmp_path):
    rig = Rig(tmp_path)
    rig.frames(0, 9)
    rig.live.save("request")
    rig.frames(10, 12)
    about = rig.live.total()
    folders = [p.name for p in tmp_path.iterdir() if p.is_dir()]
    assert rig.live.manifest.fault(about, 0, folders, about) and folders
    assert rig.live.manifest.total == 0


def test_odometry_that_comes_late_costs_itself_alone_and_a_clock_set_back_begins_anew():
    memory, nan = OdometryMemory(), float("nan")
    for stamp, speed in ((START, 1.0), (START + STEP, 2.0), (START + STEP // 2, 9.0)):
        memory.observe(stamp, [nan] * 7 + [speed, 0.0])
    assert memory.newest_ns == START + STEP and memory.at(START + STEP // 2)["speed"] == 1.5
    memory.observe(START - 10 * STEP, [nan] * 7 + [2.0, 0.0])  # a bag that began again
    assert memory.newest_ns == START - 10 * STEP and memory.at(START) is None
