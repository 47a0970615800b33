"""Pose network: two images in temporal order -> relative camera motion (after Godard et al. 2019),
and learned intrinsics.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyndepth_core.geometry.se3 import exp_so3, make_T
from dyndepth_core.networks.encoders import Encoder

# Paper: 0.01 for both. A unit of the head is about the motion of street video at the depth training
# starts with.
ROTATION_SCALE, TRANSLATION_SCALE = 0.03, 0.02


class PoseNet(nn.Module):
    """Encoder of both images -> 1x1 squeeze -> 3x3, 3x3 (256, ELU) -> 1x1 to 6 -> spatial mean ->
    scaled.

    Alone it takes tens of thousands of steps to learn that images shift when a camera turns:
    geometry/alignment.py sees it.
    """

    def __init__(
        self,
        encoder: str,
        width: float = 1.0,
        downscale: int = 1,
        intrinsics: bool = False,
    ) -> None:
        super().__init__()
        self.downscale = downscale  # motion needs less resolution than depth: 2 costs a quarter
        self.encoder = Encoder(encoder, frames=2, width=width)
        self.squeeze = nn.Conv2d(self.encoder.channels[-1], 256, 1)
        self.conv1 = nn.Conv2d(256, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 256, 3, padding=1)
        self.head = nn.Conv2d(256, 6, 1)
        # A random motion to begin with would drive depth to infinity.
        nn.init.normal_(self.head.weight, std=1e-2)
        nn.init.zeros_(self.head.bias)
        self.intrinsics = PairIntrinsics(256) if intrinsics else None

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (B, 3, H, W) of an earlier and a later time -> (T_second_first (B, 4, 4), K (B, 3,
        3) in pixels or None).
        """
        T, K, _ = self.motion(first, second)
        return T, K

    def motion(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """As forward, and the feature maps of the encoder."""
        maps = self.encoder(self._pair(first, second))
        x = self._squeezed(maps)
        vector = self._vector(x)
        T = make_T(exp_so3(vector[:, :3]), vector[:, 3:])
        K = None if self.intrinsics is None else self.intrinsics(x, first.shape[-2:])
        return T, K, maps

    def vector(self, first: Tensor, second: Tensor) -> Tensor:
        """As forward -> (B, 6): axis times angle in radians, then translation."""
        return self._vector(self._squeezed(self.encoder(self._pair(first, second))))

    def _pair(self, first: Tensor, second: Tensor) -> Tensor:
        pair = torch.cat((first, second), 1)
        return F.avg_pool2d(pair, self.downscale) if self.downscale > 1 else pair

    def _squeezed(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        # ELU where the paper has ReLU: in small batches all its units died, motion was constant.
        for layer in (self.squeeze, self.conv1, self.conv2):
            x = F.elu(layer(x))
        return x

    def _vector(self, x: Tensor) -> Tensor:
        scale = x.new_tensor([ROTATION_SCALE] * 3 + [TRANSLATION_SCALE] * 3, dtype=torch.float32)
        return scale * self.head(x).float().mean((2, 3))


class PairIntrinsics(nn.Module):
    """Intrinsics per image pair from the pose features (Gordon et al. 2019; Li et al. 2020, section
    on intrinsics).

    fx = softplus(.) W, fy = softplus(.) H, cx = (. + 0.5) W, cy = (. + 0.5) H; then to pixel
    centres at integers (-0.5).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.focal = nn.Conv2d(channels, 2, 1)
        self.centre = nn.Conv2d(channels, 2, 1, bias=False)
        nn.init.normal_(self.focal.weight, std=1e-3)
        nn.init.constant_(self.focal.bias, 0.5)
        nn.init.normal_(self.centre.weight, std=1e-3)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """features (B, C, h, w), image size (H, W) -> K (B, 3, 3); in float32 also under autocast,
        where a pixel is lost.
        """
        with torch.autocast(features.device.type, enabled=False):
            mean = features.float().mean((2, 3), keepdim=True)
            extent = mean.new_tensor((size[1], size[0]))
            focal = F.softplus(self.focal(mean))[:, :, 0, 0] * extent
            centre = (self.centre(mean)[:, :, 0, 0] + 0.5) * extent - 0.5
        return assemble_K(focal, centre)


class VideoIntrinsics(nn.Module):
    """Four trainable numbers per video: fx = f e^{a/10}, fy = f e^{-a/10}, cx = c W - 0.5, cy = d H
    - 0.5.

    Start: f = (H + W) / 2, a = 0, c = d = 0.5 (Li et al. 2020), or what `start` is given, with an
    interval they then stay in. They are kept in units of their start value so that one learning
    rate fits; but the ratio fx / fy moves five times more slowly than f: nearly all pixels are
    square, and a car that hardly pitches says nothing of fy alone.
    """

    def __init__(self, videos: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = tuple(size)
        self.log_focal = nn.Parameter(torch.zeros(videos))
        self.aspect = nn.Parameter(torch.zeros(videos))
        self.centre = nn.Parameter(torch.zeros(videos, 2))
        # Not part of the weights: a training finds them again (or reads them) when it begins.
        limits = torch.tensor((-math.inf, math.inf)).repeat(videos, 4, 1)
        self.register_buffer("limits", limits, persistent=False)

    @torch.no_grad()
    def start(self, video: int, K: Tensor, sigma: Tensor) -> None:
        """Begin a video at K (3, 3) in pixels; its values stay within 2 sigma (4,) of that: log f,
        log fx / fy, cx, cy in pixels.
        """
        extent = K.new_tensor(self.size[::-1])
        log_focal = torch.stack((K[0, 0], K[1, 1])).log()
        self.log_focal[video] = log_focal.mean() - math.log(0.5 * sum(self.size))
        self.aspect[video] = 5 * (log_focal[0] - log_focal[1])
        self.centre[video] = (K[:2, 2] + 0.5) / extent - 0.5
        width = 2 * sigma / torch.cat((sigma.new_tensor((1, 0.2)), extent.to(sigma)))
        found = self._values()[video]
        self.limits[video] = torch.stack((found - width, found + width), -1)

    def _values(self) -> Tensor:
        """(videos, 4)."""
        return torch.cat((self.log_focal[:, None], self.aspect[:, None], self.centre), 1)

    def forward(self, video: Tensor, flipped: Tensor) -> Tensor:
        """video (B,) index, flipped (B,) bool -> K (B, 3, 3) in pixels of the (possibly mirrored)
        image.
        """
        height, width = self.size
        low, high = self.limits.unbind(-1)
        if self.training:  # a step may have left the interval: what lies beyond must not pile up
            self.log_focal.data.clamp_(low[:, 0], high[:, 0])
            self.aspect.data.clamp_(low[:, 1], high[:, 1])
            self.centre.data.clamp_(low[:, 2:], high[:, 2:])
        values = self._values()
        # Straight through: at a border gradients still lead back inside.
        values = values + (values.clamp(low, high) - values).detach()
        log_focal, aspect, centre = values[video].split((1, 1, 2), 1)
        stretch = 0.1 * aspect
        log_focal = log_focal + torch.cat((stretch, -stretch), 1)
        focal = log_focal.exp() * (0.5 * (height + width))
        extent = focal.new_tensor((width, height))
        centre = (centre + 0.5) * extent - 0.5
        mirrored = torch.stack((width - 1 - centre[:, 0], centre[:, 1]), -1)
        return assemble_K(focal, torch.where(flipped[:, None], mirrored, centre))


def assemble_K(focal: Tensor, centre: Tensor) -> Tensor:
    """K (B, 3, 3) from (fx, fy) and (cx, cy), both (B, 2) in pixels."""
    zero, one = torch.zeros_like(focal[:, 0]), torch.ones_like(focal[:, 0])
    rows = (
        torch.stack((focal[:, 0], zero, centre[:, 0]), -1),
        torch.stack((zero, focal[:, 1], centre[:, 1]), -1),
        torch.stack((zero, zero, one), -1),
    )
    return torch.stack(rows, 1)
