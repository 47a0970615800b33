"""ResNet-18 encoder (He et al., CVPR 2016) with torchvision's parameter names, so that ImageNet
checkpoints load by key.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESNET_CHANNELS = (64, 64, 128, 256, 512)


def scaled_channels(width: float) -> tuple[int, ...]:
    """Channels of the five levels times `width`, multiples of 8."""
    return tuple(max(8, int(round(n * width / 8)) * 8) for n in RESNET_CHANNELS)


class BasicBlock(nn.Module):
    """y = relu(x' + bn2(conv2(relu(bn1(conv1 x))))), x' = x or its 1x1 projection where the shape
    changes.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Features at 1/2, 1/4, 1/8, 1/16, 1/32 from normalised images; `width` scales every channel
    count.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        c = scaled_channels(width)
        self.channels = c
        self.conv1 = nn.Conv2d(in_channels, c[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(c[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, stride in enumerate((1, 2, 2, 2), start=1):
            layer = nn.Sequential(BasicBlock(c[i - 1], c[i], stride), BasicBlock(c[i], c[i], 1))
            setattr(self, f"layer{i}", layer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C_in, H, W), H and W multiples of 32 -> five feature maps, finest first."""
        features = self.early(x)
        return features + self.late(features[-1])

    def early(self, x: Tensor) -> list[Tensor]:
        """The feature maps at 1/2 and 1/4."""
        first = F.relu(self.bn1(self.conv1(x)))
        return [first, self.layer1(self.maxpool(first))]

    def late(self, x: Tensor) -> list[Tensor]:
        """Those at 1/8, 1/16, 1/32, from that at 1/4."""
        features = []
        for layer in (self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features

    @staticmethod
    def adapt(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop the classifier of an ImageNet checkpoint."""
        return {k: v for k, v in state.items() if not k.startswith("fc.")}
