"""Watches a training and says when it is sick: static camera, depth collapsed, everything
masked, NaN or infinity.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ..data.sample import Sample

log = logging.getLogger(__name__)

STATIC_PIXELS = 0.25  # median motion of corners between two frames of a camera that stands
STATIC_SHARE = 0.8  # share of such pairs among the last ones that makes a training sick
MIN_PAIRS = 16
FLAT_DEPTH = 0.01  # spread of log depth within an image (5 % to 95 %) below which it is a constant
MASKED_SHARE = 0.02  # share of pixels that still teach, below which everything is masked
SETTLED = 0.2  # fraction of the training, and
SETTLED_STEPS = 50  # its steps, before which flat depth and wide masks are no news
PATIENCE = 8  # looks in a row that must agree

ADVICE = {
    "static_camera": "the camera hardly moves in {value:.0%} of the frame pairs, and depth is "
    "learned from its motion only: give recordings of driving, leave standing stretches out (keep "
    "= 0 in frames.csv) or lower data.target_rate_hz",
    "depth_constant": "depth is (nearly) the same at every pixel of an image (spread {value:.2%}): "
    "the training has collapsed; lower train.lr, look at the pictures in TensorBoard, check "
    "calib.json and that the recordings show motion",
    "all_masked": "only {value:.1%} of the pixels teach, the rest is masked as not moving: is the "
    "camera standing, are the frames too close in time (lower data.target_rate_hz), or is train.lr "
    "so high that the motion was lost?",
    "not_finite": "NaN or infinity in {where} at step {step}: the training is stopped, the last "
    "good checkpoint is kept; lower train.lr or train.clip_norm, use train.precision=fp32, check "
    "the images and calib.json",
}


class NotFiniteError(ValueError):
    """NaN or infinity appeared; the message says where and what to do."""


@dataclass(frozen=True)
class HealthWarning:
    """One raised warning, as it stands in metrics.json."""

    step: int
    kind: str
    message: str


class Health:
    """Collects signs of sickness during a training; each kind warns once per run through log and
    `notify`.

    notify(step, kind, message) is told beside the log, e.g. to write TensorBoard text.
    """

    def __init__(self, notify: Callable[[int, str, str], None] | None = None) -> None:
        self.warnings: list[HealthWarning] = []
        self._notify = notify
        self._pairs: deque[bool] = deque(maxlen=64)
        self._flat: deque[float] = deque(maxlen=PATIENCE)
        self._kept: deque[float] = deque(maxlen=PATIENCE)

    def state(self) -> list[dict]:
        """The warnings as plain data, for checkpoints and metrics.json."""
        return [asdict(w) for w in self.warnings]

    def restore(self, state: list[dict]) -> None:
        """Take over the warnings of the run that is resumed, so that they are not raised again."""
        self.warnings = [HealthWarning(**w) for w in state]

    def check_finite(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Raise NotFiniteError naming the first of `values` (0-dim) that is NaN or infinite."""
        for where, value in values.items():
            if not bool(torch.isfinite(value)):
                self._raise_warning(step, "not_finite", where=where)
                raise NotFiniteError(self.warnings[-1].message)

    def observe(
        self, step: int, progress: float, sample: Sample, maps: Mapping[str, Tensor]
    ) -> None:
        """Look at one batch: its images, and the maps `depth` (B,1,H,W) and `automask` (B,1,H,W)
        where there are any.
        """
        self._look_at_motion(step, sample)
        if progress < SETTLED or step < SETTLED_STEPS:
            return
        if "depth" in maps:
            spread = log_spread(
                maps["depth"]
            ).max()  # one image with structure is enough to be healthy
            self._flat.append(float(spread))
            if len(self._flat) == PATIENCE and max(self._flat) < FLAT_DEPTH:
                self._raise_warning(step, "depth_constant", value=max(self._flat))
        if "automask" in maps:
            self._kept.append(float(maps["automask"].detach().float().mean()))
            if len(self._kept) == PATIENCE and max(self._kept) < MASKED_SHARE:
                self._raise_warning(step, "all_masked", value=max(self._kept))

    def _look_at_motion(self, step: int, sample: Sample) -> None:
        if not sample.src.shape[1]:  # of single images
            return
        for b in range(min(2, sample.tgt.shape[0])):
            moved = image_motion(sample.tgt[b], sample.src[b, int(step) % sample.src.shape[1]])
            if moved is not None:
                self._pairs.append(moved < STATIC_PIXELS)
        share = float(np.mean(self._pairs)) if self._pairs else 0.0
        if len(self._pairs) >= MIN_PAIRS and share >= STATIC_SHARE:
            self._raise_warning(step, "static_camera", value=share)

    def _raise_warning(self, step: int, kind: str, **values: object) -> None:
        if any(w.kind == kind for w in self.warnings) and kind != "not_finite":
            return
        message = ADVICE[kind].format(step=step, **values)
        self.warnings.append(HealthWarning(step, kind, message))
        log.warning("step %d: %s: %s", step, kind, message)
        if self._notify is not None:
            self._notify(step, kind, message)


def log_spread(depth: Tensor) -> Tensor:
    """Spread of log depth within each image, from the 5 % to the 95 % quantile. (B, 1, H, W) ->
    (B,).
    """
    values = depth.detach().float().flatten(1)
    values = values[:, :: max(1, values.shape[1] // 4096)].clamp_min(1e-9).log()
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95], device=values.device), dim=1)
    return high - low


def image_motion(a: Tensor, b: Tensor) -> float | None:
    """Median motion in pixels of corners between two (3, H, W) images; None where there is nothing
    to follow.

    The median is that of the background as long as moving objects cover less than half of the
    corners (corners: Shi and Tomasi 1994; tracking: pyramidal Lucas-Kanade).
    """
    first, second = (_grey(x) for x in (a, b))
    corners = cv2.goodFeaturesToTrack(first, maxCorners=100, qualityLevel=0.02, minDistance=5)
    if corners is None or len(corners) < 8:
        return None
    found, good, _ = cv2.calcOpticalFlowPyrLK(
        first, second, corners, None, winSize=(15, 15), maxLevel=3
    )
    good = good.ravel().astype(bool)
    if good.sum() < 8:
        return None
    return float(np.median(np.linalg.norm((found - corners)[good].reshape(-1, 2), axis=1)))


def _grey(image: Tensor) -> np.ndarray:
    pixels = image.detach().float().mean(0).clamp(0, 1).mul(255).byte()
    return np.ascontiguousarray(pixels.cpu().numpy())
