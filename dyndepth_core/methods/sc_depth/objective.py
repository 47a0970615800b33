"""Training objective of SC-Depth V1: masked photometric loss, geometry consistency, smoothness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.geometry.se3 import compose
from dyndepth_core.losses.consistency import self_discovered_mask
from dyndepth_core.losses.distillation import silent_pixels
from dyndepth_core.losses.photometric import masked_mean
from dyndepth_core.losses.smoothness import edge_aware_smoothness
from dyndepth_core.methods.base import LossTerms, Predictions
from dyndepth_core.methods.depth_pose import DepthPoseConfig, DepthPoseObjective
from dyndepth_core.methods.pairs import Comparison, Pairs
from dyndepth_core.methods.sc_depth.graph import SCDepthGraph
from dyndepth_core.methods.sc_depth.rectify import (
    Rectified,
    RectifyNet,
    draw_rotations,
    rectify,
    rotation_losses,
)

IMAGE_STD, PAPER_WIDTH = 0.225, 832


class SCDepthConfig(DepthPoseConfig):
    """Loss of the sc_depth method."""

    # With the paper's weights depth stays a guess by rows, consistent and blind, for the first
    # thousands of steps; its 200,000 steps outgrow that.
    geometry: float = Field(
        0.2, ge=0,
        description="weight of the geometry consistency loss where sources lend (paper: 0.5, in "
        "every step)",
    )  # fmt: skip
    smoothness: float = Field(
        0.005, ge=0, description="weight of edge-aware smoothness of the depth (paper: 0.1)"
    )
    both_ways: bool = Field(
        False,
        description="also judge and learn the depth of every source in every step (paper), which "
        "costs twice",
    )
    lending: float = Field(
        0.5, gt=0, le=1,
        description="share of the steps, drawn, in which sources lend their depth, which costs a "
        "sixth of such a step (paper: 1)",
    )  # fmt: skip
    lenders: Literal["one", "all"] = Field(
        "one",
        description="sources that lend in such a step: one, drawn, which costs half; all (paper)",
    )
    consistent_from: float = Field(
        0.5, ge=0, lt=1,
        description="fraction of the training from which sources lend their depth (paper: 0); "
        "before, depth is a guess",
    )  # fmt: skip
    mean_over: Literal["all", "valid"] = Field(
        "all",
        description="pixels that losses are averaged over, those left out counting 0: all, so that "
        "a pixel weighs the same in every batch; valid (paper), which weighs what moves by itself "
        "several times where little else is valid: near standing cameras",
    )
    # Where depth is still wrong the two disagree as well, and it would learn more slowly there.
    self_discovered: bool = Field(
        False,
        description="weight the photometric error down where the two depths disagree (paper: yes), "
        "for trainings of far more than thousands of steps",
    )
    rectify: bool = Field(
        False, description="take the rotation out of each pair first: for hand-held video (V2)"
    )

    @classmethod
    def going_on(cls) -> dict[str, Any]:
        """See StartConfig; depth is no guess any more."""
        return {**super().going_on(), "consistent_from": 0.0}


@dataclass
class SCPredictions(Predictions):
    """With the disps of the sources, (B, S, 1, H, W), each in its own image plane, None: not asked
    for, which only a training does; rectified: those image planes are turned to the orientation of
    tgt. lender: the only source that was asked for its depth, whose disp then stands for all; None:
    each has its own.
    """

    src_disps: Tensor | None
    lender: int | None = None
    rectified: Rectified | None = None


class SCDepthObjective(DepthPoseObjective):
    """L = L_P + w_G L_G + w_S L_S in the image plane of tgt, where each pixel is judged by the
    source that explains it best.

    D_diff = |z' - D_b^| / (z' + D_b^): z' the depth of a's points in b, D_b^ b's own depth there.
    L_G = sum(V D_diff) / sum(V);  L_P = sum(V M_s e) / sum(V), M_s = 1 - D_diff (no gradient) if
    `self_discovered`, else 1, e the photometric error of b warped into a; V: inside the image, in
    front of the camera, and better explained by the warp than by any source itself (automask).
    L_S: edge-aware smoothness of the depth (Bian et al. 2019, 2021). Both are divided by the number
    of all pixels instead of sum(V) unless `mean_over` is valid.

    Sources lend their depth without gradient, each is a tgt in its turn, from `consistent_from` on
    in a drawn part of the steps (`lending`); in the others D_diff is 0. One of them does so in such
    a step, drawn for the whole batch (`lenders`); its D_diff, 0 where it does not see the pixel, is
    that of the pixel, whichever source explains it best. `both_ways` adds the pairs (src, tgt) of
    the paper, each in the image plane of its own src: one reference code takes the minimum over
    maps of different planes. The motion of the way back is the inverse, so that a pair has one
    motion. The start (`pose_first`, `pyramid`) is that of monodepth.
    `rectify`: see rectify.py.
    """

    graph_class = SCDepthGraph

    def __init__(self, config: Any, videos: list[str], canonical_focal: float) -> None:
        super().__init__(config, videos, canonical_focal)
        network = config.network
        self.rectify_net = None
        if self.config.rectify:
            if config.data.intrinsics == "pair":
                raise ValueError(
                    "objective.rectify turns images before the network that would learn intrinsics "
                    "per pair sees them: use data.intrinsics given or video"
                )
            self.rectify_net = RectifyNet(network.pose_encoder, network.width)
            self.lr_factors["rectify_net"] = self.config.pose_lr_factor
            if network.pretrained:
                self.rectify_net.net.encoder.load_imagenet(network.weights)

    def architecture(self) -> dict[str, Any]:
        """See DepthPoseObjective."""
        return {**super().architecture(), "rectify": self.config.rectify}

    def predict(self, sample: Sample, progress: float = 1.0) -> SCPredictions:
        """Depth of tgt and of the sources that lend theirs, motions, intrinsics. Whether and which
        source lends is drawn from torch's random numbers, which a training seeds for each step.
        """
        shape = batch, sources = sample.dt.shape
        rectified = lender = None
        if self.rectify_net is not None:
            rectified = rectify(self.rectify_net, *self._flat(sample))
            sample = replace(sample, src_net=rectified.src_net.unflatten(0, shape))
        if self.config.both_ways:
            src_net = sample.src_net.flatten(0, 1)
            images = torch.cat((sample.tgt_net, src_net))
            tgt_disp, src_disp = self.disps(images, progress)[0].split((batch, len(src_net)))
        else:
            tgt_disp = self.disps(sample.tgt_net, progress)[0]
            src_disp, lender = self._lent(sample, progress)
        T_src_tgt, K, scale = self.motions(sample)
        if rectified is not None:
            T_src_tgt = compose(rectified.T_src_rect.unflatten(0, shape), T_src_tgt)
        src_disps = None if src_disp is None else src_disp.unflatten(0, shape)
        return SCPredictions({0: tgt_disp}, T_src_tgt, K, scale, src_disps, lender, rectified)

    @torch.no_grad()
    def _lent(self, sample: Sample, progress: float) -> tuple[Tensor | None, int | None]:
        """Disps (B * S, 1, H, W) that sources lend, None where none does, and the only lender."""
        if not self.training or progress < self.config.consistent_from:
            return None, None
        asked, which = torch.rand(2).tolist()  # in every process the same
        if asked >= self.config.lending:
            return None, None
        if self.config.lenders == "all":
            return self.disps(sample.src_net.flatten(0, 1), progress)[0], None
        sources = sample.dt.shape[1]
        lender = int(which * sources)
        lent = self.disps(sample.src_net[:, lender], progress)[0]
        return lent.repeat_interleave(sources, 0), lender

    def _flat(self, sample: Sample) -> tuple[Tensor, ...]:
        """tgt, src, src_net, K and whether src is the earlier one, of every pair (N = B S, ...)."""
        sources = sample.dt.shape[1]
        tgt, K = (x.repeat_interleave(sources, 0) for x in (sample.tgt_net, self.cameras(sample)))
        past = (sample.dt < 0).flatten()
        return tgt, sample.src.flatten(0, 1), sample.src_net.flatten(0, 1), K.float(), past

    def losses(
        self, sample: Sample, predictions: SCPredictions, progress: float = 1.0
    ) -> LossTerms:
        """See the class; in float32 also under autocast."""
        config = self.config
        with torch.autocast(sample.tgt.device.type, enabled=False):
            pairs = self._pairs(sample, predictions)
            found = self._compare(pairs, sample, predictions.lender)
            weight = self_discovered_mask(found.inconsistency) if config.self_discovered else 1.0
            depth = self.depth(predictions.disps[0], predictions.depth_scale)
            turned = predictions.rectified
            terms = {
                "photometric": self._mean(weight * found.error, found.valid),
                "geometry": config.geometry * self._mean(found.inconsistency, found.valid),
                "smoothness": config.smoothness * self._smoothness(depth, sample.tgt),
            }
            if turned is not None:
                tgt, _, src, K, past = self._flat(sample)
                sources = sample.dt.shape[1]
                numbers = sample.index[:, None] * sources + torch.arange(sources).to(sample.index)
                drawn = draw_rotations(numbers.flatten())
                terms |= rotation_losses(self.rectify_net, tgt, src, turned, K, past, drawn)
            coarse = config.pyramid_weight(progress)
            if coarse > 0:
                smaller = [pairs.smaller(level) for level in range(1, config.pyramid)]
                judged = (self._compare(p, sample) for p in smaller)
                errors = [self._mean(found.error, found.valid) for found in judged]
                terms["pyramid"] = coarse * torch.stack(errors).mean()
            if self.keeps:
                silent = silent_pixels(found.error, found.identity, found.valid)[: len(depth)]
                terms |= self.kept_terms(sample, depth, silent)
            terms |= self.metric_terms(sample, predictions)
        maps = {
            "depth": depth, "error": found.error, "automask": found.valid, "warped": found.warped,
            "consistency": self_discovered_mask(found.inconsistency),
        }  # fmt: skip
        maps = {name: values[: len(depth)] for name, values in maps.items()}
        return LossTerms(sum(terms.values()), terms, {k: m.detach() for k, m in maps.items()})

    def _mean(self, values: Tensor, valid: Tensor) -> Tensor:
        if self.config.mean_over == "valid":
            return masked_mean(values, valid)
        return (values * valid).mean()

    def _compare(self, pairs: Pairs, sample: Sample, lender: int | None = None) -> Comparison:
        found = pairs.compare(self.config.ssim_weight)
        if lender is not None:
            found = found.consistent_with(lender, *sample.dt.shape)
        found = found.least(*sample.dt.shape)
        return found.automask(self.training) if self.config.automask else found

    def _smoothness(self, depth: Tensor, image: Tensor) -> Tensor:
        """Of depth over its mean, per pixel of the paper's 832 columns, with edges in units of the
        standard deviation: the paper's weight then fits other sizes and images in [0, 1], too.
        """
        return edge_aware_smoothness(depth, image / IMAGE_STD) * (depth.shape[-1] / PAPER_WIDTH)

    def _pairs(self, sample: Sample, predictions: SCPredictions) -> Pairs:
        batch, sources = sample.dt.shape

        def repeat(x: Tensor) -> Tensor:  # (B, ...) -> (B * S, ...)
            return x.repeat_interleave(sources, 0)

        scale = predictions.depth_scale
        src = sample.src.flatten(0, 1)
        T = predictions.T_src_tgt.flatten(0, 1).float()
        seen = None
        if (turned := predictions.rectified) is not None:
            src, T, seen = turned.src, turned.T_src_rect.mT @ T, turned.seen
        tgt_depth = repeat(self.depth(predictions.disps[0], scale))
        src_depth = predictions.src_disps
        if src_depth is not None:
            src_depth = self.depth(src_depth.flatten(0, 1), repeat(scale))
        K = repeat(predictions.K.float())
        pairs = Pairs(sample.tgt, src, tgt_depth, src_depth, T, K, None, seen)
        return pairs.both_ways() if self.config.both_ways else pairs

    @torch.no_grad()
    def validation(self, sample: Sample) -> Tensor:
        """The score of monodepth, mean_px min over sources of warp and source: cannot be lowered by
        masking pixels. Consistency is not asked for: the depths of all sources cost more than half
        as much again, and depth that is right is consistent.
        """
        predictions = self.with_refined_motion(sample, self.predict(sample))
        with torch.autocast(sample.tgt.device.type, enabled=False):
            pairs = self._pairs(sample, predictions)
            found = pairs.compare(self.config.ssim_weight).least(*sample.dt.shape)
            return torch.minimum(found.error, found.identity)[: len(sample.dt)].mean()
