"""Bags as cameras write them: any encoding, lens, storage and order of messages."""

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

START, STEP = 10**18, 10**8
IMAGE, JPEG = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, ODOM = "sensor_msgs/msg/CameraInfo", "nav_msgs/msg/Odometry"
ROS2, ROS1 = get_typestore(Stores.ROS2_HUMBLE), get_typestore(Stores.ROS1_NOETIC)


def header(stamp_ns: int, ros1: bool = False):
    types = (ROS1 if ros1 else ROS2).types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    number = (0,) if ros1 else ()
    return types["std_msgs/msg/Header"](*number, stamp, "camera")


def image(pixels: np.ndarray, encoding: str, stamp_ns: int, ros1: bool = False):
    """Rows of bytes or 16-bit values, as `encoding` lays them out."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    make = (ROS1 if ros1 else ROS2).types[IMAGE]
    size = pixels.shape[:2]
    return make(header(stamp_ns, ros1), *size, encoding, 0, rows.shape[1], rows.reshape(-1))


def compressed(rgb: np.ndarray, kind: str, stamp_ns: int):
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if kind == "jpeg" else []
    data = cv2.imencode(f".{kind}", rgb[..., ::-1], options)[1].reshape(-1)
    return ROS2.types[JPEG](header(stamp_ns), kind, data)


def camera_info(K: np.ndarray, size, stamp_ns: int, model: str = "plumb_bob", coeffs=()):
    roi = ROS2.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    P = np.hstack([K, np.zeros((3, 1))]).reshape(-1)
    return ROS2.types[INFO](
        header(stamp_ns), *size, model, np.array(coeffs, np.float64), K.reshape(-1),
        np.eye(3).reshape(-1), P, 0, 0, roi,
    )  # fmt: skip


def odometry(speed: float, stamp_ns: int):
    types, zeros = ROS2.types, np.zeros(36)
    vector = types["geometry_msgs/msg/Vector3"]
    pose = types["geometry_msgs/msg/Pose"](
        types["geometry_msgs/msg/Point"](0.0, 0.0, 0.0),
        types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 0.0),
    )
    twist = types["geometry_msgs/msg/Twist"](vector(speed, 0.0, 0.0), vector(0.0, 0.0, 0.0))
    return types[ODOM](
        header(stamp_ns), "base_link",
        types["geometry_msgs/msg/PoseWithCovariance"](pose, zeros),
        types["geometry_msgs/msg/TwistWithCovariance"](twist, zeros),
    )  # fmt: skip


def write(path: Path, messages, storage: str = "mcap", packed: str = "") -> Path:
    """A rosbag2 folder of (topic, message, bag time); packed: MESSAGE or FILE by zstd."""
    plugin = StoragePlugin.SQLITE3 if storage == "sqlite3" else StoragePlugin.MCAP
    writer, topics = Writer(path, version=8, storage_plugin=plugin), {}
    if packed:
        writer.set_compression(CompressionMode[packed], CompressionFormat.ZSTD)
    with writer:
        for topic, message, bag_ns in messages:
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=ROS2)
            writer.write(topics[topic], bag_ns, ROS2.serialize_cdr(message, kind))
    return path


def drive(count: int, size=(48, 64), seed: int = 0, step: float = 2.0):
    """RGB images of a grey textured wall that moves by `step` pixels a frame."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (size[0], 4 * size[1]), np.uint8)
    wide = cv2.cvtColor(cv2.GaussianBlur(noise, (0, 0), 1.5), cv2.COLOR_GRAY2RGB)
    wide = cv2.normalize(wide, None, 20, 235, cv2.NORM_MINMAX)
    shifts = [
        np.array([[1, 0, -(step * i % (3 * size[1]))], [0, 1, 0]], float) for i in range(count)
    ]
    return [cv2.warpAffine(wide, shift, size[::-1], flags=cv2.INTER_LINEAR) for shift in shifts]


def camera(namespace: str, images, K=None, stamps=None, encoding="rgb8", **lens):
    """Messages of one camera at 10 Hz, its camera_info beside where K is given."""
    for i, rgb in enumerate(images):
        stamp = START + i * STEP if stamps is None else stamps[i]
        if K is not None:
            yield f"{namespace}/camera_info", camera_info(K, rgb.shape[:2], stamp, **lens), stamp
        yield f"{namespace}/image_raw", image(rgb, encoding, stamp), stamp


K = np.array([[60.0, 0, 31], [0, 61, 23], [0, 0, 1]])
