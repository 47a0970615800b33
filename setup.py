"""Packaging for pip and colcon (ament_python): metadata in setup.cfg, version in package.xml."""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

NAME = "dyndepth"
HERE = Path(__file__).resolve().parent
COMMANDS = (
    "synth",
    "train",
    "evaluate",
    "export",
    "predict",
    "info",
    "doctor",
    "inspect",
    "collect",
    "benchmark",
    "reproduce",
)
NODES = ("depth_node", "bag_replay_node", "collect_node", "synthetic_camera_node")


def files(folder: str, pattern: str) -> list[str]:
    """Return the files of `folder` matching `pattern`, relative to this file."""
    return sorted(str(path.relative_to(HERE)) for path in (HERE / folder).glob(pattern))


# ros2 run and Node(executable=...) look in lib/dyndepth only. pip cannot put console scripts there
# (wheels ignore [install] install_scripts), so small executables go there as data files, under pip
# and colcon alike; the console scripts keep their usual place on PATH.
data_files = [
    ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
    (f"share/{NAME}", ["package.xml"]),
    (f"share/{NAME}/launch", files("launch", "*.launch.py")),
    (f"share/{NAME}/config", files("config", "*")),
    (f"lib/{NAME}", files("dyndepth_ros/executables", "*")),
]

setup(
    name=NAME,
    version=ElementTree.parse(HERE / "package.xml").findtext("version"),
    # Here and not in setup.cfg, where it becomes an object that colcon cannot read.
    python_requires=">=3.10",
    packages=find_packages(include=["dyndepth_core*", "dyndepth_ros*"]),
    package_data={"dyndepth_core": ["assets/*"]},
    data_files=data_files,
    entry_points={
        "console_scripts": [
            "dyndepth = dyndepth_core.cli:main",
            *(f"{node} = dyndepth_ros.{node}:main" for node in NODES),
        ],
        # What `dyndepth benchmark` measures beyond the core, which knows no ROS.
        "dyndepth.benchmarks": [
            "node = dyndepth_ros.node_latency:measure",
            "node_vga = dyndepth_ros.node_latency:measure_full_size",
            "node_motion = dyndepth_ros.motion_rate:measure",
            "hot_swap = dyndepth_ros.hot_swap:measure",
        ],
        "dyndepth.commands": [
            "demo = dyndepth_ros.demo:command",
            *(f"{name} = dyndepth_core.commands.{name}:command" for name in COMMANDS),
        ],
    },
)
