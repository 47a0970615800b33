"""The parts of the depth node, each by itself and without a graph."""

import logging
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from dyndepth_ros import diagnostics, qos  # noqa: E402
from dyndepth_ros.calibrator import Calibrator, NoCalibration, is_rectified_topic  # noqa: E402
from dyndepth_ros.conversions import camera_info_message  # noqa: E402
from dyndepth_ros.image_input import choose  # noqa: E402
from dyndepth_ros.notices import CoreLog, Notices  # noqa: E402
from dyndepth_ros.parameters import NodeConfig  # noqa: E402
from dyndepth_ros.worker import Worker  # noqa: E402

K = np.array([[90.0, 0, 60.2], [0, 90.0, 41.7], [0, 0, 1]])


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(f"W {text}")

    def error(self, text: str) -> None:
        self.lines.append(f"E {text}")

    def info(self, text: str) -> None:
        self.lines.append(f"I {text}")


@pytest.fixture
def worker():
    worker = Worker("test")
    yield worker
    assert worker.stop()


def test_the_newest_frame_wins(worker):
    entered, go, seen = threading.Event(), threading.Event(), []

    def handle(frame: int) -> None:
        seen.append(frame)
        entered.set()
        assert go.wait(20)

    worker.start(handle)
    assert worker.give(1) and entered.wait(20)
    assert [worker.give(frame) for frame in (2, 3, 4)] == [True, False, False]
    go.set()
    worker.call(lambda: None).result(20)
    end = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert seen == [1, 4]


def test_tasks_run_between_frames_and_pause_waits_for_the_frame_in_work(worker):
    order, entered, go = [], threading.Event(), threading.Event()

    def handle(frame: str) -> None:
        entered.set()
        assert go.wait(20)
        order.append(frame)

    worker.start(handle)
    worker.give("frame")
    assert entered.wait(20)
    task = worker.call(lambda: order.append("task"))
    worker.give("waiting frame")
    pausing = threading.Thread(target=worker.pause)
    pausing.start()
    while worker._handle is not None:  # until pause() has begun
        time.sleep(0.001)
    go.set()
    pausing.join(20)
    assert order == ["frame", "task"] and task.done()
    worker.give("frame while paused")
    worker.call(lambda: None).result(20)
    assert order == ["frame", "task"]


def test_what_a_task_raises_is_its_callers(worker):
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0).result(20)
    assert worker.call(lambda: 5).result(20) == 5
    worker.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        worker.call(lambda: 5).result(20)


def test_notices_are_said_once_a_period_with_the_count_left_unsaid():
    log, clock = Log(), Clock()
    notices = Notices(log, period=10, clock=clock)
    for _ in range(5):
        notices.warn("a", "first")
    notices.error("b", "second")
    clock.now += 11
    notices.warn("a", "first")
    assert log.lines == [
        "W first", "E second", "W first (4 more like this since the last such line)",
    ]  # fmt: skip


def test_log_of_the_core_reaches_the_node_throttled_by_kind():
    log = Log()
    handler = CoreLog(log, Notices(log)).attach()
    try:
        core = logging.getLogger("dyndepth_core.some.module")
        for step in (1.5, 2.5):
            core.warning("%s: history reset", f"the stamp jumped back by {step} s")
        core.warning("%s: history reset", "K changed")
        core.error("out of memory")
        core.info("by the way")
    finally:
        handler.detach()
    core.warning("after the node's end")
    assert log.lines == [
        "W the stamp jumped back by 1.5 s: history reset", "W K changed: history reset",
        "E out of memory", "I by the way",
    ]  # fmt: skip


def test_statistics_over_a_window():
    clock = Clock()
    statistics = diagnostics.Statistics(clock)
    clock.now += 100  # long ago
    statistics.published(9.0, 9.0, 9.0)
    clock.now += 11
    for i in range(100):
        statistics.received(dropped=i % 4 == 0)
        statistics.published((i + 1) / 1000, None if i else 7.0, 1.0)
        clock.now += 0.1
    now = statistics.snapshot()
    assert (now.received, now.published, now.dropped, now.bad) == (100, 101, 25, 0)
    assert now.output_hz == pytest.approx(10, rel=0.05) == now.input_hz
    assert now.latency_ms[50] == pytest.approx(50.5, abs=1)
    assert now.latency_ms[95] == pytest.approx(95, abs=1) and now.latency_ms[99] > 98
    assert now.network_ms == {50: 7.0, 95: 7.0, 99: 7.0} and not now.clocks_differ
    statistics.published(3600.0, 1.0, 1.0)
    assert statistics.snapshot().clocks_differ
    clock.now += 30
    assert statistics.snapshot().seconds_since_input == pytest.approx(30.1)


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, DiagnosticStatus.OK, "running"),
        ({"state": "inactive"}, DiagnosticStatus.OK, "not running: inactive"),
        ({"wanted": False}, DiagnosticStatus.OK, "idle"),
        ({"calibration": "guessed"}, DiagnosticStatus.WARN, "focal length is a guess"),
        ({"scale_source": "relative"}, DiagnosticStatus.WARN, "relative"),
        ({"scale_fault": "odometry is in km/h"}, DiagnosticStatus.WARN, "odometry is in km/h"),
    ],
)
def test_diagnostics_name_what_keeps_depth_from_being_right(changes, level, words):
    clock = Clock()
    statistics = diagnostics.Statistics(clock)
    clock.now += 1
    statistics.received(dropped=False)
    statistics.published(0.05, 30.0, 35.0)
    fields = {
        "node": "depth_node", "state": "active", "image_topic": "/image", "publishers": 0,
        "wanted": True, "calibration": "camera_info", "model": {"device": "cpu"},
        "model_parameter": "",
        "scale_source": "checkpoint",
        "scale_value": 1.0,
    }  # fmt: skip
    situation = diagnostics.Situation(**{**fields, **changes})
    message = diagnostics.report(Header().stamp, situation, statistics.snapshot())
    status = message.status[0]
    assert status.level == level and words in status.message and status.hardware_id == "cpu"
    values = {pair.key: pair.value for pair in status.values}
    assert values["latency_p50_ms"] == "50.0" and values["network_p50_ms"] == "30.0"
    clock.now += 5
    silent = diagnostics.report(Header().stamp, situation, statistics.snapshot()).status[0]
    assert ("no image on /image for 5 s" in silent.message) == (situation.state == "active")
    assert "nobody publishes it" in diagnostics.silence(situation, statistics.snapshot())


def info(size: tuple[int, int] = (84, 120)):
    return camera_info_message(Header(), K, size)


def make_calibrator(topic: str = "/cam/image_raw", rectify: str = "auto"):
    log, clock = Log(), Clock()
    return Calibrator(topic, "/cam/camera_info", rectify, Notices(log), clock), log, clock


def test_calibrator_gives_the_image_and_K_untouched_without_distortion():
    calibrator, _, _ = make_calibrator()
    calibrator.camera_info(info())
    image = np.zeros((84, 120, 3), np.uint8)
    out, matrix = calibrator(image, NodeConfig())
    assert out is image and np.array_equal(matrix, K) and calibrator.state == "camera_info"


def test_an_image_resized_behind_the_back_of_camera_info_takes_K_along():
    calibrator, log, _ = make_calibrator()
    calibrator.camera_info(info())
    _, matrix = calibrator(np.zeros((42, 60, 3), np.uint8), NodeConfig())
    assert matrix[0, 0] == 45 and matrix[0, 2] == pytest.approx((60.2 + 0.5) / 2 - 0.5)
    assert len(log.lines) == 1 and "K is scaled along" in log.lines[0]
    with pytest.raises(NoCalibration, match="another shape"):
        calibrator(np.zeros((84, 84, 3), np.uint8), NodeConfig())
    assert calibrator.state == "unusable"


@pytest.mark.parametrize("rectify", ["auto", "never", "always"])
def test_rectified_topics_use_P_and_are_not_rectified_twice(rectify):
    calibrator, _, _ = make_calibrator("/cam/image_rect_color", rectify)
    msg = info()
    msg.d = [-0.2, 0.05, 0.0, 0.0, 0.0]
    msg.p = [80.0, 0.0, 59.0, 0.0, 0.0, 80.0, 41.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    calibrator.camera_info(msg)
    image = np.random.default_rng(0).integers(0, 255, (84, 120, 3)).astype(np.uint8)
    out, matrix = calibrator(image, NodeConfig())
    if rectify == "always":
        assert not np.array_equal(out, image) and matrix[0, 0] > 80
    else:
        assert out is image and (matrix[0, 0], matrix[0, 2], matrix[1, 2]) == (80, 59, 41)


def test_guess_only_when_allowed_and_after_the_timeout():
    calibrator, log, clock = make_calibrator()
    image = np.zeros((84, 120, 3), np.uint8)
    with pytest.raises(NoCalibration, match="has not come yet; no depth without it"):
        calibrator(image, NodeConfig())
    guess = NodeConfig(focal_fallback=0.5, camera_info_timeout=3.0)
    with pytest.raises(NoCalibration, match="waiting 3 s before focal_fallback"):
        calibrator(image, guess)
    clock.now += 3.5
    _, matrix = calibrator(image, guess)
    assert matrix[0, 0] == 60 and calibrator.state == "guessed" and "guessed" in log.lines[0]
    broken = info()
    broken.k[0] = float("nan")
    calibrator.camera_info(broken)
    with pytest.raises(NoCalibration, match="NaN"):  # wrong is not missing: no guess for it
        calibrator(image, guess)


def test_rectified_topic_names():
    yes = "/cam/image_rect /image_rect_color /left/image_rect/compressed /a/rectified/image".split()
    no = ("/cam/image_raw", "/rectangle/image", "/direct/image", "/correct_image")
    assert all(is_rectified_topic(t) for t in yes) and not any(is_rectified_topic(t) for t in no)


RAW, PACKED = ("/image", Image), ("/image/compressed", CompressedImage)


@pytest.mark.parametrize(
    ("transport", "published", "expected"),
    [
        ("auto", {}, RAW),
        ("auto", {"/image": {Image}, "/image/compressed": {CompressedImage}}, RAW),
        ("auto", {"/image/compressed": {CompressedImage}}, PACKED),
        ("auto", {"/image": {CompressedImage}}, ("/image", CompressedImage)),
        ("raw", {"/image/compressed": {CompressedImage}}, RAW),
        ("compressed", {"/image": {Image}}, PACKED),
    ],
)
def test_choice_of_transport(transport, published, expected):
    assert choose(transport, "/image", "/image/compressed", published) == expected


def test_a_compressed_topic_given_as_image_is_taken_as_such():
    topic = "/cam/image/compressed"
    assert choose("auto", topic, topic + "/compressed", {}) == (topic, CompressedImage)


def test_advice_names_the_side_and_the_parameter():
    text = qos.advice("/image", False, qos.QoSPolicyKind.RELIABILITY)
    assert "qos_overrides./image.subscription.reliability: best_effort" in text
    text = qos.advice("/d/points", True, qos.QoSPolicyKind.DURABILITY)
    assert "qos_overrides./d/points.publisher.durability: transient_local" in text
    assert "subscriber to durability volatile" in text
    assert "deadline" in qos.advice("/image", True, qos.QoSPolicyKind.DEADLINE)
