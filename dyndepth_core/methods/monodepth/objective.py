"""Training objective: minimum reprojection with automask, edge-aware smoothness, full-resolution
multi-scale.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.data.settings import Integers
from dyndepth_core.losses.distillation import silent_pixels
from dyndepth_core.losses.photometric import automask
from dyndepth_core.losses.smoothness import edge_aware_smoothness
from dyndepth_core.methods.base import LossTerms, Predictions
from dyndepth_core.methods.depth_pose import DepthPoseConfig, DepthPoseObjective
from dyndepth_core.methods.views import View


class MonodepthConfig(DepthPoseConfig):
    """Loss of the monodepth method."""

    scales: Integers = Field(
        (0,), description="decoder scales the loss looks at; the paper uses 0,1,2,3 (slower)"
    )
    smoothness: float = Field(
        1e-3, ge=0, description="weight of edge-aware smoothness at full resolution"
    )

    @field_validator("scales")
    @classmethod
    def _scales(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        if 0 not in scales or len(set(scales)) != len(scales) or not set(scales) <= set(range(5)):
            raise ValueError(
                f"scales {scales}: give distinct numbers of 0 to 4, 0 among them, e.g. 0 or 0,1,2,3"
            )
        return scales


class MonodepthObjective(DepthPoseObjective):
    """L = mean_s [ mean_px min(pe(warp_-1), pe(warp_+1), pe(src_-1), pe(src_+1)) + w / 2^s smooth_s
    ] (Godard et al. 2019).

    Ours beside the paper: early on the finest disp is also judged on a pyramid of smaller images
    (weight 1, falling to 0 at `pyramid_until`). A 3x3 SSIM feels errors of a pixel or two, but near
    ground is off by five before anything is learned; with small batches and few steps the paper's
    loss stays long on the plateau of a constant depth.

    config: the whole config tree (data, network, objective); videos: names of the recordings, for
    intrinsics per video;
    canonical_focal: f0 in pixels at network size.
    """

    def __init__(self, config: Any, videos: list[str], canonical_focal: float) -> None:
        super().__init__(config, videos, canonical_focal, config.objective.scales)

    def predict(self, sample: Sample, progress: float = 1.0) -> Predictions:
        """Depth of tgt, motion to every source (one forward pass for all pairs), intrinsics."""
        return Predictions(self.disps(sample.tgt_net, progress), *self.motions(sample))

    def losses(self, sample: Sample, predictions: Predictions, progress: float = 1.0) -> LossTerms:
        """See the class. In float32 also under autocast: SSIM's variances and the warp do not
        survive half precision.
        """
        with torch.autocast(sample.tgt.device.type, enabled=False):
            coarse = self.config.pyramid_weight(progress)
            found = self._losses(sample, predictions, self.training, coarse)
            terms = found.terms | self.shared_terms(sample, predictions, found.maps)
            return LossTerms(sum(terms.values()), terms, found.maps)

    def shared_terms(
        self, sample: Sample, predictions: Predictions, maps: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Terms that all methods of depth and pose have; maps: those of the losses."""
        if not self.keeps and self.metric is None:
            return {}
        depth = self.depth(predictions.disps[min(predictions.disps)], predictions.depth_scale)
        kept = self.kept_terms(sample, depth, maps.get("silent"))
        return kept | self.metric_terms(sample, predictions, depth=depth)

    def _losses(
        self,
        sample: Sample,
        predictions: Predictions,
        noise: bool,
        coarse: float = 0.0,
        view: View | None = None,
    ) -> LossTerms:
        """view: the sample at full resolution, where it is there already."""
        if view is None:
            view = View.of(sample, predictions.K, 0, self.config.ssim_weight, noise)
        finest = min(predictions.disps)
        photometric, smoothness, maps = [], [], {}
        for s, disp in sorted(predictions.disps.items()):
            image = sample.tgt if s == 0 else F.avg_pool2d(sample.tgt, 2**s)
            smoothness.append(edge_aware_smoothness(disp, image) / 2**s)
            if s > 0:
                disp = F.interpolate(
                    disp, view.src.shape[-2:], mode="bilinear", align_corners=False
                )
            error, depth, warped = self._score(view, disp, predictions)
            photometric.append(self._explained(error, view))
            if s == finest:
                better = automask(error, view.identity)
                maps = {
                    "depth": depth.detach(), "error": error.detach(), "automask": better,
                    "warped": warped.detach(),
                }  # fmt: skip
                if self.keeps:  # sums over all processes
                    maps["silent"] = silent_pixels(error, view.identity, better)
        terms = {
            "photometric": torch.stack(photometric).mean(),
            "smoothness": self.config.smoothness * torch.stack(smoothness).mean(),
        }
        if coarse > 0:
            levels = []
            for level in range(1, self.config.pyramid):
                view = View.of(sample, predictions.K, level, self.config.ssim_weight, noise)
                error, *_ = self._score(
                    view, F.avg_pool2d(predictions.disps[finest], 2**level), predictions
                )
                levels.append(self._explained(error, view))
            terms["pyramid"] = coarse * torch.stack(levels).mean()
        return LossTerms(sum(terms.values()), terms, maps)

    def _score(
        self, view: View, disp: Tensor, predictions: Predictions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Minimum reprojection error and depth (B, 1, h, w) of disp at the view's size, and the
        last source's warp.
        """
        depth = self.depth(disp, predictions.depth_scale)
        error, warped = view.reproject(depth, predictions.T_src_tgt, self.config.ssim_weight)
        return error, depth, warped

    def _explained(self, error: Tensor, view: View) -> Tensor:
        """Mean over pixels of min(warps, sources): where a source itself wins, the minimum has no
        gradient (automask).
        """
        return (torch.minimum(error, view.identity) if self.config.automask else error).mean()

    @torch.no_grad()
    def validation(self, sample: Sample) -> Tensor:
        """mean_px min(pe(warps), pe(sources)): falls with better depth and motion and cannot be
        lowered by masking pixels.
        """
        predictions = self.with_refined_motion(sample, self.predict(sample))
        finest = min(predictions.disps)
        predictions.disps = {finest: predictions.disps[finest]}
        with torch.autocast(sample.tgt.device.type, enabled=False):
            return self._losses(sample, predictions, noise=False).terms["photometric"]
