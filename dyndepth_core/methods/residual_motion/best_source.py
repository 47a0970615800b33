"""Losses for trainings that are not a million steps: each pixel by its best source."""

from __future__ import annotations

import torch
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.geometry.warp import correspond
from dyndepth_core.geometry.warp import sample as look_up
from dyndepth_core.losses.consistency import depth_inconsistency, self_discovered_mask
from dyndepth_core.losses.distillation import silent_pixels
from dyndepth_core.losses.photometric import masked_mean
from dyndepth_core.losses.smoothness import edge_aware_smoothness
from dyndepth_core.methods.base import LossTerms
from dyndepth_core.methods.pairs import Comparison, Pairs
from dyndepth_core.methods.residual_motion.config import ResidualMotionConfig
from dyndepth_core.methods.residual_motion.threshold import helped, movers
from dyndepth_core.methods.views import View


def best_source_losses(
    config: ResidualMotionConfig,
    sample: Sample,
    depth: Tensor,
    src_depth: Tensor,
    T_src_tgt: Tensor,
    refined: Tensor,
    residual: Tensor,
    moving: Tensor | None,
    K: Tensor,
    progress: float,
    noise: bool,
    taught: Tensor | None = None,
) -> LossTerms:
    """With e = rgb |.| + ssim SSIMerr of the source that explains a pixel best, D_diff what its
    depth and that of tgt differ relatively (losses/consistency.py), V where ego-motion explains a
    pixel better than no motion does:

    static sum V (1 - m) (1 - D_diff) e(ego-motion) / sum V: depth and ego-motion explain what
    stands; depth sum V (1 - m) D_diff / sum V: as consistently from image to image;
    motion mean e(ego-motion + residual), without gradient to the depth and the ego-motion of the
    warp (one reaches the depth as what the motion network sees, where network.motion_depth is on):
    residuals explain what they leave, with network.pose_align of ego-motion refined to the depth;
    motion_depth mean over m of D_diff with the residual: what comes nearer grows in the depth, too,
    which tells it from what moves sideways. m, for the depth from the
    end of the burn-in on: there something moves, so that depth no longer learns to explain motion;
    without `moving` that is where the residual explains the images clearly better.

    The published loss has residuals and depth explain the images together. At the start of a
    training it then has depth explain everything, cars at the speed of the camera become holes, and
    from there a short one does not come back. Its weights by agreement of the depths are of squares
    of depth, so that far things decide them; D_diff is relative (Bian et al. 2019).

    depth (B, 1, H, W), src_depth (B S, 1, H, W), T_src_tgt and refined (B, S, 4, 4), residual
    (B S, 3, H, W), moving (B S, 1, h, w) logit, K (B, 3, 3); noise: breaks ties of the automask;
    taught (B, 1, H, W) in [0, 1]: how surely something else says the depth, which counts as m.
    """
    weight, (batch, sources) = config.rgb + config.ssim, T_src_tgt.shape[:2]
    ssim_share = config.ssim / weight

    def compare(pairs: Pairs) -> Comparison:
        return pairs.compare(ssim_share).least(batch, sources)

    pairs = Pairs(
        sample.tgt, sample.src.flatten(0, 1), depth.repeat_interleave(sources, 0),
        src_depth.detach(), T_src_tgt.flatten(0, 1), K.repeat_interleave(sources, 0),
    )  # fmt: skip
    found = compare(pairs)
    judged, still = found.automask(noise), torch.ones_like(found.error)
    terms = {"smoothness": config.smoothness * edge_aware_smoothness(1 / depth, sample.tgt)}
    if config.residual_share(progress) > 0:
        view = View.of(sample, K, 0, ssim_share, noise)
        moved, _ = view.reproject(depth.detach(), refined.detach(), ssim_share, residual)
        terms["motion"] = weight * moved.mean()
        if moving is None:
            moves = helped(found.error.detach(), moved.detach())
        else:
            moves = movers(moving, sources, depth.shape[-2:])
        moves = moves.to(still.dtype)
        terms["motion_depth"] = config.consistency * _change(pairs, refined, residual, moves)
        if progress >= config.burn_in[1]:
            still = 1 - (moves if taught is None else torch.maximum(moves, taught))
    agreed = still * self_discovered_mask(found.inconsistency)
    terms["static"] = weight * masked_mean(agreed * found.error, judged.valid)
    terms["depth"] = config.consistency * masked_mean(still * found.inconsistency, judged.valid)
    if (coarse := config.pyramid_weight(progress)) > 0:
        levels = [
            compare(pairs.smaller(level)).automask(noise).mean_error()
            for level in range(1, config.pyramid)
        ]
        terms["pyramid"] = coarse * weight * torch.stack(levels).mean()
    unseen = silent_pixels(found.error, found.identity, judged.valid)
    maps = {
        "depth": depth, "error": found.error, "warped": found.warped,
        "automask": still * judged.valid, "silent": torch.maximum(unseen, 1 - still),
    }  # fmt: skip
    return LossTerms(sum(terms.values()), terms, maps)


def _change(pairs: Pairs, refined: Tensor, residual: Tensor, moves: Tensor) -> Tensor:
    """Mean D_diff between the moved points and what src says where they fall, over what moves
    (B, 1, H, W); only the residual learns.
    """
    T = refined.detach().flatten(0, 1)
    seen = correspond(pairs.depth_a.detach(), T, pairs.K, residual)
    depth = look_up(pairs.depth_b, seen.pixels.detach())
    where = seen.valid * moves.repeat_interleave(refined.shape[1], 0)
    return masked_mean(depth_inconsistency(seen.z_src, depth), where)
