"""Start depth_node on a camera, on a bag, or on whatever publishes `image` and `camera_info`.

ros2 launch dyndepth depth.launch.py --show-args
"""

import math
import os
import re
import shutil
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

CONFIG = Path(__file__).absolute().parent.parent / "config"
SWITCH = ["true", "false"]
BUNDLED = ("motion", "depth")  # models that come with the package, by name
NO_ROOM = (
    "config/fastdds.xml is not used: /dev/shm has {} MB free and 512 are needed, so large images "
    "may get lost. In docker: --shm-size=1g"
)

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
        description="Topic of nav_msgs/Odometry, from which the metres of the depth are learned.",
    ),
    DeclareLaunchArgument(
        "twist",
        default_value="twist",
        description="Topic of geometry_msgs/TwistStamped, used where no Odometry comes.",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="Model file (.safetensors) or folder of a run, made by `dyndepth train`, or a "
        "bundled one: motion, depth. "
        "Empty: what params_file says, else the bundled model, which knows only a synthetic world.",
    ),
    DeclareLaunchArgument(
        "device",
        default_value="",
        description="auto, cpu, cuda or cuda:N. Empty: what params_file says.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(CONFIG / "depth_node.yaml"),
        description="Parameters of depth_node (YAML), and of bag_replay_node in a section of its "
        "own; the default file states unit and range of each.",
    ),
    DeclareLaunchArgument(
        "bag",
        default_value="",
        description="A rosbag2 to replay (folder or file) instead of a live camera, with /clock; "
        "sets use_sim_time. Give `image` and `camera_info` as the bag names them.",
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=SWITCH,
        description="Start RViz with images, colours, cloud and what moves; while the displays of "
        "what moves are ticked, the node runs its motion networks, too, at fewer frames a second.",
    ),
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="Namespace of all nodes and of every relative topic name.",
    ),
    DeclareLaunchArgument(
        "camera_frame",
        default_value="camera_optical_frame",
        description="frame_id of the images: the optical frame (x right, y down, z forward).",
    ),
    DeclareLaunchArgument(
        "fixed_frame",
        default_value="",
        description="Fixed frame of RViz. Empty: base_link if base_to_camera is given, else an "
        "upright frame at the camera, <camera_frame>_upright, which is then published.",
    ),
    DeclareLaunchArgument(
        "base_to_camera",
        default_value="",
        description="Where the camera sits on the vehicle: 'x y z roll pitch yaw' of its body axes "
        "(x forward, y left, z up) in base_link, metres and radians. Published on /tf_static as "
        "base_link -> camera_frame, turned into optical axes, and given to depth_node as the lever "
        "arm of odometry. Empty: not published.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=SWITCH,
        description="Take the time from /clock. Always true with `bag`.",
    ),
]


def generate_launch_description() -> LaunchDescription:
    """Return the declarations first, so that a bad argument fails before any node starts."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context) -> list:
    """Check the arguments and return the actions that start the nodes."""
    args = {a.name: LaunchConfiguration(a.name).perform(context).strip() for a in ARGUMENTS}
    check(args)
    sim_time = args["use_sim_time"] == "true" or bool(args["bag"])
    return [
        *large_images(),
        *static_transform(args),
        depth_node(args, sim_time),
        *([bag_replay(args)] if args["bag"] else []),
        *([rviz(args, sim_time)] if args["rviz"] == "true" else []),
    ]


def check(args: dict[str, str]) -> None:
    """Raise ValueError naming the argument that is wrong."""
    is_bundled = args["model"] in BUNDLED and not os.path.exists(args["model"])
    check_files(args, ("params_file", "bag") if is_bundled else ("model", "params_file", "bag"))
    check_topics(args, ("image", "camera_info", "odom", "twist"))
    if not re.fullmatch(r"(auto|cpu|cuda(:\d+)?)?", args["device"]):
        raise ValueError(f"device:={args['device']}: give auto, cpu, cuda or cuda:N")


def check_files(args: dict[str, str], names: tuple[str, ...]) -> None:
    """Make the paths that are given absolute, or raise ValueError naming one that is not there."""
    for name in names:
        if args[name]:
            args[name] = os.path.abspath(os.path.expanduser(args[name]))
            if not os.path.exists(args[name]):
                raise ValueError(f"{name}:={args[name]}: no such file")


def check_topics(args: dict[str, str], names: tuple[str, ...]) -> None:
    """Raise ValueError naming a topic that is empty."""
    for name in names:
        if not args[name]:
            raise ValueError(f"{name}:= is empty: give a topic name or leave the argument out")


def large_images() -> list:
    """Give Fast DDS a shared-memory segment that holds camera images, unless the user chose one or
    there is no room for those of several nodes, as in most containers; then say so.
    """
    # Jazzy and older read only the second name; later distributions warn about it in every process.
    names = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
    if any(os.environ.get(name) for name in names):
        return []
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        free = 0
    if free <= 512 << 20:
        return [LogInfo(msg=NO_ROOM.format(free >> 20))]
    old = os.environ.get("ROS_DISTRO", "jazzy") in ("humble", "iron", "jazzy")
    return [SetEnvironmentVariable(name, str(CONFIG / "fastdds.xml")) for name in names[: 1 + old]]


def depth_node(args: dict[str, str], sim_time: bool) -> Node:
    """Return the action that starts the depth node; empty arguments leave the file's values."""
    given = {name: args[name] for name in ("model", "device", "base_to_camera") if args[name]}
    return Node(
        package="dyndepth",
        executable="depth_node",
        name="depth_node",
        namespace=args["namespace"],
        parameters=[args["params_file"], {**given, "use_sim_time": sim_time}],
        remappings=[
            ("image", args["image"]),
            ("image/compressed", args["image"] + "/compressed"),
            ("camera_info", args["camera_info"]),
            ("odom", args["odom"]),
            ("twist", args["twist"]),
        ],
        output="screen",
    )


def bag_replay(args: dict[str, str], **options) -> Node:
    """Return the action that replays the bag with its own topic names and /clock."""
    # RViz subscribes to images, too, long before our node has loaded its model
    given = {"bag": args["bag"], "wait_topics": args["camera_info"]}
    return Node(
        package="dyndepth",
        executable="bag_replay_node",
        name="bag_replay_node",
        namespace=args["namespace"],
        parameters=[args["params_file"], given],
        output="screen",
        **options,
    )


def rviz(args: dict[str, str], sim_time: bool) -> Node:
    """Return the action that starts RViz on our topics, which its file names at the root."""
    namespace = "/" + args["namespace"].strip("/") if args["namespace"].strip("/") else ""
    topics = "depth/color depth/image points motion/mask motion/markers motion/points".split()
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(CONFIG / "dyndepth.rviz"), "-f", fixed_frame(args)],
        parameters=[{"use_sim_time": sim_time}],
        remappings=[
            ("/image", absolute(args["image"], namespace)),
            *((f"/depth_node/{t}", f"{namespace}/depth_node/{t}") for t in topics),
        ],
    )


def absolute(topic: str, namespace: str) -> str:
    """Return the full name of a topic given inside a namespace ('' or '/name')."""
    return topic if topic.startswith("/") else f"{namespace}/{topic}"


def fixed_frame(args: dict[str, str]) -> str:
    """Return a frame whose z axis points up, unless the user named one."""
    upright = "base_link" if args["base_to_camera"] else args["camera_frame"] + "_upright"
    return args["fixed_frame"] or upright


def static_transform(args: dict[str, str]) -> list:
    """Return what goes to /tf_static: base_link -> camera, or for RViz alone camera -> upright.

    The upright frame is a leaf, so that no frame of the vehicle gets a second parent.
    """
    if args["base_to_camera"]:
        pose = base_to_optical(args["base_to_camera"])
        parent, child = "base_link", args["camera_frame"]
    elif args["rviz"] == "true" and not args["fixed_frame"]:
        pose = (0.0, 0.0, 0.0, *conjugate(OPTICAL))
        parent, child = args["camera_frame"], fixed_frame(args)
    else:
        return []
    names = ("x", "y", "z", "qx", "qy", "qz", "qw")
    numbers = [w for name, v in zip(names, pose, strict=True) for w in (f"--{name}", f"{v:.9f}")]
    return [
        Node(
            package="tf2_ros",
            executable="static_transform_publisher",
            namespace=args["namespace"],
            arguments=[*numbers, "--frame-id", parent, "--child-frame-id", child],
        )
    ]


# Turns optical axes into body axes: z becomes x (forward), x becomes -y, y becomes -z (REP 103).
OPTICAL = (-0.5, 0.5, -0.5, 0.5)


def base_to_optical(text: str) -> tuple[float, ...]:
    """Return x y z qx qy qz qw of the optical frame from 'x y z roll pitch yaw' of the body axes.

    T_base_optical = T_base_body T_body_optical; roll, pitch, yaw turn about fixed axes in that
    order. Metres and radians.
    """
    try:
        x, y, z, roll, pitch, yaw = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(
            f"base_to_camera:='{text}': give six numbers, 'x y z roll pitch yaw', metres, radians"
        ) from None
    if not all(math.isfinite(v) for v in (x, y, z, roll, pitch, yaw)):
        raise ValueError(f"base_to_camera:='{text}': every number must be finite")
    body = (0.0, 0.0, 0.0, 1.0)
    for axis, angle in ((2, yaw), (1, pitch), (0, roll)):
        turn = [0.0, 0.0, 0.0, math.cos(angle / 2)]
        turn[axis] = math.sin(angle / 2)
        body = product(body, turn)
    return (x, y, z, *product(body, OPTICAL))


def conjugate(q) -> tuple[float, ...]:
    """Return the inverse of a unit quaternion x y z w."""
    return (-q[0], -q[1], -q[2], q[3])


def product(a, b) -> tuple[float, ...]:
    """Return the quaternion product a b, both as x y z w."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )
