"""Data-parallel processes: which is the first, and batch normalisation over the batch of all, on
the CPU too.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from ..losses.parallel import global_sum, process_count


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose mean and variance in training are those of every process's share
    together; torch's own SyncBatchNorm refuses the CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same."""
        if not self.training or process_count() == 1:
            return super().forward(x)
        given, dims = x.dtype, (0, 2, 3)
        x = x.to(torch.promote_types(given, torch.float32))  # sums of half precision round
        count = x.numel() // x.shape[1] * process_count()  # the shares are equal
        mean = global_sum(x.sum(dims)) / count
        centred = x - mean.view(1, -1, 1, 1)
        variance = global_sum(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        factor = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * factor.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(given)


def share_batch_norms(module: nn.Module) -> None:
    """Make every nn.BatchNorm2d of a module a GlobalBatchNorm2d; parameters and names stay."""
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = GlobalBatchNorm2d  # it has the same state


def is_first_process() -> bool:
    """False in the processes that Lightning (or a cluster) starts beside the first one."""
    return all(
        os.environ.get(name, "0") == "0"
        for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK")
    )
