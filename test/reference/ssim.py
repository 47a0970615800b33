"""Plain SSIM dissimilarity: five average pools (Wang et al. 2004, 3x3 windows, reflection
padding)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ssim_error(a: Tensor, b: Tensor) -> Tensor:
    """clip((1 - SSIM) / 2, 0, 1) of images (B, C, H, W) in [0, 1]."""
    a, b = F.pad(a, (1, 1, 1, 1), mode="reflect"), F.pad(b, (1, 1, 1, 1), mode="reflect")
    mean_a, mean_b = F.avg_pool2d(a, 3, 1), F.avg_pool2d(b, 3, 1)
    var_a = F.avg_pool2d(a**2, 3, 1) - mean_a**2
    var_b = F.avg_pool2d(b**2, 3, 1) - mean_b**2
    covariance = F.avg_pool2d(a * b, 3, 1) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    bottom = (mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)
    return torch.clamp((1 - top / bottom) / 2, 0, 1)


def photometric_error(a: Tensor, b: Tensor) -> Tensor:
    """0.85 mean_c SSIM error + 0.15 mean_c |a - b|, (B, 1, H, W) (Monodepth2 2019)."""
    absolute = (a - b).abs().mean(1, keepdim=True)
    return 0.85 * ssim_error(a, b).mean(1, keepdim=True) + 0.15 * absolute
