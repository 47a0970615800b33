"""What teacher and student say of a sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.methods.base import Predictions
from dyndepth_core.methods.many_depth.graph import refined_motion
from dyndepth_core.methods.views import Reprojection
from dyndepth_core.networks.cost_volume import CostVolume

Role = Literal["teacher", "student"]


@dataclass
class Sources:
    """What volume and student's loss see of the other images: images (B, S, 3, H, W) for the loss,
    net the same for the networks, valid (B, S, 1, H, W) bool, pixels of them that show the static
    scene; None: all. net_valid: the same of net; None: as valid.
    """

    images: Tensor
    net: Tensor
    valid: Tensor | None = None
    net_valid: Tensor | None = None

    def __post_init__(self) -> None:
        if self.net_valid is None:
            self.net_valid = self.valid


@dataclass
class StudentPredictions:
    """disps as those of the teacher; T_src_tgt (B, S, 4, 4) the motions it was taught with, without
    gradient; teacher_depth (B, 1, H, W), without gradient; augmented (B,) bool: the volume is no
    true one.
    """

    disps: dict[int, Tensor]
    T_src_tgt: Tensor
    volume: CostVolume
    confident: Tensor
    teacher_depth: Tensor
    augmented: Tensor
    sources: Sources

    @torch.no_grad()
    def trusted(self, agreement: float) -> Tensor:
        """M (B, 1, H, W) in {0, 1}: the volume is a true one, could be made, and its best plane is
        within this factor of the teacher's depth.
        """
        size = self.teacher_depth.shape[-2:]
        maps = (self.volume.best_depth(), self.confident)
        best, known = (F.interpolate(x.float(), size) for x in maps)
        ratio = best / self.teacher_depth
        agree = (ratio < agreement) & (ratio > 1 / agreement)
        return known * agree * ~self.augmented.view(-1, 1, 1, 1)


@dataclass
class ManyPredictions(Predictions):
    """disps, T_src_tgt: the teacher's; sample: what they are of. student: None until it begins.
    seen: what warping the sources showed at the finest scale, as far as the losses have looked.
    """

    sample: Sample | None = None
    student: StudentPredictions | None = None
    seen: dict[Role, Reprojection] = field(default_factory=dict)


def refined_motions(
    sample: Sample, depth: Tensor, T_src_tgt: Tensor, K: Tensor, aligned: bool
) -> tuple[Tensor, Tensor]:
    """`refined_motion` of all pairs of a sample: T_src_tgt (B, S, 4, 4) and (B, S) bool, from depth
    (B, 1, H, W) of tgt, T_src_tgt (B, S, 4, 4) and K (B, 3, 3).
    """
    shape = sample.dt.shape
    tgt, depth, K = (x.repeat_interleave(shape[1], 0) for x in (sample.tgt, depth, K))
    found = refined_motion(
        tgt, sample.src.flatten(0, 1), depth, T_src_tgt.flatten(0, 1), K, aligned
    )
    return tuple(x.unflatten(0, shape) for x in found)
