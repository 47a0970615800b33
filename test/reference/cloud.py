"""Plain point cloud: full coordinate grids, a structured array, bytes, and into the message's
array."""

from __future__ import annotations

import array

import numpy as np


def cloud_data(depth: np.ndarray, rgb: np.ndarray, K: np.ndarray) -> array.array:
    """PointCloud2.data, x y z rgb of 16 bytes a point, from depth (H, W) metres, rgb (H, W, 3)
    uint8."""
    height, width = depth.shape
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    points = np.zeros((height, width), dtype=[("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", "f4")])
    points["x"] = (u - K[0, 2]) * depth / K[0, 0]
    points["y"] = (v - K[1, 2]) * depth / K[1, 1]
    points["z"] = depth
    r, g, b = (rgb[..., i].astype(np.uint32) for i in range(3))
    points["rgb"] = ((r << 16) | (g << 8) | b).view(np.float32)
    data = array.array("B")
    data.frombytes(points.tobytes())
    return data
