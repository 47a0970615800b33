"""The scale of an object from where it stands on the road."""

from __future__ import annotations

import numpy as np

REACH = 0.6  # of the object's size: how far from it road still tells the depth under it
LEAST_ROAD = 24  # pixels of road, fewer tell nothing
LOWEST = 0.05  # of the object's height: columns that end higher up do not stand on the road
MOST = 0.9  # of its columns end no lower than it stands: a shadow or a marking may leak down
UNDER = 3  # pixels below a column in which no other object may begin


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First and last row and column of a mask (h, w) that holds something, last ones excluded."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1


def standing_columns(mask: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of a mask (h, w) that stand on the road, and the lowest row of each; without those
    that end where one of the other objects, (h, w) bool, begins, which hides where they stand.
    """
    cols = np.flatnonzero(mask.any(0))
    lowest = mask.shape[0] - 1 - mask[::-1, cols].argmax(0)
    bottom = np.quantile(lowest, MOST, method="nearest")
    stands = lowest >= bottom - LOWEST * (bottom + 1 - box_of(mask)[0])
    for below in range(1, UNDER + 1):
        stands &= ~others[np.minimum(lowest + below, len(mask) - 1), cols]
    return cols[stands], lowest[stands]


def contact_scales(
    depth: np.ndarray, shape: np.ndarray, mask: np.ndarray, ground: np.ndarray, others: np.ndarray
) -> tuple[float, float]:
    """Factors on `shape` with which an object stands on the road: the median, over the columns in
    which it reaches down, of the road's depth at its lower edge over `shape` there. The first is
    NaN where that tells no depth: too little road is seen around it, or other objects or the image
    cut it off, so that it stands lower; the second is the best guess even so, NaN without road.

    depth of the scene, shape of the object, its mask, that of the ground and that of the other
    objects, all (h, w). The inverse depth of a plane is affine in the pixel, 1 / Z = a u + b v + c;
    a, b, c by least squares over the ground around the object (after Hoiem et al. 2008 for objects
    on a ground plane).
    """
    _, bottom, _, _ = box_of(mask)
    near = _road(mask, ground, REACH)
    road = near if len(near[0]) >= LEAST_ROAD else _road(mask, ground, np.inf)
    if len(road[0]) < LEAST_ROAD:
        return float("nan"), float("nan")
    plane = _plane(road[1], road[0], 1 / depth[road].astype(np.float64))

    def stands(cols: np.ndarray, lowest: np.ndarray) -> float:
        edge = plane[0] * cols + plane[1] * (lowest + 0.5) + plane[2]
        seen = edge > 0
        if not seen.any():
            return float("nan")
        return float(np.median(1 / (edge[seen] * shape[lowest[seen], cols[seen]])))

    guess = stands(*standing_columns(mask, np.zeros_like(others)))
    if road is not near or bottom >= len(mask):
        return float("nan"), guess
    return stands(*standing_columns(mask, others)), guess


def _road(mask: np.ndarray, ground: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the ground (h, w) no farther from the mask than reach times its size."""
    top, bottom, left, right = box_of(mask)
    reach = int(min(np.ceil(reach * max(bottom - top, right - left)), max(mask.shape)))
    rows = slice(max(0, bottom - reach // 2), min(mask.shape[0], bottom + reach))
    cols = slice(max(0, left - reach), min(mask.shape[1], right + reach))
    v, u = np.nonzero(ground[rows, cols] & ~mask[rows, cols])
    return v + rows.start, u + cols.start


def _plane(u: np.ndarray, v: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """(a, b, c) of inverse = a u + b v + c; what lies off the first fit counts less in the next."""
    A = np.stack((u, v, np.ones_like(u)), 1).astype(np.float64)
    weight = np.ones(len(u))
    for _ in range(4):
        root = np.sqrt(weight)
        found = np.linalg.lstsq(A * root[:, None], inverse * root, rcond=None)[0]
        off = (A @ found - inverse) / inverse
        weight = 1 / (1 + (off / 0.05) ** 2) ** 2
    return found
