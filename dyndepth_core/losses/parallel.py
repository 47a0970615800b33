"""Sums over data-parallel processes: a batch shared by several gives the gradients of one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """Number of processes that share the batch; 1 outside of data-parallel training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient of every process's loss comes back to every summand."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:  # noqa: ANN001
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # noqa: ANN001
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def global_sum(value: Tensor) -> Tensor:
    """Sum of a tensor over the processes, differentiable; every process must call it."""
    return _Sum.apply(value) if process_count() > 1 else value


def step_sum(value: Tensor) -> Tensor:
    """Sum of a tensor over the processes while gradients are recorded, without gradient itself:
    for what decides in a training step, which must be the same in every process. Otherwise that of
    this process, see mean_count.
    """
    value = value.detach()
    return global_sum(value) if torch.is_grad_enabled() else value


def mean_count(mask: Tensor) -> Tensor:
    """What a masked sum is divided by: sum(mask), at least 1; over all processes while gradients
    are recorded.

    Data-parallel training averages the gradients of P processes, so each divides its own sum by the
    global count / P. A mean of local means would weigh pixels by how many their process has masked.
    Without gradients (validation) processes may see different numbers of batches and do not wait
    for each other.
    """
    count, processes = mask.sum(), process_count()
    if processes > 1 and torch.is_grad_enabled():
        return step_sum(count).clamp(min=1) / processes
    return count.clamp(min=1)


def step_mean(value: Tensor) -> Tensor:
    """Mean of a tensor's entries over the processes, whose shares are equal; see step_sum."""
    count = value.numel() * (process_count() if torch.is_grad_enabled() else 1)
    return step_sum(value.sum()) / count
