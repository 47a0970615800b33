"""What several images say of motion, with nothing to learn: parallax that contradicts the road."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dyndepth_core.geometry.multi_view import (
    NEAR,
    parallax,
    plane_costs,
    read_depth,
    semi_global,
    uniqueness,
)
from dyndepth_core.geometry.road import fit_road, road_inverse

PLANES = 64
# planes more, so much farther apart, for what is nearer than any network says
CLOSE, COARSE = 20, 3
BEYOND = 0.2  # of the largest inverse depth: planes reach so far beyond infinity, where a car seems
# to be that drives away
# Found on tuning worlds 11, 12 and 13, by what shares of moving and of standing objects they mark:
SEEN = 0.5  # cost of a depth that explains what is seen
UNIQUE = 0.1  # any other depth costs so much more
PARALLAX = 1.0  # pixels that the network's depth would make, below which nothing follows
SHOWN = 0.02  # of the image, where that has to be exceeded
UNDER, NO_ROAD, NEAR_ROAD = 0.6, 0.3, 0.15  # inverse depth over the road's of what would be under
# it; cost of the road there; inverse depth of the road over the largest
# speeds over the threshold: where no foot is seen, no depth is sure, none explains the image, where
# something comes nearer
VERY, FAST, RATHER, SLOW = 3.0, 1.5, 0.6, 0.3
COMES = 0.3, 0.75  # depth of what comes nearer, if it stood, over that of the road at its foot
FITS = 0.25  # log of that, within which it is right however fast it seems
UNEXPLAINED, TEXTURE = 0.45, 0.2  # cost of every depth; mean gradient, grey levels of 0 to 1
LOW = 1.5  # heights of the camera
LEVEL = 0.1  # of its inverse depth, by which the road may be off
FARTHEST = 500.0  # of the nearest road's depth
LEAST_ROAD = 0.04  # of the nearest road's inverse depth: farther away it says little
PATCH = 7  # pixels, least side of a patch of sky
LEAST = 1.3e-3  # share of the image that a region fills
MOST = 0.4  # share of the image that all of them fill; beyond, the camera's own motion is wrong
AROUND = 9  # side of the square around what moves in which depth is not sure


@dataclass(frozen=True)
class Cues:
    """Of an image: ids (h, w) uint8 of regions that move; apparent (h, w) float32, inverse of the
    depth that things would have if they stood, NaN where it is not sure; road (4,), see
    geometry/road.py; still (h, w) float32, depth of what stands, 0 where it is not sure; about
    (h, w) bool: where that is about what the network says, too. Depths in the unit of the motions.
    """

    ids: np.ndarray
    apparent: np.ndarray
    road: np.ndarray
    still: np.ndarray
    about: np.ndarray


def find_cues(
    tgt: np.ndarray, others: Sequence[np.ndarray], T: np.ndarray, K: np.ndarray,
    depth: np.ndarray, speed: np.ndarray,
) -> Cues:  # fmt: skip
    """Cues of tgt (h, w) from other images of the same camera K (3, 3), grey, float32 in [0, 1],
    T (S, 4, 4) from tgt to each; depth (h, w) as a network says it, in the unit of T, and speed
    (h, w), over that from which something moves.

    A region moves where it (1) would be under the road if it stood, as what drives ahead does
    (Klappstein et al. 2007: heights must be positive), (2) would stand before the place where it
    meets the road, as what comes nearer does, and is not quite at rest, (3) is rather fast and no
    depth explains it, or (4) is fast and no depth is sure, or very fast and meets no road: half of
    what else is fast is parked cars close by, whose depth the network does not know. No cues where
    MOST of the image seems to move.
    """
    largest = 1 / (NEAR * float(np.quantile(depth, 0.01)))
    inverse = np.linspace(-BEYOND * NEAR * largest, largest, PLANES)
    step = inverse[1] - inverse[0]
    inverse = np.append(inverse, largest + COARSE * step * np.arange(1, CLOSE + 1))
    inverse = inverse.astype(np.float32)
    costs = plane_costs(tgt, others, T, K, inverse)
    paths = semi_global(costs, tgt)
    best = paths.argmin(2)
    at_best = np.take_along_axis(costs, best[None], 0)[0]
    apparent = inverse[best]
    known = parallax(depth, T, K) > PARALLAX
    plane = fit_road(costs[:PLANES], inverse[:PLANES], K)
    if known.mean() < SHOWN:  # any road fits where the camera stands
        plane = np.zeros(4)
    road = road_inverse(plane, K, tgt.shape)
    place = np.rint(np.interp(road, inverse, np.arange(len(inverse)))).astype(int)
    at_road = np.take_along_axis(costs, place[None], 0)[0]
    under = known & (road > NEAR_ROAD * largest) & (apparent < UNDER * road)
    under &= (at_road > NO_ROAD) & (at_best < SEEN)
    unexplained = (costs.min(0) > UNEXPLAINED) & (_texture(tgt) > TEXTURE) & (speed > RATHER)
    sure = known & (at_best < SEEN) & (uniqueness(paths, best) > UNIQUE)
    seems = np.where(sure, apparent, np.nan).astype(np.float32)
    level = on_road(seems, road) & ~on_top(seems, road)
    apart = foot(level, road) / np.maximum(seems, road.max() / FARTHEST)
    comes = sure & (apart > COMES[0]) & (apart < COMES[1]) & (speed > SLOW)
    fast = (speed > FAST) & ~sure | (speed > VERY) & np.isnan(apart)
    ids = regions(under | comes | unexplained | fast)
    if (ids > 0).mean() > MOST:
        return no_cues(tgt.shape)
    fits = np.abs(np.log(apart)) < FITS  # False where it is unknown
    moves = (ids > 0) | ((speed > 1) & ~fits)
    moves = cv2.dilate(moves.astype(np.uint8), np.ones((AROUND, AROUND))) > 0
    read, nearer = read_depth(costs, paths, inverse, T, K, depth)
    still = np.where((read.sure | nearer) & ~moves, read.depth, np.float32(0))
    return Cues(ids, seems, plane, still, read.sure & ~moves)


def no_cues(size: tuple[int, int]) -> Cues:
    """Of an image that cannot be read, or without any other one beside it."""
    unknown = np.full(size, np.nan, np.float32)
    nowhere = np.zeros(size, bool)
    return Cues(nowhere.astype(np.uint8), unknown, np.zeros(4), np.zeros(size, np.float32), nowhere)


def on_road(apparent: np.ndarray, road: np.ndarray) -> np.ndarray:
    """Bool (h, w): where apparent (h, w) is the road (h, w), inverse depths both, and no single
    pixels.
    """
    level = np.abs(apparent - road) < LEVEL * road  # False where it is unknown
    level &= road > LEAST_ROAD * road.max()
    return _opened(level)


def on_top(apparent: np.ndarray, road: np.ndarray) -> np.ndarray:
    """Bool (h, w): what is under the road (h, w), inverse depths both, and above that in its column
    until something is before the road: halfway up, what drives ahead is as far as the road behind.
    """
    under = _opened(apparent < (1 - 2 * LEVEL) * road)
    before, found = apparent > (1 + LEVEL) * road, np.empty(road.shape, bool)
    on = np.zeros(road.shape[1], bool)
    for row in range(len(road) - 1, -1, -1):
        found[row] = on = (on | under[row]) & ~before[row]
    return found


def low(apparent: np.ndarray, road: np.ndarray) -> np.ndarray:
    """Bool (h, w): where something may stand on the road, inverse depth (h, w), that is no higher
    than LOW heights of the camera, as cars do and house fronts and trees end higher: a point of
    inverse depth a lies 1 - road / a such heights above the road. Unknown, NaN in apparent (h, w),
    it counts as if it were as near as road is seen.
    """
    nearest = max(float(road.max()), 1e-9)
    seems = np.maximum(np.nan_to_num(apparent, nan=nearest), nearest / FARTHEST)
    return (1 - road / seems < LOW) & ~on_road(apparent, road)


def sky(apparent: np.ndarray, road: np.ndarray) -> np.ndarray:
    """Bool (h, w): above the horizon of the road, inverse depth (h, w), patches where several
    images are sure of no depth, NaN in apparent (h, w), or of one so far away that the road there
    is not seen. On tuning worlds 12 and 13 0.9 and 0.3 of that is sky, 0.03 and 0.01 nearer than
    20 m.
    """
    nearest = float(road.max())
    if nearest <= 0:
        return np.zeros(road.shape, bool)
    far = (road <= 0) & ~(apparent >= LEAST_ROAD * nearest)
    return cv2.morphologyEx(far.astype(np.uint8), cv2.MORPH_OPEN, np.ones((PATCH, PATCH))) > 0


def foot(level: np.ndarray, road: np.ndarray) -> np.ndarray:
    """Inverse depth (h, w) of the road (h, w) where the column of a pixel first meets it, there or
    below, level (h, w) bool; NaN where it does not.
    """
    found, below = np.empty(level.shape, np.float32), np.full(level.shape[1], np.nan, np.float32)
    for row in range(len(level) - 1, -1, -1):
        found[row] = below = np.where(level[row], road[row], below)
    return found


def regions(moving: np.ndarray) -> np.ndarray:
    """Ids (h, w), uint8, of the connected parts of what moves (h, w), bool, gaps of up to 4 pixels
    closed, without those below LEAST.
    """
    closed = cv2.morphologyEx(moving.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5)))
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((3, 3)))
    _, parts, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= LEAST * moving.size
    large[0] = False
    names = np.where(large, np.minimum(np.cumsum(large), 255), 0).astype(np.uint8)
    return names[parts]


def _opened(mask: np.ndarray) -> np.ndarray:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3))) > 0


def _texture(grey: np.ndarray) -> np.ndarray:
    """Root mean square over 5 x 5 pixels of the gradient (3 x 3 Sobel)."""
    x, y = cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1)
    return np.sqrt(cv2.boxFilter(x * x + y * y, -1, (5, 5)))
