"""Connected 3-D components: neighbours in the image whose depth and velocity agree.

Pixels are given as lists, in the order of `np.nonzero`: only few of an image move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

JOIN_DEPTH = 0.1  # neighbours differ in depth by at most this share of the nearer one
JOIN_SPEED = 0.3  # and in velocity by the speed limit there plus this share of the faster one
MAX_SAMPLES = 400  # pixels of a component that its measures are taken from
TAIL = 0.05  # of the pixels at either end that size is not measured by, but extrapolated over
RIM_SIZE, RIM_CONTACT, RIM_COSINE = 0.25, 0.25, 0.9  # see `rims`


@dataclass(frozen=True)
class Neighbours:
    """Pairs of listed pixels, first[k] and second[k], that lie side by side or one above the other.

    across: how many of the pairs, the first ones, lie side by side.
    """

    first: np.ndarray
    second: np.ndarray
    across: int


def neighbours(rows: np.ndarray, cols: np.ndarray) -> Neighbours:
    """All pairs of the pixels (rows, cols), (N,) each."""
    if rows.size == 0:
        return Neighbours(rows, rows, 0)
    right = np.flatnonzero((rows[1:] == rows[:-1]) & (cols[1:] == cols[:-1] + 1))
    index = np.full((rows[-1] + 2, cols.max() + 1), -1, np.int32)
    index[rows, cols] = np.arange(len(rows))
    below = index[rows + 1, cols]
    upper = np.flatnonzero(below >= 0)
    first = np.concatenate((right, upper))
    return Neighbours(first, np.concatenate((right + 1, below[upper])), len(right))


def connect(
    rows: np.ndarray, cols: np.ndarray, pairs: Neighbours, depth: np.ndarray, velocity: np.ndarray,
    limit: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Labels of the components, int32 (N,), from 1 on.

    depth (N,), velocity (N, 3) and limit (N,), the speed from which something moves, of the pixels
    rows, cols (N,). Neighbours are joined when their depths differ by at most JOIN_DEPTH of the
    nearer one and their velocities by at most limit + JOIN_SPEED of the faster.
    """
    if rows.size == 0:
        return np.zeros(0, np.int32)
    a, b = pairs.first, pairs.second
    speed = _lengths(velocity)
    agree = np.abs(depth[a] - depth[b]) <= JOIN_DEPTH * np.minimum(depth[a], depth[b])
    agree &= _lengths(velocity[a] - velocity[b]) <= (
        np.maximum(limit[a], limit[b]) + JOIN_SPEED * np.maximum(speed[a], speed[b])
    )
    # Pixels at even places, the joints between them at odd ones: plain connected components then
    # know nothing but joints.
    y, x = 2 * (rows - rows[0]), 2 * (cols - cols.min())
    grid = np.zeros((y[-1] + 1, x.max() + 1), np.uint8)
    grid[y, x] = 1
    across, down = np.split(a, [pairs.across])
    across, down = across[agree[: pairs.across]], down[agree[pairs.across :]]
    grid[y[across], x[across] + 1] = 1
    grid[y[down] + 1, x[down]] = 1
    return cv2.connectedComponents(grid, connectivity=4)[1][y, x]


@dataclass
class Component:
    """What can be measured of one component: label; pixels in it; box (left, top, right, bottom) of
    the outermost pixels; position (3,), median point, and size (3,), extent of what is seen of it,
    along the optical axes in units of depth; velocity (3,), median, in those per second.
    """

    label: int
    pixels: int
    box: tuple[float, float, float, float]
    position: np.ndarray
    velocity: np.ndarray
    size: np.ndarray


def measure(
    labels: np.ndarray, rows: np.ndarray, cols: np.ndarray, points: np.ndarray, velocity: np.ndarray
) -> list[Component]:
    """Measure every component; labels, rows, cols (N,), points and velocity (N, 3) of the pixels;
    those labelled 0 belong to none.
    """
    listed = np.flatnonzero(labels)
    order = listed[np.argsort(labels[listed], kind="stable")]
    names, starts = np.unique(labels[order], return_index=True)
    found = []
    ends = np.append(starts[1:], len(order))
    for name, start, end in zip(names, starts, ends, strict=False):
        own = order[start:end]
        left, right = cols[own].min(), cols[own].max()  # rows are in order
        some = own[:: -(-len(own) // MAX_SAMPLES)]
        values = np.sort(np.concatenate((points[some].T, velocity[some].T)))
        middle, tail = values[:, len(some) // 2].astype(np.float64), int(TAIL * len(some))
        size = (values[:3, -1 - tail] - values[:3, tail]) / np.float64(1 - 2 * TAIL)
        box = (float(left), float(rows[own[0]]), float(right), float(rows[own[-1]]))
        found.append(Component(int(name), len(own), box, middle[:3], middle[3:], size))
    return found


def rims(labels: np.ndarray, pairs: Neighbours, components: Sequence[Component]) -> set[int]:
    """Labels of components that are only the blurred edge of another one.

    Where velocity is smoother than depth, a moving object leaves a rim on what is behind it. A rim
    has at most RIM_SIZE of the pixels of a faster component that goes its way (cosine of the angle
    at least RIM_COSINE), and a pair with it for every 1 / RIM_CONTACT of its pixels.
    """
    if len(components) < 2:
        return set()
    count = len(components) + 1
    place = np.zeros(int(labels.max()) + 1, np.int64)
    place[[c.label for c in components]] = np.arange(1, count)
    a, b = place[labels[pairs.first]], place[labels[pairs.second]]
    contact = np.bincount(a * count + b, minlength=count**2).reshape(count, count)
    contact += contact.T
    found = set()
    for i, j in np.argwhere(contact[1:, 1:] > 0).tolist():
        small, large = components[i], components[j]
        if i == j or small.pixels > RIM_SIZE * large.pixels:
            continue
        slow, fast = np.linalg.norm(small.velocity), np.linalg.norm(large.velocity)
        parallel = small.velocity @ large.velocity >= RIM_COSINE * slow * fast
        if parallel and slow <= fast and contact[i + 1, j + 1] >= RIM_CONTACT * small.pixels:
            found.add(small.label)
    return found


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) -> (N,); several times faster than np.linalg.norm."""
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
