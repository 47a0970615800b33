"""Pairs of images that look at one scene: how well each explains the other."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.camera import resize_K
from dyndepth_core.geometry.warp import correspond
from dyndepth_core.geometry.warp import sample as look_up
from dyndepth_core.losses.consistency import depth_inconsistency
from dyndepth_core.losses.photometric import (
    image_stats,
    masked_mean,
    photometric_error,
    tie_break,
)


@dataclass
class Comparison:
    """What b says of a, in the image plane of a: maps (N, 1, H, W), warped (N, 3, H, W).

    error, identity: photometric error of the warp and of b itself; inconsistency: D_diff; valid: in
    {0, 1}.
    """

    error: Tensor
    identity: Tensor
    inconsistency: Tensor
    valid: Tensor
    warped: Tensor

    def mean_error(self) -> Tensor:
        """Mean photometric error over the valid pixels."""
        return masked_mean(self.error, self.valid)

    def of_tgt(self, batch: int, sources: int) -> Comparison:
        """That of every tgt with its last source; pairs (tgt, src) come before (src, tgt)."""
        maps = (getattr(self, f.name)[: batch * sources] for f in fields(self))
        return Comparison(*(m.unflatten(0, (batch, sources))[:, -1] for m in maps))


@dataclass
class Pairs:
    """N pairs (a, b) of images (N, 3, H, W) in [0, 1] with their depths (N, 1, H, W), T_b_a
    (N, 4, 4) and K (N, 3, 3) of both. seen (N, 1, H, W) bool: pixels of b that show something; the
    pairs come in both orders, so those of a are the same, half of N further.
    """

    image_a: Tensor
    image_b: Tensor
    depth_a: Tensor
    depth_b: Tensor
    T_b_a: Tensor
    K: Tensor
    seen: Tensor | None = None

    def smaller(self, level: int) -> Pairs:
        """At 1 / 2^level of the resolution; depth is averaged as inverse depth."""
        factor = 2**level
        images = (F.avg_pool2d(x, factor) for x in (self.image_a, self.image_b))
        depths = (1 / F.avg_pool2d(1 / d, factor) for d in (self.depth_a, self.depth_b))
        seen = None
        if self.seen is not None:
            seen = F.avg_pool2d(self.seen.float(), factor) == 1
        return Pairs(*images, *depths, self.T_b_a, resize_K(self.K, 1 / factor, 1 / factor), seen)

    def compare(self, ssim_weight: float, automask: bool, noise: bool) -> Comparison:
        """Warp b into a and compare images and depths; noise breaks ties of the automask."""
        seen = correspond(self.depth_a, self.T_b_a, self.K)
        warped = look_up(self.image_b, seen.pixels)
        target = image_stats(self.image_a)
        error = photometric_error(warped, target, ssim_weight)
        with torch.no_grad():
            identity = photometric_error(self.image_b, target, ssim_weight)
            valid = seen.valid
            if self.seen is not None:
                there = look_up(self.seen.float(), seen.pixels) > 0.999
                valid = valid & there & self.seen.roll(len(self.seen) // 2, 0)
            if automask:
                tie = tie_break(identity) if noise else 0.0
                valid = valid & (error < identity + tie)
        inconsistency = depth_inconsistency(seen.z_src, look_up(self.depth_b, seen.pixels))
        return Comparison(error, identity, inconsistency, valid.to(error.dtype), warped)
