"""The demo of a model that tells what moves, and what its recorder makes of missing messages."""

import json
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("typer")
from demo_process import FRAMES, output_of, start_demo  # noqa: E402
from listening import PATIENCE  # noqa: E402
from moving_model import save_moving_model  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from visualization_msgs.msg import MarkerArray  # noqa: E402

from dyndepth_core.data.recording import Recording  # noqa: E402
from dyndepth_core.data.synthetic import World  # noqa: E402
from dyndepth_core.evaluation.protocols import get_protocol  # noqa: E402
from dyndepth_core.evaluation.runner import ModelArm, evaluate  # noqa: E402
from dyndepth_core.inference.predictor import Predictor  # noqa: E402
from dyndepth_ros import demo  # noqa: E402
from dyndepth_ros.conversions import (  # noqa: E402
    CloudMessage,
    ImageWriter,
    camera_info_message,
)
from dyndepth_ros.demo_recorder import MARKERS, Recorder  # noqa: E402
from dyndepth_ros.motion_messages import ObjectMarkers  # noqa: E402
from dyndepth_ros.processes import wait_until  # noqa: E402
from dyndepth_ros.qos import result_output  # noqa: E402


def test_a_model_that_tells_motion_is_judged_by_what_the_node_said_of_it(tmp_path):
    out, model = tmp_path / "demo", save_moving_model(tmp_path / "moving.safetensors")
    process = start_demo(out, "--frames", FRAMES, "--seed", 1001, "--model", model)
    text = output_of(process)
    assert process.returncode == 0, text
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_out"]) == (FRAMES, FRAMES)
    recording, world = (
        Recording(out / "recording"),
        World(1001, 0, size=tuple(summary["image_size"]), rate_hz=demo.RATE_HZ),
    )
    assert len(recording) == FRAMES  # the first too, of which the node tells no motion
    for i in (0, FRAMES - 1):
        frame = world.render(i)
        assert (recording.instances(i) == frame.instances).all()
        np.testing.assert_allclose(recording.velocity(i), frame.velocity, atol=0.02)
    arms = {"model": ModelArm(Predictor(model))}
    direct = evaluate([recording], arms, get_protocol("native")).table()
    found = summary["motion"]
    assert found["objects"] == direct["model"]["motion"]["objects"] > 0
    for name in ("epe_m", "epe_zero_m", "speed_mps", "speed_error_mps"):
        assert found[name] == pytest.approx(direct["model"]["motion"][name], rel=0.03), name
    for name in ("f1", "precision", "recall", "iou", "false_share"):
        assert found[name] == pytest.approx(direct["model"]["motion"][name], abs=0.003), name
    assert "motion against ground truth" in text and f"F1 {found['f1']:.3f}" in text
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    height, width = summary["image_size"]
    assert sheet.shape[0] > 4 * 3 * 640 * height / width


def frame_messages(second: int, shape=(4, 6)) -> dict[str, object]:
    """What the recorder hears of one frame: image, truth, depth, cloud, mask and velocity."""
    header = Header(frame_id="camera_optical_frame")
    header.stamp.sec = second
    values = {
        "image": ("rgb8", np.full((*shape, 3), second, np.uint8)),
        "depth_gt": ("32FC1", np.full(shape, 8.0)), "dynamic_gt": ("mono8", np.full(shape, 255)),
        "velocity_gt": ("32FC3", np.full((*shape, 3), second)),
        "instances_gt": ("mono16", np.full(shape, 300)),
        "depth_node/depth/image": ("32FC1", np.full(shape, 4.0)),
        "depth_node/motion/mask": ("mono8", np.full(shape, 255)),
        "depth_node/motion/velocity": ("32FC3", np.full((*shape, 3), second)),
    }  # fmt: skip
    messages = {t: ImageWriter(e).write(header, v) for t, (e, v) in values.items()}
    info = camera_info_message(header, np.array([[5.0, 0, 2.5], [0, 5.0, 1.5], [0, 0, 1]]), shape)
    messages |= {"camera_info": info, "depth_node/depth/camera_info": info}
    cloud = CloudMessage()
    cloud.points(header, *shape)[...] = 1.0
    return {**messages, "depth_node/points": cloud.message}


def test_the_recorder_loses_no_frame_for_want_of_motion(tmp_path, domain_id):
    """Frame 1 has none, of 2 all is there, of 3 the velocity is missing; 4 is the last and has
    none.
    """
    rclpy.init(args=["--ros-args", "-p", f"out:={tmp_path}", "-p", "motion:=true"])
    executor = SingleThreadedExecutor()
    recorder, talker = Recorder(), rclpy.create_node("talker")
    executor.add_node(recorder)
    try:
        kinds = {t: type(m) for t, m in frame_messages(1).items()} | {MARKERS: MarkerArray}
        talkers = {t: talker.create_publisher(k, t, result_output(50)) for t, k in kinds.items()}
        publishers = talkers.values()
        assert wait_until(lambda: all(p.get_subscription_count() for p in publishers), PATIENCE)
        missing = {1: ("mask", "velocity"), 3: ("velocity",), 4: ("mask", "velocity")}
        for second in (1, 2, 3, 4):
            for topic, message in frame_messages(second).items():
                if topic.split("motion/")[-1] not in missing.get(second, ()):
                    talkers[topic].publish(message)
            end = time.monotonic() + PATIENCE
            while len(list((tmp_path / "received").glob("0*.npz"))) < {1: 0, 4: 3}.get(second, 2):
                executor.spin_once(timeout_sec=0.05)
                assert time.monotonic() < end
        header = frame_messages(2)["image"].header
        objects = [SimpleNamespace(
            id=i, position=np.array([1.0, 0, 8]), velocity=np.array([3.0, 0, -2]), speed=3.6,
            size=np.ones(3), missed=i - 1,
        ) for i in (1, 2)]  # fmt: skip
        marked = ObjectMarkers()
        for found in (objects, [], []):  # the second time they are deleted, then nothing is there
            talkers[MARKERS].publish(marked.message(header, found, "m/s"))
        for _ in range(200):
            executor.spin_once(timeout_sec=0.01)
    finally:
        executor.shutdown()
        recorder.close()
        recorder.destroy_node()
        talker.destroy_node()
        rclpy.try_shutdown()
    recording = Recording(tmp_path / "recording")
    assert recording.stamps_ns.tolist() == [second * 10**9 for second in (1, 2, 3, 4)]
    for i, second in enumerate((1, 2, 3, 4)):
        assert (recording.velocity(i) == second).all() and (recording.instances(i) == 300).all()
    files = [np.load(tmp_path / "received" / f"{i:06d}.npz") for i in range(4)]
    assert (
        ["mask" in f for f in files]
        == ["velocity" in f for f in files]
        == [False, True, False, False]
    )
    assert files[1]["mask"].all() and (files[1]["velocity"] == 2).all()
    objects = np.load(tmp_path / "received" / "objects.npz")
    assert objects["stamps_ns"].tolist() == [2 * 10**9] * 2
    np.testing.assert_allclose(
        objects["objects"], [(1, 1, 0, 8, 3, 0, -2, 0), (2, 1, 0, 8, 3, 0, -2, 1)]
    )
    counts = json.loads((tmp_path / "received.json").read_text())
    assert (counts["frames_in"], counts["frames_out"], counts["recorded"]) == (4, 4, 4)
