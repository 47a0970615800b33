"""A depth node that learns its scale: a real process, a model of known ego-motion, odometry."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
from conftest import FOCAL, MODEL_SIZE  # noqa: E402
from geometry_msgs.msg import TwistStamped  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from node_harness import Camera, K, NodeProcess, picture, rgb_message  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from dyndepth_core.inference.predictor import Predictor  # noqa: E402
from dyndepth_ros.conversions import camera_info_message, image_to_array, stamp_ns  # noqa: E402

SPEED, PERIOD_S = 8.0, 0.05


@pytest.fixture(scope="module")
def moving_model(tmp_path_factory):
    """A small model that always sees the camera go straight ahead by the same number of units."""
    import torch

    from dyndepth_core.inference.model_file import ModelMeta, save_model
    from dyndepth_core.methods import build_graph

    architecture = {
        "method": "monodepth", "encoder": "resnet18", "decoder_channels": [4, 4, 8, 8, 8],
        "canonical_focal": FOCAL, "min_depth": 0.5, "max_depth": 80.0, "width": 0.125,
        "pose_encoder": "resnet18",
    }  # fmt: skip
    torch.manual_seed(0)
    graph = build_graph(architecture).eval()
    with torch.no_grad():
        graph.pose_net.head.weight.zero_()
        graph.pose_net.head.bias.copy_(torch.tensor([0, 0, 0, 0, 0, -10.0]))
    meta = ModelMeta(
        method="monodepth", architecture=architecture, input_size=MODEL_SIZE,
        canonical_focal=FOCAL, depth_range=(0.5, 80.0), license="Apache-2.0",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("moving") / "moving.safetensors"
    save_model(path, graph, meta)
    return path


@pytest.fixture
def start(domain_id, tmp_path):
    """Starts nodes and cameras, and takes them away in the end."""
    things = []

    def begin(*parameters):
        things.append(NodeProcess(tmp_path, *parameters))
        things.append(Camera(domain_id, ("depth", "scale")))
        return things

    yield begin
    for thing in things:
        thing.close() if isinstance(thing, Camera) else thing.kill()


def drive(camera, publisher, speed, done):
    """Publish odometry up to each frame, then the frame, and wait for its depth, until done();
    fails when that never is.
    """
    info = camera_info_message(Header(), K, (84, 120))
    end = time.monotonic() + 120
    while not done() and time.monotonic() < end:
        for part in (0.5, 1.0):
            message = publisher.msg_type()
            stamp = camera._stamp + int(part * PERIOD_S * 1e9)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            twist = message.twist.twist if publisher.msg_type is Odometry else message.twist
            twist.linear.x = speed
            if publisher.msg_type is Odometry:  # all-zero quaternion: a driver without poses
                message.pose.pose.orientation.w = 0.0
            publisher.publish(message)
        sent = camera.send(rgb_message(picture()), info)
        # The model sees the same motion in every pair of images, so none may be left out.
        camera.spin_until(lambda sent=sent: answered(camera, sent), 1.0)
    last = camera.got["diagnostics"][-1:]
    assert done(), (camera.counts(), last)


def answered(camera, stamp):
    return any(stamp_ns(m.header.stamp) == stamp for m in camera.got["depth"][-3:])


def scales(camera):
    """(stamp, level, values) of each ~/scale that came."""
    return {
        (m.header.stamp.sec, m.header.stamp.nanosec): (
            m.status[0].level, {p.key: p.value for p in m.status[0].values}
        )
        for m in camera.got["scale"]
    }  # fmt: skip


def by_odometry(camera):
    found = scales(camera)
    depths = {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in camera.got["depth"]}
    both = [s for s in found if found[s][1]["source"] == "odometry" and s in depths]
    return (found[both[-1]], depths[both[-1]]) if len(both) > 3 else None


@pytest.mark.parametrize(("kind", "topic"), [(Odometry, "odom"), (TwistStamped, "twist")])
def test_the_scale_comes_from_odometry_and_is_that_of_the_depth(start, moving_model, kind, topic):
    process, camera = start(f"model:={moving_model}", "threads:=1", "max_range:=10000.0")
    publisher = camera.node.create_publisher(kind, topic, 10)
    process.wait_for("images from /image", timeout=120)
    drive(camera, publisher, SPEED, lambda: by_odometry(camera))
    (level, values), message = by_odometry(camera)
    local = Predictor(moving_model, device="cpu")
    for stamp in (0, int(1e9 * PERIOD_S)):
        prediction = local(picture(), K, stamp, motion=True)
    units = np.linalg.norm(prediction.T_src_tgt[:3, 3])
    assert units > 0.01
    value = float(values["value"])
    assert value == pytest.approx(SPEED * PERIOD_S / units, rel=0.05)
    assert level == b"\x00" and 0 < float(values["variance"]) < (0.2 * value) ** 2
    np.testing.assert_allclose(image_to_array(message), prediction.depth * value, 1e-3)
    drive(camera, publisher, SPEED, lambda: "scale_used" in camera.status()[1])
    status, values = camera.status()
    assert values["scale_source"] == "odometry" and float(values["scale_variance"]) > 0
    assert "odometry" in values["scale_used"] and "relative" not in status.message
    assert process.log.count(f"odometry from {kind.__name__} messages") == 1
    assert process.interrupt(times=2) == 0 and "Traceback" not in process.log


def test_a_model_without_ego_motion_says_so_once_and_stays_relative(start, model_file):
    process, camera = start(f"model:={model_file}", "threads:=1")
    publisher = camera.node.create_publisher(Odometry, "odom", 10)
    process.wait_for("images from /image", timeout=120)
    drive(camera, publisher, SPEED, lambda: process.count("no ego-motion") and scales(camera))
    drive(camera, publisher, SPEED, lambda: len(camera.got["depth"]) > 60)
    assert process.count("this model has no ego-motion") == 1
    assert {(v["source"], v["value"]) for _, v in scales(camera).values()} == {("relative", "1.0")}
    assert process.interrupt(times=2) == 0 and "Traceback" not in process.log


def test_a_bad_mount_is_refused_at_the_start(start):
    process, _ = start("base_to_camera:='1 2 3'")
    assert process.wait() != 0 and "six numbers" in process.log
