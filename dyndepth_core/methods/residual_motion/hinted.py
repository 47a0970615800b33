"""Samples with hints of depth and motion, see hints.py, and what is learned from them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.geometry.warp import correspond
from dyndepth_core.losses.photometric import masked_mean
from dyndepth_core.methods.follow import MapSource

FILES = 128  # that stay in memory


@dataclass
class HintedSample(Sample):
    """hint (B, 1, H, W): depth of tgt in any unit; sure (B, 1, H, W) in {0, 1}: where; motion
    (B, S, 4, 4): T_src_tgt in that unit, all 0 where unknown.
    """

    hint: Tensor | None = None
    sure: Tensor | None = None
    motion: Tensor | None = None


def unit(depth: Tensor, hint: Tensor, sure: Tensor) -> Tensor:
    """Median of depth / hint of each image, (B, 1, 1, 1), 1 where nothing is sure, without
    gradient; all (B, 1, H, W): hints say the shape.
    """
    ratio = depth.detach() / torch.where(sure > 0, hint, 1.0)
    known = torch.where(sure > 0, ratio, torch.nan).flatten(1)
    return known.nanmedian(1).values.nan_to_num(1.0).view(-1, 1, 1, 1)


def hint_loss(depth: Tensor, hint: Tensor, sure: Tensor) -> Tensor:
    """Mean of |log(depth / (s hint))| over sure, s = `unit`; all (B, 1, H, W)."""
    aimed = unit(depth, hint, sure) * torch.where(sure > 0, hint, 1.0)
    return masked_mean((depth / aimed).log().abs(), sure)


def hinted_motion(sample: HintedSample, depth: Tensor) -> tuple[Tensor, Tensor]:
    """T_src_tgt (B, S, 4, 4) in units of depth (B, 1, H, W), and where it is known (B, S) bool."""
    T = sample.motion.clone()
    T[..., :3, 3] *= unit(depth, sample.hint, sample.sure).view(-1, 1, 1)
    return T, (T[..., 3, 3] > 0) & (sample.sure.flatten(1).amax(1) > 0)[:, None]


def motion_loss(T: Tensor, aimed: Tensor, known: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """Mean distance in pixels between where T and where `aimed`, both (B, S, 4, 4), put the
    points of depth (B, 1, H, W), over the pairs that are known (B, S) bool; so it weighs turning
    against travelling as the images do. K (B, 3, 3); the gradient is that of T.
    """
    sources = T.shape[1]
    depth, K = (x.detach().repeat_interleave(sources, 0) for x in (depth, K))
    found, wanted = (correspond(depth, x.flatten(0, 1), K) for x in (T, aimed))
    off = (found.pixels - wanted.pixels).norm(dim=1, keepdim=True)
    seen = found.valid & wanted.valid & known.flatten().view(-1, 1, 1, 1)
    return masked_mean(off.masked_fill(~seen, 0.0), seen.to(off.dtype))


def hinted(source: SampleSource, files: Sequence[Path]) -> MapSource | None:
    """The samples whose targets have a hint, with it; None where fewer have one than a batch."""
    where: dict[tuple[int, int], tuple[Path, int]] = {}
    for path in files:
        with np.load(path, allow_pickle=False) as data:
            where |= {(int(data["video"]), int(f)): (path, k) for k, f in enumerate(data["frames"])}
    chosen = [k for k, (video, frame, _) in enumerate(source.targets) if (video, frame) in where]
    if len(chosen) < source.batch_size:
        return None
    part = source.only(chosen)
    return MapSource(part, HintedSample, functools.partial(_maps, part.targets, where))


def _maps(
    targets: list[tuple[int, int, tuple[int, ...]]], where: dict[tuple[int, int], tuple[Path, int]],
    target: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    video, frame, sources = targets[target]
    path, row = where[video, frame]
    depth, sure, around, T = (x[row] for x in _read(path))
    sure = np.unpackbits(sure, axis=-1, count=depth.shape[-1])
    motion = np.stack([T[around == src].sum(0) for src in sources])
    return {
        "hint": depth.astype(np.float32), "sure": sure.astype(np.float32), "motion": motion
    }  # fmt: skip


@functools.lru_cache(FILES)
def _read(path: Path) -> tuple[np.ndarray, ...]:
    with np.load(path, allow_pickle=False) as data:
        return tuple(data[name] for name in ("depth", "sure", "around", "T"))
