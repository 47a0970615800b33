"""The batch type: named fields."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Sample:
    """A batch. Images are float32 RGB in [0, 1]; `*_net` are colour-jittered copies for the
    networks, never for the loss.
    """

    tgt: Tensor  # (B, 3, H, W)
    src: Tensor  # (B, S, 3, H, W)
    tgt_net: Tensor
    src_net: Tensor
    K: Tensor  # (B, 3, 3) pixels; a guess where unknown
    K_known: Tensor  # (B,) bool
    dt: Tensor  # (B, S) seconds, t_src - t_tgt
    video: Tensor  # (B,) index of the recording
    flipped: Tensor  # (B,) bool, mirrored left to right (K already is, where it is known)
    index: Tensor  # (B,) index of the target in the source's list
    travel: Tensor | None = None  # (B, S) metres between the cameras, NaN unknown; None: not asked
    # (B, 1 + S, H, W) ids of the objects in tgt and src, per image, 0 = nobody's, MAX_INSTANCES + 1
    # those of all that are too many; None: not asked
    instances: Tensor | None = None

    def _map(self, function) -> Sample:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{k: None if v is None else function(v) for k, v in values.items()})

    def to(self, device: torch.device | str) -> Sample:
        """Move every tensor to the device."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Sample:
        """Pin every tensor, for asynchronous copies to a GPU."""
        return self._map(lambda t: t.pin_memory())

    def channels_last(self) -> Sample:
        """Lay image batches out channels-last, which the convolutions prefer on CPU and GPU."""
        return self._map(
            lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
        )
