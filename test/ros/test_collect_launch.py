"""collect.launch.py, evaluated without a ROS install."""

from pathlib import Path

import launch_doubles as doubles
import pytest

COLLECT = Path(__file__).resolve().parents[2] / "launch/collect.launch.py"
PROMISED = {"image", "camera_info", "odom", "out", "before", "after", "bag", "mode"}
PROMISED |= {"params_file", "namespace", "use_sim_time"}


def test_collect_without_arguments_starts_its_node_alone():
    launched = doubles.launch(COLLECT)
    assert set(launched.arguments) >= PROMISED
    [node] = launched.nodes
    assert (node.package, node.executable, node.name) == ("dyndepth", "collect_node", node.name)
    assert Path(node.parameters[0]).is_file() and node.parameters[1] == {"use_sim_time": False}
    assert dict(node.remappings)["depth_node/motion/mask"] == "depth_node/motion/mask"


def test_what_waits_for_the_disk_may_be_written_before_launch_kills():
    pytest.importorskip("rclpy")
    from dyndepth_ros.collect_node import WRITE_S
    from dyndepth_ros.process import LEAVE_S

    [node] = doubles.launch(COLLECT).nodes
    gentle, killed = float(node.sigterm_timeout), float(node.sigkill_timeout)
    stop = WRITE_S + 5  # and then for the worker's thread
    assert gentle > stop and gentle + killed > stop + LEAVE_S


def test_collect_passes_its_arguments_on_and_ends_with_the_bag(tmp_path):
    words = {"image": "cam/image_raw", "out": "/data/clips", "before": "3", "after": "0.5"}
    launched = doubles.launch(COLLECT, bag=str(tmp_path), namespace="front", **words)
    node, replay = launched.node("collect_node"), launched.node("bag_replay_node")
    assert node.parameter("out") == "/data/clips" and node.parameter("mode") is None
    assert (node.parameter("before"), node.parameter("after")) == (3.0, 0.5)
    assert node.parameter("use_sim_time") is True
    topic = "/front/cam/image_raw"
    for name in (topic, f"{topic}/compressed"):
        assert node.parameter(f"qos_overrides.{name}.subscription.reliability") == "reliable"
    assert replay.parameter("bag") == str(tmp_path) and replay.on_exit.reason
    assert replay.namespace == node.namespace == "front"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "always"), ("before", "long"), ("after", "-1"), ("bag", "/no/such.bag"),
        ("image", ""), ("params_file", "/no/such.yaml"),
    ],
)  # fmt: skip
def test_a_bad_argument_of_collect_is_named(name, value):
    with pytest.raises((ValueError, RuntimeError), match=name):
        doubles.launch(COLLECT, **{name: value})
