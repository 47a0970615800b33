"""Depth at some points of a video from the video alone: followed corners, triangulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dyndepth_core.data.tracks import Window, windows
from dyndepth_core.geometry import bundle
from dyndepth_core.geometry.bundle import Observations, State
from dyndepth_core.geometry.self_calibration import (
    FIRST_NOISE,
    first_motions,
    rigid_points,
    stack,
    track_noise,
)

KEY_STEP = 0.01  # of the mean side: movement in the image from one frame used to the next
POINTS = 160  # per window
STEPS = 15
SURE = 0.1  # standard deviation of log depth above which a point is no yardstick
LEAST = 20  # points of a window that judges

DepthAt = Callable[[int, np.ndarray], np.ndarray]
MotionTo = Callable[[int, int], "np.ndarray | None"]


@dataclass(frozen=True)
class Yardstick:
    """Triangulated points of one frame: pixels (N, 2) of the stored image, depth (N,) in a unit of
    its own, the same for all points of the frame.
    """

    frame: int
    pixels: np.ndarray
    depth: np.ndarray


class Triangulation:
    """Followed corners of a recording of known K, by bundle adjustment from several starts.

    A start from nothing may end in a wrong structure, above all when the camera drives straight
    ahead. So every model that is judged may offer its own depth and ego-motion as a start, and of
    all starts the one that explains the tracks best counts, window by window: a bad model's start
    is refuted by the tracks, a good one's is free to leave what the model said.
    """

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        stamps_ns: np.ndarray,
        K: np.ndarray,
        count: int,
    ) -> None:
        """read: frame i as uint8 (H, W, 3), free of lens distortion; stamps_ns (frames,); K (3, 3)
        of these images; count: of windows, at most.
        """
        enough = len(stamps_ns) >= 3
        self._windows = windows(read, stamps_ns, count, KEY_STEP) if enough else []
        self._fitted: dict[str, tuple[State, np.ndarray]] = {}
        if self._windows:
            cut = [(w.points, w.seen, w.valid, w.before) for w in self._windows]
            self._data = stack(cut, POINTS)
            focal = np.log(np.diag(K)[:2])
            self._camera = np.array((focal.mean(), focal[0] - focal[1], K[0, 2], K[1, 2]))
            self._fit("", first_motions(self._data, self._camera, FIRST_NOISE))

    def offer(self, name: str, depth: DepthAt, motion: MotionTo) -> None:
        """A start of that name: depth (N,) at pixels (N, 2) of frame i, NaN where unknown, and
        T_j_i (4, 4) from frame i to frame j in the same unit, None where unknown.
        """
        if self._windows:
            self._fit(name, _started(self._data, self._windows, self._camera, depth, motion))

    def _fit(self, name: str, start: State) -> None:
        self._fitted[name] = bundle.fit_motions(self._data, start, FIRST_NOISE, STEPS)

    def yardsticks(self, names: Sequence[str]) -> list[Yardstick]:
        """The points that stand still and are known to SURE, of every window with LEAST of them, by
        the best of the starts named and the one from nothing.
        """
        if not self._windows:
            return []
        best, lowest = self._fitted[""]
        for name in names:
            state, cost = self._fitted[name]
            best, lowest = _chosen(cost < lowest, state, best), np.minimum(cost, lowest)
        data = self._data
        noise = track_noise(data, best)
        good, rigid = rigid_points(data, best, noise)
        exact = bundle.linearise(data, best, noise, np.zeros(len(lowest)))
        with np.errstate(divide="ignore", invalid="ignore"):
            sigma = 1 / (np.sqrt(exact.H_rho) * best.rho)
        sure = rigid & data.valid.any(1) & (best.rho > 0) & (sigma < SURE)
        return [
            Yardstick(w.middle, data.points[k, sure[k]], 1 / best.rho[k, sure[k]])
            for k, w in enumerate(self._windows)
            if good[k] and sure[k].sum() >= LEAST
        ]


def _started(
    data: Observations,
    found: Sequence[Window],
    camera: np.ndarray,
    depth_at: DepthAt,
    motion_to: MotionTo,
) -> State:
    """What a model says of the windows as a state of the bundle adjustment."""
    shape = data.valid.shape[:2]
    R, t = np.tile(np.eye(3), (*shape, 1, 1)), np.zeros((*shape, 3))
    rho = np.zeros(data.points.shape[:2])
    for k, window in enumerate(found):
        for n, j in enumerate(window.frames):
            slot = n if n < window.before else shape[1] // 2 + n - window.before
            T = motion_to(window.middle, j)
            if T is not None and np.isfinite(T).all():
                R[k, slot], t[k, slot] = T[:3, :3], T[:3, 3]
        depth = depth_at(window.middle, data.points[k])
        known = np.isfinite(depth) & (depth > 0)
        usual = float(np.median(depth[known])) if known.any() else 1.0
        length = max(float(np.linalg.norm(t[k], axis=-1).max()), 1e-9)
        t[k], rho[k] = t[k] / length, length / np.where(known, depth, usual)
    return State(R, t, rho, camera)


def _chosen(take: np.ndarray, a: State, b: State) -> State:
    """Windows of a where `take`, else of b."""
    return State(
        np.where(take[:, None, None, None], a.R, b.R),
        np.where(take[:, None, None], a.t, b.t),
        np.where(take[:, None], a.rho, b.rho),
        a.camera,
    )
