"""Between ROS messages and numpy arrays; pure functions that need no node and no graph.

Outgoing pixels are written through a numpy view of the `array.array` that the message itself owns,
reused from frame to frame: assigning a numpy array to `msg.data` costs half a second, and since
Kilted even assigning an `array.array` copies it (so the view is taken of `msg.data`, afterwards).
"""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from dyndepth_core.data.image_codec import ENCODINGS, decode, decode_compressed
from dyndepth_ros.bridge import decode_by_bridge

# Encoding -> (numpy type, channels) of what this package publishes, and of depth that it reads.
LAYOUTS: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "mono8": ("u1", 1),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
    "32FC3": ("f4", 3),
}
MILLIMETRES = 1000.0


def image_to_rgb(msg: Image) -> np.ndarray:
    """Decode a camera's Image to RGB, uint8 (H, W, 3); possibly a read-only view of the message.

    Every encoding of the README's table is decoded here; a real cv_bridge, where one is installed,
    is asked for the others. Raises ValueError for zero size, truncated data and unknown encodings.
    """
    if msg.encoding in ("16UC1", "32FC1"):
        raise ValueError(
            f"image encoding '{msg.encoding}' is that of a depth image: remap `image` to a "
            "camera's colour or grey image"
        )
    if msg.encoding not in ENCODINGS and msg.height and msg.width:
        decoded = decode_by_bridge(msg)
        if decoded is not None:
            return decoded
    return decode(msg.encoding, msg.height, msg.width, msg.step, bool(msg.is_bigendian), msg.data)


def compressed_to_rgb(msg: Any) -> np.ndarray:
    """Decode a camera's CompressedImage (jpeg, png) to RGB, uint8 (H, W, 3); ValueError if bad."""
    return decode_compressed(msg.data, msg.format)


def image_to_array(msg: Image) -> np.ndarray:
    """Values of an Image as they are: (H, W) or (H, W, C) in the machine's byte order.

    For what is no picture: depth (32FC1 in metres, 16UC1 in millimetres), masks, velocity.
    Raises ValueError for zero size, truncated data and encodings not in LAYOUTS.
    """
    if msg.encoding not in LAYOUTS:
        raise ValueError(f"image encoding '{msg.encoding}' is not one of {', '.join(LAYOUTS)}")
    kind, channels = LAYOUTS[msg.encoding]
    item = np.dtype(kind).newbyteorder(">" if msg.is_bigendian else "<")
    height, width, row = msg.height, msg.width, msg.width * channels * item.itemsize
    if height == 0 or width == 0:
        raise ValueError(f"image of size {width}x{height}: both sides must be at least one pixel")
    step = msg.step or row
    data = np.frombuffer(msg.data, np.uint8)
    if step < row or data.size < step * (height - 1) + row:
        raise ValueError(
            f"image truncated: {data.size} bytes with step {step}, but {width}x{height} "
            f"{msg.encoding} needs rows of {row} bytes"
        )
    shape = (height, width, channels) if channels > 1 else (height, width)
    strides = (step, channels * item.itemsize, item.itemsize)[: len(shape)]
    view = np.ndarray(shape, item, data, strides=strides)
    return np.ascontiguousarray(view.astype(item.newbyteorder("="), copy=False))


def depth_to_metres(msg: Image) -> np.ndarray:
    """Depth in metres, float32 (H, W), of a 32FC1 or 16UC1 (mm, 0 = none) Image; NaN where none."""
    values = image_to_array(msg)
    if msg.encoding == "32FC1":
        return values
    if msg.encoding != "16UC1":
        raise ValueError(f"depth image encoding '{msg.encoding}': it must be 32FC1 or 16UC1")
    return np.where(values == 0, np.float32(np.nan), values / np.float32(MILLIMETRES))


def metres_to_millimetres(depth: np.ndarray, out: np.ndarray) -> None:
    """Fill `out`, uint16 (h, w), from metres; 0 = none (REP 118), beyond 65.535 m too."""
    with np.errstate(invalid="ignore"):
        valid = (depth > 0) & (depth < 65.5355)
    out[...] = np.where(valid, depth, 0) * np.float32(MILLIMETRES) + np.float32(0.5)


def fill_depth(out: np.ndarray, depth: np.ndarray, beyond: np.ndarray) -> None:
    """Fill the pixels of a depth Image, (h, w): float32 metres, or uint16 millimetres.

    Where `beyond`, there is nothing in range: +Inf in metres (REP 117), 0 in millimetres.
    """
    if out.dtype == np.uint16:
        metres_to_millimetres(np.where(beyond, np.float32(np.inf), depth), out)
    else:
        np.copyto(out, depth)
        np.copyto(out, np.float32(np.inf), where=beyond)


def erase_points(points: np.ndarray, where: np.ndarray) -> None:
    """Make x, y and z of organised points (h, w, 4) NaN where (h, w); the colour stays."""
    if where.any():
        points[where, :3] = np.nan


class ImageWriter:
    """One outgoing Image, its buffer reused as long as the size stays."""

    def __init__(self, encoding: str) -> None:
        kind, self._channels = LAYOUTS[encoding]
        self._dtype = np.dtype(kind).newbyteorder("<")
        self.message = Image(encoding=encoding, is_bigendian=0)
        self._pixels = np.zeros((0, 0))

    def pixels(self, height: int, width: int) -> np.ndarray:
        """The message's own pixels, (h, w) or (h, w, C), to be filled."""
        shape = (height, width, self._channels)[: 3 if self._channels > 1 else 2]
        if self._pixels.shape != shape:
            step = width * self._channels * self._dtype.itemsize
            self.message.height, self.message.width, self.message.step = height, width, step
            self.message.data = array.array("B", bytes(step * height))
            self._pixels = np.frombuffer(self.message.data, self._dtype).reshape(shape)
        return self._pixels

    def write(self, header: Header, values: np.ndarray) -> Image:
        """Return the message, filled with `values`, (h, w) or (h, w, C)."""
        self.pixels(*values.shape[:2])[...] = values
        self.message.header = header
        return self.message


class CloudMessage:
    """One outgoing PointCloud2, organised, of float32 fields; the buffer stays as the size does."""

    def __init__(self, names: tuple[str, ...] = ("x", "y", "z", "rgb")) -> None:
        self._count = len(names)
        self.message = PointCloud2(
            fields=[
                PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
                for i, name in enumerate(names)
            ],
            is_bigendian=False,
            is_dense=False,  # points without depth are NaN
            point_step=4 * self._count,
        )
        self._points = np.zeros((0, 0, self._count), np.float32)

    def points(self, header: Header, height: int, width: int) -> np.ndarray:
        """The message's own points, float32 (h, w, fields), to be filled."""
        shape = (height, width, self._count)
        if self._points.shape != shape:
            self.message.height, self.message.width = height, width
            self.message.row_step = 4 * self._count * width
            self.message.data = array.array("B", bytes(self.message.row_step * height))
            self._points = np.frombuffer(self.message.data, np.float32).reshape(shape)
        self.message.header = header
        return self._points


def camera_info_message(header: Header, K: np.ndarray, size: tuple[int, int]) -> CameraInfo:
    """CameraInfo of a rectified image: K (3, 3) and P for that very size (h, w), no distortion."""
    fx, fy, cx, cy = (float(v) for v in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    return CameraInfo(
        header=header,
        height=int(size[0]),
        width=int(size[1]),
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def guess_calibration(size: tuple[int, int], focal: float) -> CameraInfo:
    """CameraInfo of a camera nobody calibrated: focal in image widths, axis at the centre."""
    height, width = size
    f = focal * width
    K = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    return camera_info_message(Header(), K, size)


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def status_message(
    name: str, level: bytes, message: str, values: dict[str, str], hardware_id: str = ""
) -> DiagnosticStatus:
    """One DiagnosticStatus with its key-value pairs in the order given."""
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(
        name=name, level=level, message=message, values=pairs, hardware_id=hardware_id
    )


def scale_message(header: Header, value: float, variance: float, source: str) -> DiagnosticArray:
    """Scale of one image: value (metres per unit of model depth), variance, source."""
    relative = source == "relative"
    text = "depth is not in metres: the scale is assumed" if relative else "depth is in metres"
    status = status_message(
        "scale",
        DiagnosticStatus.WARN if relative else DiagnosticStatus.OK,
        text,
        {
            "value": repr(float(value)),
            "variance": "inf" if math.isinf(variance) else repr(float(variance)),
            "source": source,
        },
    )
    return DiagnosticArray(header=header, status=[status])
