"""Plain ResNet-18 depth and pose networks (Monodepth2, 2019): eager, NCHW, batch norm on its own.

Parameter names are those of the product's networks, so that one state dict fits both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import elu

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DECODER = (16, 32, 64, 128, 256)


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al. 2016)."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or before != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class Backbone(nn.Module):
    """ResNet-18 without its classifier."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at 1/2, 1/4, 1/8, 1/16, 1/32."""
        features = [torch.relu(self.bn1(self.conv1(x)))]
        x = self.layer1(self.maxpool(features[0]))
        features.append(x)
        for layer in (self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


class Encoder(nn.Module):
    """Backbone with its input normalisation."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.backbone = Backbone(3 * frames)
        shape = (1, 3 * frames, 1, 1)
        self.register_buffer("mean", torch.tensor(MEAN * frames).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(STD * frames).view(shape), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3 frames, H, W) in [0, 1]."""
        return self.backbone((x - self.mean) / self.std)


class ConvBlock(nn.Module):
    """Reflection pad, 3x3 convolution, ELU."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv = nn.Conv2d(before, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, channels, H, W)."""
        return F.elu(self.conv(self.pad(x)))


class Decoder(nn.Module):
    """U-Net decoder with a disp head at every scale asked for."""

    def __init__(self, scales: tuple[int, ...]) -> None:
        super().__init__()
        encoder = (64, 64, 128, 256, 512)
        self.scales, self.pad = scales, nn.ReflectionPad2d(1)
        self.reduce, self.merge = nn.ModuleList(), nn.ModuleList()
        for i in range(5):
            self.reduce.append(ConvBlock(encoder[4] if i == 4 else DECODER[i + 1], DECODER[i]))
            self.merge.append(ConvBlock(DECODER[i] + (encoder[i - 1] if i else 0), DECODER[i]))
        self.heads = nn.ModuleDict({str(s): nn.Conv2d(DECODER[s], 1, 3) for s in scales})

    def forward(self, features: list[Tensor]) -> dict[int, Tensor]:
        """Five feature maps -> {scale: disp in (0, 1)}."""
        x, disps = features[-1], {}
        for i in range(4, -1, -1):
            x = F.interpolate(self.reduce[i](x), scale_factor=2, mode="nearest")
            if i:
                x = torch.cat([x, features[i - 1]], 1)
            x = self.merge[i](x)
            if i in self.scales:
                disps[i] = torch.sigmoid(self.heads[str(i)](self.pad(x)))
        return disps


class DepthNet(nn.Module):
    """Image (B, 3, H, W) in [0, 1] -> {scale: disp (B, 1, H / 2^scale, W / 2^scale)}."""

    def __init__(self, scales: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(1), Decoder(scales)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """See the class."""
        return self.decoder(self.encoder(image))


class PoseNet(nn.Module):
    """Two images in temporal order -> axis-angle and translation, (B, 3) each."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(2)
        self.squeeze = nn.Conv2d(512, 256, 1)
        self.conv1 = nn.Conv2d(256, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 256, 3, padding=1)
        self.head = nn.Conv2d(256, 6, 1)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) of an earlier and a later time."""
        # ELU as in ours, at the cost of the paper's ReLU, so that the losses can be compared.
        x = elu(self.squeeze(self.encoder(torch.cat([first, second], 1))[-1]))
        x = elu(self.conv2(elu(self.conv1(x))))
        vector = 0.01 * self.head(x).mean((2, 3))
        return vector[:, :3], vector[:, 3:]
