"""Which instance of one image is which of another, by how well their masks cover each other."""

from __future__ import annotations

import torch
from torch import Tensor


def dice_costs(a: Tensor, b: Tensor, count: int) -> Tensor:
    """C_ij = 1 - 2 |a_i and b_j| / (|a_i| + |b_j|), (B, count, count), in [0, 1].

    a, b: ids (B, H, W), integers, 0 = nobody's, 1 to count. Where an instance has no pixels: 1.
    """
    names = count + 1
    pairs = (a.long() * names + b.long()).flatten(1)
    shared = torch.zeros(len(a), names * names, device=a.device)
    shared = shared.scatter_add(1, pairs, torch.ones_like(pairs, dtype=shared.dtype))
    shared = shared.unflatten(1, (names, names))
    sizes = shared.sum(2)[:, 1:, None] + shared.sum(1)[:, None, 1:]
    return 1 - 2 * shared[:, 1:, 1:] / sizes.clamp(min=1)


def match(costs: Tensor, gate: float) -> Tensor:
    """Partners (B, K + 1) of the instances of a, as ids of b; 0, and that of nobody: none.

    The assignment of the least sum of costs (B, K, K) of each image (Hungarian algorithm); pairs
    that cost `gate` or more are no partners. Exact, on the CPU: K is a few.
    """
    from scipy.optimize import linear_sum_assignment  # an extra: the node's process has none

    partners = torch.zeros(len(costs), costs.shape[1] + 1, dtype=torch.long)
    # a pair beyond the gate costs the same as none: it must not cost others their partner
    table = costs.detach().cpu().double().clamp(max=gate).numpy()
    for image, table_of_image in enumerate(table):
        rows, columns = linear_sum_assignment(table_of_image)
        good = table_of_image[rows, columns] < gate
        partners[image, torch.from_numpy(rows[good]) + 1] = torch.from_numpy(columns[good]) + 1
    return partners.to(costs.device)


def boxes(ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Outermost pixels (B, count + 1, 4) of every instance, left, top, right, bottom, as float, and
    their numbers of pixels (B, count + 1); ids (B, H, W). Without pixels, the box is 0.
    """
    height, width = ids.shape[-2:]
    flat = ids.long().flatten(1)
    y, x = torch.meshgrid(
        torch.arange(height, device=ids.device), torch.arange(width, device=ids.device),
        indexing="ij",
    )  # fmt: skip
    x, y = (c.float().flatten().expand(len(flat), -1) for c in (x, y))
    empty = x.new_zeros(len(flat), count + 1)
    sides = [
        empty.scatter_reduce(1, flat, values, how, include_self=False)
        for values, how in ((x, "amin"), (y, "amin"), (x, "amax"), (y, "amax"))
    ]
    pixels = empty.scatter_add(1, flat, torch.ones_like(x))
    return torch.stack(sides, -1), pixels


def relabel(ids: Tensor, names: Tensor) -> Tensor:
    """ids (B, H, W) with other names: names (B, K + 1), that of every id; same type as names."""
    return names.gather(1, ids.long().flatten(1)).view(ids.shape)
