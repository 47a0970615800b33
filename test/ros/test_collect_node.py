"""The collect node over a real graph: clips on request, from a bag, faults, SIGKILL, clean ends."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("rclpy")
from nav_msgs.msg import Odometry  # noqa: E402
from node_harness import Camera, K, NodeProcess, picture, rgb_message  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from dyndepth_core.data.calibration import Calibration  # noqa: E402
from dyndepth_core.data.recording import open_recordings  # noqa: E402
from dyndepth_core.data.writer import RecordingWriter  # noqa: E402
from dyndepth_ros.conversions import ImageWriter, camera_info_message  # noqa: E402

RELIABLE = [
    f"qos_overrides./image.subscription.{k}" for k in ("reliability:=reliable", "depth:=99")
]
STEP = 50_000_000  # between stamps of the harness's camera, ns
PLAIN = ("checks:=false", "min_free:=0.0", "rate:=0.0")


class Drive:
    """A camera whose every image reaches the node, and the node."""

    def __init__(self, tmp, domain, *parameters, out="out"):
        self.out = tmp / out
        words = (f"out:={self.out}", *PLAIN, *RELIABLE, *parameters)
        self.node = NodeProcess(tmp, *words, module="collect_node")
        self.camera = Camera(domain, ())
        self.camera.close_images(QoSProfile(depth=100))
        self._odometry = self.camera.node.create_publisher(Odometry, "odom", 100)
        self._images = [picture(seed=seed) for seed in range(4)]
        self.stamps = []

    def connect(self):
        """Send until the node has frames, so that none of the later ones is lost to discovery."""
        self.node.wait_for("recordings go to")
        self.camera.advertise(Image)
        self.camera.spin_until(lambda: self.camera.node.count_subscribers("/image") > 0)
        for _ in range(200):
            self.send()
            if self.camera.spin_until(lambda: int(self.values().get("frames_in", 0)) > 1, 0.2):
                break
        self.camera.settle()
        self.stamps.clear()

    def values(self):
        got = self.camera.got["diagnostics"]
        return {p.key: p.value for p in got[-1].status[0].values} if got else {}

    def status(self, done):
        """The first /diagnostics whose values are as wanted."""
        assert self.camera.spin_until(lambda: done(self.values())), (self.values(), self.node.log)
        return self.values()

    def settle(self):
        """Until nothing is on its way to the node any more."""
        seen, before = None, ""
        while seen != before:
            before, seen = seen, self.camera.status()[1].get("frames_in")

    def send(self, count=1, image=None, size=(84, 120)):
        for index in range(count):
            info = camera_info_message(Header(), K, size)
            message = rgb_message(self._images[index % 4]) if image is None else image
            self.stamps.append(self.camera.send(message, info))
            odometry = Odometry(header=message.header)
            odometry.twist.twist.linear.x = 7.5
            self._odometry.publish(odometry)
            self.camera.spin_until(lambda: False, 0.01)

    def save(self):
        return self.camera.call(Trigger, "/collect_node/save_last", Trigger.Request())

    def close(self):
        """May be called twice."""
        self.node.kill()
        if self.camera is not None:
            self.camera.close()
        self.camera = None


@pytest.fixture
def drive(tmp_path, domain_id):
    drives = []

    def start(*parameters, **words):
        drives.append(Drive(tmp_path, domain_id, *parameters, **words))
        return drives[-1]

    yield start
    for one in drives:
        one.close()


def manifest(root):
    return json.loads((root / "manifest.json").read_text())


def test_a_clip_on_request_and_what_is_wrong_on_the_way(drive):
    rig = drive("mode:=request", "before:=1.0", "after:=0.5")
    rig.node.wait_for("recordings go to")
    reply = rig.save()
    assert not reply.success and "no frame has come yet" in reply.message
    rig.connect()
    rig.send(40)
    rig.settle()  # a request would overtake frames that still wait
    reply = rig.save()
    assert reply.success and str(rig.out) in reply.message and "1.0 s before" in reply.message
    rig.send(20)
    values = rig.status(lambda v: v.get("clips") == "1")
    [clip] = open_recordings(rig.out)
    assert clip.stamps_ns.tolist() == rig.stamps[19:50]  # 1 s before the 40th, 0.5 s after
    assert clip.calib.fx == K[0, 0] and clip.calib.source == "camera_info /camera_info"
    assert clip.odometry(3)["speed"] == 7.5
    assert values["frames_written"] == "31" and values["recording"] == ""

    truncated = rgb_message(picture())
    truncated.data = truncated.data[:100]
    rig.send(3, truncated)
    rig.node.wait_for("WARN.*image cannot be decoded: .*truncated.*left out .undecodable.")
    small = ImageWriter("rgb8").write(Header(), picture(42, 60))
    rig.send(8, small, size=(42, 60))
    rig.node.wait_for("WARN.*the camera changed: the frame buffer begins anew")
    rig.status(lambda v: v.get("dropped_undecodable") == "3")
    assert rig.save().success
    rig.send(2, small, size=(42, 60))
    rig.settle()
    assert rig.node.interrupt(times=2) == 0, rig.node.log
    assert "Traceback" not in rig.node.log and rig.node.count("cannot be decoded") == 1
    second = max(open_recordings(rig.out), key=lambda r: r.stamps_ns[0])
    assert second.calib.width == 60 and len(second) == 10
    assert [c["reason"] for c in manifest(rig.out)["clips"]] == ["request", "request"]


def test_triggers_of_moving_things_and_of_a_flash(drive):
    rig = drive("mode:=trigger", "before:=0.5", "after:=0.2", "cooldown:=0.0", "size:=64x96")
    rig.connect()
    masks = rig.camera.node.create_publisher(Image, "depth_node/motion/mask", 10)
    rig.camera.spin_until(lambda: masks.get_subscription_count() > 0)
    still, moving = np.zeros((8, 10), np.uint8), np.full((8, 10), 255, np.uint8)
    calm = rgb_message(picture())
    rig.send(30, calm)  # the same picture: nothing is left but a median of zero
    for mask in (still, *[moving] * 300):  # best effort, only the newest waits: one may be lost
        masks.publish(ImageWriter("mono8").write(Header(), mask))
        if rig.camera.spin_until(lambda: rig.node.count("saving .*-moving"), 0.1):
            break
    rig.node.wait_for("saving .*-moving: 100 % of the image moves")
    rig.send(10, calm)
    rig.status(lambda v: v.get("clips") == "1")
    rig.send(1, rgb_message(picture(seed=9)))
    rig.node.wait_for("saving .*-residual: photometric residual 0")
    rig.send(10, calm)
    rig.status(lambda v: v.get("clips") == "2")
    assert {r.calib.height for r in open_recordings(rig.out)} == {64}
    assert rig.camera.node.count_subscribers("/depth_node/motion/mask") == 1
    assert rig.node.interrupt() == 0


def test_everything_of_a_killed_node_is_valid_and_taken_up(drive):
    rig = drive("mode:=continuous")
    rig.connect()
    rig.send(30)
    rig.status(lambda v: int(v.get("frames_written", 0)) > 20)
    rig.node.kill()
    [recording] = open_recordings(rig.out)
    assert len(recording) > 20 and not (rig.out / "manifest.json").exists()
    assert all(recording.image(i).shape == (84, 120, 3) for i in range(len(recording)))
    rig.close()
    again = drive("mode:=request")
    again.node.wait_for("recordings go to")
    assert [clip["reason"] for clip in manifest(rig.out)["clips"]] == ["interrupted"]
    assert len(manifest(rig.out)["files"]) >= 2 + len(recording)
    assert again.node.interrupt() == 0


def test_compressed_images_without_camera_info_are_kept_for_training_that_learns_it(drive):
    import cv2

    rig = drive("mode:=continuous", "camera_info_timeout:=0.2")
    rig.node.wait_for("recordings go to")
    data = cv2.imencode(".jpg", picture())[1].tobytes()
    message = CompressedImage(format="jpeg", data=data)
    for _ in range(100):
        rig.camera.send(message, None)
        if rig.camera.spin_until(lambda: int(rig.values().get("frames_written", 0)) > 5, 0.1):
            break
    rig.node.wait_for("WARN.*no camera_info /camera_info: recording without intrinsics")
    assert rig.node.interrupt() == 0
    [recording] = open_recordings(rig.out)
    assert recording.calib.fx is None and len(recording) > 5
    assert int(rig.values()["dropped_no_camera_info"]) > 0


def test_a_bag_is_collected_whole_by_its_stamps(tmp_path, domain_id):
    pytest.importorskip("rosbags")
    from listening import Children

    from dyndepth_core.data.bag_writer import bag_from_recording
    from dyndepth_core.data.recording import Recording

    stamps = [10**18 + i * 10**8 for i in range(30)]
    with RecordingWriter(tmp_path / "drive", Calibration(96, 64, 80, 81, 47, 31), "png") as writer:
        for index, stamp in enumerate(stamps):
            odometry = dict(tx=1, ty=2, tz=0, qx=0, qy=0, qz=0, qw=1, speed=10, yaw_rate=0.1)
            writer.add(picture(64, 96, seed=index), stamp, odometry=odometry)
    bag = bag_from_recording(Recording(tmp_path / "drive"), tmp_path / "bag", "mcap")
    topic, out = "/camera/image_raw", tmp_path / "whole"
    node = NodeProcess(
        tmp_path, f"out:={out}", "mode:=continuous", "use_sim_time:=true", *PLAIN,
        f"qos_overrides.{topic}.subscription.reliability:=reliable",
        module="collect_node", names=(f"image:={topic}", "camera_info:=/camera/camera_info"),
    )  # fmt: skip
    try:
        node.wait_for("recordings go to")
        with Children(domain_id) as children:
            play = children.start("dyndepth_ros.bag_replay_node", bag=bag, wait=60.0, rate=2.0)
            assert play.wait(120) == 0, play.communicate()[0]
        assert node.interrupt() == 0, node.log
    finally:
        node.kill()
    found = sorted(sum((r.stamps_ns.tolist() for r in open_recordings(out)), []))
    assert found == stamps, node.log
    recording = open_recordings(out)[0]
    assert recording.odometry(1)["speed"] == 10 and recording.calib.K[1, 1] == 81


def test_nodes_in_namespaces_have_names_of_their_own_in_diagnostics(tmp_path, domain_id):
    node = NodeProcess(tmp_path, f"out:={tmp_path}/o", module="collect_node", names=("__ns:=/car",))
    depth = NodeProcess(tmp_path, "autostart:=false", names=("__ns:=/car/front",))
    plain = NodeProcess(tmp_path, "autostart:=false")
    camera = Camera(domain_id, ())
    try:
        names = {"car/collect_node: clips", "car/front/depth_node: depth", "depth_node: depth"}
        heard = lambda: {m.status[0].name for m in camera.got["diagnostics"]}  # noqa: E731
        assert camera.spin_until(lambda: heard() == names), (heard(), node.log, depth.log)
        assert [one.interrupt() for one in (node, depth, plain)] == [0, 0, 0]
    finally:
        for one in (node, depth, plain):
            one.kill()
        camera.close()


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("out:=/proc/nowhere", "cannot collect: .*/proc/nowhere"),
        ("size:=8x8", "cannot collect: size 8x8: both sides must be at least 32"),
        ("crop:=1,2", "parameter crop is '1,2'.*four numbers"),
    ],
)
def test_a_bad_start_is_one_clear_line(tmp_path, domain_id, parameter, reason):
    node = NodeProcess(tmp_path, f"out:={tmp_path}/o", parameter, module="collect_node")
    assert node.wait(150) == 2, node.log
    node.wait_for(f"FATAL.*{reason}")
    assert "Traceback" not in node.log and node.count("FATAL|ERROR") == 1


def test_it_needs_the_base_dependencies_only(tmp_path):
    script = textwrap.dedent("""
        import sys
        EXTRAS = set("lightning typer rich rosbags apsw tensorboard matplotlib pandas scipy "
                     "torchvision onnx openvino cv_bridge launch tf2_ros".split())
        class Hidden:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in EXTRAS:
                    raise ModuleNotFoundError(f"hidden: {name}", name=name)
        sys.meta_path.insert(0, Hidden())
        import dyndepth_ros.collect_node as node
        assert "torch" not in sys.modules, "torch is imported before the node is on the graph"
        import dyndepth_core.data.live, dyndepth_core.data.triggers
        node.collect_options(node.CollectConfig())
        assert not EXTRAS & {name.partition(".")[0] for name in sys.modules}
    """)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
