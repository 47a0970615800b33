"""Start collect_node on a camera or on a bag: clips of what it sees become training recordings.

ros2 launch dyndepth collect.launch.py --show-args
"""

import importlib.util
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

HERE = Path(__file__).absolute().parent
CONFIG = HERE.parent / "config"

ARGUMENTS = [
    DeclareLaunchArgument(
        "image",
        default_value="image",
        description="Topic of the camera images; NAME/compressed beside it is used where only that "
        "is published. Relative names are taken inside `namespace`.",
    ),
    DeclareLaunchArgument(
        "camera_info",
        default_value="camera_info",
        description="Topic of the CameraInfo that belongs to `image`.",
    ),
    DeclareLaunchArgument(
        "odom",
        default_value="odom",
        description="Topic of nav_msgs/Odometry, stored beside every image at its stamp.",
    ),
    DeclareLaunchArgument(
        "twist",
        default_value="twist",
        description="Topic of geometry_msgs/TwistStamped, used where no Odometry comes.",
    ),
    DeclareLaunchArgument(
        "mask",
        default_value="depth_node/motion/mask",
        description="Topic of depth_node's mask of what moves, for the trigger of moving things.",
    ),
    DeclareLaunchArgument(
        "out",
        default_value="",
        description="Folder of the recordings, made where it is missing, added to where this node "
        "filled it before. Empty: what params_file says, else collected in the working folder.",
    ),
    DeclareLaunchArgument(
        "mode",
        default_value="",
        choices=["", "request", "trigger", "continuous"],
        description="When it records: request: when ~/save_last is called; trigger: also by "
        "itself, when much moves or the image changes as it seldom does; continuous: always. "
        "Empty: what params_file says (trigger).",
    ),
    DeclareLaunchArgument(
        "before",
        default_value="",
        description="Seconds of a clip before its moment, 0 to 600. Empty: what params_file says.",
    ),
    DeclareLaunchArgument(
        "after",
        default_value="",
        description="Seconds of a clip after its moment, 0 to 600. Empty: what params_file says.",
    ),
    DeclareLaunchArgument(
        "bag",
        default_value="",
        description="A bag to replay (folder or file) instead of a live camera, with /clock; sets "
        "use_sim_time, and all ends with the bag. Give `image` and `camera_info` as the bag names "
        "them. Without triggers `dyndepth collect` does it faster.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(CONFIG / "collect_node.yaml"),
        description="Parameters of collect_node (YAML), and of bag_replay_node in a section of its "
        "own; the default file states unit and range of each.",
    ),
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="Namespace of all nodes and of every relative topic name.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false"],
        description="Take the time from /clock. Always true with `bag`.",
    ),
]


def sibling(name: str):
    """Return the module of a launch file beside this one."""
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), HERE / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def generate_launch_description() -> LaunchDescription:
    """Return the declarations first, so that a bad argument fails before any node starts."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context) -> list:
    """Check the arguments and return the actions that start the nodes."""
    depth = sibling("depth.launch.py")
    args = {a.name: LaunchConfiguration(a.name).perform(context).strip() for a in ARGUMENTS}
    depth.check_files(args, ("params_file", "bag"))
    depth.check_topics(args, ("image", "camera_info", "odom", "twist", "mask"))
    given = {name: args[name] for name in ("out", "mode") if args[name]}
    given |= {name: seconds(name, args[name]) for name in ("before", "after") if args[name]}
    given["use_sim_time"] = args["use_sim_time"] == "true" or bool(args["bag"])
    replay = []
    if args["bag"]:
        given |= reliable(depth, args)
        replay = [depth.bag_replay(args, on_exit=Shutdown(reason="the bag has ended"))]
    collect = Node(
        package="dyndepth",
        executable="collect_node",
        name="collect_node",
        namespace=args["namespace"],
        parameters=[args["params_file"], given],
        remappings=[
            ("image", args["image"]),
            ("image/compressed", args["image"] + "/compressed"),
            ("camera_info", args["camera_info"]),
            ("odom", args["odom"]),
            ("twist", args["twist"]),
            ("depth_node/motion/mask", args["mask"]),
        ],
        output="screen",
        # what waits for the disk is written first: close() may take 25 s, leaving ROS 15 more
        sigterm_timeout="30",
        sigkill_timeout="15",
    )
    return [*depth.large_images(), collect, *replay]


def seconds(name: str, text: str) -> float:
    """Return the number in `text`, or raise ValueError naming the argument and its range."""
    try:
        value = float(text)
    except ValueError:
        value = None
    if value is None or not 0 <= value <= 600:
        raise ValueError(f"{name}:={text}: give seconds from 0 to 600")
    return value


def reliable(depth, args: dict[str, str]) -> dict[str, str]:
    """Return the parameters by which no image of a bag is lost on its way."""
    space = "/" + args["namespace"].strip("/") if args["namespace"].strip("/") else ""
    image = depth.absolute(args["image"], space)
    topics = (image, f"{image}/compressed")
    return {f"qos_overrides.{topic}.subscription.reliability": "reliable" for topic in topics}
