"""How the camera moves around an image, from point tracks through all images there at once: bundle
adjustment (geometry/bundle.py) that begins with what a network says.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dyndepth_core.data.tracks import follow
from dyndepth_core.geometry import bundle

# Found on tuning vehicles 43, 44, 46 and 47: with 250 corners directions of travel are wrong by a
# third more, with a patch of 21 pixels twice as wrong.
CORNERS, QUALITY, APART = 600, 0.003, 5  # at most; against the best one; pixels
PATCH = 9  # pixels, side
LEAST = 24  # tracks
NOISE = 0.15  # pixels, of a track's coordinate
STEPS = 10


def track_motions(
    grey: np.ndarray,
    sides: Sequence[Sequence[np.ndarray]],
    T: np.ndarray,
    K: np.ndarray,
    depth: np.ndarray,
    moves: np.ndarray,
) -> np.ndarray | None:
    """T (M, 4, 4), float64, from an image to the M around it, by the tracks of its corners.

    grey uint8 (H, W) and sides, the images before it, nearest first, and those after it, of the
    same camera K (3, 3); T (M, 4, 4): a first guess, in the order of the sides; depth (H, W): as
    rough; moves (H, W) bool: where no corner stands still. The unit is that of depth, which has the
    median of the corners right. None where fewer than LEAST corners can be followed.
    """
    corners = cv2.goodFeaturesToTrack(
        grey, CORNERS, QUALITY, APART, mask=np.where(moves, 0, 255).astype(np.uint8)
    )
    if corners is None:
        return None
    points = corners[:, 0]
    seen, valid = np.zeros((len(T), len(points), 2)), np.zeros((len(T), len(points)), bool)
    j = 0
    for side in sides:
        image, places, alive = grey, points, np.ones(len(points), bool)
        for other in side:
            places, good = follow(image, other, places, PATCH)
            alive = alive & good
            seen[j], valid[j] = places, alive
            image, j = other, j + 1
    kept = valid.sum(0) >= 2
    if kept.sum() < LEAST:
        return None
    points = points[kept]
    rough = cv2.remap(depth.astype(np.float32), points[:, None], None, cv2.INTER_LINEAR)[:, 0]
    length = max(float(np.linalg.norm(T[:, :3, 3], axis=1).max()), 1e-9)
    data = bundle.Observations(
        points[None].astype(np.float64), seen[None][:, :, kept], valid[None][:, :, kept]
    )
    camera = np.array(
        (0.5 * np.log(K[0, 0] * K[1, 1]), np.log(K[0, 0] / K[1, 1]), K[0, 2], K[1, 2])
    )
    first = bundle.State(
        T[None, :, :3, :3], T[None, :, :3, 3] / length, length / rough[None], camera
    )
    state, _ = bundle.fit_motions(data, first, NOISE, STEPS)
    near = state.rho[0] * rough > 1e-3 * length
    found = np.tile(np.eye(4), (len(T), 1, 1))
    found[:, :3, :3] = state.R[0]
    if near.any():  # or else it turns or stands: everything is infinitely far
        found[:, :3, 3] = state.t[0] / np.median(1 / (state.rho[0] * rough)[near])
    return found
