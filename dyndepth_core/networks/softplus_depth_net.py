"""Depth network of Li et al., CoRL 2020: a ResNet-18 U-Net with randomized layer normalisation and
a softplus head that speaks depth, not disp.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyndepth_core.networks.resnet import scaled_channels

EPSILON = 1e-3
LARGEST_SIGMA = 0.5  # noise is cut at two sigma: no factor below zero
MIN_DEPTH = 1e-3


class RandomizedLayerNorm(nn.Module):
    """y = gamma (x - m') / sqrt(s2' + 1e-3) + beta, m' = m (1 + n1), s2' = s2 (1 + n2), m and s2
    the mean and variance of each channel of each image, n normal noise of `sigma` cut at 2 sigma.

    No running statistics: what it says of an image in evaluation, without noise, depends on that
    image alone. Processes that share a batch draw the same noise, each for its own images: their
    training is as good as that of one process, but not the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )
        self.sigma = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same; moments in float32."""
        value = x.float()
        mean = value.mean((2, 3), keepdim=True)
        variance = (value - mean).square().mean((2, 3), keepdim=True)
        if self.training and self.sigma > 0:
            noise = torch.empty((2, *mean.shape), device=x.device)
            nn.init.trunc_normal_(noise, std=self.sigma, a=-2 * self.sigma, b=2 * self.sigma)
            mean, variance = mean * (1 + noise[0]), variance * (1 + noise[1])
        weight, bias = self.weight.view(1, -1, 1, 1), self.bias.view(1, -1, 1, 1)
        return (weight * (value - mean) * (variance + EPSILON).rsqrt() + bias).to(x.dtype)


def set_noise(network: nn.Module, progress: float, ramp: float) -> None:
    """sigma = 0.5 min(progress / ramp, 1)^2 in every RandomizedLayerNorm: full noise from the share
    `ramp` of the training on (10,000 steps in the paper).
    """
    sigma = LARGEST_SIGMA * min(progress / max(ramp, 1e-6), 1.0) ** 2
    for module in network.modules():
        if isinstance(module, RandomizedLayerNorm):
            module.sigma = sigma


class _Block(nn.Module):
    """relu(x' + norm(conv(relu(norm(conv x))))); the projection x' has no normalisation."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = RandomizedLayerNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = RandomizedLayerNorm(channels)
        self.project = (
            nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            if channels_in != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + (x if self.project is None else self.project(x)))


class SoftplusDepthNet(nn.Module):
    """Image (B, 3, H, W) in [0, 1], H and W multiples of 32 -> depth (B, 1, H, W) > 0, without an
    upper bound: D = log(1 + e^l). Starts from scratch.

    Encoder: ResNet-18, features at 1/2 ... 1/32. Decoder, four times: transposed convolution x2,
    the skip, 3x3 convolution; once more without a skip, to 16 channels; ReLU, no normalisation.
    `width` scales every channel count.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c = scaled_channels(width)
        self.conv1 = nn.Conv2d(3, c[0], 7, 2, 3, bias=False)
        self.norm1 = RandomizedLayerNorm(c[0])
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(_Block(a, b, stride), _Block(b, b, 1))
            for a, b, stride in zip(c, c[1:], (1, 2, 2, 2), strict=False)
        )
        last = max(4, round(16 * width))
        out = (c[3], c[2], c[1], c[0] // 2, last)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3, 2, 1, output_padding=1)
            for a, b in zip((c[4], *out), out, strict=False)
        )
        self.merge = nn.ModuleList(
            nn.Conv2d(b + skip, b, 3, padding=1)
            for b, skip in zip(out, (c[3], c[2], c[1], c[0]), strict=False)
        )
        self.last = nn.Conv2d(last, last, 3, padding=1)
        self.head = nn.Conv2d(last, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.head:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=1e-2)
        nn.init.zeros_(self.head.bias)  # depth log 2 everywhere to begin with

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        x = F.relu(self.norm1(self.conv1(2 * image - 1)))
        features, x = [x], self.pool(x)
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        for up, merge, skip in zip(self.up, self.merge, features[-2::-1], strict=False):
            x = F.relu(merge(torch.cat((F.relu(up(x)), skip), 1)))
        x = F.relu(self.last(F.relu(self.up[-1](x))))
        return F.softplus(self.head(x).float()).clamp(min=MIN_DEPTH)
