"""Height of the camera above the road in units of the depth, from a plane fitted to that depth."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

SAMPLES = 20  # rows and columns of depth looked at: a few hundred pixels
ROWS, COLS = (0.6, 0.97), (0.2, 0.8)  # the lower middle of the image, where the road is
INLIER = 0.05  # relative depth error of what counts as road
MIN_SHARE = 0.4  # of the samples have to be road
MAX_TILT = 0.25  # radians between the plane's normal and the direction the mount calls down
# Fractions of the samples' number: the same triples in each call, so that a fit is repeatable.
TRIPLES = np.random.default_rng(0).random((100, 3))


class Ground(NamedTuple):
    """height: of the camera above the plane, in units of the depth. share: of the samples on it."""

    height: float
    share: float


def fit_ground(depth: Any, K: Any, valid: tuple[slice, slice], down: np.ndarray) -> Ground | None:
    """Fit the road plane m . X = 1 to depth and return the distance 1 / |m| of the camera.

    depth: (h, w), array or tensor on any device, of which only the samples are copied. K: (3, 3) of
    it. valid: rows and columns that show the image. down: (3,) unit vector to the ground in optical
    axes. None where no plane near that direction holds MIN_SHARE of the samples.

    m . X - 1 is the relative depth error of a pixel, z / z_plane - 1. RANSAC over fixed triples
    (Fischler and Bolles 1981), then least squares over the inliers.
    """
    points = _points(depth, K, valid)
    if len(points) < SAMPLES:
        return None
    size = float(np.median(points[:, 2]))
    points /= size
    a, b, c = points[(TRIPLES * len(points)).astype(int)].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):  # three points on a line
        planes = normal / np.sum(normal * a, axis=1, keepdims=True)
        planes = planes[_is_level(planes, down)]
    if not len(planes):
        return None
    hits = np.abs(points @ planes.T - 1) < INLIER
    plane = planes[hits.sum(0).argmax()]
    for _ in range(2):
        road = points[np.abs(points @ plane - 1) < INLIER]
        if len(road) < MIN_SHARE * len(points):
            return None
        plane = np.linalg.lstsq(road, np.ones(len(road)), rcond=None)[0]
    if not _is_level(plane[None], down)[0]:
        return None
    share = float((np.abs(points @ plane - 1) < INLIER).mean())
    return Ground(size / float(np.linalg.norm(plane)), share) if share >= MIN_SHARE else None


def _points(depth: Any, K: Any, valid: tuple[slice, slice]) -> np.ndarray:
    """Points (n, 3) of the samples that have a depth."""
    rows, cols = (_spread(span, *part) for span, part in zip(valid, (ROWS, COLS), strict=True))
    z = _host(depth[rows, cols])
    v, u = np.arange(rows.start, rows.stop, rows.step), np.arange(cols.start, cols.stop, cols.step)
    K = _host(K)
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    rays = np.stack((*np.broadcast_arrays(x, y[:, None]), np.ones_like(z)), -1)
    known = np.isfinite(z) & (z > 0)
    return (rays * z[..., None])[known]


def _spread(span: slice, low: float, high: float) -> slice:
    """About SAMPLES steps through the share low to high of a span."""
    length = span.stop - span.start
    start, stop = span.start + int(low * length), span.start + int(high * length)
    return slice(start, max(stop, start + 1), max((stop - start) // SAMPLES, 1))


def _is_level(planes: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Which planes (n, 3) lie below the camera, about level: bool (n,)."""
    along = planes @ down
    return np.isfinite(along) & (along > np.cos(MAX_TILT) * np.linalg.norm(planes, axis=1))


def _host(values: Any) -> np.ndarray:
    """Float64 array of a tensor or an array."""
    values = values.float().cpu() if hasattr(values, "cpu") else values
    return np.asarray(values, np.float64)
