"""The synthetic camera as a subscriber meets it: one stamp per frame, truth, pace, the end."""

import signal

import numpy as np
import pytest

pytest.importorskip("rclpy")
from listening import PATIENCE, Children, Listener, finish  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

from dyndepth_core.data.synthetic import World  # noqa: E402
from dyndepth_ros.conversions import image_to_array, image_to_rgb  # noqa: E402

MODULE = "dyndepth_ros.synthetic_camera_node"
SIZE = {"width": 96, "height": 48}
FRAMES = 4
TOPICS = {
    "image": Image, "camera_info": CameraInfo, "odom": Odometry, "depth_gt": Image,
    "dynamic_gt": Image, "velocity_gt": Image, "instances_gt": Image,
}  # fmt: skip


@pytest.fixture
def children(domain_id):
    with Children(domain_id) as found:
        yield found


def test_frames_are_those_of_the_world_under_one_stamp(domain_id, children):
    with Listener(domain_id, TOPICS) as listener:
        camera = children.start(
            MODULE, seed=5, clip=1, frames=FRAMES, rate=2.0, ground_truth=True, wait_for=1,
            pace_topic="image", **SIZE,
        )  # fmt: skip
        log = finish(camera, listener)
    assert camera.returncode == 0, log
    stamps = listener.stamps("image")
    assert np.diff(stamps).tolist() == [500_000_000] * (FRAMES - 1)
    assert all(listener.stamps(topic) == stamps for topic in TOPICS)
    world = World(5, 1, size=(48, 96), rate_hz=2.0)
    for i in (0, FRAMES - 1):
        frame = world.render(i)
        assert (image_to_rgb(listener.heard["image"][i]) == frame.image).all()
        truth = image_to_array(listener.heard["depth_gt"][i])
        assert (np.isinf(truth) == (frame.depth == 0)).all()
        assert (truth[frame.depth > 0] == frame.depth[frame.depth > 0]).all()
        dynamic = image_to_array(listener.heard["dynamic_gt"][i])
        assert (dynamic == 255 * frame.dynamic).all()
        velocity, ids = (listener.heard[f"{name}_gt"][i] for name in ("velocity", "instances"))
        assert (velocity.encoding, ids.encoding) == ("32FC3", "mono16")
        assert (image_to_array(velocity) == frame.velocity).all()
        assert (image_to_array(ids) == frame.instances).all() and frame.instances.any()
        odometry = listener.heard["odom"][i]
        assert odometry.twist.twist.linear.x == frame.odometry["speed"]
        assert odometry.pose.pose.position.x == frame.odometry["tx"]
    info = listener.heard["camera_info"][0]
    assert (np.array(info.k).reshape(3, 3) == world.calib.K).all()
    assert (info.width, info.height) == (96, 48)
    assert info.header.frame_id == "camera_optical_frame"
    assert listener.heard["odom"][0].child_frame_id == "base_link"


def test_the_camera_waits_for_the_answer_and_goes_on_without_it(domain_id, children):
    with Listener(domain_id, {"image": Image}) as listener:
        answers = listener.node.create_publisher(CameraInfo, "answer", 10)
        camera = children.start(
            MODULE, frames=3, wait_for=1, pace_topic="answer", pace_timeout=PATIENCE, **SIZE
        )
        images = listener.heard["image"]
        for count in (1, 2):
            listener.spin_until(lambda count=count: len(images) == count)
            listener.spin_for(0.5)  # far more than a frame takes
            assert len(images) == count
            listener.spin_until(lambda: answers.get_subscription_count() > 0)
            answers.publish(CameraInfo(header=images[-1].header))
        listener.spin_until(lambda: len(images) == 3)
        answers.publish(CameraInfo(header=images[-1].header))
        assert camera.wait(PATIENCE) == 0
        images.clear()
        impatient = children.start(
            MODULE, frames=3, wait_for=1, pace_topic="answer", pace_timeout=0.2, **SIZE
        )
        log = finish(impatient, listener)
    assert impatient.returncode == 0 and len(images) == 3 and "no answer on answer" in log


def test_ctrl_c_twice_ends_an_endless_drive_cleanly(domain_id, children):
    truth = {name: kind for name, kind in TOPICS.items() if name.endswith("_gt")}
    with Listener(domain_id, {"image": Image, **truth}) as listener:
        camera = children.start(MODULE, rate=20.0, **SIZE)
        listener.spin_until(lambda: len(listener.heard["image"]) > 3)
        camera.send_signal(signal.SIGINT)
        camera.send_signal(signal.SIGINT)
        log = finish(camera, listener)
    assert camera.returncode == 0 and "Traceback" not in log, log
    assert not any(listener.heard[name] for name in truth)  # published on request only
    steps = np.diff(listener.stamps("image"))
    assert (steps > 0).all() and (np.abs(steps / 5e7 - np.rint(steps / 5e7)) < 1e-3).all()


def test_bad_parameters_are_refused(children):
    camera = children.start(MODULE, width=5)
    log = camera.communicate(timeout=PATIENCE)[0]
    assert camera.returncode != 0 and "width" in log and "Traceback" not in log
