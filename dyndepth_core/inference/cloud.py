"""Depth to an organised x y z rgb cloud, written straight into the message's own array."""

from __future__ import annotations

import cv2
import numpy as np

from dyndepth_core.geometry.camera import check_K

POINT_STEP = 16  # bytes: x, y, z and rgb, float32 each


def ray_factors(K: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The 1-D factors that make a point of a depth: x = depth * x_factor[u], y = depth *
    y_factor[v].

    K (3, 3) pixels without skew, size (h, w). Returns float32 (w,) with (u - cx) / fx and (h,) with
    (v - cy) / fy. Raises ValueError when K is not usable.
    """
    K = check_K(K, "K of the cloud")
    if K[0, 1] != 0:
        raise ValueError(
            f"K of the cloud has skew {K[0, 1]:g}: rectify the image to square axes first"
        )
    height, width = size
    x_factor = (np.arange(width) - K[0, 2]) / K[0, 0]
    y_factor = (np.arange(height) - K[1, 2]) / K[1, 1]
    return x_factor.astype(np.float32), y_factor.astype(np.float32)


class CloudWriter:
    """Writes clouds of one camera and one size; make a new one when K or the size changes.

    Points are in the optical frame (x right, y down, z forward), metres where the depth is. The
    colour is packed as PCL packs it: the bits of 0x00RRGGBB in a float32 (the top byte is 0, so
    that no colour reads as NaN).
    """

    def __init__(self, K: np.ndarray, size: tuple[int, int]) -> None:
        if min(size) < 1:
            raise ValueError(f"cloud of {size[0]}x{size[1]} points is empty: check the camera")
        self.K, self.size = check_K(K, "K of the cloud").copy(), (int(size[0]), int(size[1]))
        x_factor, y_factor = ray_factors(self.K, self.size)
        self._x_factor, self._y_factor = x_factor, y_factor[:, None]
        self._x, self._y = np.empty(self.size, np.float32), np.empty(self.size, np.float32)
        self._bgr0 = np.empty((*self.size, 4), np.uint8)

    def fits(self, K: np.ndarray, size: tuple[int, int]) -> bool:
        """Whether this writer was made for this camera and size."""
        return tuple(size) == self.size and np.array_equal(K, self.K)

    def write(self, depth: np.ndarray, rgb: np.ndarray, out: np.ndarray) -> None:
        """Fill `out`, float32 (h, w, 4), with x y z rgb of depth, float32 (h, w), and rgb, uint8
        (h, w, 3).

        Non-finite depth makes non-finite x, y and z (NaN all three for NaN). Raises ValueError on
        any other shape, type or memory layout: `out` is the message's buffer and must be filled in
        place.
        """
        for name, array, shape, dtype in (
            ("depth", depth, self.size, np.float32),
            ("rgb", rgb, (*self.size, 3), np.uint8),
            ("out", out, (*self.size, 4), np.float32),
        ):
            if array.shape != shape or array.dtype != dtype:
                wanted = f"{np.dtype(dtype).name} {shape}"
                raise ValueError(
                    f"cloud: {name} is {array.dtype} {array.shape}, this writer needs {wanted}"
                )
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError(
                "cloud: out must be writable and C-contiguous, as the message's buffer is"
            )
        # Contiguous passes that vector units like, then one interleaving write; the last byte
        # (alpha) is cleared.
        np.multiply(depth, self._x_factor, out=self._x)
        np.multiply(depth, self._y_factor, out=self._y)
        cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA, dst=self._bgr0)
        packed = self._bgr0.view(np.uint32)[..., 0]
        np.bitwise_and(packed, 0x00FFFFFF, out=packed)
        cv2.merge([self._x, self._y, depth, packed.view(np.float32)], dst=out)
