"""The network that is handed out: residual_motion, and where there are labels, what they say."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.geometry.road import road_inverse
from dyndepth_core.losses.consistency import depth_inconsistency
from dyndepth_core.losses.parallel import mean_count
from dyndepth_core.methods.base import LossTerms, Predictions
from dyndepth_core.methods.follow import MapSource
from dyndepth_core.methods.mined_supervision.cache import Cache
from dyndepth_core.methods.mined_supervision.config import MinedSupervisionConfig
from dyndepth_core.methods.mined_supervision.cues import sky
from dyndepth_core.methods.mined_supervision.graph import MinedSupervisionGraph
from dyndepth_core.methods.residual_motion.hinted import (
    HintedSample,
    hint_loss,
    hinted_motion,
)
from dyndepth_core.methods.residual_motion.objective import (
    ResidualMotionObjective,
    ResidualPredictions,
)

RESUMES = 0.5  # of the scene's training: where that with labels takes its schedules up
UNIT = 0.1  # weight of the unit of the scene
SKY, BEHIND = 0.1, 0.8  # weight of the sky; quantile of the depths that are known
DRIFT = 0.1  # weight of the motions of labelled objects
PLAIN = 2 / 3  # of the steps with labels: the depth network alone, four times as fast
BESIDE = 12  # pixels around what has a label, where a blurred flow and its shadow seem to move
LEAST_LABELLED = 0.01  # share of a batch's pixels that labels count as at least


@dataclass
class LabelledSample(HintedSample):
    """label (B, 1, H, W): static depth, in units of the scene, with the objects that move at their
    own; weight (B, 1, H, W) in [0, 1]: confidence, above 0 where something moves and has a label;
    drift (B, 1, H, W): its motion over that of the camera, see labels.py, 0 where unknown; sky
    (B, 1, H, W): 1 where nothing is seen but sky, or what is far; beside (B, 1, H, W): 1 around
    what has a label.
    """

    label: Tensor | None = None
    weight: Tensor | None = None
    drift: Tensor | None = None
    sky: Tensor | None = None
    beside: Tensor | None = None


@dataclass
class PlainPredictions(Predictions):
    """depth (B, 1, H, W) of tgt alone."""

    depth: Tensor


class MinedSupervisionObjective(ResidualMotionObjective):
    """L = that of residual_motion + label L_dyn + hints L_still on samples with labels (MSDR,
    section 7).

    L_dyn = mean w |D - s l| / (D + s l) over what moves (label_loss): relative, as the unit of the
    scene is arbitrary. The depth of residual_motion learns nothing where something moves; there the
    labels teach it. Ours beside the paper, whose labels are the scene's own depth where nothing
    moves: there several images say more (mining.py), L_still = mean |log(D / s l)| where they are
    sure (hint_loss), the motions by which the images are explained, what moves at all (`told`) and
    how fast (drift_loss), and that the sky is behind it (sky_loss).
    """

    graph_class = MinedSupervisionGraph
    config: MinedSupervisionConfig

    def __init__(self, config: Any, videos: list[str], canonical_focal: float) -> None:
        n = config.network
        if config.data.intrinsics == "pair":
            raise ValueError(
                "data.intrinsics=pair: mined_supervision needs one camera per video; use given or "
                "video"
            )
        if n.motion_net != "pose" or n.depth_head != "disp":
            raise ValueError(
                "mined_supervision copies the depth and pose networks of the other methods: set "
                "network.motion_net=pose and network.depth_head=disp"
            )
        super().__init__(config, videos, canonical_focal)
        self.partial_gradients = True  # see `predict`
        self.begins = 0.0  # progress of the schedules with which a training begins

    def architecture(self) -> dict[str, Any]:
        """See DepthPoseObjective."""
        return {**super().architecture(), "lateral_only": self.config.lateral_only}

    def predict(
        self, sample: Sample, progress: float = 1.0
    ) -> ResidualPredictions | PlainPredictions:
        """See ResidualMotionObjective; in PLAIN of the steps with labels, those of all processes
        alike, the depth alone, which they teach without the images beside it.
        """
        if self.training and isinstance(sample, LabelledSample) and torch.rand(()) < PLAIN:
            K, scale = self.cameras_and_scales(sample, None)
            disps = self.disps(sample.tgt_net, self._progress(progress))
            return PlainPredictions(disps, sample.motion, K, scale, self.depth(disps[0], scale))
        p = super().predict(sample, self._progress(progress))
        if self.config.lateral_only:
            p.residual = p.residual * p.residual.new_tensor((1.0, 1.0, 0.0)).view(1, 3, 1, 1)
        return p

    def losses(
        self, sample: Sample, predictions: ResidualPredictions | PlainPredictions,
        progress: float = 1.0,
    ) -> LossTerms:  # fmt: skip
        """See the class."""
        if isinstance(predictions, PlainPredictions):
            return self._plain(sample, predictions)
        if isinstance(sample, LabelledSample):
            predictions = told(sample, predictions)
        found = super().losses(sample, predictions, self._progress(progress))
        if not isinstance(sample, LabelledSample):
            return found
        new = {
            "label": self.config.label * self._label(sample, predictions),
            "drift": (0 if self.config.lateral_only else DRIFT) * drift_loss(sample, predictions),
            "unit": UNIT * unit_loss(self._tgt_depth(sample, predictions), sample),
            "sky": SKY * sky_loss(self._tgt_depth(sample, predictions), sample),
        }
        maps = {**found.maps, "weight": sample.weight}
        return LossTerms(found.total + sum(new.values()), {**found.terms, **new}, maps)

    def taught(self, sample: Sample) -> Tensor | None:
        """See ResidualMotionObjective: a label would lose against images that explain a car that
        comes nearer by a wrong depth.
        """
        return sample.weight if isinstance(sample, LabelledSample) else None

    @torch.no_grad()
    def validation(self, sample: Sample) -> Tensor:
        """That of residual_motion, and with labels what they say."""
        score = super().validation(sample)
        if not isinstance(sample, LabelledSample):
            return score
        return score + self.config.label * self._label(sample, self.predict(sample))

    def slow_down(self, factor: float) -> None:
        """Go on from a trained scene: its networks learn `factor` times as fast."""
        names = [name for name, _ in self.named_children()]
        self.lr_factors = {n: factor * self.lr_factors.get(n, 1.0) for n in names}
        self.begins = RESUMES

    def _progress(self, progress: float) -> float:
        return self.begins + (1 - self.begins) * progress

    def _plain(self, sample: LabelledSample, p: PlainPredictions) -> LossTerms:
        with torch.autocast(sample.tgt.device.type, enabled=False):
            depth, config = p.depth.float(), self.config
            terms = {
                "label": config.label * label_loss(depth, sample.label, sample.weight),
                "hints": config.hints * hint_loss(depth, sample.hint, sample.sure),
                "unit": UNIT * unit_loss(depth, sample),
                "sky": SKY * sky_loss(depth, sample),
            }
        maps = {"depth": depth.detach(), "weight": sample.weight}
        return LossTerms(sum(terms.values()), terms, maps)

    def _label(self, sample: LabelledSample, p: ResidualPredictions) -> Tensor:
        with torch.autocast(sample.tgt.device.type, enabled=False):
            return label_loss(self._tgt_depth(sample, p), sample.label, sample.weight)

    @staticmethod
    def _tgt_depth(sample: Sample, p: ResidualPredictions) -> Tensor:
        batch, sources = sample.dt.shape
        return p.depth[: batch * sources : sources].float()


def _count(mask: Tensor) -> Tensor:
    """Pixels in the mask, at least LEAST_LABELLED of all; of all processes, see mean_count."""
    return mean_count(mask.float()).clamp(min=LEAST_LABELLED * mask.numel())


def told(sample: LabelledSample, p: ResidualPredictions) -> ResidualPredictions:
    """What labels say of what moves, and hints of what stands, in place of the optical flow: it
    shows neither what drives ahead at the own speed nor why something seems to move. The sky stands
    however wrong its depth is, and so does what is beside a label: of the pixels that were wrongly
    said to move a third was sky and more than half around what moves (tuning world 14).
    """
    if p.likely is None:
        return p
    sources, size = sample.dt.shape[1], p.likely.shape[-2:]
    beyond = torch.maximum(sample.sky, sample.beside)
    moves, stands = (
        (F.interpolate(m, size, mode="area") > 0.5).repeat_interleave(sources, 0)
        for m in ((sample.weight > 0).float(), torch.maximum(sample.sure, beyond))
    )
    likely = torch.where(moves, 1.0, torch.where(stands, 0.0, p.likely))
    return replace(p, likely=likely, seen=torch.where(moves | stands, 1.0, p.seen))


def label_loss(depth: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """sum w V |D - s l| / (D + s l) / N, N the labelled pixels (V, w > 0) of the batch, at least
    LEAST_LABELLED of it; depth, label, weight w (B, 1, H, W), an image without a label holds zeros.

    Not over sum w V: a label that nobody is sure of, alone in its batch, would teach like a sure
    one, and a few pixels like many.

    s is a robust factor per image, without gradient (section 7 of MSDR): s1 = median D / l, V =
    [min D <= s1 l <= 90th percentile of D], s = median of D / l over V.
    """
    with torch.no_grad():
        known = label > 0
        safe = torch.where(known, label, 1.0)
        ratio = torch.where(known, depth / safe, torch.nan).flatten(1)
        first = ratio.nanmedian(1).values.nan_to_num(1.0).view(-1, 1, 1, 1)
        flat = depth.flatten(1)
        low = flat.min(1).values.view(-1, 1, 1, 1)
        high = flat.quantile(0.9, dim=1).view(-1, 1, 1, 1)
        valid = known & (first * safe >= low) & (first * safe <= high)
        ratio = torch.where(valid.flatten(1), ratio, torch.nan)
        scale = ratio.nanmedian(1).values.nan_to_num(1.0).view(-1, 1, 1, 1)
        wanted, share = scale * safe, weight * valid
    error = depth_inconsistency(depth, wanted)
    return (share * error).sum() / _count(share > 0)


def unit_loss(depth: Tensor, sample: LabelledSample) -> Tensor:
    """Mean over the images of |mean of log(depth / hint) where it is sure|, depth (B, 1, H, W): the
    unit stays that of the scene, which the hints are in. Nothing else holds it in steps without
    images; it went down to a sixth, and what was near to the least depth that the network can say.
    """
    safe = torch.where(sample.sure > 0, sample.hint, 1.0)
    off = ((depth / safe).log() * sample.sure).flatten(1).sum(1)
    return (off / sample.sure.flatten(1).sum(1).clamp(min=1)).abs().mean()


def sky_loss(depth: Tensor, sample: LabelledSample) -> Tensor:
    """Mean of max(log(far / D), 0) over the sky, far the BEHIND quantile of D (B, 1, H, W) of the
    image where the hints are sure: the sky is behind most of what is known. Nothing else says so;
    it came out as near as the cars. N at least LEAST_LABELLED of all pixels.
    """
    with torch.no_grad():
        known = torch.where(sample.sure > 0, depth, torch.nan).flatten(1)
        far = known.nanquantile(BEHIND, dim=1).nan_to_num(1e-9).view(-1, 1, 1, 1)
    return ((far / depth).log().clamp(min=0) * sample.sky).sum() / _count(sample.sky > 0)


def drift_loss(sample: LabelledSample, p: ResidualPredictions) -> Tensor:
    """Mean of |residual - drift t| / |t| over the pixels with a drift and the pairs whose
    translation t the hints know; N at least LEAST_LABELLED of all.
    """
    batch, sources = sample.dt.shape
    with torch.autocast(sample.tgt.device.type, enabled=False):
        T, known = hinted_motion(sample, p.depth[: batch * sources : sources].float())
        t = T[..., :3, 3].flatten(0, 1)[..., None, None]
        drift = sample.drift.repeat_interleave(sources, 0)
        where = (drift != 0) & known.flatten().view(-1, 1, 1, 1)
        off = (p.residual[: batch * sources].float() - drift * t).norm(dim=1, keepdim=True)
        off = off / t.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return (off * where).sum() / _count(where)


def labelled(
    source: SampleSource | None, labels: Sequence[Path], mined: Sequence[Path], part: str
) -> MapSource | None:
    """Samples of a source with what the labels stage and mining made; None without a source."""
    if source is None:
        return None
    maps = functools.partial(_maps, Cache(labels, source, part), Cache(mined, source, part))
    return MapSource(source, LabelledSample, maps)


def _maps(labels: Cache, mined: Cache, target: int) -> dict[str, np.ndarray]:
    label, weight, drift, moves = labels.of(target, "label", "weight", "drift", "moves")
    still, motion, apparent, road, K = mined.of(target, "still", "motion", "apparent", "road", "K")
    above = sky(apparent.astype(np.float32), road_inverse(road, K, still.shape))
    sure = (still > 0) & ~moves
    around = cv2.dilate(weight, np.ones((2 * BESIDE + 1, 2 * BESIDE + 1))) > 0
    maps = {
        "label": label,
        "weight": weight / 255,
        "drift": drift,
        "hint": still,
        "sure": sure,
        "sky": above & (still == 0) & ~moves,  # lorries reach above the horizon
        "beside": around & ~moves,  # others move there, too
    }
    return {name: x.astype(np.float32) for name, x in maps.items()} | {"motion": motion}
