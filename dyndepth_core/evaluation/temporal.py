"""How much the depth of things that stand still changes from frame to frame."""

from __future__ import annotations

import numpy as np

from dyndepth_core.data.recording import Recording
from dyndepth_core.evaluation.metrics import valid_depth
from dyndepth_core.evaluation.strata import depth_intrinsics

OCCLUSION = 0.05  # relative depth by which a point may miss the surface that is seen there


def static_flow(
    recording: Recording, i: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Where static pixels of frame i were in frame i - 1, from true depth and poses.

    Returns rows and columns (N,) in frame i and the nearest ones (N,) in frame i - 1; pixels that
    were hidden there or outside are left out. None without truth, pose or camera.
    """
    if i < 1:
        return None
    depth, before = recording.depth(i), recording.depth(i - 1)
    poses = recording.pose(i), recording.pose(i - 1)
    if any(x is None for x in (depth, before, *poses)):
        return None
    K = depth_intrinsics(recording, depth)
    if K is None:
        return None
    keep = valid_depth(depth)
    dynamic = recording.dynamic(i)
    if dynamic is not None:
        keep &= ~dynamic
    rows, cols = np.nonzero(keep)
    z = depth[rows, cols].astype(np.float64)
    points = np.stack([(cols - K[0, 2]) / K[0, 0] * z, (rows - K[1, 2]) / K[1, 1] * z, z])
    T = np.linalg.inv(poses[1]) @ poses[0]
    moved = T[:3, :3] @ points + T[:3, 3:]
    ahead = moved[2] > 1e-3
    u, v = (K @ moved)[:2] / np.where(ahead, moved[2], 1.0)
    u, v = np.rint(u).astype(np.int64), np.rint(v).astype(np.int64)
    height, width = before.shape
    seen = ahead & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    rows, cols, u, v, z = rows[seen], cols[seen], u[seen], v[seen], moved[2][seen]
    same = np.abs(before[v, u] / z - 1) < OCCLUSION
    return rows[same], cols[same], v[same], u[same]


def temporal_change(
    recording: Recording, i: int, depth: np.ndarray, before: np.ndarray
) -> float | None:
    """Mean |r_i / r_{i-1} - 1| over static pixels, r = predicted / true depth of the same point.

    0 for the truth, for any constant factor, and for errors that a point keeps; depth, before
    (H, W): predictions for frames i and i - 1 at the size of the ground truth, without any scaling.
    None where nothing can be compared.
    """
    found = static_flow(recording, i)
    if found is None or len(found[0]) == 0:
        return None
    rows, cols, v, u = found
    now = depth[rows, cols] / recording.depth(i)[rows, cols]
    then = before[v, u] / recording.depth(i - 1)[v, u]
    good = np.isfinite(now) & np.isfinite(then) & (now > 0) & (then > 0)
    if not good.any():
        return None
    return float(np.mean(np.abs(now[good] / then[good] - 1)))
