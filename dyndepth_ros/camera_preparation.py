"""From the newest camera_info to what is done to every image before it is stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dyndepth_ros.calibrator import content_of, is_rectified
from dyndepth_ros.notices import Notices

if TYPE_CHECKING:
    from dyndepth_core.data.collect import CollectOptions, Preparation


class CameraPreparation:
    """The Preparation of a live camera, made anew when its camera_info or image size changes.

    `camera_info` may be given from another thread than the one that calls.
    """

    def __init__(
        self,
        image_topic: str,
        info_topic: str,
        rectify: str,
        options: CollectOptions,
        notices: Notices,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rectified = is_rectified(image_topic, rectify)
        self._topic, self._options = info_topic, options
        self._notices, self._clock = notices, clock
        self._info: Any = None
        self._since: float | None = None
        self._key: Any = None
        self._known: Preparation | ValueError | None = None

    def camera_info(self, msg: Any) -> None:
        """Take the newest camera_info."""
        self._info = msg

    def __call__(self, size: tuple[int, int], patience: float) -> tuple[Preparation | None, bool]:
        """(what to do to an image of `size` (H, W), whether that is new); None while camera_info
        is waited for, `patience` s from the first image on.

        Raises ValueError when camera_info is unusable, or crop and size do not fit the image.
        """
        from dyndepth_core.data.calibration import Calibration
        from dyndepth_core.data.collect import Preparation
        from dyndepth_core.data.rectify import calibration_from_info

        info, now = self._info, self._clock()
        self._since = now if self._since is None else self._since
        if info is None and now - self._since < patience:
            return None, False
        key = (size, content_of(info))
        is_new = self._key != key
        if is_new:
            self._key = key
            source = f"camera_info {self._topic}"
            try:
                if info is None:
                    self._notices.warn(
                        "unknown camera", f"no {source}: recording without intrinsics; train with "
                        "--intrinsics video",
                    )  # fmt: skip
                    calib = Calibration(size[1], size[0], source="no camera_info: unknown")
                else:
                    calib = calibration_from_info(info, size, self._rectified, source)
                self._known = Preparation(calib, self._options.size, self._options.crop)
            except ValueError as error:
                self._known = str(error)
        if isinstance(self._known, str):
            # a new one each time: one that is raised again keeps the frames of all its callers
            raise ValueError(self._known)
        return self._known, is_new
