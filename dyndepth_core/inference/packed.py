"""Weights in 8 bits, for what only motion needs: a model file for depth and motion stays small."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # ends the name of the factors of packed weights
LEVELS = 127


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of the same shape and factors (channels,) float32: weight = factor * int8 to within half
    a factor, a factor per output channel (the first dimension).
    """
    factors = weight.float().flatten(1).abs().amax(1) / LEVELS
    factors = factors.clamp(min=torch.finfo(torch.float32).tiny)
    steps = weight.float() / factors.view(-1, *[1] * (weight.dim() - 1))
    return steps.round().to(torch.int8), factors


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights as floating point; what is not packed stays as it is. KeyError names packed
    weights without factors, ValueError those whose factors do not fit.
    """
    packed = {name for name, tensor in tensors.items() if tensor.dtype == torch.int8}
    missing = sorted(name for name in packed if name + SCALE not in tensors)
    if missing:
        raise KeyError(f"packed weight {missing[0]} without its factors")
    found = {}
    for name, tensor in tensors.items():
        if name in packed:
            factors = tensors[name + SCALE]
            if tensor.dim() < 2 or factors.shape != tensor.shape[:1]:
                raise ValueError(f"packed weight {name} and its factors do not fit")
            found[name] = tensor.float() * factors.float().view(-1, *[1] * (tensor.dim() - 1))
        elif name.removesuffix(SCALE) not in packed:
            found[name] = tensor
    return found
