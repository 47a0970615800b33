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

Training = tuple[Hashable, Hashable]  # world, and which of the trainings on it


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
    a: Sequence[float],
    b: Sequence[float],
    blocks: Sequence[Hashable],
    seed: int = 0,
    trainings: Sequence[Training] | None = None,
) -> PairedInterval:
    """Compare two errors per image, paired, resampling whole blocks with replacement (cluster
    bootstrap).

    a, b: positive errors (N,) of the same images; blocks: the block every image belongs to;
    trainings: which of several models made both, None: all one. Neighbouring frames of a video
    repeat each other, so single images must not be resampled (Efron and Tibshirani 1993, chapter
    8). Of the K trainings of a world K - 1 are drawn, beside the blocks: K would make the variance
    of a mean too small by (K - 1) / K (McCarthy and Snowden 1985). A variance from so few is itself
    unsure: the interval is stretched as Student's t is wider than a normal distribution, with K - 1
    degrees of freedom from each world. With one per world the interval leaves out what another
    training would give. Raises ValueError on unequal lengths, on none, or on errors that are not
    positive.
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
    names, member = _numbered(blocks)
    models, model = _numbered([(0, 0)] * len(logs) if trainings is None else trainings)
    sums, sizes = np.zeros((2, len(names), len(models)))
    np.add.at(sums, (member, model), logs)
    np.add.at(sizes, (member, model), 1)
    ratio = float(np.exp(logs.mean()))
    if len(names) < 2:
        return PairedInterval(ratio, None, None, len(logs), len(names))
    random = np.random.default_rng(seed)
    clips = _drawn(random, len(names), len(names))
    count = np.ones((DRAWS, len(models)))
    free = 0
    for world in dict.fromkeys(w for w, _ in models):
        of_world = [k for k, (w, _) in enumerate(models) if w == world]
        if len(of_world) > 1:
            free += len(of_world) - 1
            count[:, of_world] = _drawn(random, len(of_world), len(of_world) - 1)
    total = ((clips @ sizes) * count).sum(1)
    seen = total > 0  # a draw may have missed every clip of the worlds whose models it has
    means = ((clips @ sums) * count).sum(1)[seen] / total[seen]
    ends = np.percentile(means, (2.5, 97.5))
    low, high = np.exp(logs.mean() + _stretch(free) * (ends - logs.mean()))
    return PairedInterval(ratio, float(low), float(high), len(logs), len(names))


def _stretch(free: int) -> float:
    """Student's t over the normal distribution at 97.5 %; 1 without degrees of freedom."""
    if not free:
        return 1.0
    from scipy.stats import norm, t  # half a second, for tables alone

    return float(t.ppf(0.975, free) / norm.ppf(0.975))


def _numbered(names: Sequence[Hashable]) -> tuple[list[Hashable], np.ndarray]:
    """The different names in order of appearance, and which of them each one is."""
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return list(number), np.array([number[name] for name in names])


def _drawn(random: np.random.Generator, of: int, times: int) -> np.ndarray:
    """How often each is among `times` drawn with replacement, (DRAWS, of)."""
    counts = np.zeros((DRAWS, of))
    np.add.at(counts, (np.arange(DRAWS)[:, None], random.integers(0, of, (DRAWS, times))), 1)
    return counts


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
    return compare_trainings({(0, 0): a}, {(0, 0): b}, metric, min_pixels, seed)


def compare_trainings(
    a: Mapping[Training, Sequence[ImageScore]],
    b: Mapping[Training, Sequence[ImageScore]],
    metric: str = "abs_rel",
    min_pixels: int = MIN_PIXELS,
    seed: int = 0,
) -> dict[str, dict]:
    """See compare_scores; of several trainings of both, those of the same name in pairs."""
    tiny = np.finfo(np.float64).tiny  # a perfect guess has error 0: keep its logarithm finite
    result: dict[str, dict] = {}
    for stratum in STRATA:
        left: list[ImageScore] = []
        errors: tuple[list[float], list[float]] = [], []
        trainings: list[Training] = []
        for training in [t for t in a if t in b]:
            other = {(s.clip, s.index): s for s in b[training]}
            for score in counted(a[training], stratum, min_pixels):
                if (score.clip, score.index) in other:
                    pair = score, other[score.clip, score.index]
                    for side, one in zip(errors, pair, strict=True):
                        side.append(max(one.scaled[stratum][metric], tiny))
                    left.append(score)
                    trainings.append(training)
        if left:
            interval = paired_log_ratio(*errors, block_ids(left), seed, trainings)
            result[stratum] = {**asdict(interval), "verdict": interval.verdict}
    return result


def compare_clips(
    a: Mapping[Training, Mapping[str, float]],
    b: Mapping[Training, Mapping[str, float]],
    seed: int = 0,
) -> dict | None:
    """Paired interval of one positive number per clip and training, over those both have; None
    without.
    """
    both = [(t, clip) for t in a if t in b for clip in a[t] if clip in b[t]]
    if not both:
        return None
    tiny = np.finfo(np.float64).tiny
    sides = [[max(side[t][clip], tiny) for t, clip in both] for side in (a, b)]
    interval = paired_log_ratio(*sides, [clip for _, clip in both], seed, [t for t, _ in both])
    return {**asdict(interval), "verdict": interval.verdict}
