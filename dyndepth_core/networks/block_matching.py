"""Optical flow by block matching, without anything to learn: what a motion network would need
thousands of steps to find out by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REACH = 4  # cells, to each side
WINDOW = 5  # cells that are compared together
CONTRAST = 1e-3  # variance of grey values below which a patch says nothing
SHARPNESS = 20.0  # of the soft choice between displacements


@dataclass
class Match:
    """flow (B, 2, h, w) along x and y in cells, weight (B, 1, h, w) in (0, 1]: the largest p; gain
    (B, 1, h, w) >= 0: the best correlation less that of no displacement.
    """

    flow: Tensor
    weight: Tensor
    gain: Tensor


class BlockMatching(nn.Module):
    """Flow from the first to the second of two images: normalised cross-correlation c(d) of grey
    patches for all displacements d within REACH cells, flow = sum_d d p(d), p = softmax(20 c).

    A patch without texture, or with a repeated one, has no peak: p is flat, its largest value
    small.
    """

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(-REACH, REACH + 1.0)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("steps", torch.stack((dx, dy)).flatten(1), persistent=False)

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor, factor: int = 1) -> Match:
        """Images (B, 3, H, W) in [0, 1]; factor: pixels per cell."""
        with torch.autocast(first.device.type, enabled=False):
            a, b = (contrast_cells(x.float(), factor) for x in (first, second))
            height, width = a.shape[-2:]
            around = F.pad(b, (REACH,) * 4)
            side = 2 * REACH + 1
            products = [
                a * around[..., y : y + height, x : x + width]
                for y in range(side)
                for x in range(side)
            ]
            correlation = box(torch.cat(products, 1), WINDOW)
            p = torch.softmax(SHARPNESS * correlation, 1)
            flow = torch.einsum("bdhw,cd->bchw", p, self.steps)
            still = correlation[:, side * side // 2, None]
            gain = correlation.amax(1, keepdim=True) - still
            return Match(flow, p.amax(1, keepdim=True), gain)


def contrast_cells(image: Tensor, factor: int) -> Tensor:
    """Grey cells (B, 1, H / factor, W / factor) without local mean and contrast."""
    grey = F.avg_pool2d(image.mean(1, keepdim=True), factor)
    centred = grey - box(grey, 5)
    return centred * (box(centred.square(), 5) + CONTRAST).rsqrt()


def box(x: Tensor, size: int) -> Tensor:
    """Mean over size x size cells, of those inside the image."""
    return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False)
