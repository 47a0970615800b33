"""Start the synthetic camera, the depth node and RViz: the whole chain without any hardware.

ros2 launch dyndepth demo.launch.py --show-args
"""

import os
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

HERE = Path(__file__).absolute().parent

ARGUMENTS = [
    DeclareLaunchArgument(
        "seed",
        default_value="1000",
        description="Seed of the synthetic world; the bundled model saw none from 1000 on.",
    ),
    DeclareLaunchArgument(
        "rate",
        default_value="10.0",
        description="Camera frames per second, 0.1 to 60.",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="Model file (.safetensors), folder of a run, or a bundled one: motion, depth.",
    ),
    DeclareLaunchArgument(
        "device",
        default_value="",
        description="auto, cpu, cuda or cuda:N. Empty: auto.",
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="auto",
        choices=["auto", "true", "false"],
        description="Start RViz; auto: where it is installed and there is a screen.",
    ),
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="Namespace of all nodes.",
    ),
]


def generate_launch_description() -> LaunchDescription:
    """Return the declarations first, so that a bad argument fails before any node starts."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context) -> list:
    """Check the arguments and return the actions that start the nodes."""
    args = {a.name: LaunchConfiguration(a.name).perform(context).strip() for a in ARGUMENTS}
    seed = number("seed", args["seed"], int, 0, 2**31 - 1)
    rate = number("rate", args["rate"], float, 0.1, 60.0)
    notes = []
    if args["rviz"] == "auto":
        args["rviz"] = "true" if has_rviz() else "false"
        if args["rviz"] == "false":
            notes.append(LogInfo(msg="No RViz or no screen here: watch the topics instead."))
    forwarded = {name: args[name] for name in ("model", "device", "rviz", "namespace")}
    depth = PythonLaunchDescriptionSource(str(HERE / "depth.launch.py"))
    own = {"seed": seed, "rate": rate}
    camera = Node(
        package="dyndepth",
        executable="synthetic_camera_node",
        name="synthetic_camera_node",
        namespace=args["namespace"],
        parameters=[str(HERE.parent / "config/synthetic_camera_node.yaml"), own],
        output="screen",
    )
    # The included file sets the environment of large images, so it comes before the camera.
    return [
        *notes,
        IncludeLaunchDescription(depth, launch_arguments=forwarded.items()),
        camera,
    ]


def number(name: str, text: str, kind: type, least: float, most: float):
    """Return the number in `text`, or raise ValueError naming the argument and its range."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        raise ValueError(f"{name}:={text}: give a number from {least:g} to {most:g}")
    return value


def has_rviz() -> bool:
    """Tell whether RViz is installed and there is a screen to show it on."""
    from ament_index_python.packages import get_package_prefix

    try:
        get_package_prefix("rviz2")
    except (KeyError, OSError):  # not installed; no install prefix at all
        return False
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
