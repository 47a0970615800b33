"""Two guesses that never look at the image: any model has to beat them, or it has learned only
the road."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dyndepth_core.data.recording import Recording
from dyndepth_core.evaluation.metrics import MAX_DEPTH, valid_depth
from dyndepth_core.evaluation.strata import depth_intrinsics, fit_ground

MAX_FRAMES = 300
MAX_COLUMNS = 416


@dataclass(frozen=True)
class RowPrior:
    """Median depth per image row of the training set.

    rows: where each row looks, increasing (R,): the tangent (v - cy) / fy of its vertical angle
    when by_angle, else (v + 0.5) / H; depth: metres (R,). A row is carried to another camera by its
    angle, because the ground under a given angle is equally far whatever the resolution or crop;
    without intrinsics only the relative row is left.
    """

    rows: np.ndarray
    depth: np.ndarray
    by_angle: bool

    def predict(self, height: int, width: int, K: np.ndarray | None) -> np.ndarray:
        """Depth (H, W) in metres; rows between and beyond those of training are interpolated in
        1/z and held."""
        if self.by_angle and K is None:
            raise ValueError(
                "row_prior was fitted by viewing angle, but these images have no intrinsics; give"
                " calib.json its fx, fy, cx, cy or fit the baselines on recordings like these"
            )
        rows = _row_positions(height, K if self.by_angle else None)
        inverse = np.interp(rows, self.rows, 1.0 / self.depth)
        return np.repeat((1.0 / inverse)[:, None], width, axis=1).astype(np.float32)


@dataclass(frozen=True)
class PlanePrior:
    """A flat, level ground a fixed height (metres) under the camera, horizon at cy, and `far`
    metres above it."""

    height: float
    far: float

    def predict(self, height: int, width: int, K: np.ndarray | None) -> np.ndarray:
        """Depth (H, W) in metres: z = height fy / (v - cy) below the horizon, never more than
        far."""
        if K is None:
            raise ValueError("plane needs intrinsics, but the images have none")
        slope = np.maximum(_row_positions(height, K), self.height / self.far)
        return np.repeat((self.height / slope)[:, None], width, axis=1).astype(np.float32)


def fit_baselines(recordings: Sequence[Recording]) -> dict[str, RowPrior | PlanePrior]:
    """Fit row_prior and plane on the ground truth of recordings (at most MAX_FRAMES frames of them,
    evenly).

    plane is absent where intrinsics are unknown or no ground is seen. Raises ValueError when the
    recordings hold no ground-truth depth at all.
    """
    frames = list(_frames(recordings))
    if not frames:
        names = ", ".join(sorted({r.name for r in recordings})[:4])
        raise ValueError(f"no ground-truth depth in {names}: baselines cannot be fitted there")
    result: dict[str, RowPrior | PlanePrior] = {"row_prior": _fit_rows(frames)}
    plane = _fit_plane(frames)
    if plane is not None:
        result["plane"] = plane
    return result


def _frames(recordings: Sequence[Recording]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Depth images with their K, thinned evenly over all recordings."""
    every = [(r, i) for r in recordings for i in range(len(r))]
    step = -(-len(every) // MAX_FRAMES) if every else 1
    for recording, i in every[::step]:
        depth = recording.depth(i)
        if depth is not None:
            yield depth, depth_intrinsics(recording, depth)


def _row_positions(height: int, K: np.ndarray | None) -> np.ndarray:
    if K is None:
        return (np.arange(height) + 0.5) / height
    return (np.arange(height) - K[1, 2]) / K[1, 1]


def _fit_rows(frames: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> RowPrior:
    by_angle = all(K is not None for _, K in frames)
    grids = [_row_positions(z.shape[0], K if by_angle else None) for z, K in frames]
    grid = max(
        grids, key=len
    )  # the finest rows seen; every other image votes in the nearest of them
    low, high = min(g[0] for g in grids), max(g[-1] for g in grids)
    pitch = grid[1] - grid[0] if len(grid) > 1 else 1.0
    before, after = int(round((grid[0] - low) / pitch)), int(round((high - grid[-1]) / pitch))
    rows = grid[0] + pitch * np.arange(-before, len(grid) + after)
    values: list[list[np.ndarray]] = [[] for _ in rows]
    for (depth, _), positions in zip(frames, grids, strict=True):
        depth = depth[:, :: -(-depth.shape[1] // MAX_COLUMNS)]
        valid = valid_depth(depth)
        nearest = np.clip(np.rint((positions - rows[0]) / pitch).astype(int), 0, len(rows) - 1)
        for v, row in enumerate(nearest):
            if valid[v].any():
                values[row].append(depth[v, valid[v]])
    seen = [k for k, found in enumerate(values) if found]
    if not seen:
        raise ValueError("the ground-truth depth images are empty: no pixel between 1 mm and 80 m")
    medians = np.array([np.median(np.concatenate(values[k])) for k in seen], dtype=np.float64)
    return RowPrior(rows[seen], medians, by_angle)


def _fit_plane(frames: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> PlanePrior | None:
    heights, above = [], []
    for depth, K in frames:
        plane = None if K is None else fit_ground(depth, K)
        if plane is not None:
            heights.append(
                plane.height / plane.normal[1]
            )  # straight below the camera, along its y axis
            sky = depth[: max(0, int(np.ceil(K[1, 2])))]
            above.append(sky[valid_depth(sky)][::7])
    if not heights:
        return None
    far = np.concatenate(above)
    return PlanePrior(float(np.median(heights)), float(np.median(far)) if far.size else MAX_DEPTH)
