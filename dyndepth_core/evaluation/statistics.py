"""Is one model better than another, or was it luck: paired intervals that know frames are
correlated."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dyndepth_core.evaluation.metrics import MIN_PIXELS, STRATA, ImageScore, counted

DRAWS = 2000
MIN_CLIPS = 10
BLOCK_SECONDS = 2.0
MIN_BLOCKS = 5  # the bootstrap of fewer pieces is far too sure of itself


@dataclass(frozen=True)
class PairedInterval:
    """exp(mean log(a / b)) over images and its bootstrap 95 % interval; below 1 means a is better.

    images: pairs; blocks: independent pieces that were resampled. low and high are None below two
    blocks.
    """

    ratio: float
    low: float | None
    high: float | None
    images: int
    blocks: int

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `undecided` or, below MIN_BLOCKS, `too few blocks`; for errors, where
        less is better.
        """
        if self.blocks < MIN_BLOCKS:
            return "too few blocks"
        if self.low <= 1.0 <= self.high:
            return "undecided"
        return "better" if self.high < 1.0 else "worse"


def paired_log_ratio(
    a: Sequence[float], b: Sequence[float], blocks: Sequence[Hashable], seed: int = 0
) -> PairedInterval:
    """Compare two errors per image, paired, resampling whole blocks with replacement (cluster
    bootstrap).

    a, b: positive errors (N,) of the same images; blocks: the block every image belongs to.
    Neighbouring frames of a video repeat each other, so single images must not be resampled (Efron
    and Tibshirani 1993, chapter 8). Raises ValueError on unequal lengths, on none, or on errors
    that are not positive.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not len(a) == len(b) == len(blocks) or len(a) == 0:
        raise ValueError(
            f"paired comparison: {len(a)} and {len(b)} errors with {len(blocks)} blocks;"
            " they must be equally many and not none"
        )
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b)) and a.min() > 0 and b.min() > 0):
        raise ValueError(
            "paired comparison: errors must be positive and finite to have a log ratio"
        )
    logs = np.log(a / b)
    names = {name: k for k, name in enumerate(dict.fromkeys(blocks))}
    member = np.array([names[name] for name in blocks])
    sums = np.bincount(member, weights=logs)
    sizes = np.bincount(member)
    ratio = float(np.exp(logs.mean()))
    if len(sums) < 2:
        return PairedInterval(ratio, None, None, len(logs), len(sums))
    drawn = np.random.default_rng(seed).integers(0, len(sums), (DRAWS, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.exp(np.percentile(means, (2.5, 97.5)))
    return PairedInterval(ratio, float(low), float(high), len(logs), len(sums))


def block_ids(
    scores: Iterable[ImageScore], seconds: float = BLOCK_SECONDS
) -> list[tuple[str, int]]:
    """The block of every image: its clip when there are MIN_CLIPS clips or more, else clip and
    time slot."""
    scores = list(scores)
    first: dict[str, int] = {}
    for score in scores:
        first[score.clip] = min(score.stamp_ns, first.get(score.clip, score.stamp_ns))
    if len(first) >= MIN_CLIPS:
        return [(s.clip, 0) for s in scores]
    return [(s.clip, int((s.stamp_ns - first[s.clip]) // int(seconds * 1e9))) for s in scores]


def compare_scores(
    a: Sequence[ImageScore],
    b: Sequence[ImageScore],
    metric: str = "abs_rel",
    min_pixels: int = MIN_PIXELS,
    seed: int = 0,
) -> dict[str, dict]:
    """Paired intervals of one error per stratum: {stratum: {ratio, low, high, images, blocks,
    verdict}}.

    Only images both were scored on count. The same seed and scores give the same interval.
    """
    other = {(s.clip, s.index): s for s in b}
    result: dict[str, dict] = {}
    for stratum in STRATA:
        left = [s for s in counted(a, stratum, min_pixels) if (s.clip, s.index) in other]
        right = [other[s.clip, s.index] for s in left]
        if not left:
            continue
        tiny = np.finfo(np.float64).tiny  # a perfect guess has error 0: keep its logarithm finite
        errors = [[max(s.scaled[stratum][metric], tiny) for s in side] for side in (left, right)]
        interval = paired_log_ratio(errors[0], errors[1], block_ids(left), seed)
        result[stratum] = {**asdict(interval), "verdict": interval.verdict}
    return result


def compare_clips(a: Mapping[str, float], b: Mapping[str, float], seed: int = 0) -> dict | None:
    """Paired interval of one positive number per clip, over the clips both have; None without."""
    clips = [clip for clip in a if clip in b]
    if not clips:
        return None
    tiny = np.finfo(np.float64).tiny
    sides = [[max(side[clip], tiny) for clip in clips] for side in (a, b)]
    interval = paired_log_ratio(*sides, clips, seed)
    return {**asdict(interval), "verdict": interval.verdict}
