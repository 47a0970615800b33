"""Run models and baselines over recordings and score them on the very same pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol as Interface

import cv2
import numpy as np

from dyndepth_core.data.recording import Recording
from dyndepth_core.evaluation.baselines import PlanePrior, RowPrior
from dyndepth_core.evaluation.ego import ego_errors
from dyndepth_core.evaluation.metrics import (
    ImageScore,
    scale_std,
    score_image,
    summarise,
    valid_depth,
)
from dyndepth_core.evaluation.protocols import Protocol
from dyndepth_core.evaluation.strata import depth_intrinsics, strata_of
from dyndepth_core.inference.predictor import Predictor


class Arm(Interface):
    """One row of the table: something that says how deep every pixel of a frame is."""

    metric: bool  # its depth is in metres, so that unscaled figures mean something

    def start(self, recording: Recording) -> None:
        """Forget everything: a new recording begins."""

    def depth(self, recording: Recording, i: int, size: tuple[int, int]) -> np.ndarray:
        """Depth (H, W) of frame i at the given size; NaN where the arm says nothing."""

    def ego(self) -> list[np.ndarray | None]:
        """Motions T_src_tgt (4, 4) from each frame since start to the one before; None where
        unknown."""


class ModelArm:
    """A trained model, through the same Predictor that runs on the vehicle."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.metric = predictor.meta.scale.state == "metric"
        self._motions: list[np.ndarray | None] = []

    def start(self, recording: Recording) -> None:
        """Reset the predictor."""
        self.predictor.reset()
        self._motions = []

    def depth(self, recording: Recording, i: int, size: tuple[int, int]) -> np.ndarray:
        """Predict frame i and carry its depth to the ground truth's size (H, W), as inverse
        depth."""
        image = recording.image(i)
        K = recording.calib.K
        if (
            K is None
        ):  # any central camera will do: one factor on depth, which median scaling removes
            h, w = image.shape[:2]
            K = np.array([[w, 0, (w - 1) / 2], [0, w, (h - 1) / 2], [0, 0, 1]], dtype=np.float64)
        else:
            _check_size(recording, i, image)
        posed = recording.pose(i) is not None  # ego-motion costs a network: only where it is judged
        found = self.predictor(image, K, int(recording.stamps_ns[i]), motion=posed)
        self._motions.append(None if found.T_src_tgt is None else np.asarray(found.T_src_tgt))
        return resample_inverse(found.depth, found.K, K, image.shape[:2], size)

    def ego(self) -> list[np.ndarray | None]:
        """The motions the model reported, one per frame after the first."""
        return self._motions[1:]


def _check_size(recording: Recording, i: int, image: np.ndarray) -> None:
    (height, width), calib = image.shape[:2], recording.calib
    if (width, height) != (calib.width, calib.height):
        raise ValueError(
            f"{recording.image_path(i)}: image of {width}x{height}, but the calibration is for "
            f"{calib.width}x{calib.height}; scale its width, height, fx, fy, cx, cy to the images"
        )


class BaselineArm:
    """row_prior or plane as a row of the table."""

    metric = True

    def __init__(self, prior: RowPrior | PlanePrior) -> None:
        self.prior = prior

    def start(self, recording: Recording) -> None:
        """Nothing to forget."""

    def depth(self, recording: Recording, i: int, size: tuple[int, int]) -> np.ndarray:
        """The same guess for every frame."""
        K = depth_intrinsics(recording, np.empty(size))
        return self.prior.predict(*size, K)

    def ego(self) -> list[np.ndarray | None]:
        """A baseline knows no motion."""
        return []


def resample_inverse(
    depth: np.ndarray,
    K_depth: np.ndarray,
    K_image: np.ndarray,
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """Carry a depth image (h, w) of intrinsics K_depth to an image of K_image, resized to size (H,
    W).

    Bilinear in inverse depth, as the field does (KITTI Eigen evaluation); float32 (H, W), NaN
    outside what the depth image covers ([-0.5, w - 0.5] x [-0.5, h - 0.5] of its pixels) or where
    it is NaN.
    """
    height, width = size
    u = (np.arange(width) + 0.5) * (image_size[1] / width) - 0.5
    v = (np.arange(height) + 0.5) * (image_size[0] / height) - 0.5
    u = (u - K_image[0, 2]) / K_image[0, 0] * K_depth[0, 0] + K_depth[0, 2]
    v = (v - K_image[1, 2]) / K_image[1, 1] * K_depth[1, 1] + K_depth[1, 2]
    rows, cols = _finite_box(depth)
    inverse = 1.0 / depth[rows, cols].astype(np.float32)
    map_u = np.repeat((u - cols.start)[None].astype(np.float32), height, axis=0)
    map_v = np.repeat((v - rows.start)[:, None].astype(np.float32), width, axis=1)
    found = cv2.remap(inverse, map_u, map_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    slack = 0.5 + 1e-3  # half a pixel beyond the outermost centres is still the image
    inside_u = (u >= cols.start - slack) & (u <= cols.stop - 1 + slack)
    inside_v = (v >= rows.start - slack) & (v <= rows.stop - 1 + slack)
    inside = inside_v[:, None] & inside_u[None, :]
    with np.errstate(divide="ignore"):
        return np.where(inside & (found > 0), 1.0 / found, np.nan).astype(np.float32)


def _finite_box(depth: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold any finite depth: padding around the image is NaN and must not
    be smeared in."""
    finite = np.isfinite(depth)
    rows, cols = np.nonzero(finite.any(axis=1))[0], np.nonzero(finite.any(axis=0))[0]
    if len(rows) == 0:
        return slice(0, depth.shape[0]), slice(0, depth.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


@dataclass
class Evaluation:
    """Scores per arm and image, and ego-motion errors per arm and clip."""

    scores: dict[str, list[ImageScore]]
    ego: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def table(self) -> dict[str, dict]:
        """Per arm what `results.json` holds: strata, unscaled, scale_std, median_ratio, ego."""
        methods: dict[str, dict] = {}
        for name, scores in self.scores.items():
            ratios = [s.ratio for s in scores]
            methods[name] = {
                **summarise(scores),
                "scale_std": scale_std(scores),
                "median_ratio": float(np.median(ratios)) if ratios else None,
            }
            clips = self.ego.get(name)
            if clips:
                means = {
                    k: float(np.mean([c[k] for c in clips.values()])) for k in ("ate_m", "rpe_deg")
                }
                methods[name]["ego"] = {**means, "clips": len(clips)}
        return methods


def name_clips(recordings: Sequence[Recording]) -> dict[str, Recording]:
    """A name for every recording; a split may name two ranges of one sequence, which are two
    clips."""
    clips: dict[str, Recording] = {}
    for recording in recordings:
        again = 1 + sum(name.split("#")[0] == recording.name for name in clips)
        clips[recording.name if again == 1 else f"{recording.name}#{again}"] = recording
    return clips


def has_truth(recordings: Sequence[Recording]) -> bool:
    """True when any frame has ground-truth depth."""
    return any(r.depth(i) is not None for r in recordings for i in range(len(r)))


def require_truth(recordings: Sequence[Recording]) -> None:
    """ValueError when no frame of the recordings has ground-truth depth."""
    if not has_truth(recordings):
        names = ", ".join(r.name for r in recordings[:4])
        raise ValueError(
            f"{names}: no frame has ground-truth depth (depth/%06d.png), and scores and comparisons"
            " need it; choose recordings with ground truth"
        )


def evaluate(
    recordings: Sequence[Recording],
    arms: Mapping[str, Arm],
    protocol: Protocol,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score every arm on every frame that has ground truth, on the pixels all arms cover.

    advance: called after every frame. Recordings without ground truth are passed over. Raises
    ValueError when no frame has ground-truth depth.
    """
    require_truth(recordings)
    result = Evaluation({name: [] for name in arms})
    for clip, recording in name_clips(recordings).items():
        if not has_truth([recording]):
            continue
        for arm in arms.values():
            arm.start(recording)
        for i in range(len(recording)):
            _evaluate_frame(recording, clip, i, arms, protocol, result)
            advance()
        _evaluate_ego(recording, clip, arms, result)
    if not any(result.scores.values()):
        raise ValueError(
            f"no pixel counts under {protocol.name} ({protocol.says}): its crop or depth range"
            " leaves nothing of this ground truth; use --protocol native"
        )
    return result


def _evaluate_frame(
    recording: Recording,
    clip: str,
    i: int,
    arms: Mapping[str, Arm],
    protocol: Protocol,
    result: Evaluation,
) -> None:
    gt = recording.depth(i)
    size = (recording.calib.height, recording.calib.width) if gt is None else gt.shape
    depths = {name: arm.depth(recording, i, size) for name, arm in arms.items()}
    if gt is None:
        return
    valid = valid_depth(gt, *protocol.depth_range) & protocol.mask(*gt.shape)
    for depth in depths.values():
        valid &= np.isfinite(depth) & (depth > 0)
    strata = strata_of(recording, i, gt)
    stamp = int(recording.stamps_ns[i])
    for name, depth in depths.items():
        score = score_image(
            gt,
            depth,
            valid,
            strata,
            clip=clip,
            index=i,
            stamp_ns=stamp,
            depth_range=protocol.depth_range,
            unscaled=arms[name].metric,
        )
        if score is not None:
            result.scores[name].append(score)


def _evaluate_ego(
    recording: Recording, clip: str, arms: Mapping[str, Arm], result: Evaluation
) -> None:
    poses = [recording.pose(i) for i in range(len(recording))]
    if len(poses) < 2 or any(p is None for p in poses):
        return
    for name, arm in arms.items():
        motions = arm.ego()
        if len(motions) == len(poses) - 1 and all(m is not None for m in motions):
            result.ego.setdefault(name, {})[clip] = ego_errors(motions, poses)
