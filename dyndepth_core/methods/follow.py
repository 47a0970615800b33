"""Maps of target images that follow their zoom and mirroring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.geometry.camera import flip_K, pixel_grid

Kind = TypeVar("Kind", bound=Sample)


@dataclass
class SegmentSample(Sample):
    """ids (B, 1, H, W) of mined objects, 0 = none; low (B, 1, H, W): 1 where something may stand
    that was not mined.
    """

    ids: Tensor | None = None
    low: Tensor | None = None


def follow(maps: Tensor, K: Tensor, sample: Sample) -> Tensor:
    """Maps (B, C, H, W) of whole images of cameras K (B, 3, 3) as the sample shows them: each pixel
    takes the value it lies on (nearest), nothing is mixed.

    pixel of the whole image = (pixel of the sample - c') f / f' + c, of the mirrored one first
    mirrored back; K' = sample.K.
    """
    height, width = maps.shape[-2:]
    grid = pixel_grid(height, width, dtype=torch.float64)[:2][None]
    mirrored = sample.flipped.view(-1, 1, 1, 1)
    u = torch.where(mirrored, width - 1 - grid[:, :1], grid[:, :1])
    seen = torch.where(sample.flipped.view(-1, 1, 1), flip_K(sample.K, width), sample.K).double()
    K = K.double()

    def back(x: Tensor, i: int) -> Tensor:
        f, c, f_seen, c_seen = (
            m.view(-1, 1, 1, 1) for m in (K[:, i, i], K[:, i, 2], seen[:, i, i], seen[:, i, 2])
        )
        return (x - c_seen) * f / f_seen + c

    x, y = back(u, 0), back(grid[:, 1:].expand_as(u), 1)
    x, y = x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1
    where = torch.cat((x, y), 1).permute(0, 2, 3, 1)
    found = F.grid_sample(
        maps.double(), where, mode="nearest", padding_mode="border", align_corners=True
    )
    return found.to(maps.dtype)


def mirrored(T: Tensor, sample: Sample) -> Tensor:
    """Motions (B, S, 4, 4) as the sample shows them: F T F, F = diag(-1, 1, 1, 1), where it is
    mirrored.
    """
    F_T_F = T * T.new_tensor(((1, -1, -1, -1), (-1, 1, 1, 1), (-1, 1, 1, 1), (-1, 1, 1, 1)))
    return torch.where(sample.flipped.view(-1, 1, 1, 1), F_T_F, T)


def with_maps(kind: type[Kind], sample: Sample, **maps: Tensor) -> Kind:
    """The sample with more in it."""
    return kind(**{f.name: getattr(sample, f.name) for f in fields(Sample)}, **maps)


def draw(count: int, step: int, size: int, seed: int, train: bool) -> list[int]:
    """Which of `count` things a step sees: through seeded permutations, each once per epoch; in
    order, the last ones fewer, where nothing is trained.
    """
    first = step * size
    if not train:
        return [(first + j) % count for j in range(min(size, max(count - first, 1)))]
    epochs = {g // count for g in range(first, first + size)}
    orders = {e: np.random.default_rng((seed, 2, e)).permutation(count) for e in epochs}
    return [int(orders[g // count][g % count]) for g in range(first, first + size)]


class MapSource:
    """A source of samples with maps: what `job.fit` needs of a SampleSource.

    maps(target): {name: array float32} of a target of `source`, the fields of `kind`: (H, W) of the
    whole image, or motions (S, 4, 4) of it; it must be picklable, for data workers.
    """

    def __init__(
        self, source: SampleSource, kind: type[Sample],
        maps: Callable[[int], dict[str, np.ndarray]],
    ) -> None:  # fmt: skip
        self.source, self.kind, self.maps = source, kind, maps
        self.config: DataConfig = source.config
        self.batch_size, self.names = source.batch_size, source.names

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Sample:
        """See SampleSource."""
        return self.add(self.source.batch(step, rank, world))

    def add(self, sample: Sample) -> Sample:
        """The sample with its maps; `video` still counts in the source's own list."""
        found = [self.maps(int(i)) for i in sample.index]
        K = torch.tensor(np.stack([self.source.K(int(v)) for v in sample.video]))
        maps = {}
        for name in found[0]:
            own = torch.from_numpy(np.stack([m[name] for m in found]))
            is_map = own.ndim == 3
            maps[name] = follow(own[:, None], K, sample) if is_map else mirrored(own, sample)
        return with_maps(self.kind, sample, **maps)
