"""Motion network: two images, with or without their depths -> ego-motion and a dense residual
translation field (Li et al., CoRL 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyndepth_core.geometry.alignment import refine_motion
from dyndepth_core.geometry.optical_flow import flow_beside
from dyndepth_core.geometry.se3 import euler_to_matrix, invert_T, make_T
from dyndepth_core.networks.moved_parts import CHANNELS, MovedParts, moved_parts
from dyndepth_core.networks.pose_net import TRANSLATION_SCALE, PairIntrinsics, PoseNet

TRUNK = (16, 32, 64, 128, 256, 512, 1024)
START_SCALE, LEAST_SCALE = 0.01, 0.001
RARELY = -2.0  # logit of what the network knows nothing of: few things move


class PlainTrunk(nn.Module):
    """Seven 3x3 convolutions of stride 2 with ReLU, 16 to 1024 channels times `width`."""

    def __init__(self, channels_in: int, width: float) -> None:
        super().__init__()
        self.channels = tuple(max(4, round(c * width)) for c in TRUNK)
        pairs = zip((channels_in, *self.channels), self.channels, strict=False)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> feature maps at 1/2 ... 1/128."""
        features = []
        for conv in self.convs:
            x = F.relu(conv(x))
            features.append(x)
        return features


class Refinement(nn.Module):
    """m' = up(m) + conv1x1([p, q]) of z = [up(m), f]: p = relu(conv3x3(z)),
    q = relu(conv3x3(relu(conv3x3(z)))), two towers with weights of their own, k channels; m has
    `maps`.
    """

    def __init__(self, channels: int, k: int, maps: int = 3) -> None:
        super().__init__()
        self.short = nn.Conv2d(channels + maps, k, 3, padding=1)
        self.long1 = nn.Conv2d(channels + maps, k, 3, padding=1)
        self.long2 = nn.Conv2d(k, k, 3, padding=1)
        self.head = nn.Conv2d(2 * k, maps, 1, bias=False)

    def forward(self, m: Tensor, features: Tensor) -> Tensor:
        """m (B, maps, h, w), features (B, C, H, W) -> (B, maps, H, W)."""
        m = F.interpolate(m, features.shape[-2:], mode="bilinear", align_corners=True)
        z = torch.cat((m, features), 1)
        towers = F.relu(self.short(z)), F.relu(self.long2(F.relu(self.long1(z))))
        return m + self.head(torch.cat(towers, 1))


@dataclass
class MotionOutput:
    """T_src_tgt (B, 4, 4); residual (B, 3, H, W) in the src frame, for the pixels of tgt, in the
    units of the depth; K (B, 3, 3) in pixels, where the network says it; ego (B, 4, 4): T_src_tgt
    before it was refined; moving (B, 1, h, w): logit that something moves, parts: what that is
    learned from.
    """

    T_src_tgt: Tensor
    residual: Tensor
    K: Tensor | None
    ego: Tensor
    moving: Tensor | None = None
    parts: MovedParts | None = None


class PublishedMotionNet(nn.Module):
    """Trunk -> spatial mean -> 6 numbers of ego-motion -> their 1x1 image, refined with the feature
    maps from coarse to fine and with the input itself -> residual translations (Li et al. 2020).

    width: factor of all channels; at 1 the paper's 44 M parameters. depth: whether depths come with
    the images (the paper's choice). downscale: the network sees everything this many times smaller.
    """

    def __init__(
        self, width: float = 1.0, depth: bool = True, downscale: int = 1, intrinsics: bool = False
    ) -> None:
        super().__init__()
        self.takes_depth, self.downscale = depth, downscale
        inputs = 8 if depth else 6
        self.trunk = PlainTrunk(inputs, width)
        channels = self.trunk.channels
        self.ego = nn.Conv2d(channels[-1], 6, 1, bias=False)
        self.seed = nn.Conv2d(6, 3, 1)
        self.refine = nn.ModuleList(Refinement(c, max(4, c)) for c in (*channels[::-1], inputs))
        self.intrinsics = PairIntrinsics(channels[-1]) if intrinsics else None
        # One learned factor for angles, one for lengths: the loss moves them faster than weights.
        self.scales = nn.Parameter(torch.full((2,), START_SCALE))

    def forward(
        self,
        tgt: Tensor,
        src: Tensor,
        tgt_depth: Tensor,
        src_depth: Tensor,
        K: Tensor | None = None,
        past: Tensor | None = None,
        moves: bool = True,
    ) -> MotionOutput:
        """Images (B, 3, H, W) in [0, 1], depths (B, 1, H, W).

        R = Rx Ry Rz of the first three numbers in radians. K and past are not looked at. Without
        `moves` the residual is 0 and costs nothing.
        """
        size = tgt.shape[-2:]
        given = smaller((tgt, src), (tgt_depth, src_depth), self.downscale, self.takes_depth)
        features = self.trunk(given)
        numbers = self.ego(features[-1].mean((2, 3), keepdim=True))
        if self.training:  # projected, as published: a factor below zero would never come back
            with torch.no_grad():
                self.scales.clamp_(min=LEAST_SCALE)
        angle, length = self.scales
        vector = numbers.flatten(1).float()
        T = make_T(euler_to_matrix(angle * vector[:, :3]), length * vector[:, 3:])
        K_pair = None if self.intrinsics is None else self.intrinsics(features[-1], size)
        if not moves:
            return MotionOutput(T, torch.zeros_like(tgt), K_pair, T)
        field = self.seed(numbers)
        for refine, f in zip(self.refine, (*features[::-1], given), strict=True):
            field = refine(field, f)
        if self.downscale > 1:
            field = F.interpolate(field, size, mode="bilinear", align_corners=True)
        return MotionOutput(T, length * field.float(), K_pair, T)


class MotionNet(nn.Module):
    """Ego-motion of the pose network, whose feature maps then refine a field of displacements from
    coarse to fine, as in the published network; ours, for trainings that are not a million steps.

    The pose network sees the pair in temporal order and the field is what moves forwards in time:
    one direction to learn instead of two. aligned: ego-motion is refined before
    (geometry/alignment.py). With `flow` the last two refinements also see moved_parts.py, and a
    fourth map becomes p = sigmoid(moving), that something moves: the residual is p times the field,
    and p learns from the flow, not from how the field explains the images, which everywhere gains
    a little by making up for wrong depth. width: factor of the refinements' channels; the rest as
    in PublishedMotionNet.
    """

    def __init__(
        self,
        encoder: str,
        encoder_width: float = 1.0,
        width: float = 0.25,
        depth: bool = True,
        downscale: int = 1,
        intrinsics: bool = False,
        flow: bool = True,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.takes_depth, self.downscale, self.aligns = depth, downscale, aligned
        self.pose = PoseNet(encoder, encoder_width, downscale, intrinsics)
        self.flow, self.maps = flow, 4 if flow else 3
        inputs, more = 8 if depth else 6, CHANNELS if flow else 0
        channels = [*self.pose.encoder.channels[::-1], inputs]
        channels[-2:] = [c + more for c in channels[-2:]]
        self.refine = nn.ModuleList(
            Refinement(c, max(8, round(c * width)), self.maps) for c in channels
        )

    def forward(
        self,
        tgt: Tensor,
        src: Tensor,
        tgt_depth: Tensor,
        src_depth: Tensor,
        K: Tensor,
        past: Tensor,
        moves: bool = True,
    ) -> MotionOutput:
        """As PublishedMotionNet; K (B, 3, 3) of the images, where the network does not say it
        itself; past (B,) bool: src is the earlier image.
        """
        swap = past.view(-1, 1, 1, 1)
        first, second = torch.where(swap, src, tgt), torch.where(swap, tgt, src)
        T, K_pair, features = self.pose.motion(first, second)
        T = says = torch.where(past.view(-1, 1, 1), invert_T(T), T)
        K = K if K_pair is None else K_pair
        if not moves:
            return MotionOutput(T, torch.zeros_like(tgt), K_pair, says)
        if self.aligns:
            T = refine_motion(tgt, src, tgt_depth, T, K)
        given = smaller((tgt, src), (tgt_depth, src_depth), self.downscale, self.takes_depth)
        seen = [*features[::-1], given]
        sign = 1.0 - 2.0 * swap.to(tgt.dtype)
        parts = moving = None
        if self.flow:
            flow = flow_beside(tgt, src, tgt_depth, T, K)
            parts = moved_parts(*flow, tgt_depth, T, K, sign, self.downscale)
            for i, maps in enumerate(parts.maps, 1):
                seen[-i] = torch.cat((seen[-i], maps), 1)
        field = tgt.new_zeros(len(tgt), self.maps, 1, 1)
        field[:, 3:] = RARELY
        for refine, f in zip(self.refine, seen, strict=True):
            field = refine(field, f)
        if self.flow:
            moving = field[:, 3:].float()
            field = field[:, :3] * torch.sigmoid(moving.detach())
        if self.downscale > 1:
            field = F.interpolate(field, tgt.shape[-2:], mode="bilinear", align_corners=True)
        residual = TRANSLATION_SCALE * sign * field.float()
        return MotionOutput(T, residual, K_pair, says, moving, parts)


def smaller(images: Sequence[Tensor], depths: Sequence[Tensor], by: int, depth: bool) -> Tensor:
    """Images, and depths where they are wanted, as channels of one tensor, `by` times smaller."""
    given = torch.cat((*images, *depths), 1) if depth else torch.cat(tuple(images), 1)
    return F.avg_pool2d(given, by) if by > 1 else given


def automask_residual(
    residual: Tensor, of_batch: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The residual where |residual| is above its mean, 0 elsewhere; no gradient through the choice.

    The mean is that of each image; of_batch(|residual|) -> the one to use instead: of the whole
    batch, as in the reference code, where what one image shows then depends on its neighbours.
    """
    size = residual.detach().norm(dim=1, keepdim=True)
    mean = size.mean((2, 3), keepdim=True) if of_batch is None else of_batch(size)
    return residual * (size > mean)
