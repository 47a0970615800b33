"""Losses for trainings that are not a million steps: each pixel by its best source."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.losses.photometric import automask
from dyndepth_core.losses.smoothness import edge_aware_smoothness
from dyndepth_core.methods.base import LossTerms
from dyndepth_core.methods.residual_motion.config import ResidualMotionConfig
from dyndepth_core.methods.residual_motion.threshold import helped
from dyndepth_core.methods.views import View


def best_source_losses(
    config: ResidualMotionConfig,
    sample: Sample,
    depth: Tensor,
    T_src_tgt: Tensor,
    refined: Tensor,
    residual: Tensor,
    K: Tensor,
    progress: float,
    noise: bool,
) -> LossTerms:
    """With e = rgb |.| + ssim SSIMerr, its minimum over the sources taken pixel by pixel:

    static mean (1 - m) min(e(ego-motion), e(no warp)): depth and ego-motion explain what stands;
    motion mean e(ego-motion + residual), without gradient to depth and ego-motion: residuals
    explain what they leave, with network.pose_align of ego-motion refined to the depth. m, from the
    end of the burn-in on: there the residual explains the images clearly better, so that depth no
    longer learns to explain motion.

    The published loss has residuals and depth explain the images together. At the start of a
    training it then has depth explain everything, cars at the speed of the camera become holes, and
    from there a short one does not come back. depth (B, 1, H, W), T_src_tgt and refined
    (B, S, 4, 4), residual (B S, 3, H, W), K (B, 3, 3); noise: breaks ties of the automask.
    """
    weight = config.rgb + config.ssim
    ssim_share = config.ssim / weight
    view = View.of(sample, K, 0, ssim_share, noise)
    error, warped = view.reproject(depth, T_src_tgt, ssim_share)
    moved, _ = view.reproject(depth.detach(), refined.detach(), ssim_share, residual)
    still = torch.ones_like(error)
    if progress >= config.burn_in[1]:
        still = 1 - helped(error.detach(), moved.detach()).to(error.dtype)
    terms = {
        "static": weight * (still * torch.minimum(error, view.identity)).mean(),
        "smoothness": config.smoothness * edge_aware_smoothness(1 / depth, sample.tgt),
    }
    if config.residual_share(progress) > 0:
        terms["motion"] = weight * moved.mean()
    if (coarse := config.pyramid_weight(progress)) > 0:
        inverse, levels = 1 / depth, []
        for level in range(1, config.pyramid):
            view_s = View.of(sample, K, level, ssim_share, noise)
            small = 1 / F.avg_pool2d(inverse, 2**level)
            error_s, _ = view_s.reproject(small, T_src_tgt, ssim_share)
            levels.append(torch.minimum(error_s, view_s.identity).mean())
        terms["pyramid"] = coarse * weight * torch.stack(levels).mean()
    maps = {
        "depth": depth, "error": error, "warped": warped,
        "automask": still * automask(error, view.identity),
    }  # fmt: skip
    return LossTerms(sum(terms.values()), terms, maps)
