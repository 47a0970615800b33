"""Run models and baselines over recordings and score them on the very same pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol as Interface

import numpy as np

from dyndepth_core.data.recording import Recording
from dyndepth_core.evaluation.baselines import PlanePrior, RowPrior
from dyndepth_core.evaluation.ego import chain, ego_errors, track
from dyndepth_core.evaluation.metrics import (
    ImageScore,
    scale_std,
    score_image,
    summarise,
    valid_depth,
)
from dyndepth_core.evaluation.motion import MotionErrors
from dyndepth_core.evaluation.protocols import Protocol
from dyndepth_core.evaluation.resample import resample_inverse, resample_nearest
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

    def moving(self) -> tuple[np.ndarray, np.ndarray] | None:
        """What moves in the frame `depth` was last asked for, at that size: bool (H, W), and
        velocities (H, W, 3) in units of that depth per second; None where the arm does not say.
        """


class ModelArm:
    """A trained model, through the same Predictor that runs on the vehicle."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.metric = predictor.meta.scale.state == "metric"
        self._motions: list[np.ndarray | None] = []
        self._moving: tuple[np.ndarray, np.ndarray] | None = None

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
        # Motion costs a network: only where it is judged.
        judged = recording.pose(i) is not None or recording.velocity(i) is not None
        found = self.predictor(image, K, int(recording.stamps_ns[i]), motion=judged)
        self._motions.append(None if found.T_src_tgt is None else np.asarray(found.T_src_tgt))
        self._moving = None
        if (motion := found.motion) is not None:
            both = np.dstack((motion.mask.astype(np.float32), motion.velocity))
            both = resample_nearest(both, found.K, K, image.shape[:2], size)
            self._moving = both[..., 0] > 0.5, both[..., 1:]
        return resample_inverse(found.depth, found.K, K, image.shape[:2], size)

    def moving(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mask (H, W) and velocity (H, W, 3) as users get them; None where the model has none."""
        return self._moving

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

    def moving(self) -> None:
        """Nor that of others."""
        return None


@dataclass
class Evaluation:
    """Scores per arm and image, ego-motion errors and positions (N, 3) per arm and clip."""

    scores: dict[str, list[ImageScore]]
    ego: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    motion: dict[str, MotionErrors] = field(default_factory=dict)
    tracks: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def table(self) -> dict[str, dict]:
        """Per arm what `results.json` holds: strata, unscaled, scale_std, median_ratio, ego,
        motion."""
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
            if name in self.motion:
                methods[name]["motion"] = self.motion[name].table()
        return methods


def name_clips(recordings: Sequence[Recording]) -> dict[str, Recording]:
    """A name for every recording; a split may name two ranges of one sequence, which are two
    clips."""
    clips: dict[str, Recording] = {}
    for recording in recordings:
        again = 1 + sum(name.split("#")[0] == recording.name for name in clips)
        clips[recording.name if again == 1 else f"{recording.name}#{again}"] = recording
    return clips


def true_track(recording: Recording) -> np.ndarray:
    """True positions (N, 3) of a recording with poses, from its first frame."""
    return track([recording.pose(i) for i in range(len(recording))])


def has_truth(recordings: Sequence[Recording]) -> bool:
    """True when any frame has ground-truth depth."""
    return any(r.depth(i) is not None for r in recordings for i in range(len(r)))


def require_truth(recordings: Sequence[Recording]) -> None:
    """ValueError when no frame of the recordings has ground-truth depth."""
    if not has_truth(recordings):
        names = ", ".join(r.name for r in recordings[:4])
        raise ValueError(
            f"{names}: no frame has ground-truth depth (depth/%06d.png), and scores and comparisons"
            " need it; choose recordings with ground truth, or compare two models without it: "
            "--model A --compare B"
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
        if score is None:
            continue
        result.scores[name].append(score)
        moving = arms[name].moving()
        if moving is not None and i > 0:
            factor = 1.0 if arms[name].metric else score.ratio
            seconds = (stamp - int(recording.stamps_ns[i - 1])) / 1e9
            found, velocity = moving
            _evaluate_motion(
                result.motion.setdefault(name, MotionErrors()),
                recording, i, gt, valid, found, factor * velocity, seconds,
            )  # fmt: skip


def _evaluate_motion(
    errors: MotionErrors,
    recording: Recording,
    i: int,
    gt: np.ndarray,
    valid: np.ndarray,
    found: np.ndarray,
    velocity: np.ndarray,
    seconds: float,
) -> None:
    """Nothing where the recording does not know what moves."""
    dynamic, true = recording.dynamic(i), recording.velocity(i)
    if dynamic is not None and true is not None:
        ids = recording.instances(i)
        errors.add(found, velocity, dynamic, true, gt, valid, ids, seconds)


def _evaluate_ego(
    recording: Recording, clip: str, arms: Mapping[str, Arm], result: Evaluation
) -> None:
    poses = [recording.pose(i) for i in range(len(recording))]
    if len(poses) < 2 or any(p is None for p in poses):
        return
    for name, arm in arms.items():
        motions = arm.ego()
        if len(motions) == len(poses) - 1 and all(m is not None for m in motions):
            errors = ego_errors(motions, poses)
            result.ego.setdefault(name, {})[clip] = errors
            positions = errors["scale"] * chain(motions)[:, :3, 3]
            result.tracks.setdefault(name, {})[clip] = positions
