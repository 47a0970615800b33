"""The road in the costs of a plane sweep (geometry/multi_view.py), with nothing to learn."""

from __future__ import annotations

import numpy as np

BEGINS = 0.1  # of the image's height below the principal point: from there on rows show road
POINTS = 2000  # about as many pixels are enough
WRONG = 0.8  # cost from which a pixel is not of the road, however wrong
SLOPES, HORIZONS = 36, 15  # of the search
HIGHEST, LOWEST = -0.16, 0.12  # horizon, from the principal point, over the image's height
ROUNDS = 40  # of the refinement at most


def fit_road(costs: np.ndarray, inverse: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Road (4,), see `road_inverse`, that explains best the costs (D, H, W) of the planes z = 1 /
    inverse (D,), evenly apart: the least mean of the costs, cut off at WRONG, below the principal
    point of K (3, 3); search over slope and horizon, then each of the four in turn.
    """
    _, height, width = costs.shape
    top = int(K[1, 2] + BEGINS * height)
    apart = max(1, round(float(np.sqrt(width * max(height - top, 1) / POINTS / 2))))
    v, u = (x.ravel() for x in np.mgrid[top:height:apart, 0 : width : 2 * apart])
    if not v.size:
        return np.array((inverse[-1], 0.0, 0.0, 0.0))
    cut = np.minimum(costs[:, v, u], WRONG)
    points, step = np.arange(v.size), inverse[1] - inverse[0]
    last = len(inverse) - 2

    def cost(road: np.ndarray) -> float:
        at = (_inverse(road, u, v, K, (height, width)) - inverse[0]) / step
        below = np.clip(at.astype(int), 0, last)
        part = np.clip(at - below, 0.0, 1.0)
        found = cut[below, points] * (1 - part) + cut[below + 1, points] * part
        return float(np.where((at < -1) | (at > last + 2), WRONG, found).mean())

    grid = [
        np.array((slope, horizon, 0.0, 0.0))
        for slope in np.geomspace(inverse[-1] / 3, inverse[-1] * 6, SLOPES)
        for horizon in np.linspace(HIGHEST, LOWEST, HORIZONS)
    ]
    road = min(grid, key=cost)
    least, size = cost(road), road[0] * np.array((0.06, 0.0, 0.05, 0.3))
    size[1] = 0.015
    for _ in range(ROUNDS):
        before = least
        for k in range(4):
            for way in (size[k], -size[k]):
                other = road.copy()
                other[k] += way
                if (c := cost(other)) < least - 1e-6:
                    road, least = other, c
        if least == before:
            size /= 2
            if size[1] < 1e-3:
                break
    return road


def road_inverse(road: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Inverse depth (H, W) of a road (4,): slope t + 4 tilt x max(t, 0) + bend t^2, t from the
    horizon and x from the principal point of K (3, 3), over the image's height and width; at most 0
    above the horizon.
    """
    v, u = np.mgrid[: size[0], : size[1]]
    return _inverse(road, u, v, K, size)


def _inverse(
    road: np.ndarray, u: np.ndarray, v: np.ndarray, K: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    slope, horizon, tilt, bend = road
    t, x = (v - K[1, 2]) / size[0] - horizon, (u - K[0, 2]) / size[1]
    return slope * t + 4 * tilt * x * np.maximum(t, 0) + bend * t * np.abs(t)
