"""Writing a recording as a rosbag2, without ROS: to try a replay, and to test the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording

STORAGES = ("sqlite3", "mcap")
ENCODINGS = ("rgb8", "bgr8")


def bag_from_recording(
    recording: Recording,
    path: str | Path,
    storage: str = "mcap",
    *,
    namespace: str = "/camera",
    odom_topic: str = "/odom",
    jpeg: bool = False,
    encoding: str = "rgb8",
    frame_id: str = "camera_optical_frame",
) -> Path:
    """Write images, camera_info and odometry of a recording as a rosbag2 folder.

    Topics: `<namespace>/image_raw` (encoding: rgb8, bgr8) or `<namespace>/image_raw/compressed`
    (jpeg), `<namespace>/camera_info` where the intrinsics are known, `odom_topic` where odometry
    is.

    Raises ValueError: unknown storage or encoding, or the folder exists.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    if storage not in STORAGES:
        raise ValueError(f"storage '{storage}' is unknown; use one of {', '.join(STORAGES)}")
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding '{encoding}': use one of {', '.join(ENCODINGS)}")
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path}: exists already; choose another folder for the bag")
    path.parent.mkdir(parents=True, exist_ok=True)
    plugin = StoragePlugin.SQLITE3 if storage == "sqlite3" else StoragePlugin.MCAP
    store = get_typestore(Stores.ROS2_HUMBLE)  # these types are unchanged since
    make = _Messages(store, frame_id)
    topics: dict[str, Any] = {}
    arrival = 0
    with Writer(path, version=8, storage_plugin=plugin) as writer:

        def write(topic: str, message: Any, arrival: int) -> None:
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(topics[topic], arrival, store.serialize_cdr(message, kind))

        for i in range(len(recording)):
            stamp, image = int(recording.stamps_ns[i]), recording.image(i)
            arrival = max(stamp, arrival + 1)  # bag time only rises, whatever the stamps do
            odometry = recording.odometry(i)
            if odometry is not None:
                write(odom_topic, make.odometry(odometry, stamp), arrival)
            if recording.calib.K is not None:
                info = make.camera_info(recording.calib, stamp)
                write(f"{namespace}/camera_info", info, arrival)
            if jpeg:
                write(f"{namespace}/image_raw/compressed", make.compressed(image, stamp), arrival)
            else:
                write(f"{namespace}/image_raw", make.image(image, stamp, encoding), arrival)
    return path


class _Messages:
    """Builds message objects of a rosbags typestore."""

    def __init__(self, store: Any, frame_id: str) -> None:
        self._types, self._frame_id = store.types, frame_id

    def _new(self, name: str, *fields: Any) -> Any:
        return self._types[name](*fields)

    def _header(self, stamp_ns: int, frame_id: str | None = None) -> Any:
        stamp = self._new("builtin_interfaces/msg/Time", *divmod(stamp_ns, 1_000_000_000))
        return self._new("std_msgs/msg/Header", stamp, frame_id or self._frame_id)

    def image(self, image: np.ndarray, stamp_ns: int, encoding: str) -> Any:
        height, width = image.shape[:2]
        pixels = image if encoding == "rgb8" else image[..., ::-1]
        pixels = np.ascontiguousarray(pixels).reshape(-1)
        return self._new(
            "sensor_msgs/msg/Image",
            self._header(stamp_ns), height, width, encoding, 0, 3 * width, pixels,
        )  # fmt: skip

    def compressed(self, image: np.ndarray, stamp_ns: int) -> Any:
        good, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not good:
            raise ValueError(f"image of shape {image.shape} cannot be encoded as JPEG")
        header = self._header(stamp_ns)
        return self._new("sensor_msgs/msg/CompressedImage", header, "jpeg", data.reshape(-1))

    def camera_info(self, calib: Calibration, stamp_ns: int) -> Any:
        K = calib.K
        distortion = calib.distortion or {"model": "plumb_bob", "coeffs": [0.0] * 5}
        return self._new(
            "sensor_msgs/msg/CameraInfo",
            self._header(stamp_ns),
            calib.height,
            calib.width,
            distortion["model"],
            np.array(distortion["coeffs"], np.float64),
            K.reshape(-1),
            np.eye(3).reshape(-1),
            np.hstack([K, np.zeros((3, 1))]).reshape(-1),
            0,
            0,
            self._new("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False),
        )

    def odometry(self, values: dict[str, float], stamp_ns: int) -> Any:
        vector, zeros = "geometry_msgs/msg/Vector3", np.zeros(36)
        position = [values.get(k, 0.0) for k in ("tx", "ty", "tz")]
        rotation = [values.get(k, 0.0) for k in ("qx", "qy", "qz", "qw")]  # all zero: unknown
        pose = self._new(
            "geometry_msgs/msg/Pose",
            self._new("geometry_msgs/msg/Point", *position),
            self._new("geometry_msgs/msg/Quaternion", *rotation),
        )
        twist = self._new(
            "geometry_msgs/msg/Twist",
            self._new(vector, values.get("speed", 0.0), 0.0, 0.0),
            self._new(vector, 0.0, 0.0, values.get("yaw_rate", 0.0)),
        )
        return self._new(
            "nav_msgs/msg/Odometry",
            self._header(stamp_ns, "odom"),
            "base_link",
            self._new("geometry_msgs/msg/PoseWithCovariance", pose, zeros),
            self._new("geometry_msgs/msg/TwistWithCovariance", twist, zeros),
        )
