"""Heights: grades of the ground, and how a car stands on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CELL = 16.0  # metres between breaks of the height profiles
KERB = 0.12  # metres the pavement is above the road


class Profile:
    """Piecewise linear height along one axis, extended on demand; slopes from a seeded walk."""

    def __init__(self, rng: np.random.Generator, limit: float):
        self.rng, self.limit = rng, limit
        self.flat: list[tuple[float, float]] = []
        self.knots = np.arange(-400, 400) * CELL
        walk = rng.normal(0, 0.5, self.knots.size) * max(limit, 1e-3)
        slope = np.convolve(np.cumsum(walk), np.ones(3) / 3, "same")
        period = 2 * limit + 1e-9  # fold the walk into +-limit
        slope = np.abs((slope + limit) % (2 * period) - period) - limit
        self.wish = np.clip(1.5 * slope, -limit, limit)
        self._build()

    def flatten(self, centre: float, width: float = 24.0) -> None:
        """Make the profile level around a corner or along a parallel street."""
        self.flat.append((centre, width))
        self._build()

    def _build(self) -> None:
        mid = self.knots + CELL / 2
        slope = self.wish.copy()
        for centre, width in self.flat:
            room = np.maximum(np.abs(mid - centre) - width, 0.0) / CELL
            slope = np.clip(slope, -0.013 * room, 0.013 * room)
        for _ in range(2):  # limit the change of grade per cell
            steps = slope.tolist()  # plain numbers: numpy's take ten times as long one by one
            for k in range(1, len(steps)):
                steps[k] = min(max(steps[k], steps[k - 1] - 0.013), steps[k - 1] + 0.013)
            slope = np.array(steps[::-1])
        self.slope = slope
        rise, zero = slope * CELL, slope.size // 2
        # outwards from 0: what changes far out leaves what is near as it was, to the last bit
        before, after = np.cumsum(rise[:zero][::-1])[::-1], np.cumsum(rise[zero:-1])
        self.height = np.concatenate([-before, [0.0], after])

    def __call__(self, t: np.ndarray) -> np.ndarray:
        return np.interp(t, self.knots, self.height)


def ground_pose(height: Callable, x: float, y: float, yaw: float) -> tuple[np.ndarray, float]:
    """Rotation and height of a car whose wheels stand on the road at x, y."""
    c, s = np.cos(yaw), np.sin(yaw)
    dx, dy = np.array([1.4, -1.4, 0, 0]), np.array([0, 0, 0.8, -0.8])
    h = height(x + c * dx - s * dy, y + s * dx + c * dy)
    forward = np.array([c, s, (h[0] - h[1]) / 2.8])
    left = np.array([-s, c, (h[2] - h[3]) / 1.6])
    forward /= np.linalg.norm(forward)
    up = np.cross(forward, left)
    up /= np.linalg.norm(up)
    return np.stack([forward, np.cross(up, forward), up], 1), float((h[0] + h[1]) / 2)
