"""Pairs of images that look at one scene: how well each explains the other."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.camera import resize_K
from dyndepth_core.geometry.se3 import invert_T
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

    def consistent_with(self, source: int, batch: int, sources: int) -> Comparison:
        """With the inconsistency to that source alone, for all pairs of a tgt; 0 where it does not
        see the pixel.
        """
        seen = (self.inconsistency * self.valid).unflatten(0, (batch, sources))
        return replace(self, inconsistency=seen[:, source].repeat_interleave(sources, 0))

    def least(self, batch: int, sources: int) -> Comparison:
        """Per pixel of every tgt its source of the least error among those that see it; then come
        the pairs (src, tgt), each alone in its image plane. identity becomes that of the best
        unwarped source.
        """
        if sources == 1:
            return self
        count = batch * sources
        error = self.error.detach().masked_fill(self.valid == 0, torch.inf)
        of_sources = error[:count].unflatten(0, (batch, sources))
        best = of_sources.min(1, keepdim=True).indices  # on a CPU argmin takes 15 times as long

        def choose(maps: Tensor) -> Tensor:
            of_tgt = maps[:count].unflatten(0, (batch, sources))
            index = best.expand(-1, -1, of_tgt.shape[2], -1, -1)
            return torch.cat((of_tgt.gather(1, index)[:, 0], maps[count:]))

        chosen = Comparison(*(choose(getattr(self, f.name)) for f in fields(self)))
        first = self.identity[:count].unflatten(0, (batch, sources)).min(1).values
        chosen.identity = torch.cat((first, self.identity[count:]))
        return chosen

    def automask(self, noise: bool) -> Comparison:
        """Only pixels that the warp explains better than the unwarped source does; noise breaks
        ties.
        """
        tie = tie_break(self.identity) if noise else 0.0
        better = (self.error < self.identity + tie).to(self.valid.dtype)
        return replace(self, valid=self.valid * better)


@dataclass
class Pairs:
    """N pairs (a, b) of images (N, 3, H, W) in [0, 1] with their depths (N, 1, H, W), T_b_a
    (N, 4, 4) and K (N, 3, 3) of both. image_a may have fewer, each that of as many pairs in a row.
    depth_b None: not known, and nothing is inconsistent. seen_a, seen_b (N, 1, H, W) bool: pixels
    that show something; None: all.
    """

    image_a: Tensor
    image_b: Tensor
    depth_a: Tensor
    depth_b: Tensor | None
    T_b_a: Tensor
    K: Tensor
    seen_a: Tensor | None = None
    seen_b: Tensor | None = None

    def both_ways(self) -> Pairs:
        """These, and then each the other way round; the motion back is the inverse, so that a pair
        has one motion.
        """
        image_a = self.image_a.repeat_interleave(len(self.image_b) // len(self.image_a), 0)
        seen = self.seen_a, self.seen_b
        if any(x is not None for x in seen):
            like = next(x for x in seen if x is not None)
            seen_a, seen_b = (torch.ones_like(like) if x is None else x for x in seen)
            seen = torch.cat((seen_a, seen_b)), torch.cat((seen_b, seen_a))
        return Pairs(
            torch.cat((image_a, self.image_b)), torch.cat((self.image_b, image_a)),
            torch.cat((self.depth_a, self.depth_b)), torch.cat((self.depth_b, self.depth_a)),
            torch.cat((self.T_b_a, invert_T(self.T_b_a))), torch.cat((self.K, self.K)), *seen,
        )  # fmt: skip

    def smaller(self, level: int) -> Pairs:
        """At 1 / 2^level of the resolution, for images alone to be compared; depth is averaged as
        inverse depth.
        """
        factor = 2**level
        images = (F.avg_pool2d(x, factor) for x in (self.image_a, self.image_b))
        depth = 1 / F.avg_pool2d(1 / self.depth_a, factor)
        seen = (
            None if x is None else F.avg_pool2d(x.float(), factor) == 1
            for x in (self.seen_a, self.seen_b)
        )
        K = resize_K(self.K, 1 / factor, 1 / factor)
        return Pairs(*images, depth, None, self.T_b_a, K, *seen)

    def compare(self, ssim_weight: float) -> Comparison:
        """Warp b into a and compare images and depths."""
        seen = correspond(self.depth_a, self.T_b_a, self.K)
        warped = look_up(self.image_b, seen.pixels)
        target = image_stats(self.image_a).repeat(len(self.image_b) // len(self.image_a))
        error = photometric_error(warped, target, ssim_weight)
        with torch.no_grad():
            identity = photometric_error(self.image_b, target, ssim_weight)
            valid = seen.valid
            if self.seen_b is not None:
                valid = valid & (look_up(self.seen_b.float(), seen.pixels) > 0.999)
            if self.seen_a is not None:
                valid = valid & self.seen_a
        inconsistency = torch.zeros_like(error)
        if self.depth_b is not None:
            inconsistency = depth_inconsistency(seen.z_src, look_up(self.depth_b, seen.pixels))
        return Comparison(error, identity, inconsistency, valid.to(error.dtype), warped)
