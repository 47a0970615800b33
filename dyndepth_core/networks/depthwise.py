"""Depthwise convolution whose gradient costs little on small maps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Values of a map, over the square of the stride, up to which ours is the faster one.
LARGEST = 250_000


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """F.conv2d of x (B, C, H, W) with weight (C, 1, k, k) and C groups, the same values and
    gradients.

    For the gradient of 5x5 kernels, and of those larger than the map, oneDNN, which torch calls on
    CPUs, takes its kernel for full groups and pads each group to 16 x 16 channels. On small maps
    k^2 products and sums are faster.
    """
    k, (height, width) = weight.shape[-1], x.shape[-2:]
    small = x.numel() // stride**2 <= LARGEST and (k >= 5 or min(height, width) < k)
    plain = not small or x.device.type != "cpu" or x.dtype != torch.float32
    plain = plain or not (torch.is_grad_enabled() and weight.requires_grad)
    if plain or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return F.conv2d(x, weight, None, stride, padding, 1, x.shape[1])
    return _Depthwise.apply(x, weight, stride, padding)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0],
                x.shape[1], (True, False, False),
            )[0]  # fmt: skip
        return grad_x, _weight_gradient(x, gradient, weight.shape[-1], stride, padding), None, None


def _weight_gradient(x: Tensor, gradient: Tensor, k: int, stride: int, padding: int) -> Tensor:
    """dL/dw_cij = sum_bhw g_bchw x_bc(h s + i - p)(w s + j - p), (C, 1, k, k)."""
    g = gradient.permute(0, 2, 3, 1).contiguous()
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0) + (padding,) * 4)
    rows, columns = (stride * (n - 1) + 1 for n in g.shape[1:3])
    found = x.new_empty(k, k, x.shape[-1])
    for i in range(k):
        for j in range(k):
            part = x[:, i : i + rows : stride, j : j + columns : stride]
            torch.sum(part * g, (0, 1, 2), out=found[i, j])
    return found.permute(2, 0, 1)[:, None]
