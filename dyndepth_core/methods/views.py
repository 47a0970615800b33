"""A sample as min-reprojection losses see it: sources beside tgt at one resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.geometry.camera import resize_K
from dyndepth_core.geometry.warp import inverse_warp
from dyndepth_core.geometry.warp import sample as look_up
from dyndepth_core.losses.photometric import (
    ImageStats,
    image_stats,
    min_reprojection,
    photometric_error,
    tie_break,
)


@dataclass
class Reprojection:
    """Sources warped to tgt: warped (B, S, 3, h, w), errors (B, S, h, w), depth (B, 1, h, w) it was
    done with; seen (B, S, h, w) bool: where the sources may be believed, None: everywhere.
    """

    warped: Tensor
    errors: Tensor
    depth: Tensor
    seen: Tensor | None = None

    def least(self, more: Tensor | None = None, unseen: float = 0.0) -> Tensor:
        """Minimum error (B, 1, h, w) over the sources that may be believed and over further
        candidates (B, N, h, w); `unseen` where there is none.
        """
        errors = self.errors
        if self.seen is not None:
            errors = errors.masked_fill(~self.seen, torch.inf)
        if more is not None:
            errors = torch.cat((errors, more), 1)
        least = min_reprojection(errors)
        return least if self.seen is None else least.masked_fill(least == torch.inf, unseen)


@dataclass
class View:
    """A sample at one resolution: sources, statistics of tgt (computed once) and the error of not
    warping at all.
    """

    src: Tensor  # (B * S, 3, h, w)
    target: ImageStats  # of tgt, repeated for each source
    identity: Tensor  # (B, 1, h, w)
    K: Tensor  # (B * S, 3, 3) at this resolution
    level: int = 0
    valid: Tensor | None = None  # (B * S, 1, h, w) bool: pixels of src to believe; None: all

    @classmethod
    def of(cls, sample: Sample, K: Tensor, level: int, ssim_weight: float, noise: bool) -> View:
        """The sample at 1 / 2^level of its resolution."""
        sources = sample.src.shape[1]
        src, tgt = sample.src.flatten(0, 1), sample.tgt
        if level:
            src, tgt = F.avg_pool2d(src, 2**level), F.avg_pool2d(tgt, 2**level)
        target = image_stats(tgt).repeat(sources)
        with torch.no_grad():
            errors = photometric_error(src, target, ssim_weight)
            identity = min_reprojection(errors.unflatten(0, (-1, sources)).squeeze(2))
            if noise:
                identity = identity + tie_break(identity)
        K = resize_K(K.float(), 0.5**level, 0.5**level).repeat_interleave(sources, 0)
        return cls(src, target, identity, K, level)

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
        found = self.warp(depth, T_src_tgt, ssim_weight, residual)
        return found.least(), found.warped[:, -1]

    def warp(
        self,
        depth: Tensor,
        T_src_tgt: Tensor,
        ssim_weight: float,
        residual: Tensor | None = None,
    ) -> Reprojection:
        """tgt as every source shows it, arguments as those of `reproject`."""
        sources = T_src_tgt.shape[1]
        each, T = depth.repeat_interleave(sources, 0), T_src_tgt.flatten(0, 1).float()
        warped, where = inverse_warp(self.src, each, T, self.K, residual)
        errors = photometric_error(warped, self.target, ssim_weight)
        shape = (-1, sources)
        seen = None
        if self.valid is not None:
            seen = look_up(self.valid.to(each.dtype), where.pixels.detach()) > 0.999
            seen = seen.unflatten(0, shape).squeeze(2)
        return Reprojection(
            warped.unflatten(0, shape), errors.unflatten(0, shape).squeeze(2), depth, seen
        )
