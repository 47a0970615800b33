"""Photometric error, minimum reprojection and automask (Godard et al., ICCV 2019); SSIM as
dissimilarity in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.losses.parallel import mean_count

C1, C2 = 0.01**2, 0.03**2  # Wang et al. 2004, images in [0, 1]
SSIM_WEIGHT = 0.85
TIE_BREAK = 1e-5


def box3(x: Tensor) -> Tensor:
    """3x3 mean with reflection padding, (B, C, H, W) -> same; separable shifted adds, several times
    faster than avg_pool2d on CPU.
    """
    x = F.pad(x, (1, 1, 1, 1), mode="reflect")
    x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) * (1 / 9)


@dataclass
class ImageStats:
    """An image with its local mean and mean square, computed once and shared by every comparison
    with it.
    """

    image: Tensor
    mean: Tensor
    square: Tensor

    def repeat(self, times: int) -> ImageStats:
        """Each image `times` times in a row: for the comparison with as many others."""
        maps = (self.image, self.mean, self.square)
        return ImageStats(*(x.repeat_interleave(times, 0) for x in maps))


def image_stats(image: Tensor) -> ImageStats:
    """Local statistics of an image (B, C, H, W) in [0, 1], at least in float32: the variance is a
    small difference of large numbers.
    """
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    return ImageStats(image, box3(image), box3(image * image))


def ssim_error(a: ImageStats, b: ImageStats) -> Tensor:
    """Structural dissimilarity clip((1 - SSIM) / 2, 0, 1), (B, C, H, W); 0 on equal images (Wang et
    al. 2004, 3x3 windows).
    """
    cross_mean = a.mean * b.mean
    square_mean = a.mean * a.mean + b.mean * b.mean
    cross = box3(a.image * b.image) - cross_mean
    variance = a.square + b.square - square_mean
    ssim = ((2 * cross_mean + C1) * (2 * cross + C2)) / ((square_mean + C1) * (variance + C2))
    return ((1 - ssim) * 0.5).clamp(0, 1)


def photometric_error(
    image: Tensor | ImageStats, reference: Tensor | ImageStats, ssim_weight: float = SSIM_WEIGHT
) -> Tensor:
    """pe(a, b) = w mean_c SSIMerr(a, b) + (1 - w) mean_c |a - b|, (B, 1, H, W), w = 0.85 (Godard et
    al. 2019).
    """
    a = image if isinstance(image, ImageStats) else image_stats(image)
    b = reference if isinstance(reference, ImageStats) else image_stats(reference)
    absolute = (a.image - b.image).abs().mean(1, keepdim=True)
    if ssim_weight == 0:
        return absolute
    return ssim_weight * ssim_error(a, b).mean(1, keepdim=True) + (1 - ssim_weight) * absolute


def min_reprojection(errors: Tensor) -> Tensor:
    """Per-pixel minimum over the sources, (B, S, H, W) -> (B, 1, H, W): a pixel hidden in one
    source is judged by another.
    """
    return errors.min(1, keepdim=True).values


def automask(reprojection: Tensor, identity: Tensor) -> Tensor:
    """Mask (B, 1, H, W) in {0, 1}: 1 where the warp explains tgt better than the unwarped source
    does.

    min_s pe(warp_s, tgt) < min_s pe(src_s, tgt). It drops pixels that do not move in the image
    (standing camera, objects at the ego speed). reprojection and identity: (B, 1, H, W), already
    minimal over the sources; the caller adds TIE_BREAK noise to identity in training, so that
    textureless pixels are neither all kept nor all dropped.
    """
    return (reprojection.detach() < identity).to(reprojection.dtype)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """sum(values mask) / max(sum(mask), 1): 0, not NaN, when everything is masked. In data-parallel
    training over the pixels of all processes (parallel.mean_count).
    """
    return (values * mask).sum() / mean_count(mask)


def tie_break(identity: Tensor) -> Tensor:
    """Noise (1, 1, H, W) for identity errors (N, C, H, W): decides where warp and source explain a
    pixel equally well.

    One map for the whole batch: drawn with the step's seed it is the same in every process.
    """
    return TIE_BREAK * torch.randn_like(identity[:1, :1])
