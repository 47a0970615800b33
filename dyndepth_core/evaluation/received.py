"""Depth, clouds and motion that were received from a running node, as an arm of an evaluation.

One `%06d.npz` per frame of the recording beside it: depth (h, w) in metres or scene units, K (3, 3)
of that depth image, points (N, 3) and colors (N, 3) of the cloud; of a node that tells motion, in
frames where it does, mask (h, w) and velocity (h, w, 3) relative to the ground, units of the depth
per second. Then also OBJECTS_FILE: stamps_ns (M,) and objects (M, 8), each id, x y z, vx vy vz in
the camera's optical axes, 1 where it is only predicted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.truth import NPZ_ERRORS
from dyndepth_core.evaluation.film import Shot
from dyndepth_core.evaluation.metrics import depth_errors, median_ratio, valid_depth
from dyndepth_core.evaluation.motion_shown import found_motion, true_motion
from dyndepth_core.evaluation.resample import resample_inverse, resample_nearest

OBJECTS_FILE = "objects.npz"
MOTION = ("mask", "velocity")  # of a frame, where it has any


class ReceivedArm:
    """A row of the table made of depth images, and motion, from files."""

    metric = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._moving: tuple[np.ndarray, np.ndarray] | None = None

    def start(self, recording: Recording) -> None:
        """Nothing to forget."""

    def depth(self, recording: Recording, i: int, size: tuple[int, int]) -> np.ndarray:
        """Depth of frame i carried to the ground truth's size (H, W); NaN where it has none."""
        depth, K, mask, velocity = _read(self._folder / f"{i:06d}.npz", "depth", "K", *MOTION)
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)
        full = (recording.calib.height, recording.calib.width)
        self._moving = None
        if mask is not None and velocity is not None:
            field = np.dstack([velocity, mask]).astype(np.float32)
            field = resample_nearest(field, K, recording.calib.K, full, size)
            self._moving = field[..., 3] == 1, field[..., :3]
        return resample_inverse(depth, K, recording.calib.K, full, size)

    def ego(self) -> list[np.ndarray | None]:
        """Not among what is received."""
        return []

    def moving(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The node's own mask and velocities; None where the frame came without."""
        return self._moving


def _read(path: Path, *keys: str) -> list[np.ndarray | None]:
    """Arrays of a file; None for those of MOTION that it does not hold."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return [None if k in MOTION and k not in data else data[k] for k in keys]
    except FileNotFoundError:
        raise
    except NPZ_ERRORS as error:
        raise ValueError(f"{path}: damaged depth file; receive it again") from error


def load_shot(recording: Recording, folder: Path, i: int) -> Shot:
    """Frame i to be drawn: depth, cloud and motion scaled to the truth by the frame's median
    ratio.
    """
    truth, arm = recording.depth(i), ReceivedArm(folder)
    depth = arm.depth(recording, i, truth.shape)
    counts = valid_depth(truth) & np.isfinite(depth)
    ratio = median_ratio(truth[counts], depth[counts]) if counts.any() else 1.0
    error = depth_errors(truth[counts], depth[counts] * ratio)["abs_rel"] if counts.any() else None
    points, colors = _read(folder / f"{i:06d}.npz", "points", "colors")
    points = points.astype(np.float32) * ratio
    stamp = recording.stamps_ns[i]
    seconds = (stamp - recording.stamps_ns[0]) / 1e9
    note = "no ground truth" if error is None else f"abs_rel {error:.3f}"
    found = true = None
    if (folder / OBJECTS_FILE).is_file():
        stamps, objects = _read(folder / OBJECTS_FILE, "stamps_ns", "objects")
        true = true_motion(recording, i)
        if arm.moving() is not None:
            objects = objects[stamps == stamp] * np.array([1, *[ratio] * 6, 1])
            found = found_motion(*arm.moving(), objects, recording.calib.K)
    return Shot(
        recording.image(i), depth * ratio, truth, points, colors,
        f"frame {i}, {seconds:.1f} s", note, recording.calib.K, found, true,
    )  # fmt: skip
