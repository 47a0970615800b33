"""Fold batch normalisation into the convolutions before it: the same function, less work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .loading import step

logger = logging.getLogger(__name__)

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PROBE = 64  # pixels a side: enough to see what follows what, and the start of a node stays short
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norm(
    module: nn.Module, run: Callable[[nn.Module], Tensor], tolerance: float = 1e-3
) -> int:
    """Fold every batch norm of `module` that directly follows a convolution, in place; returns how
    many were folded.

    Which follows which is seen by watching `run(module)`, one or more forward passes that touch all
    branches and return an output to compare; no naming convention is needed. `module` must be in
    evaluation mode. Where the output changes by more than `tolerance` (relative to its largest
    value: a convolution's output was also used elsewhere), everything is put back and 0 returned.
    """
    followers, before = _follow(module, run)
    if not followers:
        return 0
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for conv, norm in followers:
        _replace(module, conv, fuse_conv_bn_eval(conv, norm), replaced)
        _replace(module, norm, nn.Identity(), replaced)
    after = run(module)
    change = ((after - before).abs().max() / before.abs().max().clamp(min=1e-12)).item()
    if change <= tolerance:  # False for NaN too
        return len(followers)
    for parent, name, original in reversed(replaced):
        setattr(parent, name, original)
    logger.info("batch norm not folded: it would change the output by %.2g of its range", change)
    return 0


def _follow(
    module: nn.Module, run: Callable[[nn.Module], Tensor]
) -> tuple[list[tuple[nn.Module, nn.Module]], Tensor]:
    """Pairs (convolution, batch norm) where the norm's input is that convolution's output at every
    call; and what `run` returned.
    """
    # The tensors are kept as well, or their ids could be used again.
    producer: dict[int, tuple[nn.Module, Tensor]] = {}
    sources: dict[nn.Module, set[nn.Module | None]] = {}

    def after_conv(conv: nn.Module, _inputs: Any, output: Tensor) -> None:
        producer[id(output)] = (conv, output)

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sources.setdefault(norm, set()).add(producer.get(id(inputs[0]), (None, None))[0])

    handles = []
    for child in module.modules():
        if isinstance(child, _CONVS):
            handles.append(child.register_forward_hook(after_conv))
        elif isinstance(child, _BATCH_NORMS) and child.track_running_stats:
            handles.append(child.register_forward_pre_hook(before_norm))
    try:
        output = run(module)
    finally:
        for handle in handles:
            handle.remove()
    pairs = [(next(iter(convs)), norm) for norm, convs in sources.items() if len(convs) == 1]
    uses = [conv for conv, _ in pairs]
    found = [(conv, norm) for conv, norm in pairs if conv is not None and uses.count(conv) == 1]
    return found, output


def _replace(
    root: nn.Module,
    old: nn.Module,
    new: nn.Module,
    replaced: list[tuple[nn.Module, str, nn.Module]],
) -> None:
    """Put `new` wherever `old` hangs in the tree (a shared module hangs in several places)."""
    for parent in list(root.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
                replaced.append((parent, name, old))


def fold_graph(graph: nn.Module, size: tuple[int, int], focal: float) -> int:
    """`fold_batch_norm` of an inference graph for images (h, w) at a focal length in pixels."""
    step()
    small = (min(size[0], PROBE), min(size[1], PROBE))
    try:
        return fold_batch_norm(graph, _run_twice(small, focal))
    except RuntimeError:  # a network that is tied to its size; it failed before anything was folded
        return fold_batch_norm(graph, _run_twice(size, focal))


def _run_twice(size: tuple[int, int], focal: float) -> Callable[[nn.Module], Tensor]:
    """Depth of two frames of fixed noise (h, w), the second with the first as its history: every
    branch of a graph is touched.
    """
    frames = torch.rand((2, 1, 3, *size), generator=torch.Generator().manual_seed(0))
    height, width = size
    K = torch.tensor([[[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]])

    def run(graph: nn.Module) -> Tensor:
        with torch.inference_mode():
            first, _, _, state = graph(frames[0], None, K, None)
            second = graph(frames[1], frames[0], K, state)[0]
        return torch.cat((first, second))

    return run
