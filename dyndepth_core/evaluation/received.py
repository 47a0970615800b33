"""Depth and clouds that were received from a running node, as an arm of an evaluation.

One `%06d.npz` per frame of the recording beside it: depth (h, w) in metres or scene units, K (3, 3)
of that depth image, points (N, 3) and colors (N, 3) of the cloud.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.truth import NPZ_ERRORS
from dyndepth_core.evaluation.film import Shot
from dyndepth_core.evaluation.metrics import depth_errors, median_ratio, valid_depth
from dyndepth_core.evaluation.resample import resample_inverse


class ReceivedArm:
    """A row of the table made of depth images from files."""

    metric = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, recording: Recording) -> None:
        """Nothing to forget."""

    def depth(self, recording: Recording, i: int, size: tuple[int, int]) -> np.ndarray:
        """Depth of frame i carried to the ground truth's size (H, W); NaN where it has none."""
        depth, K = _read(self._folder / f"{i:06d}.npz", "depth", "K")
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)
        full = (recording.calib.height, recording.calib.width)
        return resample_inverse(depth, K, recording.calib.K, full, size)

    def ego(self) -> list[np.ndarray | None]:
        """Depth files tell no motion."""
        return []

    def moving(self) -> None:
        """Nor what moves."""
        return None


def _read(path: Path, *keys: str) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return [data[key] for key in keys]
    except FileNotFoundError:
        raise
    except NPZ_ERRORS as error:
        raise ValueError(f"{path}: damaged depth file; receive it again") from error


def load_shot(recording: Recording, folder: Path, i: int) -> Shot:
    """Frame i to be drawn: depth and cloud scaled to the truth by the frame's median ratio."""
    truth = recording.depth(i)
    depth = ReceivedArm(folder).depth(recording, i, truth.shape)
    counts = valid_depth(truth) & np.isfinite(depth)
    ratio = median_ratio(truth[counts], depth[counts]) if counts.any() else 1.0
    error = depth_errors(truth[counts], depth[counts] * ratio)["abs_rel"] if counts.any() else None
    points, colors = _read(folder / f"{i:06d}.npz", "points", "colors")
    points = points.astype(np.float32) * ratio
    seconds = (recording.stamps_ns[i] - recording.stamps_ns[0]) / 1e9
    note = "no ground truth" if error is None else f"abs_rel {error:.3f}"
    return Shot(
        recording.image(i), depth * ratio, truth, points, colors,
        f"frame {i}, {seconds:.1f} s", note,
    )  # fmt: skip
