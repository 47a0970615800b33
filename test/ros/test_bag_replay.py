"""The replay over a real graph: every stamp, /clock, range, loop, damage, Ctrl-C."""

import os
import signal
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")
from listening import PATIENCE, Children, Listener, finish  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

from dyndepth_core.data.bag_writer import bag_from_recording  # noqa: E402
from dyndepth_core.data.calibration import Calibration  # noqa: E402
from dyndepth_core.data.recording import Recording  # noqa: E402
from dyndepth_core.data.writer import RecordingWriter  # noqa: E402
from dyndepth_ros.conversions import image_to_rgb, stamp_ns  # noqa: E402
from dyndepth_ros.pace import Pace  # noqa: E402
from dyndepth_ros.raw import cdr_stamp_ns, message_class  # noqa: E402

FRAMES, START, STEP = 20, 10**18, 10**8
STAMPS = [START + i * STEP for i in range(FRAMES)]
CAMERA, INFO, ODOM = "/camera/image_raw", "/camera/camera_info", "/odom"


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "drive"
    rng = np.random.default_rng(0)
    with RecordingWriter(path, Calibration(96, 64, 80, 81, 47, 31), "png") as writer:
        for stamp in STAMPS:
            odometry = dict(tx=1, ty=2, tz=0, qx=0, qy=0, qz=0, qw=1, speed=10, yaw_rate=0.1)
            writer.add(rng.integers(0, 255, (64, 96, 3), np.uint8), stamp, odometry=odometry)
    return Recording(path)


@pytest.fixture(scope="module")
def bags(recording, tmp_path_factory):
    root = tmp_path_factory.mktemp("bags")
    return {s: bag_from_recording(recording, root / s, s) for s in ("sqlite3", "mcap")}


@pytest.fixture
def listener(domain_id):
    kinds = {CAMERA: Image, INFO: CameraInfo, ODOM: Odometry, "/clock": Clock}
    with Listener(domain_id, kinds) as found:
        yield found


@pytest.fixture
def replay(domain_id):
    """Starts replays; whatever still runs at the end is killed."""
    with Children(domain_id) as children:
        yield lambda **words: children.start("dyndepth_ros.bag_replay_node", **words)


def clock(listener: Listener) -> list[int]:
    return [stamp_ns(m.clock) for m in listener.heard["/clock"]]


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_everything_comes_back_with_its_own_stamps_and_clock(
    bags, recording, listener, replay, storage
):
    process = replay(bag=bags[storage], rate=4.0, wait=PATIENCE)
    log = finish(process, listener)
    assert process.returncode == 0, log
    assert listener.stamps(CAMERA) == listener.stamps(INFO) == listener.stamps(ODOM) == STAMPS
    for i in (0, FRAMES - 1):
        assert (image_to_rgb(listener.heard[CAMERA][i]) == recording.image(i)).all()
    assert listener.heard[CAMERA][0].header.frame_id == "camera_optical_frame"
    assert listener.heard[INFO][0].k[0] == 80 and listener.heard[ODOM][3].twist.twist.linear.x == 10
    ticks = clock(listener)
    assert ticks == sorted(ticks) and ticks[0] == START and ticks[-1] == STAMPS[-1]
    assert set(STAMPS) <= set(ticks)


def test_part_of_the_bag(bags, listener, replay):
    words = {"start": 0.5, "duration": 0.6, "topics": f"'{CAMERA}, {INFO}'", "wait": PATIENCE}
    process = replay(bag=bags["mcap"], **words)
    log = finish(process, listener)
    assert process.returncode == 0, log
    assert listener.stamps(CAMERA) == listener.stamps(INFO) == STAMPS[5:11]
    assert listener.stamps(ODOM) == []


def test_loop_goes_back_in_time_and_two_ctrl_c_end_it_cleanly(bags, listener, replay):
    process = replay(bag=bags["sqlite3"], rate=10.0, loop=True, wait=PATIENCE)
    listener.spin_until(lambda: len(listener.heard[CAMERA]) > 2.2 * FRAMES)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    log = finish(process, listener)
    assert process.returncode == 0 and "Traceback" not in log, log
    stamps = listener.stamps(CAMERA)
    assert stamps[: 2 * FRAMES] == STAMPS * 2
    assert (np.diff(clock(listener)) < 0).sum() >= 2


def test_a_loop_over_messages_of_one_moment_takes_its_time(bags, listener, replay):
    rate = 20.0
    words = {"duration": 0.01, "topics": INFO, "clock_rate": rate, "wait": PATIENCE}
    process = replay(bag=bags["mcap"], loop=True, **words)
    listener.spin_until(lambda: listener.heard[INFO])
    begin = time.monotonic()  # without the start of the process
    listener.spin_until(lambda: len(listener.heard[INFO]) >= 10)
    os.killpg(process.pid, signal.SIGINT)
    log = finish(process, listener)
    assert 10 <= len(listener.heard[INFO]) <= (time.monotonic() - begin) * rate + 5, log
    assert log.count("from its start again") <= 2 + (time.monotonic() - begin) / 10


def test_a_truncated_bag_plays_what_is_left(bags, tmp_path, listener, replay):
    whole = next(bags["mcap"].glob("*.mcap")).read_bytes()
    bag = tmp_path / "cut.mcap"
    bag.write_bytes(whole[: len(whole) // 2])
    process = replay(bag=bag, rate=10.0, wait=PATIENCE)
    log = finish(process, listener)
    assert process.returncode == 0 and f"{bag}: ends in the middle of a record" in log, log
    count = len(listener.heard[CAMERA])
    assert FRAMES // 3 < count < FRAMES and listener.stamps(CAMERA) == STAMPS[:count]


def test_what_cannot_be_played_ends_with_one_clear_line(bags, tmp_path, replay):
    noise = tmp_path / "noise.db3"
    noise.write_bytes(b"noise" * 1000)
    cases = [
        ({}, "parameter bag is empty"),
        ({"bag": tmp_path / "absent"}, f"{tmp_path}/absent: no such bag"),
        ({"bag": noise}, str(noise)),
        ({"bag": bags["mcap"], "topics": "/rear"}, "no topic /rear; it has /camera/camera_info"),
        ({"bag": bags["mcap"], "start": 99.0}, "it is shorter"),
    ]
    for process, (parameters, reason) in [(replay(**case[0]), case) for case in cases]:
        log = process.communicate(timeout=150)[0]
        assert process.returncode == 1, (parameters, log)
        assert reason in log and "Traceback" not in log, (parameters, log)


def test_pace():
    pace = Pace(2.0)
    pace.restart(10**9, 100.0)
    assert pace.bag_ns(100.5) == 2 * 10**9
    assert pace.until(3 * 10**9, 100.0) == 1.0 and pace.until(10**9, 100.25) == -0.25
    pace.set_rate(0.5, 100.5)  # no jump
    assert pace.bag_ns(100.5) == 2 * 10**9 and pace.bag_ns(101.5) == 2.5 * 10**9


def test_messages_of_any_type():
    from rclpy.serialization import serialize_message

    message = Image()
    message.header.stamp.sec, message.header.stamp.nanosec = 12, 34
    assert cdr_stamp_ns(serialize_message(message)) == 12 * 10**9 + 34
    assert cdr_stamp_ns(b"") is None
    assert cdr_stamp_ns(b"\xff" * 20) is None
    assert message_class("sensor_msgs/msg/Image") is Image
    with pytest.raises(ImportError):
        message_class("nobody_has_msgs/msg/This")
