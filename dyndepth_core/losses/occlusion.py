"""Photometric terms that see which surface is in front (Gordon et al., ICCV 2019; Li et al., CoRL
2020).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

C2 = 0.003**2  # of the contrast term; images in [0, 1]
FLOOR = 0.01  # keeps the weighted moments finite where nothing has weight


def in_front(z: Tensor, depth: Tensor, valid: Tensor) -> Tensor:
    """O = [valid] [z < D], (B, 1, H, W) bool: the moved point lies in front of what src sees there.

    z: depth of tgt's points along the axis of src; depth: that of src itself where they fall. What
    lies behind may be hidden; the way back judges it.
    """
    return valid & (z < depth).detach()


@torch.no_grad()
def agreement(z: Tensor, depth: Tensor, visible: Tensor, valid: Tensor) -> Tensor:
    """w = valid e2 / ((D - z)^2 + e2), (B, 1, H, W) in [0, 1]: small where the two depths disagree;
    e2 = sum(O (D - z)^2) / (sum O + 1) + 1e-4 of each image, O = visible.

    Without gradient: with one, disagreement becomes a way to hide errors and training fails.
    """
    square = (depth - z).square()
    seen = visible.to(z.dtype)
    total = (seen * square).sum((1, 2, 3), keepdim=True)
    typical = total / (seen.sum((1, 2, 3), keepdim=True) + 1) + 1e-4
    return valid.to(z.dtype) * typical / (square + typical)


def weighted_contrast_error(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """clip((1 - S) / 2, 0, 1) P(w), S = (2 s_ab + c2) / (s_a^2 + s_b^2 + c2), (B, C, H - 2, W - 2):
    on the pixels with a whole 3x3 window.

    SSIM with an infinite c1, so without its luminance term, and moments in which each pixel counts
    by its weight: A(x) = P(x (w + 0.01)) / (P(w) + 0.01), P the 3x3 mean, s_a^2 = A(a^2) - A(a)^2,
    s_ab = A(a b) - A(a) A(b). a, b (B, C, H, W) in [0, 1] and float32 (c2 is 9e-6), weight (B, 1,
    H, W) in [0, 1].
    """
    mean_weight = F.avg_pool2d(weight, 3, 1)
    share, inverse = weight + FLOOR, 1 / (mean_weight + FLOOR)

    def average(x: Tensor) -> Tensor:
        return F.avg_pool2d(x * share, 3, 1) * inverse

    mean_a, mean_b = average(a), average(b)
    variance = average(a * a) + average(b * b) - mean_a.square() - mean_b.square()
    covariance = average(a * b) - mean_a * mean_b
    error = ((1 - (2 * covariance + C2) / (variance + C2)) * 0.5).clamp(0, 1)
    return error * mean_weight
