"""A running depth_node with a model that has object motion, and with models that have none."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
import node_harness  # noqa: E402
from moving_model import SIZE, STEP, red_box, save_moving_model  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from node_harness import Camera, NodeProcess, rgb_message  # noqa: E402
from sensor_msgs.msg import Image, PointCloud2  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from dyndepth_core.inference.model_file import ModelScale  # noqa: E402
from dyndepth_ros.conversions import camera_info_message, image_to_array, stamp_ns  # noqa: E402
from dyndepth_ros.notices import Notices  # noqa: E402
from dyndepth_ros.parameters import NodeConfig  # noqa: E402
from dyndepth_ros.pipeline import Pipeline  # noqa: E402

K = np.array([[60.0, 0, 47.5], [0, 60.0, 31.5], [0, 0, 1]])
MOTION = {
    "mask": ("motion/mask", Image),
    "velocity": ("motion/velocity", Image),
    "moving_points": ("motion/points", PointCloud2),
    "markers": ("motion/markers", MarkerArray),
    "odometry": ("odometry", Odometry),
}
SPEED = STEP / 0.05  # the harness sends 20 images per second of their stamps


@pytest.fixture
def start(domain_id, tmp_path, monkeypatch):
    """Starts a node with a model and its user, subscribed to depth and to the motion topics."""
    monkeypatch.setattr(node_harness, "OUTPUTS", {**node_harness.OUTPUTS, **MOTION})
    things = []

    def pair(model, *parameters, outputs=("depth", *MOTION)):
        node = NodeProcess(tmp_path, f"model:={model}", "threads:=1", *parameters)
        things.append(node)
        node.wait_for("depth in .* scale by")
        things.append(Camera(domain_id, outputs))
        return node, things[-1]

    yield pair
    for thing in things[::-1]:
        thing.close() if isinstance(thing, Camera) else thing.kill()


def header(message):
    if isinstance(message, MarkerArray):
        return message.markers[0].header if message.markers else None
    return message.header


def stamps(camera, name):
    return {stamp_ns(h.stamp): m for m in camera.got[name] if (h := header(m)) is not None}


def stream(camera, done, images=400):
    """A red box before a grey wall until `done()`; every image waits for the depth of the last."""
    message, info = rgb_message(red_box()), camera_info_message(Header(), K, SIZE)
    for _ in range(images):
        before = len(camera.got["depth"])
        camera.send(message, info)
        camera.spin_until(lambda before=before: len(camera.got["depth"]) > before, 1.0)
        if done():
            return True
    return False


def common(camera, names):
    return set.intersection(*(set(stamps(camera, name)) for name in names))


def test_all_motion_topics_have_the_stamp_of_the_depth(start, tmp_path):
    model = save_moving_model(tmp_path / "metric.safetensors", scale=ModelScale(state="metric"))
    node, camera = start(model, "publish_odometry:=true")
    names = ("depth", *MOTION)
    assert stream(camera, lambda: common(camera, names)), camera.counts()
    stamp = max(common(camera, names))
    got = {name: stamps(camera, name)[stamp] for name in names}
    assert {header(m).frame_id for n, m in got.items() if n != "odometry"} == {
        "camera_optical_frame"
    }
    red = red_box()[..., 0] > 200
    assert got["mask"].encoding == "mono8" and got["velocity"].encoding == "32FC3"
    assert np.array_equal(image_to_array(got["mask"]), np.where(red, 255, 0))
    velocity = image_to_array(got["velocity"])
    assert velocity.shape == (*image_to_array(got["depth"]).shape, 3)
    frames = round(SPEED / velocity[red][0, 0])  # a dropped image is twice the time
    assert frames >= 1
    np.testing.assert_allclose(velocity[red], [(SPEED / frames, 0, 0)] * red.sum(), rtol=1e-3)
    assert (velocity[~red] == 0).all()
    cloud = np.frombuffer(got["moving_points"].data, "<f4").reshape(*SIZE, 9)
    np.testing.assert_array_equal(cloud[..., 2], image_to_array(got["depth"]))
    np.testing.assert_array_equal(cloud[..., 4:7], velocity)
    np.testing.assert_allclose(cloud[red][:, 7], SPEED / frames, rtol=1e-3)
    assert cloud[red][:, 8].min() > 0.9 and cloud[~red][:, 8].max() < 0.1
    assert [(m.ns, m.id, m.action) for m in got["markers"].markers] == [
        ("velocity", 1, Marker.ADD), ("speed", 1, Marker.ADD)
    ]  # fmt: skip
    assert got["markers"].markers[1].text.endswith(" m/s")
    odometry = got["odometry"]
    assert (odometry.header.frame_id, odometry.child_frame_id) == (
        "camera_odom", "camera_optical_frame"
    )  # fmt: skip
    assert odometry.pose.pose.position.x == pytest.approx(0, abs=1e-6)  # this camera stands
    assert node.interrupt() == 0 and "Traceback" not in node.log


def test_nothing_in_metres_per_second_without_metres_unless_allowed(start, tmp_path):
    model = save_moving_model(tmp_path / "relative.safetensors")
    node, camera = start(model, "publish_odometry:=true")
    assert stream(camera, lambda: len(common(camera, ("depth", "mask"))) >= 5), camera.counts()
    line = node.wait_for("no metric scale")
    assert "WARN" in line and "allow_relative_velocity" in line and "~/motion/velocity" in line
    for name in ("velocity", "moving_points", "markers", "odometry"):
        assert not camera.got[name], name
    assert camera.set(allow_relative_velocity=True)[0].successful
    names = ("depth", *MOTION)
    assert stream(camera, lambda: common(camera, names)), camera.counts()
    assert stamps(camera, "markers")[max(common(camera, names))].markers[1].text.endswith("m/s?")
    assert node.count("no metric scale, so that") == 1


def test_a_model_without_object_motion_says_so_once_and_gives_its_depth(start, model_file):
    node, camera = start(model_file, outputs=("depth", "mask", "velocity", "markers"))
    assert stream(camera, lambda: len(camera.got["depth"]) >= 6)
    line = node.wait_for("has no object motion")
    assert "WARN" in line and "residual_motion" in line and "~/motion" in line
    assert node.count("has no object motion") == 1
    assert not any(camera.got[name] for name in ("mask", "velocity", "markers"))
    topics = dict(camera.node.get_topic_names_and_types())
    assert {"/depth_node/motion/mask", "/depth_node/motion/points"} <= set(topics)
    assert "/depth_node/odometry" not in topics  # off unless asked for


class Asked:
    """Stands for predictor and outputs of a pipeline; keeps what it is asked for."""

    def __init__(self, wanted, **abilities):
        self.names, self.calls, self.published, self.bad_frames = frozenset(wanted), [], [], 0
        self.has_object_motion = self.has_ego_motion = True
        self.scale_filter = None
        self.metric, self.T = [], np.eye(4)  # of each frame; not, where it ends
        self.meta, self.write_cloud = SimpleNamespace(method="monodepth"), None
        vars(self).update(abilities)

    def __call__(self, image, K, stamp_ns, **options):
        self.calls.append(options)
        scale = SimpleNamespace(is_metric=bool(self.metric) and self.metric.pop(0))
        return SimpleNamespace(scale=scale, T_src_tgt=self.T, timings_ms={"network": 1.0})

    def wanted(self):
        return self.names

    def publish(self, wanted, header, prediction, write_cloud, config, ego):
        self.published.append((wanted, ego))

    def bad(self):
        self.bad_frames += 1

    def reset(self):
        """Of the predictor."""


def piped(wanted, allow=False, frames=2, **abilities):
    """What a pipeline asks of a predictor and publishes of frames, and what it warns of."""
    asked, lines = Asked(wanted, **abilities), []
    log = SimpleNamespace(warning=lines.append, error=lines.append)
    statistics = SimpleNamespace(published=lambda *_: None, bad=asked.bad, unwanted=lambda: None)
    config = NodeConfig(allow_relative_velocity=allow)
    pipeline = Pipeline(
        asked, lambda image, config: (image, np.eye(3)), asked, statistics, Notices(log),
        lambda: config, lambda: 0, lambda: True,
    )  # fmt: skip
    for second in range(1, frames + 1):
        message = rgb_message(red_box())
        message.header.stamp.sec = second
        pipeline(message)
    assert asked.bad_frames == 0, lines
    return asked, lines


@pytest.mark.parametrize(
    ("wanted", "motion", "cloud"),
    [
        ({"depth"}, False, False), ({"points"}, False, True), ({"mask"}, True, False),
        ({"moving_points"}, True, True), ({"odometry"}, True, False),
    ],
)  # fmt: skip
def test_work_is_done_for_what_somebody_subscribes_to(wanted, motion, cloud):
    asked, lines = piped(wanted, allow=True)
    assert [(c["motion"], c["cloud"]) for c in asked.calls] == [(motion, cloud)] * 2
    assert [names for names, _ in asked.published] == [frozenset(wanted)] * 2 and not lines
    assert (asked.published[1][1] is not None) == ("odometry" in wanted)


def test_a_model_that_cannot_is_not_asked():
    asked, lines = piped({"mask", "markers"}, has_object_motion=False)
    assert not asked.calls and len(lines) == 1 and "no object motion" in lines[0]
    asked, lines = piped({"depth", "odometry"}, has_ego_motion=False)
    assert [c["motion"] for c in asked.calls] == [False] * 2
    assert len(lines) == 1 and "no ego-motion" in lines[0]


def test_metres_per_second_are_held_back_with_one_warning():
    asked, lines = piped({"mask", "velocity", "odometry"})
    assert [names for names, _ in asked.published] == [frozenset({"mask"})] * 2
    assert len(lines) == 1 and "~/motion/velocity, ~/odometry" in lines[0]


def test_the_path_begins_where_metres_begin():
    """Units of the model must not be added to metres."""
    step = np.eye(4)
    step[2, 3] = 1.0
    asked, _ = piped({"odometry"}, frames=4, metric=[False, False, True, True], T=step)
    assert [names for names, _ in asked.published] == [frozenset()] * 2 + [{"odometry"}] * 2
    egos = [ego for _, ego in asked.published]
    assert egos[:3] == [None] * 3 and egos[3].T_start_cam[2, 3] == 1.0
