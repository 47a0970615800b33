"""`~/reload_model` while transitions take the node apart, in this process."""

import threading
from concurrent.futures import Future

import pytest

rclpy = pytest.importorskip("rclpy")
from conftest import save_random_model  # noqa: E402

from dyndepth_ros import depth_node  # noqa: E402
from dyndepth_ros.depth_node import DepthNode  # noqa: E402
from dyndepth_ros.worker import Worker  # noqa: E402


@pytest.fixture
def node(domain_id, model_file):
    words = ["--ros-args", "-p", f"model:={model_file}", "-p", "publish_odometry:=true"]
    rclpy.init(args=[*words, "-p", "threads:=1", "-p", "odometry:=odometry"], domain_id=domain_id)
    node = DepthNode()
    try:
        yield node
    finally:
        assert node.close()
        node.destroy_node()
        rclpy.try_shutdown()


class Reply(Future):
    """As rclpy's, without a node that spins."""


def reload(node: DepthNode) -> tuple[bool, str]:
    """In a thread of its own, as the node does it: it stays nicer than the others."""
    done = Reply()
    parts = done, node._pipeline, node._worker, node._odometry
    thread = threading.Thread(target=node._reload, args=parts)
    thread.start()
    thread.join(60.0)
    return done.result(timeout=0)


@pytest.mark.parametrize("again", [False, True])
def test_a_node_that_was_cleaned_up_meanwhile_is_left_as_it_is(node, again, tmp_path, monkeypatch):
    node.trigger_configure()
    other, real = save_random_model(tmp_path / "other.safetensors", seed=1), node.config.model
    load = depth_node.load_predictor

    def slow(config, odometry):
        monkeypatch.setattr(depth_node, "load_predictor", load)
        node.trigger_cleanup()
        if again:
            node.trigger_configure()
        return load(config.model_copy(update={"model": str(other)}), odometry)

    monkeypatch.setattr(depth_node, "load_predictor", slow)
    success, text = reload(node)
    assert not success and "cleaned up meanwhile" in text
    assert (node._pipeline is not None) == again
    if again:
        assert str(node._pipeline.predictor.path) == real


def test_the_model_that_is_swapped_in_learns_from_the_odometry_that_comes(node):
    node.trigger_configure()
    success, text = reload(node)
    assert success and "now running" in text
    assert node._pipeline.predictor.scale_filter._odometry.odometry is node._odometry


def test_steps_of_odometry_are_kept_for_a_subscriber_that_stalls(node, monkeypatch):
    depths, create = {}, node.create_lifecycle_publisher

    def spy(kind, topic, profile, **words):
        depths[topic] = profile.depth
        return create(kind, topic, profile, **words)

    monkeypatch.setattr(node, "create_lifecycle_publisher", spy)
    node.trigger_configure()
    assert depths.pop("~/odometry") == 10 and set(depths.values()) == {1}


def test_steps_of_loading_wait_for_the_frames_at_hand_but_not_for_ever():
    worker, entered, go = Worker("test"), threading.Event(), threading.Event()

    def handle(frame: int) -> None:
        entered.set()
        assert go.wait(20)

    try:
        assert worker.wait_idle(0)
        worker.start(handle)
        worker.give(1)
        assert entered.wait(20)
        assert not worker.wait_idle(0.01)
        threading.Timer(0.05, go.set).start()
        assert worker.wait_idle(20)
    finally:
        go.set()
        assert worker.stop()
