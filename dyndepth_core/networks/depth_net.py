"""Depth network: encoder, U-Net decoder, disp head (Godard et al., ICCV 2019)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from dyndepth_core.networks.encoders import Encoder


class NetworkConfig(BaseModel):
    """Networks of a method."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    encoder: str = Field(
        "efficientnet_lite0", description="depth encoder: efficientnet_lite0 or resnet18"
    )
    pose_encoder: str = Field(
        "efficientnet_lite0", description="pose encoder: efficientnet_lite0 or resnet18"
    )
    pose_downscale: int = Field(
        1,
        ge=1,
        le=4,
        description="the pose network sees images this many times smaller (1, 2 or 4)",
    )
    pose_align: bool = Field(
        True,
        description="ego-motion of the trained model: what the pose network says is refined to the "
        "optical flow, which sees turns that a short training does not",
    )
    width: float = Field(1.0, gt=0, le=4, description="channel factor of ResNet encoders")
    decoder_channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (
        Field((16, 32, 64, 128, 256), description="decoder channels at 1/1, 1/2, 1/4, 1/8, 1/16")
    )
    pretrained: bool = Field(True, description="start the encoders from ImageNet weights")
    weights: str | None = Field(
        None, description="ImageNet state dict of the encoders (.pth); none: the pip package"
    )
    min_depth: float = Field(
        0.01, gt=0, description="depth at disp = 1 (scene units, at the canonical focal length)"
    )
    max_depth: float = Field(
        10.0, gt=0, description="depth at disp = 0 (scene units, at the canonical focal length)"
    )
    canonical_focal: float | None = Field(
        None,
        ge=1,
        le=1e5,
        description="focal length f0 in pixels depth is predicted at; none: mean over the training "
        "set",
    )

    @model_validator(mode="after")
    def _range(self) -> NetworkConfig:
        if self.min_depth >= self.max_depth:
            raise ValueError(
                f"min_depth {self.min_depth:g} must be below max_depth {self.max_depth:g}"
            )
        return self


# disp of an untrained network. The motion network fits its unit of length to the depth it meets
# first, and what is nearer than min_depth in that unit can never be expressed: from the middle of
# the sigmoid, 0.5, everything nearer than half of the typical depth would be lost.
START_DISP = 0.05


class ConvBlock(nn.Module):
    """Reflection pad 1, 3x3 convolution with bias, ELU."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H, W)."""
        return F.elu(self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")), inplace=True)


class DepthDecoder(nn.Module):
    """For i = 4..0: ConvBlock -> nearest x2 -> concatenate the skip -> ConvBlock; disp_s =
    sigmoid(conv3x3) at 1/2^s.
    """

    def __init__(
        self, encoder_channels: tuple[int, ...], channels: tuple[int, ...], scales: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.scales = scales
        self.reduce, self.merge = nn.ModuleList(), nn.ModuleList()  # index i = level, 0 finest
        for i in range(5):
            below = encoder_channels[-1] if i == 4 else channels[i + 1]
            skip = encoder_channels[i - 1] if i > 0 else 0
            self.reduce.append(ConvBlock(below, channels[i]))
            self.merge.append(ConvBlock(channels[i] + skip, channels[i]))
        self.heads = nn.ModuleDict({str(s): nn.Conv2d(channels[s], 1, 3) for s in scales})
        for head in self.heads.values():
            nn.init.constant_(head.bias, math.log(START_DISP / (1 - START_DISP)))

    def forward(self, features: list[Tensor]) -> dict[int, Tensor]:
        """Five feature maps, finest first -> {s: disp (B, 1, H / 2^s, W / 2^s) in (0, 1)}."""
        x, out = features[-1], {}
        for i in range(4, -1, -1):
            x = F.interpolate(self.reduce[i](x), scale_factor=2, mode="nearest")
            if i > 0:
                x = torch.cat((x, features[i - 1]), 1)
            x = self.merge[i](x)
            if i in self.scales:
                logits = self.heads[str(i)](F.pad(x, (1, 1, 1, 1), mode="reflect"))
                out[i] = torch.sigmoid(logits.float())
        return out


class DepthNet(nn.Module):
    """Image (B, 3, H, W) in [0, 1], H and W multiples of 32 -> {scale: disp (B, 1, h, w) in (0,
    1)}.
    """

    def __init__(
        self,
        encoder: str,
        decoder_channels: tuple[int, ...],
        scales: tuple[int, ...] = (0,),
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(encoder, width=width)
        self.decoder = DepthDecoder(self.encoder.channels, tuple(decoder_channels), tuple(scales))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """See the class."""
        return self.decoder(self.encoder(image))


def disp_to_depth(disp: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """depth = 1 / (1 / max + (1 / min - 1 / max) disp): disp 0 -> max_depth, disp 1 -> min_depth
    (Godard et al. 2019).
    """
    low = 1 / max_depth
    return 1 / (low + (1 / min_depth - low) * disp)
