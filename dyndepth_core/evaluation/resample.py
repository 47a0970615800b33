"""Carry predictions from the network's image to that of the ground truth."""

from __future__ import annotations

import cv2
import numpy as np


def resample_inverse(
    depth: np.ndarray,
    K_depth: np.ndarray,
    K_image: np.ndarray,
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """Carry a depth image (h, w) of intrinsics K_depth to an image of K_image, resized to size (H,
    W).

    Bilinear in inverse depth, as the field does (KITTI Eigen evaluation); float32 (H, W), NaN
    outside what the depth image covers ([-0.5, w - 0.5] x [-0.5, h - 0.5] of its pixels) or where
    it is NaN.
    """
    height, width = size
    u, v = _lookup(K_depth, K_image, image_size, size)
    rows, cols = _finite_box(depth)
    inverse = 1.0 / depth[rows, cols].astype(np.float32)
    map_u = np.repeat((u - cols.start)[None].astype(np.float32), height, axis=0)
    map_v = np.repeat((v - rows.start)[:, None].astype(np.float32), width, axis=1)
    found = cv2.remap(inverse, map_u, map_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    slack = 0.5 + 1e-3  # half a pixel beyond the outermost centres is still the image
    inside_u = (u >= cols.start - slack) & (u <= cols.stop - 1 + slack)
    inside_v = (v >= rows.start - slack) & (v <= rows.stop - 1 + slack)
    inside = inside_v[:, None] & inside_u[None, :]
    with np.errstate(divide="ignore"):
        return np.where(inside & (found > 0), 1.0 / found, np.nan).astype(np.float32)


def _finite_box(depth: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold any finite depth: padding around the image is NaN and must not
    be smeared in."""
    finite = np.isfinite(depth)
    rows, cols = np.nonzero(finite.any(axis=1))[0], np.nonzero(finite.any(axis=0))[0]
    if len(rows) == 0:
        return slice(0, depth.shape[0]), slice(0, depth.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def resample_nearest(
    field: np.ndarray,
    K_field: np.ndarray,
    K_image: np.ndarray,
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """Carry a field (h, w, C) as `resample_inverse` does depth, but to each pixel the nearest
    value: between an object and what lies behind it no value is right. NaN outside.
    """
    u, v = _lookup(K_field, K_image, image_size, size)
    columns, rows = np.rint(u).astype(np.int64), np.rint(v).astype(np.int64)
    height, width = field.shape[:2]
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    found = field[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    return np.where(inside[..., None], found, np.nan).astype(np.float32)


def _lookup(
    K_from: np.ndarray, K_image: np.ndarray, image_size: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Columns (W,) and rows (H,), in pixels of an image of intrinsics K_from, of the pixels of an
    image of K_image resized to size (H, W).
    """
    height, width = size
    u = (np.arange(width) + 0.5) * (image_size[1] / width) - 0.5
    v = (np.arange(height) + 0.5) * (image_size[0] / height) - 0.5
    u = (u - K_image[0, 2]) / K_image[0, 0] * K_from[0, 0] + K_from[0, 2]
    return u, (v - K_image[1, 2]) / K_image[1, 1] * K_from[1, 1] + K_from[1, 2]
