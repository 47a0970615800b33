"""What is done to every image of a camera before it is stored: lens, crop, size, with K."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.rectify import Rectifier
from dyndepth_core.data.transforms import plan_fit
from dyndepth_core.geometry.camera import crop_K

MIN_SIDE = 32  # pixels
NO_CROP = (0.0, 0.0, 0.0, 0.0)


class Preparation:
    """What is done to every image of a camera, and the calibration that results.

    size: (H, W) to resize to, None = as it is. crop: top, bottom, left, right to cut off before
    that, pixels of the rectified image or shares of it below 1 (the bonnet, the sky).
    Raises ValueError when the crop leaves nothing or the size cannot be filled without stretching.
    """

    def __init__(
        self,
        calib: Calibration,
        size: tuple[int, int] | None,
        crop: tuple[float, float, float, float] = NO_CROP,
    ) -> None:
        self.in_size = (calib.height, calib.width)
        self._rectifier = Rectifier(calib) if calib.distortion else None
        calib = self._rectifier.calib if self._rectifier else calib
        self._window, calib = _cropped(calib, crop)
        self._fit = None
        if size is not None and size != (calib.height, calib.width):
            self._fit = plan_fit((calib.height, calib.width), size, calib.K)
            if self._fit.resized != size:
                rows = self._fit.resized[0]
                raise ValueError(
                    f"size {size[0]}x{size[1]}: an image of {calib.height}x{calib.width} does not "
                    f"fill it; use {rows}x{size[1]} or a smaller height"
                )
            if calib.K is None:
                calib = Calibration(size[1], size[0], source=calib.source)
            else:
                K = self._fit.K(calib.K)
                calib = Calibration.from_K(K, size[1], size[0], f"{calib.source}, resized")
        self.calib = calib

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Rectify, crop and resize uint8 (H, W, 3)."""
        if self._rectifier is not None:
            image = self._rectifier.image(image)
        if self._window is not None:
            image = image[self._window]
        return image if self._fit is None else self._fit.image(image)


def _cropped(
    calib: Calibration, crop: tuple[float, float, float, float]
) -> tuple[tuple[slice, slice] | None, Calibration]:
    """Rows and columns that stay (None: all), and their calibration."""
    sides = (calib.height, calib.height, calib.width, calib.width)
    top, bottom, left, right = (
        round(c * side) if c < 1 else int(c) for c, side in zip(crop, sides, strict=True)
    )
    if not any((top, bottom, left, right)):
        return None, calib
    height, width = calib.height - top - bottom, calib.width - left - right
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"crop {','.join(f'{c:g}' for c in crop)}: leaves {max(height, 0)}x{max(width, 0)} of "
            f"an image of {calib.height}x{calib.width}; at least {MIN_SIDE} rows and columns must "
            "stay"
        )
    window = slice(top, top + height), slice(left, left + width)
    if calib.K is None:
        return window, replace(calib, width=width, height=height)
    K = crop_K(calib.K, left, top)
    return window, Calibration.from_K(K, width, height, f"{calib.source}, cropped")
