"""Pictures of depth: one fixed range in metres, coloured by inverse depth, the same everywhere in
the package.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

INVALID_RGB = (0, 0, 0)


class DepthColors:
    """Colours depth by a table that is built once: the same depth has the same colour in every
    frame.

    The colour is linear in inverse depth, as is what a camera can tell: `near` and everything
    nearer is the warm end of the Turbo map, `far` and everything farther (infinity too) its cool
    end. NaN, zero and negative depth are black. `near` defaults to far / 20. Raises ValueError
    unless 0 < near < far < infinity.
    """

    def __init__(self, far: float = 80.0, near: float | None = None) -> None:
        near = far / 20 if near is None else near
        if not (0 < near < far < math.inf):
            raise ValueError(
                f"depth colours from {near} m to {far} m: need 0 < near < far, both finite metres"
            )
        self.near, self.far = float(near), float(far)
        # The table is indexed by the bits of the depth as a half-precision float: all 65536 of
        # them, NaN included.
        # Half precision resolves depth to 0.05 %, finer than 256 colours do.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            depth = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
            level = (1 / depth - 1 / self.far) / (1 / self.near - 1 / self.far)
            valid = depth > 0
            index = np.where(valid, np.clip(np.rint(255 * level), 0, 255), 0).astype(np.uint8)
        ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)
        table = cv2.cvtColor(ramp, cv2.COLOR_BGR2RGB)[:, 0][index]
        table[~valid] = INVALID_RGB
        self._table = table

    @classmethod
    def for_depth(cls, depth: np.ndarray) -> DepthColors:
        """The range of one depth image (h, w), a tenth wider at either end, to be kept for all that
        follow: for depth without metres, where nothing else says what is near and far.
        """
        found = depth[np.isfinite(depth) & (depth > 0)]
        if found.size == 0:
            return cls()
        near, far = (float(v) for v in np.percentile(found, (2, 98)))
        return cls(far=1.1 * far, near=0.9 * near)

    def __call__(self, depth: np.ndarray) -> np.ndarray:
        """Colour depth (h, w), metres, float: returns uint8 (h, w, 3) RGB."""
        if depth.ndim != 2 or not np.issubdtype(depth.dtype, np.floating):
            raise ValueError(f"depth to colour is {depth.dtype} {depth.shape}: give float (h, w)")
        with np.errstate(over="ignore"):  # beyond 65504 m is infinity, and so is its colour
            return self._table.take(depth.astype(np.float16).view(np.uint16), axis=0)
