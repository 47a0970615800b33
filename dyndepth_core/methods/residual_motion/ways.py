"""Pairs of images seen both ways: where pixels of one fall in the other, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.camera import resize_K
from dyndepth_core.geometry.warp import correspond
from dyndepth_core.geometry.warp import sample as look_up
from dyndepth_core.losses.motion import translation_cycle
from dyndepth_core.losses.occlusion import agreement, in_front, weighted_contrast_error
from dyndepth_core.losses.parallel import mean_count


@dataclass
class Seen:
    """What b says of a, in the image plane of a: maps (M, C, H, W)."""

    warped: Tensor  # image of b where the pixels of a fall, C = 3
    pixels: Tensor  # where they fall, C = 2
    visible: Tensor  # O, bool: valid and in front of what b sees there
    rgb: Tensor  # O mean_c |warped - a|
    depth_error: Tensor  # O |depth of b - depth of the moved point|
    weight: Tensor  # agreement of the depths, for the structural difference


@dataclass
class Ways:
    """M = 2N ways from image a to image b, (M, 3, H, W) in [0, 1]: the second half are the first
    half backwards.

    depth_a (M, 1, H, W), T_b_a (M, 4, 4), residual (M, 3, H, W) in the frame of b, K (M, 3, 3).
    """

    image_a: Tensor
    image_b: Tensor
    depth_a: Tensor
    T_b_a: Tensor
    residual: Tensor
    K: Tensor

    @staticmethod
    def back(x: Tensor) -> Tensor:
        """What belongs to the opposite ways."""
        return x.roll(len(x) // 2, 0)

    def translation(self) -> Tensor:
        """T = t + residual, (M, 3, H, W)."""
        return self.T_b_a[:, :3, 3, None, None] + self.residual

    def smaller(self, level: int) -> Ways:
        """At 1 / 2^level of the resolution; depth is averaged as inverse depth."""
        factor = 2**level
        a, b, residual = (
            F.avg_pool2d(x, factor) for x in (self.image_a, self.image_b, self.residual)
        )
        depth = 1 / F.avg_pool2d(1 / self.depth_a, factor)
        return Ways(a, b, depth, self.T_b_a, residual, resize_K(self.K, 1 / factor, 1 / factor))

    def compare(self) -> Seen:
        """Warp b into a. The depth of b is looked up without gradient: it is judged on its own way
        (as published).
        """
        found = correspond(self.depth_a, self.T_b_a, self.K, self.residual)
        warped = look_up(self.image_b, found.pixels)
        with torch.no_grad():
            depth_b = look_up(self.back(self.depth_a), found.pixels)
        visible = in_front(found.z_src, depth_b, found.valid)
        shown = visible.to(warped.dtype)
        return Seen(
            warped,
            found.pixels,
            visible,
            shown * (warped - self.image_a).abs().mean(1, keepdim=True),
            shown * (depth_b - found.z_src).abs(),
            agreement(found.z_src, depth_b, visible, found.valid),
        )

    def mean(self, values: Tensor, counts: Tensor) -> Tensor:
        """Mean over all pixels of the ways that count; counts (M, 1, 1, 1) in {0, 1}."""
        share = counts.expand_as(values)
        return (values * share).sum() / mean_count(share)

    def structure(self, seen: Seen) -> Tensor:
        """Structural difference weighted by agreement, (M, 3, H - 2, W - 2)."""
        return weighted_contrast_error(seen.warped, self.image_a, seen.weight)

    def cycle(self, seen: Seen) -> Tensor:
        """Translation of a way and of its opposite, where its pixels fall, must cancel (Li et al.
        2020); where they fall is taken as it is.
        """
        translation = self.translation()
        back = look_up(self.back(translation), seen.pixels.detach())
        R = self.T_b_a[:, :3, :3]
        return translation_cycle(R, translation, back, seen.visible.to(back.dtype))
