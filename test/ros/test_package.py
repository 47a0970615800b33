"""The package as ROS tools see it: pip and colcon both lay it out so that ros2 run finds it."""

import configparser
import importlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODES = {"depth_node", "bag_replay_node", "collect_node", "synthetic_camera_node"}
SHARED = {"depth.launch.py", "collect.launch.py", "demo.launch.py", "dyndepth.rviz", "fastdds.xml"}
SHARED |= {f"{node}.yaml" for node in NODES}
PARTS = ("dyndepth_core", "dyndepth_ros", "launch", "config", "resource")


def run(*command: object, timeout: float = 120, **options) -> subprocess.CompletedProcess:
    """Run a command to its end; a failure shows what it printed."""
    result = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=timeout, **options
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the sources, because builds write beside them."""
    folder = tmp_path_factory.mktemp("src") / "dyndepth"
    for part in PARTS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
    return folder


@pytest.fixture(scope="module")
def pip_prefix(source, tmp_path_factory) -> Path:
    """`pip install .` into an empty prefix, offline."""
    prefix = tmp_path_factory.mktemp("pip")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation")
    # --ignore-installed, or pip takes away the installation that runs this test.
    run(*pip, "--no-index", "--ignore-installed", "--prefix", prefix, source)
    return prefix


@pytest.fixture(scope="module", params=["copied", "symlinked"])
def colcon_prefix(request, source, tmp_path_factory) -> Path:
    """`colcon build` in an empty workspace without ROS; returns the package's install folder."""
    workspace = tmp_path_factory.mktemp("ws")
    shutil.copytree(source, workspace / "src" / "dyndepth", symlinks=True)
    options = ["--symlink-install"] if request.param == "symlinked" else []
    # colcon finds packages of an underlay by these; the test wants an empty one.
    hidden = ("AMENT_PREFIX_PATH", "COLCON_PREFIX_PATH", "CMAKE_PREFIX_PATH")
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    colcon = (sys.executable, "-m", "colcon", "build", *options)
    run(*colcon, cwd=workspace, env={**env, "COLCON_HOME": str(workspace / "home")})
    return workspace / "install" / "dyndepth"


def check_layout(prefix: Path) -> None:
    """What ament_index, ros2 run and ros2 launch look for, by their own rules."""
    assert (prefix / "share/ament_index/resource_index/packages/dyndepth").exists()
    assert (prefix / "share/dyndepth/package.xml").exists()
    shared = {p.name for p in (prefix / "share/dyndepth").rglob("*") if p.is_file()}
    assert SHARED <= shared
    executables = {p.name: p for p in (prefix / "lib/dyndepth").iterdir()}
    assert set(executables) == {*NODES, "dyndepth"}
    for path in executables.values():
        assert path.stat().st_mode & stat.S_IXUSR, f"{path.name} cannot be executed"


def test_package_xml_is_an_ament_python_package():
    package = pytest.importorskip("catkin_pkg.package").parse_package(str(ROOT / "package.xml"))
    package.validate(warnings := [])
    assert not warnings  # an invalid e-mail lands here, and colcon then builds plain Python
    assert package.package_format == 3
    assert [e.content for e in package.exports if e.tagname == "build_type"] == ["ament_python"]
    assert {"rclpy", "cv_bridge", "sensor_msgs", "launch_ros"} <= {
        d.name for d in package.exec_depends
    }
    assert package.licenses[0] == "Apache-2.0"


def test_the_environment_of_make_has_executables_that_run_its_own_python(tmp_path):
    """Also where an earlier make left a link to their folder, and when it is made again."""
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"include {ROOT}/Makefile\nlinks:\n\t$(LINKS)\n")
    venv = tmp_path / "venv"
    (venv / "lib").mkdir(parents=True)
    (venv / "lib/dyndepth").symlink_to(ROOT / "dyndepth_ros/executables")
    (venv / "bin").mkdir()
    python = venv / "bin/python3"
    python.write_text('#!/bin/sh\necho "mine $*"\n')
    python.chmod(0o755)
    for _ in range(2):
        run("make", "-f", makefile, "links", f"VENV={venv}", cwd=ROOT)
        check_layout(venv)
        for name in NODES:
            found = run(venv / "lib/dyndepth" / name, "-x")
            assert found.stdout == f"mine -m dyndepth_ros.{name} -x\n"
    assert {p.name for p in (ROOT / "dyndepth_ros/executables").iterdir()} == {*NODES, "dyndepth"}


def test_one_version(pip_prefix):
    declared = re.search(r"<version>(.*)</version>", (ROOT / "package.xml").read_text())[1]
    [info] = pip_prefix.rglob("dyndepth-*.dist-info")
    assert info.name == f"dyndepth-{declared}.dist-info"
    assert re.search(rf"^{re.escape(declared)} \(", (ROOT / "CHANGELOG.rst").read_text(), re.M)


def test_pip_install_is_found_by_ros_tools(pip_prefix):
    check_layout(pip_prefix)


def test_pip_install_carries_every_module_and_asset(pip_prefix, source):
    [installed] = {p.parent for p in pip_prefix.rglob("dyndepth_core") if p.is_dir()}
    wanted = {
        p.relative_to(source)
        for part in ("dyndepth_core", "dyndepth_ros")
        for p in (source / part).rglob("*")
        if p.suffix == ".py" or (p.is_file() and p.parent.name == "assets")
    }
    assert not {str(p) for p in wanted if not (installed / p).exists()}


def test_entry_points_lead_to_functions(pip_prefix):
    [file] = pip_prefix.rglob("dyndepth-*.dist-info/entry_points.txt")
    table = configparser.ConfigParser(delimiters="=")
    table.read(file)
    assert {*NODES, "dyndepth"} == set(table["console_scripts"])
    for group in ("console_scripts", "dyndepth.commands"):
        for name, target in table[group].items():
            module, function = target.split(":")
            assert callable(getattr(importlib.import_module(module), function)), name


def test_colcon_build_is_found_by_ros_tools(colcon_prefix):
    check_layout(colcon_prefix)


def test_colcon_setup_file_leads_to_executables_that_run(colcon_prefix, tmp_path):
    """A shell that sources setup.bash finds the package and runs the installed code."""
    setup = colcon_prefix.parent / "setup.bash"
    script = (
        f"source {setup}; python3 -c 'import ament_index_python as a, dyndepth_core as c;"
        ' print(a.get_package_prefix("dyndepth"), c.__file__)\'; dyndepth --help'
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    result = run("bash", "-c", script, cwd=tmp_path, env=env)
    prefix, module = result.stdout.splitlines()[0].split()
    assert Path(prefix) == colcon_prefix
    assert Path(module).is_relative_to(colcon_prefix.parent.parent)
    assert "demo" in result.stdout and "train" in result.stdout


@pytest.mark.parametrize("name", sorted(NODES))
def test_executables_start_the_node_of_their_name(name, pip_prefix, tmp_path):
    """An unknown ROS argument is refused by rcl: proof that the node's own main was reached."""
    pytest.importorskip("rclpy")
    [site] = {p.parent for p in pip_prefix.rglob("dyndepth_ros") if p.is_dir()}
    env = {**os.environ, "PYTHONPATH": str(site)}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    command = [str(pip_prefix / "lib/dyndepth" / name), "--ros-args", "--no-such-flag"]
    result = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert result.returncode != 0
    assert "--no-such-flag" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
