"""The published losses: every pair both ways, where it is not hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from dyndepth_core.losses.motion import rotation_cycle
from dyndepth_core.losses.smoothness import edge_aware_smoothness
from dyndepth_core.methods.base import LossTerms
from dyndepth_core.methods.residual_motion.config import ResidualMotionConfig
from dyndepth_core.methods.residual_motion.ways import Ways


def published_losses(config: ResidualMotionConfig, ways: Ways, coarse: float) -> LossTerms:
    """rgb mean(O |I_b^ - I_a|), O where a's point lies in front of what b sees there; ssim of the
    structure, weighted by the agreement of the depths; depth mean(O |D_b^ - z|) (off); edge-aware
    smoothness of 1 / depth; cycle consistency of both ways.

    rgb is a mean over all pixels, so that it falls where O shrinks: watch `automask` in the
    pictures, which shows O. coarse: weight of the smaller images.
    """
    seen, moves = ways.compare(), _moving(config, ways)
    terms = {
        "rgb": config.rgb * ways.mean(seen.rgb, moves),
        "ssim": config.ssim * ways.mean(ways.structure(seen), moves),
        "smoothness": config.smoothness * edge_aware_smoothness(1 / ways.depth_a, ways.image_a),
        "rotation_cycle": config.rotation_cycle
        * rotation_cycle(ways.T_b_a[:, :3, :3], ways.back(ways.T_b_a)[:, :3, :3]),
        "translation_cycle": config.translation_cycle * ways.cycle(seen),
    }
    if config.depth_consistency:
        terms["depth"] = config.depth_consistency * ways.mean(seen.depth_error, moves)
    if coarse > 0:
        levels = [_smaller(config, ways, level, moves) for level in range(1, config.pyramid)]
        terms["pyramid"] = coarse * torch.stack(levels).mean()
    maps = {
        "depth": ways.depth_a, "error": seen.rgb, "warped": seen.warped,
        "automask": seen.visible.float(), "silent": 1 - seen.visible.float(),
    }  # fmt: skip
    return LossTerms(sum(terms.values()), terms, maps)


def _smaller(config: ResidualMotionConfig, ways: Ways, level: int, moves: Tensor) -> Tensor:
    ways = ways.smaller(level)
    seen = ways.compare()
    rgb, ssim = (ways.mean(x, moves) for x in (seen.rgb, ways.structure(seen)))
    return config.rgb * rgb + config.ssim * ssim


def _moving(config: ResidualMotionConfig, ways: Ways) -> Tensor:
    """(2N, 1, 1, 1) in {0, 1}: the images differ; a standing camera teaches no depth."""
    change = (ways.image_a - ways.image_b).abs().mean((1, 2, 3), keepdim=True)
    return (change > config.static_pairs).to(change.dtype)
