"""Which of two models sees better, told without ground truth.

Four measures of every model on frames that none was trained on:

- triangulated: mean |s d - z| / z, at most 1, over points z that the video itself gives
  (triangulation.py), s the median of z / d in the frame; both models are held against the same
  points;
- photometric: min reprojection of the frames before and after by the model's own depth and
  ego-motion (Godard et al. 2019), on pixels that both models see in a neighbour and where at least
  one of them does better than no warp;
- temporal: mean |log(z' / d')| between depth carried from a frame to the one before and the depth
  predicted there (the inconsistency of Bian et al. 2019), on pixels both carry over;
- scale: standard deviation of the logarithm of metres per unit over a block, metres from odometry.

The rule: `triangulated` decides, where its interval excludes a tie; only where too few blocks have
such points (the camera hardly moves, or nothing can be followed) `photometric` does in its place,
which an ego-motion that fits a wrong depth can earn. The other two never decide: a model that sees
the same flat world in every frame is perfectly steady. All four are shown. Points that move by
themselves are no part of `triangulated`: of two models that differ in these alone it tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from dyndepth_core.data.transforms import image_tensor
from dyndepth_core.evaluation.blocks import Block
from dyndepth_core.evaluation.metrics import ImageScore, score_image, valid_depth
from dyndepth_core.evaluation.resample import resample_inverse
from dyndepth_core.evaluation.statistics import MIN_BLOCKS, block_ids, paired_log_ratio
from dyndepth_core.evaluation.triangulation import Triangulation
from dyndepth_core.geometry.camera import resize_K
from dyndepth_core.geometry.warp import inverse_warp, sample
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.losses.photometric import image_stats, photometric_error

MEASURES = ("triangulated", "photometric", "temporal", "scale")
DECIDE = ("triangulated", "photometric")  # the first with enough blocks
WIDTH = 416  # pixels, at most, of the images that are warped
MIN_PIXELS = 100
EVERY = 5  # frames from one triangulated to the next, about
WORST = 1.0  # largest relative error and log ratio that counts: a few wild pixels are no measure
TINY = 1e-6
MIN_STEP = 0.05  # metres between frames, below which odometry tells no scale


@dataclass(frozen=True)
class Place:
    """Where a value was measured, as statistics.block_ids asks for it."""

    clip: str
    index: int
    stamp_ns: int


Rows = dict[str, list[tuple[Place, float, float]]]  # per measure: place, first model, second model


@dataclass
class Seen:
    """What one model says of a block: depth (N, H, W) at the common size, NaN where nothing;
    motions T (4, 4) from each frame to the one before; photometric and temporal maps (N - 2, H, W)
    of the inner frames, NaN where the model sees no neighbour.
    """

    depth: np.ndarray
    motions: list[np.ndarray | None]
    photometric: np.ndarray
    temporal: np.ndarray
    scores: dict[int, ImageScore] = field(default_factory=dict)

    def depth_at(self, scale: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
        """Depth at pixels of the stored image; scale (2,): common size over stored size."""

        def at(i: int, pixels: np.ndarray) -> np.ndarray:
            x, y = ((pixels + 0.5) * scale - 0.5).astype(np.float32).T
            return cv2.remap(self.depth[i], x[None], y[None], cv2.INTER_LINEAR)[0]

        return at

    def motion_to(self, i: int, j: int) -> np.ndarray | None:
        """T_j_i, from frame i to frame j."""
        chain = [self.motions[k] for k in range(min(i, j) + 1, max(i, j) + 1)]
        if any(T is None for T in chain):
            return None
        product = np.linalg.multi_dot([np.eye(4), np.eye(4), *chain])
        return product if j <= i else np.linalg.inv(product)


def judge_block(block: Block, models: Mapping[str, Predictor]) -> tuple[dict, dict]:
    """({(first, second): Rows} of every pair of the models, {name: ImageScores} against the ground
    truth, where there is any). Raises ValueError where the recording has no intrinsics.
    """
    read, K = block.reader()
    if K is None:
        raise ValueError(
            f"{block.recording.path}: intrinsics unknown, and without them nothing can be warped; "
            "add fx, fy, cx, cy to calib.json (a training with --intrinsics video reports them)"
        )
    images = [read(n) for n in range(len(block.frames))]
    stored = images[0].shape[:2]
    width = min(WIDTH, stored[1])
    size = (round(stored[0] * width / stored[1]), width)
    scale = np.array((size[1] / stored[1], size[0] / stored[0]))
    small = [cv2.resize(i, size[::-1], interpolation=cv2.INTER_AREA) for i in images]
    tensors = [image_tensor(i) for i in small]
    stats = [image_stats(t) for t in tensors]
    K_small = torch.from_numpy(resize_K(K, *scale))[None].float()
    unmoved = np.stack([
        np.minimum(*(photometric_error(stats[s], stats[n])[0, 0].numpy() for s in (n - 1, n + 1)))
        for n in range(1, len(images) - 1)
    ])  # fmt: skip
    found = {
        name: _look(block, images, K, predictor, tensors, stats, K_small)
        for name, predictor in models.items()
    }
    points = Triangulation(read, block.stamps_ns, K, max(1, len(images) // EVERY))
    at = {name: seen.depth_at(scale) for name, seen in found.items()}
    for name, seen in found.items():
        points.offer(name, at[name], seen.motion_to)
    names, pairs = list(found), {}
    for k, a in enumerate(names):
        for b in names[k + 1 :]:
            rows = pairs[a, b] = {measure: [] for measure in MEASURES}
            _by_maps(block, found[a], found[b], unmoved, rows)
            _by_points(block, points.yardsticks([a, b]), at[a], at[b], rows)
            _by_odometry(block, found[a], found[b], rows)
    return pairs, {name: list(seen.scores.values()) for name, seen in found.items()}


def _look(
    block: Block,
    images: Sequence[np.ndarray],
    K: np.ndarray,
    predictor: Predictor,
    tensors: Sequence[Tensor],
    stats: Sequence,
    K_small: Tensor,
) -> Seen:
    predictor.reset()
    size, depths, motions, scores = tuple(tensors[0].shape[-2:]), [], [], {}
    for n, (image, stamp) in enumerate(zip(images, block.stamps_ns, strict=True)):
        said = predictor(image, K, int(stamp), motion=True)
        depths.append(resample_inverse(said.depth, said.K, K, image.shape[:2], size))
        motions.append(None if said.T_src_tgt is None else np.asarray(said.T_src_tgt, np.float64))
        truth = block.recording.depth(block.frames[n])
        if truth is not None:
            guess = resample_inverse(said.depth, said.K, K, image.shape[:2], truth.shape)
            valid = valid_depth(truth) & np.isfinite(guess) & (guess > 0)
            score = score_image(
                truth, guess, valid, {}, clip=block.name, index=n, stamp_ns=int(stamp)
            )
            if score is not None:
                scores[n] = score
    maps = [_maps(n, depths, motions, tensors, stats, K_small) for n in range(1, len(images) - 1)]
    photometric, temporal = (np.stack(m).astype(np.float16) for m in zip(*maps, strict=True))
    return Seen(np.stack(depths), motions, photometric, temporal, scores)


def _maps(
    n: int,
    depths: Sequence[np.ndarray],
    motions: Sequence[np.ndarray | None],
    tensors: Sequence[Tensor],
    stats: Sequence,
    K: Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    """Photometric and temporal maps (H, W) of frame n, from the frames before and after it."""
    nothing = np.full(depths[n].shape, np.nan, np.float32)
    if motions[n] is None or motions[n + 1] is None:
        return nothing, nothing
    depth = torch.from_numpy(depths[n])[None, None]
    errors = []
    for s, T in ((n + 1, np.linalg.inv(motions[n + 1])), (n - 1, motions[n])):
        warped, found = inverse_warp(
            tensors[s], depth.nan_to_num(1.0), torch.from_numpy(T)[None].float(), K
        )
        there = found.valid & depth.isfinite()
        error = photometric_error(warped, stats[n])
        errors.append(torch.where(there, error, torch.inf))
    said = sample(torch.from_numpy(depths[n - 1])[None, None], found.pixels)
    change = torch.where(there, (found.z_src / said).log().abs(), torch.nan)
    best = torch.minimum(*errors)
    best = torch.where(best.isfinite(), best, torch.nan)
    return best[0, 0].numpy(), change[0, 0].numpy()


def _by_maps(block: Block, a: Seen, b: Seen, unmoved: np.ndarray, rows: Rows) -> None:
    for m in range(len(unmoved)):
        place = Place(block.name, m + 1, int(block.stamps_ns[m + 1]))
        p, q = (x.photometric[m].astype(np.float32) for x in (a, b))
        counts = np.isfinite(p) & np.isfinite(q) & (np.minimum(p, q) <= unmoved[m])
        if counts.sum() >= MIN_PIXELS:
            rows["photometric"].append((place, *(_mean(x[counts]) for x in (p, q))))
        p, q = (x.temporal[m].astype(np.float32) for x in (a, b))
        counts = np.isfinite(p) & np.isfinite(q)
        if counts.sum() >= MIN_PIXELS:
            rows["temporal"].append((place, *(_mean(x[counts]) for x in (p, q))))


def _mean(values: np.ndarray) -> float:
    return max(float(np.minimum(values, WORST).mean()), TINY)


def _by_points(block: Block, yardsticks: Sequence, at_a, at_b, rows: Rows) -> None:
    for yard in yardsticks:
        depths = [at(yard.frame, yard.pixels) for at in (at_a, at_b)]
        both = np.isfinite(depths).all(0) & (np.array(depths) > 0).all(0)
        if both.sum() < MIN_PIXELS // 10:
            continue
        z = yard.depth[both]
        errors = []
        for d in depths:
            scaled = d[both] * np.median(z / d[both])
            errors.append(_mean(np.abs(scaled - z) / z))
        place = Place(block.name, yard.frame, int(block.stamps_ns[yard.frame]))
        rows["triangulated"].append((place, *errors))


def _by_odometry(block: Block, a: Seen, b: Seen, rows: Rows) -> None:
    """One value of a whole block."""
    metres = _travelled(block)
    spread = []
    for seen in (a, b):
        units = [np.nan if T is None else np.linalg.norm(T[:3, 3]) for T in seen.motions]
        good = (metres > MIN_STEP) & (np.array(units, np.float64) > 0)
        if good.sum() < 3:
            return
        spread.append(max(float(np.std(np.log(metres[good] / np.array(units)[good]))), TINY))
    rows["scale"].append((Place(block.name, 0, int(block.stamps_ns[0])), *spread))


def _travelled(block: Block) -> np.ndarray:
    """(N,) metres from the frame before, by the poses of the odometry, else by its speed; NaN
    unknown.
    """
    said = [block.recording.odometry(i) or {} for i in block.frames]
    position = np.array([[row.get(k, np.nan) for k in ("tx", "ty", "tz")] for row in said])
    speed = np.abs([row.get("speed", np.nan) for row in said])
    by_pose = np.linalg.norm(np.diff(position, axis=0), axis=1)
    by_speed = (speed[1:] + speed[:-1]) / 2 * np.diff(block.stamps_ns) / 1e9
    return np.concatenate(([np.nan], np.where(np.isfinite(by_pose), by_pose, by_speed)))


def verdict(rows: Rows) -> dict:
    """Of one pair: {measures: {name: {ratio, low, high, images, blocks, verdict}}, pick, by,
    leans}.

    pick: first, second or undecided, by the rule of this module; by: the measure that decides, None
    where there are too few blocks; leans: which is ahead, however little, None where neither is.
    """
    measures = {}
    for name in MEASURES:
        if rows[name]:
            places, a, b = zip(*rows[name], strict=True)
            interval = paired_log_ratio(a, b, block_ids(places))
            measures[name] = {**asdict(interval), "verdict": interval.verdict}
    sides = {"better": "first", "worse": "second"}
    deciding = [name for name in DECIDE if name in measures]
    by = next((n for n in deciding if measures[n]["blocks"] >= MIN_BLOCKS), None)
    ahead = measures[by or deciding[0]]["ratio"] if deciding else 1.0
    return {
        "measures": measures,
        "pick": sides.get(measures[by]["verdict"], "undecided") if by else "undecided",
        "by": by,
        "leans": None if ahead == 1 else "first" if ahead < 1 else "second",
    }
