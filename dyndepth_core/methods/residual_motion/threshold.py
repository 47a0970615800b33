"""From which speed on something counts as dynamic, found without ground truth."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

GAIN = 0.02  # photometric error by which a residual must help, on average over a window
WINDOW = 7  # pixels
MOVES = 0.3  # probability from which depth no longer learns; found on tuning seeds


def helped(rigid: Tensor, moved: Tensor) -> Tensor:
    """(M, 1, H, W) bool: there the residual explains the image better than ego-motion alone; from
    their photometric errors (M, 1, H, W).
    """
    gain = F.avg_pool2d(rigid - moved, WINDOW, 1, WINDOW // 2, count_include_pad=False)
    return gain > GAIN


def enlarged(likely: Tensor, size: torch.Size) -> Tensor:
    """Probabilities (M, 1, h, w) at (H, W)."""
    return F.interpolate(likely, size, mode="bilinear", align_corners=True)


def movers(moving: Tensor, sources: int, size: torch.Size) -> Tensor:
    """(B, 1, H, W) bool: where the motion network says, on average over the pairs of a tgt, that
    something moves; moving (B S, 1, h, w) logit.
    """
    likely = moving.detach().float().sigmoid().unflatten(0, (-1, sources)).mean(1)
    return enlarged(likely, size) > MOVES


def best_threshold(speeds: Tensor, moving: Tensor) -> float | None:
    """The speed whose excess agrees best, by F1, with `moving`; both (N,). None where nothing
    moves.
    """
    total = int(moving.sum())
    if total == 0:
        return None
    order = speeds.argsort(descending=True)
    ordered, hits = speeds[order], moving[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(order) + 1) + total)
    f1[ordered <= 0] = 0  # what does not move at all is no candidate
    return float(ordered[f1.argmax()]) if f1.max() > 0 else None


def moving_speed(parts: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Threshold in units of the training per second; parts: speeds and whether it moves, both
    (M, 1, H, W).
    """
    speeds, moving = [], []
    for speed, better in parts:
        speeds.append(speed.flatten()[::4].cpu())
        moving.append(better.flatten()[::4].cpu())
    return best_threshold(torch.cat(speeds), torch.cat(moving)) if speeds else None
