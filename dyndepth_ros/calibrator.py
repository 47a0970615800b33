"""From the newest camera_info to a pinhole image and its K, for images of whatever size arrives."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dyndepth_ros.conversions import guess_calibration
from dyndepth_ros.notices import Notices
from dyndepth_ros.parameters import NodeConfig

WAITING, GIVEN, GUESSED, UNUSABLE = "waiting", "camera_info", "guessed", "unusable"


class NoCalibration(ValueError):
    """No depth can be made of this frame, because nothing (usable) is known about its camera."""


def is_rectified_topic(topic: str) -> bool:
    """Whether a topic's name says that lens distortion was removed, as image_rect_color does."""
    return re.search(r"(^|[_/])rect(ified)?($|[_/])", topic) is not None


def is_rectified(topic: str, rectify: str) -> bool:
    """Whether images are to be taken as free of distortion; rectify: see the parameter."""
    return rectify == "never" or (rectify == "auto" and is_rectified_topic(topic))


class Calibrator:
    """Undistorts images by the newest camera_info; the maps are kept until it or the size changes.

    `camera_info` may be given from another thread than the one that calls.
    """

    def __init__(
        self,
        image_topic: str,
        info_topic: str,
        rectify: str,
        notices: Notices,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rectified = is_rectified(image_topic, rectify)
        self._topic, self._notices, self._clock = info_topic, notices, clock
        self._info: Any = None
        self._waiting_since: float | None = None
        self._known: tuple[Any, np.ndarray, Any] | None = None  # key, K, rectifier or None
        self.state = WAITING

    def camera_info(self, msg: Any) -> None:
        """Take the newest camera_info."""
        self._info = msg

    def __call__(self, image: np.ndarray, config: NodeConfig) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3) -> the image of a pinhole camera, same size, and its K (3, 3).

        Raises NoCalibration while there is no camera_info (and no fallback), and when it is bad.
        """
        info = self._info
        key = (image.shape[:2], content_of(info), config.focal_fallback)
        if self._known is None or self._known[0] != key:
            self._known = None
            K, rectifier = self._calibrate(info, image.shape[:2], config)
            self._known = (key, K, rectifier)
        _, K, rectifier = self._known
        return (image if rectifier is None else rectifier.image(image)), K

    def _calibrate(
        self, info: Any, size: tuple[int, int], config: NodeConfig
    ) -> tuple[np.ndarray, Any]:
        # Here, because it imports torch: nodes that only convert messages start without it.
        from dyndepth_core.data.rectify import Rectifier, calibration_from_info

        if info is None:
            return self._fallback("has not come yet", size, config)
        try:
            calib = calibration_from_info(info, size, self._rectified, f"camera_info {self._topic}")
            if calib.K is None:
                return self._fallback("has K all zero: the camera is not calibrated", size, config)
            rectifier = Rectifier(calib) if calib.distortion is not None else None
        except ValueError as error:
            self.state = UNUSABLE
            raise NoCalibration(str(error)) from error
        self.state, self._waiting_since = GIVEN, None
        if _is_resized(info, size):
            self._notices.warn(
                "resized",
                f"camera_info {self._topic} is for {info.width}x{info.height}, the image has "
                f"{size[1]}x{size[0]}: taken for a resized image, K is scaled along",
            )
        return (calib.K if rectifier is None else rectifier.K), rectifier

    def _fallback(
        self, why: str, size: tuple[int, int], config: NodeConfig
    ) -> tuple[np.ndarray, Any]:
        """K of a guessed focal length, after waiting long enough, if the parameter allows one."""
        now = self._clock()
        if self._waiting_since is None:
            self._waiting_since = now
        if config.focal_fallback > 0 and now - self._waiting_since >= config.camera_info_timeout:
            self.state = GUESSED
            self._notices.warn(
                "guessed",
                f"camera_info on {self._topic} {why}: going on with a guessed focal length of "
                f"{config.focal_fallback:g} image widths. Depth is wrong by as much as it is",
            )
            return np.reshape(guess_calibration(size, config.focal_fallback).k, (3, 3)), None
        self.state = WAITING
        remedy = (
            f"waiting {config.camera_info_timeout:g} s before focal_fallback is used"
            if config.focal_fallback > 0
            else "no depth without it. Publish it, remap camera_info:=TOPIC, or set the parameter "
            "focal_fallback to a guess (0.8 for a webcam)"
        )
        raise NoCalibration(f"camera_info on {self._topic} {why}; {remedy}")


def _is_resized(info: Any, size: tuple[int, int]) -> bool:
    """Whether the image has another size than camera_info says, without region or binning."""
    whole = max(info.binning_x, info.binning_y) <= 1 and not (info.roi.width and info.roi.height)
    return whole and bool(info.width) and (info.height, info.width) != size


def content_of(info: Any) -> tuple | None:
    """What of a CameraInfo decides about the geometry; NaN is made comparable."""
    if info is None:
        return None
    roi = info.roi
    numbers = np.concatenate([info.k, info.d, info.p]).tobytes()
    region = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    size = (info.height, info.width, info.binning_x, info.binning_y)
    return numbers, info.distortion_model, region, size
