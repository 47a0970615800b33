"""A sample as min-reprojection losses see it: sources beside tgt at one resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.geometry.camera import resize_K
from dyndepth_core.geometry.warp import inverse_warp
from dyndepth_core.losses.photometric import (
    ImageStats,
    image_stats,
    min_reprojection,
    photometric_error,
    tie_break,
)


@dataclass
class View:
    """A sample at one resolution: sources, statistics of tgt (computed once) and the error of not
    warping at all.
    """

    src: Tensor  # (B * S, 3, h, w)
    target: ImageStats  # of tgt, repeated for each source
    identity: Tensor  # (B, 1, h, w)
    K: Tensor  # (B * S, 3, 3) at this resolution

    @classmethod
    def of(cls, sample: Sample, K: Tensor, level: int, ssim_weight: float, noise: bool) -> View:
        """The sample at 1 / 2^level of its resolution."""
        sources = sample.src.shape[1]
        src, tgt = sample.src.flatten(0, 1), sample.tgt
        if level:
            src, tgt = F.avg_pool2d(src, 2**level), F.avg_pool2d(tgt, 2**level)
        stats = image_stats(tgt)
        target = ImageStats(
            *(t.repeat_interleave(sources, 0) for t in (stats.image, stats.mean, stats.square))
        )
        with torch.no_grad():
            errors = photometric_error(src, target, ssim_weight)
            identity = min_reprojection(errors.unflatten(0, (-1, sources)).squeeze(2))
            if noise:
                identity = identity + tie_break(identity)
        K = resize_K(K.float(), 0.5**level, 0.5**level).repeat_interleave(sources, 0)
        return cls(src, target, identity, K)

    def reproject(
        self,
        depth: Tensor,
        T_src_tgt: Tensor,
        ssim_weight: float,
        residual: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Minimum reprojection error (B, 1, h, w) of depth (B, 1, h, w), T_src_tgt (B, S, 4, 4) and
        residual (B * S, 3, h, w), and tgt (B, 3, h, w) as the last source shows it.
        """
        sources = T_src_tgt.shape[1]
        depth, T = depth.repeat_interleave(sources, 0), T_src_tgt.flatten(0, 1).float()
        warped, _ = inverse_warp(self.src, depth, T, self.K, residual)
        errors = photometric_error(warped, self.target, ssim_weight)
        error = min_reprojection(errors.unflatten(0, (-1, sources)).squeeze(2))
        return error, warped.unflatten(0, (-1, sources))[:, -1]
