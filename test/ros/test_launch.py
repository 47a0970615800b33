"""The launch files and the configuration they ship, evaluated without a ROS install."""

import importlib
import math
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import launch_doubles as doubles
import numpy as np
import pytest

from dyndepth_core.inference.mount import parse_mount

ROOT = Path(__file__).resolve().parents[2]
DEPTH, DEMO = ROOT / "launch/depth.launch.py", ROOT / "launch/demo.launch.py"
COLLECT = ROOT / "launch/collect.launch.py"
PROMISED = {"image", "camera_info", "odom", "model", "device", "params_file", "bag", "rviz"}
PROMISED |= {"namespace", "fixed_frame", "base_to_camera", "use_sim_time"}


def test_depth_launch_declares_what_is_promised():
    launched = doubles.launch(DEPTH)
    assert set(launched.arguments) >= PROMISED
    declared = [doubles.launch(path).arguments.values() for path in (DEPTH, DEMO, COLLECT)]
    for argument in [argument for arguments in declared for argument in arguments]:
        assert argument.description.endswith(".") and len(argument.description) > 10
    assert launched.arguments["rviz"].choices == ["true", "false"]
    assert "motion networks" in launched.arguments["rviz"].description


def test_no_argument_starts_the_depth_node_alone():
    launched = doubles.launch(DEPTH)
    [node] = launched.nodes
    assert (node.package, node.executable, node.name) == ("dyndepth", "depth_node", "depth_node")
    assert Path(node.parameters[0]).is_file()
    assert dict(node.remappings)["image"] == "image"
    # What is not given is not set, so that the parameter file keeps its say.
    assert node.parameter("model") is None and node.parameter("device") is None


def test_arguments_reach_the_node(tmp_path):
    model, params = tmp_path / "m.safetensors", tmp_path / "p.yaml"
    model.touch()
    params.write_text("/**: {ros__parameters: {max_range: 20.0}}")
    launched = doubles.launch(
        DEPTH,
        image="/cam/image_raw",
        camera_info="/cam/camera_info",
        odom="/odometry",
        model=str(model),
        device="cpu",
        params_file=str(params),
        namespace="front",
        use_sim_time="true",
    )
    [node] = launched.nodes
    assert node.namespace == "front" and node.parameters[0] == str(params)
    assert node.parameter("model") == str(model) and node.parameter("device") == "cpu"
    assert node.parameter("use_sim_time") is True
    assert dict(node.remappings) == {
        "image": "/cam/image_raw",
        "image/compressed": "/cam/image_raw/compressed",
        "camera_info": "/cam/camera_info",
        "odom": "/odometry",
        "twist": "twist",
    }


def test_a_bag_brings_the_replay_node_and_sim_time(tmp_path):
    launched = doubles.launch(DEPTH, bag=str(tmp_path))
    replay = launched.node("bag_replay_node")
    assert replay.parameter("bag") == str(tmp_path)
    # what RViz does not subscribe to and depth_node does, once it has loaded its model
    assert replay.parameter("wait_topics") == "camera_info"
    assert launched.node("depth_node").parameter("use_sim_time") is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rviz", "yes"),
        ("use_sim_time", "1"),
        ("device", "gpu"),
        ("model", "/no/such.safetensors"),
        ("params_file", "/no/such.yaml"),
        ("bag", "/no/such.bag"),
        ("image", " "),
        ("base_to_camera", "1 2 3"),
        ("base_to_camera", "1 2 3 a b c"),
        ("base_to_camera", "1 2 3 nan 0 0"),
    ],
)
def test_a_bad_argument_fails_before_any_node_and_is_named(name, value):
    with pytest.raises((ValueError, RuntimeError), match=name):
        doubles.launch(DEPTH, **{name: value})


def test_a_bundled_model_is_a_name_unless_such_a_file_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [node] = doubles.launch(DEPTH, model="depth").nodes
    assert node.parameter("model") == "depth"
    (tmp_path / "depth").touch()
    [node] = doubles.launch(DEPTH, model="depth").nodes
    assert node.parameter("model") == str(tmp_path / "depth")


@pytest.mark.parametrize("bad", [{"seed": "x"}, {"seed": "-1"}, {"rate": "0"}, {"rate": "nan"}])
def test_a_bad_demo_argument_is_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        doubles.launch(DEMO, **bad)


def transform(node: doubles.Node) -> tuple[str, str, np.ndarray]:
    """Parent, child and T_parent_child of a static_transform_publisher."""
    words = dict(zip(node.arguments[::2], node.arguments[1::2], strict=True))
    x, y, z, qx, qy, qz, qw = (
        float(words[f"--{k}"]) for k in ("x", "y", "z", "qx", "qy", "qz", "qw")
    )
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    v, skew = np.array([qx, qy, qz]), np.array([[0, -qz, qy], [qz, 0, -qx], [-qy, qx, 0]])
    matrix[:3, :3] = np.eye(3) * (qw**2 - v @ v) + 2 * np.outer(v, v) + 2 * qw * skew
    return words["--frame-id"], words["--child-frame-id"], matrix


@pytest.mark.parametrize(
    ("pose", "forward", "right"),
    [
        ("1 0 1.5 0 0 0", (1, 0, 0), (0, -1, 0)),
        ("1 0 1.5 0 0 1.5707963", (0, 1, 0), (1, 0, 0)),  # looks to the left
        ("1 0 1.5 0 0.1 0", (math.cos(0.1), 0, -math.sin(0.1)), (0, -1, 0)),  # nose down
        ("1 0 1.5 0.1 0 0", (1, 0, 0), (0, -math.cos(0.1), -math.sin(0.1))),  # rolled
    ],
)
def test_base_to_camera_ends_in_optical_axes(pose, forward, right):
    launched = doubles.launch(DEPTH, base_to_camera=pose, camera_frame="eye")
    parent, child, T_base_eye = transform(launched.node("static_transform_publisher"))
    assert (parent, child) == ("base_link", "eye")
    given = launched.node("depth_node").parameter("base_to_camera")
    assert given == pose and np.allclose(parse_mount(given), T_base_eye, atol=1e-6)
    assert np.allclose(T_base_eye @ (0, 0, 0, 1), (1, 0, 1.5, 1))
    assert np.allclose(T_base_eye[:3, 2], forward, atol=1e-6)  # the optical z axis
    assert np.allclose(T_base_eye[:3, 0], right, atol=1e-6)  # the optical x axis


def test_rviz_stands_upright_without_touching_the_frames_of_the_vehicle():
    launched = doubles.launch(DEPTH, rviz="true", namespace="front", image="cam")
    rviz = launched.node("rviz2")
    parent, child, T_eye_upright = transform(launched.node("static_transform_publisher"))
    assert rviz.arguments[rviz.arguments.index("-f") + 1] == child
    assert parent == "camera_optical_frame"  # a leaf below the camera, never a parent of it
    assert np.allclose(T_eye_upright[:3, 2], (0, -1, 0))  # its z points up, which is optical -y
    assert np.allclose(T_eye_upright[:3, 0], (0, 0, 1))
    assert dict(rviz.remappings)["/depth_node/points"] == "/front/depth_node/points"
    assert dict(rviz.remappings)["/image"] == "/front/cam"
    assert not doubles.launch(DEPTH, rviz="true", fixed_frame="map").node(
        "static_transform_publisher"
    )


@pytest.mark.parametrize("distro", ["humble", "jazzy", "kilted"])
def test_large_images_get_their_dds_profile_unless_the_user_has_one(distro, monkeypatch):
    names = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    room = SimpleNamespace(f_bavail=1 << 18, f_frsize=1 << 12, f_blocks=0, f_bfree=0)  # 1 GiB
    monkeypatch.setattr(os, "statvfs", lambda path: room)
    monkeypatch.setenv("ROS_DISTRO", distro)
    launched = doubles.launch(DEMO, rviz="false")
    wanted = names[:1] if distro == "kilted" else names
    assert {n.executable for n in launched.nodes} == {"depth_node", "synthetic_camera_node"}
    for node in launched.nodes:
        assert {n: node.env[n] for n in wanted} == dict.fromkeys(
            wanted, str(ROOT / "config/fastdds.xml")
        )
    room.f_bavail = 1 << 14  # the 64 MiB of a container
    small = doubles.launch(DEMO, rviz="false")
    assert not small.env
    assert ["64 MB free and 512 are needed" in note for note in small.notes] == [True]
    room.f_bavail = 1 << 18
    monkeypatch.setenv(names[0], "/mine.xml")
    mine = doubles.launch(DEPTH)
    assert not mine.env and not mine.notes


def test_the_dds_profile_holds_ten_full_hd_images():
    advice = re.search(r"shm-size option, (\d+)g ", (ROOT / "config/fastdds.xml").read_text())
    assert int(advice[1]) << 10 > 512  # or what is advised would not be enough for the launch files
    root = ElementTree.parse(ROOT / "config/fastdds.xml").getroot()
    sizes = [int(e.text) for e in root.iter() if e.tag.endswith("segment_size")]
    assert sizes and min(sizes) >= 10 * 1920 * 1080 * 3
    types = {e.text for e in root.iter() if e.tag.endswith("type")}
    assert types == {"SHM", "UDPv4"}


@pytest.mark.parametrize(
    ("node", "config_class"),
    [
        ("depth_node", "parameters.NodeConfig"),
        ("bag_replay_node", "bag_replay_node.ReplayConfig"),
        ("collect_node", "collect_parameters.CollectConfig"),
        ("synthetic_camera_node", "synthetic_camera_node.CameraConfig"),
    ],
)
def test_the_parameter_files_are_what_the_nodes_declare(node, config_class):
    pytest.importorskip("rclpy")
    from dyndepth_ros.parameters import parameter_file

    module, name = config_class.split(".")
    declared = getattr(importlib.import_module(f"dyndepth_ros.{module}"), name)
    path = ROOT / f"config/{node}.yaml"
    assert path.read_text() == parameter_file(declared, node), f"write {path.name} anew"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    """An install prefix with our executables, as data_files lay it out."""
    folder = tmp_path_factory.mktemp("prefix")
    (folder / "lib").mkdir()
    (folder / "lib/dyndepth").symlink_to(ROOT / "dyndepth_ros/executables")
    return folder


def test_what_the_demo_would_start_does_start(prefix, model_file, tmp_path, domain_id):
    """Our nodes, with the argument vectors of the launch file, until depth comes out."""
    pytest.importorskip("rclpy")
    launched = doubles.launch(DEMO, rviz="false", namespace="car", rate="5", model=str(model_file))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    processes = []
    try:
        for node in launched.nodes:
            if node.package != "dyndepth":
                continue
            log = (tmp_path / f"{node.executable}.log").open("w")
            environment = {**doubles.environment(node), "PATH": path, "PYTHONPATH": str(ROOT)}
            command = node.command(prefix, tmp_path)
            processes.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )
        assert len(processes) == 2
        received = wait_for_depth("/car/depth_node/depth/image", processes, seconds=150)
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        codes = [finish(process) for process in processes]
    logs = "".join(p.read_text() for p in tmp_path.glob("*.log"))
    assert received, logs
    assert codes == [0, 0], logs


def wait_for_depth(topic: str, processes: list, seconds: float) -> bool:
    """True when an image came, False when a process died or the time is over."""
    script = (
        "import rclpy, sys, time\n"
        "from sensor_msgs.msg import Image\n"
        "rclpy.init(); node = rclpy.create_node('ear'); got = []\n"
        f"node.create_subscription(Image, {topic!r}, got.append, 1)\n"
        f"end = time.monotonic() + {seconds}\n"
        "while not got and time.monotonic() < end: rclpy.spin_once(node, timeout_sec=0.2)\n"
        "sys.exit(not (got and got[0].encoding == '32FC1'))\n"
    )
    ear = subprocess.Popen([sys.executable, "-c", script])
    try:
        while ear.poll() is None and all(p.poll() is None for p in processes):
            time.sleep(0.1)
        return ear.poll() == 0
    finally:
        ear.kill()
        ear.wait()


def finish(process: subprocess.Popen) -> int:
    """Exit code of a process that was asked to end; killed when it does not."""
    try:
        return process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
