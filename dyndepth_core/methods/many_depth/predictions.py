"""What teacher and student say of a sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.losses.parallel import global_sum, process_count
from dyndepth_core.methods.base import Predictions
from dyndepth_core.methods.views import Reprojection
from dyndepth_core.networks.cost_volume import CostVolume

Role = Literal["teacher", "student"]
RANGE_PIXELS = 4096  # of an image tell its range
TABLE = 4096  # random numbers that samples share by their index


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


@torch.no_grad()
def depth_range(depth: Tensor, quantiles: tuple[float, float]) -> Tensor:
    """(2,): these quantiles of depth (B, 1, H, W) in an image, mean over the images of all
    processes.
    """
    values = depth.float().flatten(1)
    values = values[:, :: max(1, values.shape[1] // RANGE_PIXELS)]
    wanted = torch.tensor(quantiles, device=values.device)
    return global_sum(torch.quantile(values, wanted, dim=1).mean(1)) / process_count()


def draw_augmentation(index: Tensor, static: float, empty: float) -> tuple[Tensor, Tensor]:
    """Two disjoint draws (B,) bool with these shares: of the step's seed and the index of a sample
    (B,) alone, whichever process has it.
    """
    drawn = torch.rand(TABLE, device=index.device)[index % TABLE]
    return drawn < static, (drawn >= static) & (drawn < static + empty)
