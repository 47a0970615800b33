"""Depth network that also sees a cost volume of the image before (Watson et al., CVPR 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyndepth_core.geometry.camera import resize_K
from dyndepth_core.networks.cost_volume import CostVolume, depth_planes, plane_sweep
from dyndepth_core.networks.depth_net import DepthDecoder
from dyndepth_core.networks.encoders import Encoder

EARLY = 4  # the cost volume is made at 1 / EARLY of the resolution
CUES, BLEND_CHANNELS = 4, 16
SPREAD = 0.3  # of the logarithm of what the decoder says about that of the depth
FLAT = 0.01  # of features of about 1
SHARPNESS = 6.0  # a before anything is learned


class VolumeDepthNet(nn.Module):
    """Image and cost volume -> {scale: disp (B, 1, h, w) in (0, 1)}; without a volume a network of
    one image.

    F = early features at 1/4; C = costs, averaged over a `window`, over their mean of the pixel,
    and G = the best plane (`CostVolume.guide`), both where enough of the planes were seen
    (`least_seen`), else 0; V = whether they were. Late features and decoder see act(F + fuse(F, C,
    G, V)), fuse: 3x3 convolution to `hidden` channels, ReLU, 1x1 that starts at 0, act: ReLU where
    F is behind one. Watson et al.: act(conv3x3(F, C)) of single pixels' costs. As a sum it starts
    as the network of one image that it was before; windows, contrast and G spare a short training
    from finding out first how the least of many noisy costs is found.

    With `blend` the depth D of the decoder is a prior that the volume corrects, both at 1/4:
    log D' = log D + E_k[log d_k | C] - E_k[log d_k], the means over the planes d_k of
    p(k | C) ~ w_k exp(-(log d_k - log D)^2 / 2 SPREAD^2 - a c_k) and of a = 0; c_k the cost over
    its mean of the pixel, w_k the width of a plane in log d, a >= 0 a network of F, log(D* / D)
    for the best plane D*, the costs of both and V; where V, else D' = D. Ours: what matches best
    then counts from the first step, which the published way takes tens of thousands of steps to
    learn, and costs that tell nothing change nothing. (Drawn to the
    best plane alone, depth flickers.)

    nearest, farthest: depths of the planes at the canonical focal length, as tensors of the model:
    adaptive, see `adapt`. match_channels: features that are compared, 0 = all. depth_range: what
    disp 1 and 0 stand for, for `blend`; None: without.
    """

    def __init__(
        self,
        encoder: str,
        decoder_channels: tuple[int, ...],
        scales: tuple[int, ...] = (0,),
        width: float = 1.0,
        planes: int = 96,
        inverse: bool = False,
        hidden: int = 64,
        match_channels: int = 0,
        least_seen: float = 1.0,
        window: int = 5,
        depth_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(encoder, width=width)
        self.decoder = DepthDecoder(self.encoder.channels, tuple(decoder_channels), tuple(scales))
        channels = self.encoder.channels[1]
        self.fuse_in = nn.Conv2d(channels + planes + 2, hidden, 3, padding=1)
        self.fuse_out = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.fuse_out.weight)
        nn.init.zeros_(self.fuse_out.bias)
        self.depth_range, self.blend = depth_range, None
        if depth_range is not None:
            self.blend = nn.Sequential(
                nn.Conv2d(channels + CUES, BLEND_CHANNELS, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(BLEND_CHANNELS, 1, 1),
            )
            nn.init.zeros_(self.blend[2].weight)
            nn.init.constant_(self.blend[2].bias, math.log(math.expm1(SHARPNESS)))
        self.planes, self.inverse = planes, inverse
        self.least_seen, self.window = least_seen, window
        self.stride = max(1, channels // match_channels) if match_channels else 1
        self.register_buffer("nearest", torch.tensor(0.05))
        self.register_buffer("farthest", torch.tensor(1.0))

    def early(self, image: Tensor) -> list[Tensor]:
        """Feature maps at 1/2 and 1/4 of images (B, 3, H, W) in [0, 1]."""
        return self.encoder.early(image)

    @torch.no_grad()
    def match(
        self,
        tgt: Tensor,
        src: Tensor,
        T_src_tgt: Tensor,
        K: Tensor,
        depth_scale: Tensor,
        usable: Tensor | None = None,
        valid_src: Tensor | None = None,
    ) -> CostVolume:
        """Volume of features tgt (B, C, h, w) and src (B, S, C, h, w), the second maps of `early`;
        K (B, 3, 3) in pixels of the images, depth_scale (B,): f / f0, see Predictions. valid_src
        (B, S, 1, H, W) bool, pixels of the images; the rest: see `plane_sweep`.
        """
        canonical = depth_planes(self.nearest, self.farthest, self.planes, self.inverse)
        K = resize_K(K.float(), 1 / EARLY, 1 / EARLY)
        if valid_src is not None:  # a feature sees all of its pixels
            hidden = F.max_pool2d((~valid_src).flatten(0, 1).float(), EARLY)
            valid_src = (hidden == 0).unflatten(0, valid_src.shape[:2])
        volume = plane_sweep(
            tgt[:, :: self.stride], src[:, :, :: self.stride], T_src_tgt, K,
            depth_scale.float()[:, None] * canonical, usable, valid_src,
        )  # fmt: skip
        return volume.averaged(self.window)

    def confident(self, volume: CostVolume) -> Tensor:
        """(B, 1, h, w) bool: where the volume is complete enough to be seen at all."""
        return volume.confident(self.least_seen)

    def forward(
        self,
        early: list[Tensor],
        volume: CostVolume | None = None,
        blended: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """early: what `early` says of the images; volume: that of `match`; None: none at all;
        blended (B,) bool: those that the depth may be drawn to; None: all.
        """
        features = early[1]
        if volume is None:
            batch, _, height, width = features.shape
            seen = features.new_zeros((batch, self.planes + 2, height, width))
        else:
            confident = self.confident(volume).to(features.dtype)
            cost = volume.filled()
            cost = cost / cost.mean(1, keepdim=True).clamp(min=1e-6)  # textures differ in contrast
            seen = torch.cat((cost, volume.guide()), 1).to(features.dtype) * confident
            seen = torch.cat((seen, confident), 1)
        change = self.fuse_out(F.relu(self.fuse_in(torch.cat((features, seen), 1))))
        fused = features + change
        if self.encoder.name == "resnet18":
            fused = F.relu(fused)
        disps = self.decoder([early[0], fused, *self.encoder.late(fused)])
        if volume is None or self.blend is None:
            return disps
        return self._blended(disps, features, volume, blended)

    def _blended(
        self,
        disps: dict[int, Tensor],
        features: Tensor,
        volume: CostVolume,
        blended: Tensor | None,
    ) -> dict[int, Tensor]:
        """See the class; depths at the canonical focal length."""
        low, high = 1 / self.depth_range[1], 1 / self.depth_range[0]

        def log_depth(disp: Tensor) -> Tensor:
            return -(low + (high - low) * disp.float()).log()

        own = F.interpolate(log_depth(disps[min(disps)].detach()), features.shape[-2:], mode="area")
        planes = depth_planes(self.nearest, self.farthest, self.planes, self.inverse).log()
        width = planes.diff().abs()
        width = torch.cat((width[:1], width)).log().view(1, -1, 1, 1)
        planes = planes.view(1, -1, 1, 1)
        trusted = self.confident(volume)
        if blended is not None:
            trusted = trusted & blended.view(-1, 1, 1, 1)
        cost = _relative(volume)
        away = planes - own
        best = cost.min(1, keepdim=True).indices  # on a CPU several times as fast as argmin
        cues = (
            away.gather(1, best).clamp(-1, 1),
            cost.gather(1, best),
            cost.gather(1, away.abs().min(1, keepdim=True).indices),
            trusted,
        )
        seen = torch.cat([features.detach(), *(x.to(features.dtype) for x in cues)], 1)
        sharpness = F.softplus(self.blend(seen).float())
        prior = width - away.square() / (2 * SPREAD**2)
        found = (prior - sharpness * cost).softmax(1) - prior.softmax(1)
        change = (found * planes).sum(1, keepdim=True) * trusted
        change = F.avg_pool2d(change, 3, 1, 1, count_include_pad=False)
        out = {}
        for scale, disp in disps.items():
            moved = F.interpolate(change, disp.shape[-2:], mode="bilinear", align_corners=False)
            inverse = (-log_depth(disp) - moved).exp()
            new = ((inverse - low) / (high - low)).clamp(0, 1)
            out[scale] = torch.where(moved == 0, disp, new)  # to the bit where nothing changes
        return out

    @torch.no_grad()
    def adapt(self, nearest: Tensor, farthest: Tensor, rate: Tensor) -> None:
        """Move the range of the planes by the share `rate` towards these depths at the canonical
        focal length, all of them 0-dim.
        """
        self.nearest.lerp_(nearest.to(self.nearest.dtype), rate)
        self.farthest.lerp_(farthest.to(self.farthest.dtype), rate)


def _relative(volume: CostVolume) -> Tensor:
    """Costs (B, P, h, w) over the mean of those seen in that pixel, and FLAT; as if all were alike
    where not seen. FLAT keeps the noise of a pixel without texture from looking like a match.
    """
    count = volume.seen.sum(1, keepdim=True).clamp(min=1)
    mean = (volume.cost * volume.seen).sum(1, keepdim=True) / count
    return torch.where(volume.seen, volume.cost, mean) / (mean + FLAT)
