"""The real `ros2 launch` and `ros2 run`, where a ROS install provides them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("launch_ros")
pytest.importorskip("rclpy")
if shutil.which("ros2") is None:
    pytest.skip("no ros2 on PATH", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """A prefix with the package in it, in front of what the shell already knows."""
    prefix = tmp_path_factory.mktemp("prefix")
    index = prefix / "share/ament_index/resource_index/packages"
    for folder in (index, prefix / "share/dyndepth", prefix / "lib"):
        folder.mkdir(parents=True)
    (index / "dyndepth").touch()
    for part in ("launch", "config"):  # copied: ros2 launch follows no linked folder
        shutil.copytree(ROOT / part, prefix / "share/dyndepth" / part)
    shutil.copy(ROOT / "package.xml", prefix / "share/dyndepth")
    (prefix / "lib/dyndepth").symlink_to(ROOT / "dyndepth_ros/executables")
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    env["AMENT_PREFIX_PATH"] = f"{prefix}:{env.get('AMENT_PREFIX_PATH', '')}".strip(":")
    env["PYTHONPATH"] = f"{ROOT}:{env.get('PYTHONPATH', '')}".strip(":")
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    return env


def ros2(*words: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["ros2", *words], env=environment, capture_output=True, text=True, timeout=60
    )


def test_show_args_explains_every_argument(environment):
    result = ros2("launch", "dyndepth", "depth.launch.py", "--show-args", environment=environment)
    assert result.returncode == 0, result.stderr
    for name in ("image", "camera_info", "base_to_camera", "bag", "use_sim_time"):
        assert f"'{name}':" in result.stdout


def test_a_bad_argument_starts_nothing(environment):
    result = ros2("launch", "dyndepth", "depth.launch.py", "device:=gpu", environment=environment)
    assert result.returncode != 0
    assert "device:=gpu" in result.stderr + result.stdout
    assert "process started" not in result.stderr + result.stdout


def test_ros2_run_finds_the_executables(environment):
    result = ros2("pkg", "executables", "dyndepth", environment=environment)
    assert {line.split()[-1] for line in result.stdout.splitlines()} >= {
        "depth_node",
        "bag_replay_node",
        "collect_node",
        "synthetic_camera_node",
    }


def test_ctrl_c_ends_the_launch_and_its_nodes_cleanly(environment, model_file, domain_id, tmp_path):
    """As a terminal does it: SIGINT to the whole process group, so that nodes get it twice."""
    log = tmp_path / "launch.log"
    env = {**environment, "ROS_DOMAIN_ID": str(domain_id), "ROS_LOG_DIR": str(tmp_path / "ros")}
    with log.open("w") as stream:
        command = ["ros2", "launch", "dyndepth", "depth.launch.py", f"model:={model_file}"]
        launch = subprocess.Popen(
            [*command, "namespace:=car"],
            env=env,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    group = launch.pid
    try:
        deadline = time.monotonic() + 150
        while "images from /car/image" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(group, signal.SIGINT)
        code = launch.wait(timeout=30)
    finally:
        with_group(group, signal.SIGKILL)
    assert code == 0, log.read_text()
    assert "process has finished cleanly" in log.read_text()
    assert "Traceback" not in log.read_text()


def with_group(group: int, signum: int) -> None:
    """Send a signal to what is left of a process group, if anything is."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        pass
