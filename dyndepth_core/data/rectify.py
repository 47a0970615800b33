"""From a CameraInfo to a pinhole camera: region of interest, binning, lens distortion removed."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

from dyndepth_core.data.calibration import DISTORTION_MODELS, Calibration
from dyndepth_core.geometry.camera import check_K, crop_K, distort, resize_K

MAX_ZOOM = 2.0  # a lens that needs more zoom than this to fill the image has wrong coefficients
MODEL_NAMES = {"": "plumb_bob", "fisheye": "equidistant", "kannala_brandt": "equidistant"}


def calibration_from_info(
    info: Any, image_size: tuple[int, int], rectified: bool = False, source: str = "camera_info"
) -> Calibration:
    """Calibration of an image of `image_size` (H, W) from a sensor_msgs/CameraInfo (ROS 1 or 2).

    K of a CameraInfo is that of the full sensor: region of interest and binning are applied here,
    and a driver that shrinks the image without saying so is followed when the shape is the same.
    rectified: the image had its distortion removed (topic image_rect), so P counts and not K and D.
    An uncalibrated camera (K all zero) gives a Calibration without fx.

    Raises ValueError: NaN, negative focal length, unknown distortion model, another image shape.
    """
    height, width = image_size
    k = np.asarray(_field(info, "k"), np.float64)
    if not k.any():
        return Calibration(width, height, source=f"{source}: uncalibrated")
    K, coeffs = k.reshape(3, 3), np.asarray(_field(info, "d"), np.float64)
    projection = np.asarray(_field(info, "p"), np.float64)
    if rectified and projection.size == 12 and projection[0]:
        K, coeffs = projection.reshape(3, 4)[:, :3], np.zeros(0)
    K = _to_image(check_K(K, source), info, image_size, source)
    distortion = None
    if coeffs.size and coeffs.any() and not rectified:
        model = MODEL_NAMES.get(info.distortion_model, info.distortion_model)
        if model not in DISTORTION_MODELS:
            raise ValueError(
                f"{source}: distortion model '{model}' is unknown; use a rectified image topic or "
                f"one of {', '.join(DISTORTION_MODELS)}"
            )
        if not np.isfinite(coeffs).all():
            raise ValueError(f"{source}: distortion holds NaN or infinity; calibrate again")
        distortion = {"model": model, "coeffs": [float(c) for c in coeffs]}
    fx, fy, cx, cy = (float(v) for v in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    return Calibration(width, height, fx, fy, cx, cy, distortion, distortion is None, source)


def _field(info: Any, name: str) -> Any:
    """k, d, r, p are capital letters in ROS 1."""
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())


def _to_image(K: np.ndarray, info: Any, image_size: tuple[int, int], source: str) -> np.ndarray:
    """K of the full sensor -> K of the image as sent."""
    height, width = image_size
    roi, binning = info.roi, (max(info.binning_x, 1), max(info.binning_y, 1))
    rows, cols = info.height or height, info.width or width
    is_full = (cols // binning[0], rows // binning[1]) == (width, height)
    if roi.height and roi.width and not is_full:  # some drivers fill in a region and send it all
        K, rows, cols = crop_K(K, roi.x_offset, roi.y_offset), roi.height, roi.width
    scale_x, scale_y = width / cols, height / rows
    if abs(scale_x / scale_y - 1) > 0.02:
        raise ValueError(
            f"{source}: it describes an image of {cols}x{rows} pixels but the image is "
            f"{width}x{height}, of another shape; is it the camera_info of this camera?"
        )
    if (cols // binning[0], rows // binning[1]) == (width, height):
        scale_x, scale_y = 1 / binning[0], 1 / binning[1]
    return resize_K(K, scale_x, scale_y)


class Rectifier:
    """Removes lens distortion: `image()` maps to the pinhole camera `calib` of the same size.

    The focal length is enlarged by the least zoom at which no output pixel looks outside the input,
    so that no black border is learned as a part of the world. The principal point stays.
    """

    def __init__(self, calib: Calibration) -> None:
        if calib.K is None or calib.distortion is None:
            raise ValueError("rectification needs intrinsics and a distortion; one is missing")
        self._model, self._coeffs = calib.distortion["model"], calib.distortion["coeffs"]
        self._K, self._size = calib.K, (calib.height, calib.width)
        zoom = self._least_zoom()
        self.calib = Calibration(
            calib.width, calib.height, calib.fx * zoom, calib.fy * zoom, calib.cx, calib.cy,
            source=f"{calib.source}, {self._model} removed",
        )  # fmt: skip
        rows, cols = np.mgrid[: calib.height, : calib.width].astype(np.float64)
        maps = [m.astype(np.float32) for m in self._source_pixels(cols, rows, zoom)]
        self._maps = cv2.convertMaps(*maps, cv2.CV_16SC2)  # fixed point: twice as fast to apply

    @property
    def K(self) -> np.ndarray:
        """(3, 3) of the rectified image."""
        return self.calib.K

    def image(self, image: np.ndarray) -> np.ndarray:
        """Rectify uint8 (H, W, 3) or (H, W)."""
        if image.shape[:2] != self._size:
            raise ValueError(f"image of {image.shape[:2]} given to a rectification of {self._size}")
        return cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _source_pixels(
        self, u: np.ndarray, v: np.ndarray, zoom: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where in the distorted image the rectified pixels (u, v) come from."""
        fx, fy, cx, cy = self._K[0, 0], self._K[1, 1], self._K[0, 2], self._K[1, 2]
        x, y = torch.from_numpy((u - cx) / (fx * zoom)), torch.from_numpy((v - cy) / (fy * zoom))
        xd, yd = distort(x, y, self._model, self._coeffs)
        return xd.numpy() * fx + cx, yd.numpy() * fy + cy

    def _least_zoom(self) -> float:
        height, width = self._size
        across, down = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
        u = np.concatenate([across, across, 0 * down, 0 * down + width - 1])
        v = np.concatenate([0 * across, 0 * across + height - 1, down, down])
        zoom, good = MAX_ZOOM, None
        while zoom > 0.2 and self._inside(u, v, zoom):
            good, zoom = zoom, zoom * 0.995
        if good is None:
            raise ValueError(
                f"{self._model} coefficients {self._coeffs} do not fit this image; calibrate again"
            )
        return good

    def _inside(self, u: np.ndarray, v: np.ndarray, zoom: float) -> bool:
        """The border looks inside the input, and outward is outward (no folding polynomial)."""
        x, y = self._source_pixels(u, v, zoom)
        xo, yo = self._source_pixels(u, v, zoom * 0.99)
        cx, cy = self._K[0, 2], self._K[1, 2]
        outward = np.hypot(xo - cx, yo - cy) >= np.hypot(x - cx, y - cy)
        height, width = self._size
        within = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        return bool(within.all() and outward.all())


def lens_of(calib: Calibration) -> Rectifier | None:
    """Removes the lens distortion of a recording that still shows it; a pinhole camera is all that
    warping knows.
    """
    if calib.K is None or not calib.distortion or calib.rectified:
        return None
    return Rectifier(calib)
