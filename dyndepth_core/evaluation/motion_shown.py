"""Motion that was received, and true motion, in the form in which motion is drawn."""

from __future__ import annotations

import cv2
import numpy as np

from dyndepth_core.data.recording import Recording
from dyndepth_core.evaluation.motion import MIN_OBJECT_PIXELS
from dyndepth_core.instances.motion import Motion, MovingObject


def found_motion(
    mask: np.ndarray, velocity: np.ndarray, objects: np.ndarray, K: np.ndarray
) -> Motion:
    """Motion of a mask, bool (H, W), velocities (H, W, 3) and objects (N, 8), each id, x y z,
    vx vy vz, 1 where it is only predicted; K (3, 3) of the mask's pixels.

    A connected part of the mask belongs to the object whose middle is seen in it.
    """
    height, width = mask.shape
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    names, found = np.zeros(count, np.int32), []
    for row in objects[objects[:, 3] > 0]:
        u, v = K[:2] @ row[1:4] / row[3]
        column, line = (int(np.clip(np.rint(x), 0, n - 1)) for x, n in ((u, width), (v, height)))
        label, box = labels[line, column], (u, v, u, v)
        if label and not row[7]:
            names[label] = row[0]
            left, top, w, h = boxes[label, :4]
            box = (left, top, left + w - 1, top + h - 1)
        found.append(_object(int(row[0]), row[1:4], row[4:7], box, missed=int(row[7])))
    probability = mask.astype(np.float32)
    return Motion(velocity, probability, mask, names[labels], found)


def true_motion(recording: Recording, i: int) -> Motion | None:
    """What truly moves in frame i, m/s; None where the recording does not know. An object is an
    instance of MIN_OBJECT_PIXELS or more.
    """
    mask, velocity, ids = recording.dynamic(i), recording.velocity(i), recording.instances(i)
    depth = recording.depth(i)
    if any(part is None for part in (mask, velocity, ids, depth)):
        return None
    found, K = [], recording.calib.K
    for name in np.unique(ids[mask & (ids > 0) & (depth > 0)]):
        rows, cols = np.nonzero(mask & (ids == name) & (depth > 0))
        if len(rows) < MIN_OBJECT_PIXELS:
            continue
        rays = np.stack([cols, rows, np.ones(len(rows))], 1) @ np.linalg.inv(K).T
        position = np.median(rays * depth[rows, cols, None], 0)
        box = (cols.min(), rows.min(), cols.max(), rows.max())
        moved = np.median(velocity[rows, cols], 0).astype(np.float64)
        found.append(_object(int(name), position, moved, box))
    return Motion(velocity, mask.astype(np.float32), mask, np.where(mask, ids, 0), found)


def _object(
    name: int,
    position: np.ndarray,
    velocity: np.ndarray,
    box: tuple[float, ...],
    missed: int = 0,
) -> MovingObject:
    """Its extent and age are not drawn."""
    speed, box = float(np.linalg.norm(velocity)), tuple(float(x) for x in box)
    return MovingObject(name, position, velocity, speed, np.zeros(3), box, 0.0, missed)
