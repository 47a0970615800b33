"""Coarse optical flow by block matching, without anything to learn: what a motion network would
need thousands of steps to find out by itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLUMNS = 80  # of the grid; motion of an image is a matter of its width, not of its pixels
REACH = 4  # grid cells, to each side: 5 % of the image's width
WINDOW = 7  # cells that are compared together
SHARPNESS = 20.0  # of the soft choice between displacements
CONTRAST = 1e-3  # variance of grey values below which a patch says nothing


class BlockMatching(nn.Module):
    """Flow from the first to the second of two images: normalised cross-correlation c(d) of grey
    patches for all displacements d within REACH cells, flow = sum_d d p(d), p = softmax(20 c).

    A patch without texture, or with a repeated one, has no peak: p is flat, the flow is weighted by
    its largest p.
    """

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(-REACH, REACH + 1.0)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("dx", dx.reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("dy", dy.reshape(1, -1, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 3, h, w): flow along x and y in grid cells times its
        weight, and the weight in (0, 1]; about 80 columns.
        """
        factor = max(1, round(first.shape[-1] / COLUMNS))
        with torch.autocast(first.device.type, enabled=False):
            a, b = (_normalised(x.float(), factor) for x in (first, second))
            height, width = a.shape[-2:]
            around = F.pad(b, (REACH,) * 4)
            products = [
                a * around[..., y : y + height, x : x + width]
                for y in range(2 * REACH + 1)
                for x in range(2 * REACH + 1)
            ]
            correlation = _mean(torch.cat(products, 1), WINDOW)
            p = torch.softmax(SHARPNESS * correlation, 1)
            weight = p.amax(1, keepdim=True)
            flow = [(p * d).sum(1, keepdim=True) * weight for d in (self.dx, self.dy)]
        return torch.cat((*flow, weight), 1)


def _normalised(image: Tensor, factor: int) -> Tensor:
    """Grey cells (B, 1, h, w) without local mean and contrast."""
    grey = F.avg_pool2d(image.mean(1, keepdim=True), factor)
    centred = grey - _mean(grey, 5)
    return centred * (_mean(centred.square(), 5) + CONTRAST).rsqrt()


def _mean(x: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False)
