"""Decode the image bytes that cameras send (ROS encodings, JPEG, PNG) to RGB, without ROS.

The node, the bag reader and the tests all decode here, so that a model sees on the vehicle what it
saw in training.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

MAX_PIXELS = 2**27  # of a compressed image: 134 megapixels, more than any camera of a vehicle has

# Encoding -> (bytes per channel, channels, OpenCV conversion to RGB or None).
# ROS names a Bayer pattern by its first row, OpenCV's names by the second, so rggb is "BayerBG".
_PACKED: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (1, 3, None),
    "bgr8": (1, 3, cv2.COLOR_BGR2RGB),
    "8UC3": (1, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (1, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (1, 4, cv2.COLOR_BGRA2RGB),
    "8UC4": (1, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, 1, cv2.COLOR_GRAY2RGB),
    "mono16": (2, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": (2, 3, None),
    "bgr16": (2, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (2, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": (2, 4, cv2.COLOR_BGRA2RGB),
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": (2, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": (2, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": (2, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": (2, 1, cv2.COLOR_BayerGB2RGB),
}


def decode(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: bytes
) -> np.ndarray:
    """Raw bytes of a sensor_msgs/Image -> RGB.

    Args:
        encoding: as in sensor_msgs/image_encodings: ``bgr8``, ``bayer_rggb8``, ``yuv422``, ...
        height, width: pixels.
        step: bytes per row, padding included (0: none). is_bigendian: of 16-bit channels.
        data: anything with the buffer protocol; never changed.

    Returns:
        uint8 (H, W, 3) RGB. For unpadded ``rgb8`` it is a read-only view of ``data`` (no copy).
        16-bit channels are divided by 257 (full range to full range), never stretched per frame.

    Raises:
        ValueError: unknown encoding, zero size, or fewer bytes than the size asks for.
    """
    if height <= 0 or width <= 0:
        raise ValueError(f"image of size {width}x{height}: both sides must be at least one pixel")
    buffer = np.frombuffer(data, np.uint8)
    layout = _LAYOUTS.get(encoding)
    if layout is not None:
        return layout(buffer, height, width, step, encoding)
    if encoding not in _PACKED:
        raise ValueError(
            f"image encoding '{encoding}' is not a colour or grey image that can be read; "
            f"known: {', '.join(sorted(ENCODINGS))}"
        )
    depth, channels, conversion = _PACKED[encoding]
    rows = _rows(buffer, height, width * depth * channels, step, encoding)
    if depth == 2:
        rows = _halve(rows, is_bigendian)
    image = rows.reshape(height, width, channels) if channels > 1 else rows
    if conversion is None:
        return image
    if encoding.startswith("bayer"):
        return _demosaic(image, conversion)
    return cv2.cvtColor(image, conversion)


def decode_compressed(data: bytes, format: str = "") -> np.ndarray:
    """Bytes of a sensor_msgs/CompressedImage (JPEG, PNG) -> RGB uint8 (H, W, 3).

    ``format`` is the message's field ("jpeg", "rgb8; jpeg compressed bgr8", ...); it may be empty.
    The EXIF orientation is ignored because the calibration belongs to the pixels as stored.

    Raises:
        ValueError: a depth transport, an unknown or truncated file.
    """
    if "compressedDepth" in format:
        raise ValueError("a compressedDepth topic is a depth image: choose a colour image topic")
    buffer = np.frombuffer(data, np.uint8)
    check_complete(buffer)
    mosaic = format.partition(";")[0].strip()
    if mosaic.startswith("bayer") and mosaic in _PACKED:
        raw = _imdecode(buffer, cv2.IMREAD_UNCHANGED)
        if raw is not None and raw.ndim == 2 and raw.dtype in (np.uint8, np.uint16):
            raw = raw if raw.dtype == np.uint8 else (raw >> 8).astype(np.uint8)
            return _demosaic(raw, _PACKED[mosaic][2])
    image = _imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f"compressed image of {buffer.size} bytes cannot be decoded: damaged file")
    if "compressed rgb" in format:  # image_transport: the file holds swapped channels
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _imdecode(buffer: np.ndarray, flags: int) -> np.ndarray | None:
    """cv2.imdecode, whose error for a size beyond its limit (2^30 pixels) is no ValueError."""
    try:
        return cv2.imdecode(buffer, flags)
    except cv2.error as error:
        raise ValueError(
            f"compressed image of {buffer.size} bytes cannot be decoded: its header is damaged or "
            "declares more pixels than can be read"
        ) from error


def _rows(buffer: np.ndarray, height: int, row_bytes: int, step: int, encoding: str) -> np.ndarray:
    """View (H, row_bytes) of the buffer without the padding at the end of each row."""
    step = step or row_bytes  # some drivers leave step at 0
    if step < row_bytes:
        raise ValueError(
            f"image step {step} is less than the {row_bytes} bytes of one {encoding} row"
        )
    needed = step * (height - 1) + row_bytes  # the last row may come without its padding
    if buffer.size < needed:
        raise ValueError(
            f"image truncated: {buffer.size} bytes, {encoding} of this size needs {needed}"
        )
    if buffer.size >= step * height:
        return buffer[: step * height].reshape(height, step)[:, :row_bytes]
    return np.lib.stride_tricks.as_strided(buffer, (height, row_bytes), (step, 1), writeable=False)


def _halve(rows: np.ndarray, is_bigendian: bool) -> np.ndarray:
    """16-bit values in either byte order -> 8 bit, rounded x / 257."""
    wide = np.ascontiguousarray(rows).view(">u2" if is_bigendian else "<u2")
    return cv2.convertScaleAbs(wide.astype(np.uint16, copy=False), alpha=1.0 / 257.0)


def _demosaic(mosaic: np.ndarray, conversion: int) -> np.ndarray:
    if min(mosaic.shape) < 3:
        raise ValueError(f"Bayer image of {mosaic.shape[::-1]} pixels is too small: at least 3x3")
    return cv2.cvtColor(mosaic, conversion)


def _yuv422(buffer: np.ndarray, height: int, width: int, step: int, encoding: str) -> np.ndarray:
    """4:2:2 packed, two pixels share chroma; an odd last pixel borrows what was not sent."""
    even = width + width % 2
    if step == 0 or step >= 2 * even:
        rows = _rows(buffer, height, 2 * even, step, encoding)
    else:
        rows = _rows(buffer, height, 2 * width, step, encoding)
        if width < 2:
            raise ValueError(f"{encoding} image is one pixel wide: at least two are needed")
        rows = np.hstack([rows, rows[:, -4:-2]])
        if encoding in _YUYV:
            rows[:, -2:] = np.stack([rows[:, -4], rows[:, -5]], 1)  # V of the pair before
        else:
            rows[:, -2:] = np.stack([rows[:, -6], rows[:, -3]], 1)
    code = cv2.COLOR_YUV2RGB_YUY2 if encoding in _YUYV else cv2.COLOR_YUV2RGB_UYVY
    image = cv2.cvtColor(rows.reshape(height, even, 2), code)
    return np.ascontiguousarray(image[:, :width])


def _two_planes(
    buffer: np.ndarray, height: int, width: int, step: int, encoding: str
) -> np.ndarray:
    """4:2:0, a grey plane and below it an interleaved chroma plane of half its height."""
    even_w, even_h = width + width % 2, height + height % 2
    row_bytes = even_w if step >= even_w or not step else width
    rows = _rows(buffer, height + even_h // 2, row_bytes, step, encoding)
    rows = np.pad(rows, ((0, 0), (0, even_w - rows.shape[1])), mode="edge")
    grey, chroma = rows[:height], rows[height:]
    grey = np.ascontiguousarray(np.pad(grey, ((0, even_h - height), (0, 0)), mode="edge"))
    code = cv2.COLOR_YUV2RGB_NV21 if encoding == "nv21" else cv2.COLOR_YUV2RGB_NV12
    chroma = np.ascontiguousarray(chroma).reshape(even_h // 2, even_w // 2, 2)
    return np.ascontiguousarray(cv2.cvtColorTwoPlane(grey, chroma, code)[:height, :width])


def _declared_size(buffer: np.ndarray) -> tuple[int, int]:
    """Width and height in the header of a PNG or JPEG file; zeros where there is none."""
    if bytes(buffer[:8]) == b"\x89PNG\r\n\x1a\n":
        width, height = (int.from_bytes(bytes(buffer[k : k + 4]), "big") for k in (16, 20))
        return width, height
    at = 2
    while bytes(buffer[:2]) == b"\xff\xd8" and at + 9 <= buffer.size and buffer[at] == 0xFF:
        marker = int(buffer[at + 1])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of a frame
            height, width = (
                int.from_bytes(bytes(buffer[at + k : at + k + 2]), "big") for k in (5, 7)
            )
            return width, height
        alone = marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8  # without a length
        at += 1 if marker == 0xFF else 2
        if not alone:
            at += max(2, int.from_bytes(bytes(buffer[at : at + 2]), "big"))
    return 0, 0


def check_complete(buffer: np.ndarray) -> None:
    """ValueError on a truncated JPEG or PNG file (N,) uint8: OpenCV fills the missing part with
    grey and says nothing; and on one whose header declares more than MAX_PIXELS: a few bytes would
    ask for gigabytes and seconds.
    """
    width, height = _declared_size(buffer)
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"compressed image of {width}x{height} pixels: more pixels than can be read "
            f"({MAX_PIXELS}), or its header is damaged"
        )
    head, end = bytes(buffer[:8]), buffer.size
    if head.startswith(b"\xff\xd8"):
        tail = bytes(buffer[-4096:]).rstrip(b"\0")  # MJPEG cameras pad with zeros
        complete = b"\xff\xd9" in tail[-32:]
        if not complete:  # phones append data of their own; a scan itself holds no marker
            whole = buffer.tobytes()
            complete = whole.rfind(b"\xff\xd9") > whole.rfind(b"\xff\xda")
    elif head == b"\x89PNG\r\n\x1a\n":
        complete = b"IEND" in bytes(buffer[-64:])
    elif end == 0:
        raise ValueError("compressed image is empty (0 bytes)")
    else:
        return  # other formats: OpenCV's own verdict
    if not complete:
        raise ValueError(f"compressed image of {end} bytes is truncated: its end marker is missing")


_YUYV = ("yuv422_yuy2", "yuyv")
_LAYOUTS: dict[str, Callable[[np.ndarray, int, int, int, str], np.ndarray]] = {
    "yuv422": _yuv422,
    "uyvy": _yuv422,
    "yuv422_yuy2": _yuv422,
    "yuyv": _yuv422,
    "nv12": _two_planes,
    "nv21": _two_planes,
}
ENCODINGS: tuple[str, ...] = (*_PACKED, *_LAYOUTS)
