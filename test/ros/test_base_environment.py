"""The node in a virtual environment that holds the base dependencies and ROS, and nothing else."""

import configparser
import importlib.metadata as metadata
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("rclpy")

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(sysconfig.get_paths()["purelib"])


def declared(*groups: str) -> list[str]:
    """Requirements in setup.cfg: the base ones and those of the named extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"]]
    lists += [config["options.extras_require"][group] for group in groups]
    return [line for text in lists for line in text.splitlines() if line.strip()]


def closure(requirements: list[str]) -> list[metadata.Distribution]:
    """The installed distributions that pip would install for these requirements."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = metadata.distribution(requirement.name)
        waiting += [Requirement(text) for text in found[name].requires or ()]
    return list(found.values())


def has_wheels() -> bool:
    """Whether ROS comes from the Python registry, not from a sourced install."""
    try:
        metadata.distribution("ros-rclpy")
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A virtual environment made of links to what the base requirements and ROS need."""
    venv = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = venv / SITE.relative_to(sys.prefix)
    for distribution in closure(declared(*(["ros"] if has_wheels() else []))):
        for file in distribution.files or ():
            if ".." not in file.parts:
                link(site / file.parts[0], SITE / file.parts[0])
            else:
                real = Path(os.path.normpath(SITE / file))
                link(venv / real.relative_to(sys.prefix), real)
    for package in ("dyndepth_core", "dyndepth_ros"):
        link(site / package, ROOT / package)
    shutil.copytree(ROOT / "dyndepth_ros/executables", venv / "lib/dyndepth")
    return venv


def link(path: Path, target: Path) -> None:
    if not os.path.lexists(path) and target.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


def clean_environment() -> dict[str, str]:
    """As in a new shell: nothing leads into the environment that runs the tests."""
    ours = {"_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH"}
    hidden = ours if has_wheels() else {"VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "PATH": "/usr/bin:/bin"}


def test_the_environment_is_bare(bare):
    code = "import importlib.util as u, sys; print([m for m in sys.argv[1:] if u.find_spec(m)])"
    extras = ["lightning", "typer", "rich", "rosbags", "matplotlib", "tensorboard", "pytest"]
    command = [str(bare / "bin/python"), "-c", code, "torch", *extras]
    result = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == "['torch']", result


def test_the_node_runs_and_ends_cleanly(bare, model_file, tmp_path, domain_id):
    """Started by its executable, which finds the Python of its environment by itself."""
    log = tmp_path / "log.txt"
    command = [str(bare / "lib/dyndepth/depth_node"), "--ros-args", "-p", f"model:={model_file}"]
    with log.open("w") as stream:
        node = subprocess.Popen(
            command, env=clean_environment(), cwd=tmp_path, stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 150
        while "images from" not in log.read_text() and node.poll() is None:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        node.send_signal(signal.SIGINT)
        assert node.wait(timeout=60) == 0, log.read_text()
    finally:
        node.kill()
        node.wait()
