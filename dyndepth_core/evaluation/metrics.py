"""The field's depth metrics, per image and per stratum, and their means over images.

Formulas are those every monocular depth paper prints (Eigen et al. 2014, section 4; Monodepth2
2019, section 4): errors are taken after one median ratio per image, means are means over images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "d1", "d2", "d3")
STRATA = ("all", "static", "dynamic", "same_speed", "raised")
MIN_DEPTH = 1e-3
MAX_DEPTH = 80.0
MIN_PIXELS = 100


@dataclass
class ImageScore:
    """What one prediction scored on one image.

    clip: name of the recording; index: frame in it; stamp_ns: its time; ratio: median(gt) /
    median(prediction) over all its valid pixels; pixels: valid pixels per stratum; scaled,
    unscaled: stratum -> metric -> value, after and without the median ratio (strata without pixels
    are absent).
    """

    clip: str
    index: int
    stamp_ns: int
    ratio: float
    pixels: dict[str, int] = field(default_factory=dict)
    scaled: dict[str, dict[str, float]] = field(default_factory=dict)
    unscaled: dict[str, dict[str, float]] = field(default_factory=dict)


def valid_depth(depth: np.ndarray, low: float = MIN_DEPTH, high: float = MAX_DEPTH) -> np.ndarray:
    """Bool mask, same shape, of ground truth that counts: low < z < high metres (0 = none, NaN =
    none)."""
    return (depth > low) & (depth < high)


def depth_errors(gt: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The seven metrics of two equally long lists of positive depths in metres.

    abs_rel mean |g-p|/g; sq_rel mean (g-p)^2/g; rmse and rmse_log root mean squares of g-p and of
    log g - log p; d1, d2, d3 share of pixels with max(g/p, p/g) < 1.25, 1.25^2, 1.25^3 (Eigen
    2014). Raises ValueError when the lists differ in length or are empty.
    """
    if gt.shape != predicted.shape or gt.size == 0:
        raise ValueError(
            f"depth_errors: {gt.shape} and {predicted.shape} must be equal and not empty"
        )
    gt, predicted = gt.astype(np.float64), predicted.astype(np.float64)
    difference = gt - predicted
    worse = np.maximum(gt / predicted, predicted / gt)
    return {
        "abs_rel": float(np.mean(np.abs(difference) / gt)),
        "sq_rel": float(np.mean(difference**2 / gt)),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "rmse_log": float(np.sqrt(np.mean((np.log(gt) - np.log(predicted)) ** 2))),
        **{f"d{k}": float(np.mean(worse < 1.25**k)) for k in (1, 2, 3)},
    }


def median_ratio(gt: np.ndarray, predicted: np.ndarray) -> float:
    """median(gt) / median(predicted): the one factor an image's relative depth is multiplied by."""
    return float(np.median(gt) / np.median(predicted))


def score_image(
    gt: np.ndarray,
    predicted: np.ndarray,
    valid: np.ndarray,
    strata: Mapping[str, np.ndarray],
    *,
    clip: str = "",
    index: int = 0,
    stamp_ns: int = 0,
    depth_range: tuple[float, float] = (MIN_DEPTH, MAX_DEPTH),
    unscaled: bool = False,
) -> ImageScore | None:
    """Score one image: gt, predicted (H, W) metres or scene units, valid and each stratum (H, W)
    bool.

    The median ratio comes from all valid pixels, whatever the stratum; scaled predictions are
    clamped to depth_range as the field does. `all` is added to the strata. None when no pixel is
    valid.
    """
    if not valid.any():
        return None
    truth, guess = gt[valid], predicted[valid]
    score = ImageScore(clip, index, stamp_ns, median_ratio(truth, guess))
    if not np.isfinite(score.ratio):
        return None
    arms = [(score.scaled, np.clip(guess * score.ratio, *depth_range))]
    if unscaled:
        arms.append((score.unscaled, np.clip(guess, *depth_range)))
    for name, mask in {"all": valid, **strata}.items():
        chosen = mask[valid]
        score.pixels[name] = int(chosen.sum())
        if score.pixels[name]:
            for table, depth in arms:
                table[name] = depth_errors(truth[chosen], depth[chosen])
    return score


def counted(
    scores: Iterable[ImageScore], stratum: str, min_pixels: int = MIN_PIXELS
) -> list[ImageScore]:
    """The images that count for a stratum: those with at least min_pixels valid pixels in it."""
    return [s for s in scores if s.pixels.get(stratum, 0) >= min_pixels]


def summarise(
    scores: Sequence[ImageScore], min_pixels: int = MIN_PIXELS
) -> dict[str, dict[str, float]]:
    """Mean over images per stratum: {stratum: {metric..., images, pixels}}; no images, no stratum.

    When the scores carry unscaled figures, `unscaled` holds the same table for them.
    """
    result: dict[str, dict] = {}
    unscaled: dict[str, dict] = {}
    for stratum in STRATA:
        rows = counted(scores, stratum, min_pixels)
        if not rows:
            continue
        count = {"images": len(rows), "pixels": int(sum(r.pixels[stratum] for r in rows))}
        result[stratum] = {m: float(np.mean([r.scaled[stratum][m] for r in rows])) for m in METRICS}
        result[stratum].update(count)
        if all(r.unscaled for r in rows):
            means = {m: float(np.mean([r.unscaled[stratum][m] for r in rows])) for m in METRICS}
            unscaled[stratum] = {**means, **count}
    if unscaled:
        result["unscaled"] = unscaled
    return result


def scale_std_per_clip(scores: Iterable[ImageScore]) -> dict[str, float]:
    """Std of the per-image median ratio over its mean, of every clip with two images or more."""
    clips: dict[str, list[float]] = {}
    for score in scores:
        clips.setdefault(score.clip, []).append(score.ratio)
    return {clip: float(np.std(r) / np.mean(r)) for clip, r in clips.items() if len(r) > 1}


def scale_std(scores: Iterable[ImageScore]) -> float | None:
    """Mean of `scale_std_per_clip`; None without such clips."""
    spread = list(scale_std_per_clip(scores).values())
    return float(np.mean(spread)) if spread else None
