"""Motion network: two images, with or without their depths -> ego-motion and a dense residual
translation field (Li et al., CoRL 2020).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyndepth_core.geometry.camera import resize_K
from dyndepth_core.geometry.se3 import euler_to_matrix, make_T
from dyndepth_core.geometry.warp import inverse_warp
from dyndepth_core.networks.block_matching import BlockMatching
from dyndepth_core.networks.encoders import ENCODERS, Encoder
from dyndepth_core.networks.pose_net import PairIntrinsics

TRUNK = (16, 32, 64, 128, 256, 512, 1024)
START_SCALE, LEAST_SCALE = 0.01, 0.001
TRUNKS = ("plain", *ENCODERS)


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
    q = relu(conv3x3(relu(conv3x3(z)))), two towers with weights of their own, k channels.
    """

    def __init__(self, channels: int, k: int) -> None:
        super().__init__()
        self.short = nn.Conv2d(channels + 3, k, 3, padding=1)
        self.long1 = nn.Conv2d(channels + 3, k, 3, padding=1)
        self.long2 = nn.Conv2d(k, k, 3, padding=1)
        self.head = nn.Conv2d(2 * k, 3, 1, bias=False)

    def forward(self, m: Tensor, features: Tensor) -> Tensor:
        """m (B, 3, h, w), features (B, C, H, W) -> (B, 3, H, W)."""
        m = F.interpolate(m, features.shape[-2:], mode="bilinear", align_corners=True)
        z = torch.cat((m, features), 1)
        towers = F.relu(self.short(z)), F.relu(self.long2(F.relu(self.long1(z))))
        return m + self.head(torch.cat(towers, 1))


class MovedParts(nn.Module):
    """What the static scene leaves unexplained: block matching of tgt with src warped by depth and
    ego-motion, at the resolution given and at half of it.

    Channels per resolution: the flow that is left, along x and y, over the image's width, times
    its weight; the same times depth over its mean, which is a translation in the image plane; the
    weight; the gain in correlation. No gradient flows through them.
    """

    CHANNELS = 6

    def __init__(self) -> None:
        super().__init__()
        self.matching = BlockMatching(reach=4, window=5)

    @torch.no_grad()
    def forward(
        self, tgt: Tensor, src: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor
    ) -> list[Tensor]:
        """tgt, src (B, 3, H, W), depth (B, 1, H, W) of tgt, K at that size -> (B, 6, H, W), (B, 6,
        H / 2, W / 2).
        """
        with torch.autocast(tgt.device.type, enabled=False):
            depth = depth.float()
            warped, found = inverse_warp(src.float(), depth, T_src_tgt.float(), K.float())
            # Where src shows nothing, tgt itself: there nothing has moved.
            warped = torch.where(found.valid, warped, tgt.float())
            far = depth / depth.mean((2, 3), keepdim=True)
            maps = []
            for factor in (1, 2):
                match = self.matching(tgt, warped, factor)
                flow = match.flow * match.weight * (100 * factor / tgt.shape[-1])
                lateral = flow * F.avg_pool2d(far, factor)
                maps.append(torch.cat((flow, lateral, match.weight, match.gain), 1))
        return maps


class MotionNet(nn.Module):
    """Trunk -> spatial mean -> 6 numbers of ego-motion -> their 1x1 image, refined with the feature
    maps from coarse to fine and with the input itself -> residual translations.

    trunk: plain (the paper's), or the name of an encoder, which can start from ImageNet. width:
    factor of the channels of the plain trunk and of every refinement; at 1 the paper's 44 M
    parameters. depth: whether depths come with the images (the paper's choice). downscale: the
    network sees everything this many times smaller. matching: the last refinements also see
    MovedParts, without which a short training does not learn what optical flow is; ours, not the
    paper's.
    """

    def __init__(
        self,
        trunk: str = "plain",
        width: float = 1.0,
        depth: bool = True,
        downscale: int = 1,
        intrinsics: bool = False,
        matching: bool = False,
    ) -> None:
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"motion trunk {trunk!r} is not one of {TRUNKS}")
        if matching and not depth:
            raise ValueError("motion_matching warps by depth: it needs motion_depth=true")
        self.takes_depth, self.downscale = depth, downscale
        extra = 2 if depth else 0
        self.plain = trunk == "plain"
        self.trunk = PlainTrunk(6 + extra, width) if self.plain else Encoder(trunk, 2, 1.0, extra)
        channels = self.trunk.channels
        self.ego = nn.Conv2d(channels[-1], 6, 1, bias=False)
        self.seed = nn.Conv2d(6, 3, 1)
        self.moved = MovedParts() if matching else None
        factor = 1.0 if self.plain else width
        seen = [*channels[::-1], 6 + extra]
        more = [MovedParts.CHANNELS * (matching and i >= len(seen) - 2) for i in range(len(seen))]
        self.refine = nn.ModuleList(
            Refinement(c + m, max(4, round(c * factor) + m))
            for c, m in zip(seen, more, strict=True)
        )
        self.intrinsics = PairIntrinsics(channels[-1]) if intrinsics else None
        # One learned factor for angles, one for lengths: the loss moves them faster than weights.
        self.scales = nn.Parameter(torch.full((2,), START_SCALE))

    def forward(
        self,
        tgt: Tensor,
        src: Tensor,
        tgt_depth: Tensor | None = None,
        src_depth: Tensor | None = None,
        K: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images (B, 3, H, W) in [0, 1], depths (B, 1, H, W) -> T_src_tgt (B, 4, 4), residual
        (B, 3, H, W) in the src frame, for the pixels of tgt, in the units of the depth, and K
        (B, 3, 3) in pixels or None.

        K (B, 3, 3): of the images, for matching, where the network does not say it itself.
        R = Rx Ry Rz of the first three numbers in radians.
        """
        size = tgt.shape[-2:]
        images, depths = [tgt, src], [tgt_depth, src_depth] if self.takes_depth else []
        if self.downscale > 1:
            images, depths = (
                [F.avg_pool2d(x, self.downscale) for x in group] for group in (images, depths)
            )
        given = torch.cat((*images, *depths), 1)
        features = self.trunk(given)
        vector = self.ego(features[-1].mean((2, 3), keepdim=True))
        # Kept positive here, where the reference projects the parameter after each step; the
        # gradient is that of the parameter itself, so that it finds back from below.
        angle, length = self.scales + (self.scales.clamp(min=LEAST_SCALE) - self.scales).detach()
        motion = vector.flatten(1).float()
        T = make_T(euler_to_matrix(angle * motion[:, :3]), length * motion[:, 3:])
        K_pair = None if self.intrinsics is None else self.intrinsics(features[-1], size)
        seen = [*features[::-1], given]
        if self.moved is not None:
            K = resize_K(K if K_pair is None else K_pair, *(1 / self.downscale,) * 2)
            for i, maps in enumerate(self.moved(*images, depths[0], T, K), 1):
                seen[-i] = torch.cat((seen[-i], maps), 1)
        field = self.seed(vector)
        for refine, f in zip(self.refine, seen, strict=True):
            field = refine(field, f)
        if self.downscale > 1:
            field = F.interpolate(field, size, mode="bilinear", align_corners=True)
        return T, length * field.float(), K_pair


def automask_residual(residual: Tensor, over_batch: bool = False) -> Tensor:
    """The residual where |residual| is above its mean, 0 elsewhere; no gradient through the choice.

    The mean is that of each image; `over_batch`: of the whole batch, as in the reference code,
    where what one image shows then depends on its neighbours.
    """
    size = residual.detach().norm(dim=1, keepdim=True)
    mean = size.mean() if over_batch else size.mean((2, 3), keepdim=True)
    return residual * (size > mean)
