"""Plane-sweep cost volume: how well features of earlier images match those of this one, were it as
deep as each of several planes (Collins 1996; as in Watson et al., CVPR 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.camera import inverse_K, pixel_grid
from dyndepth_core.geometry.warp import MIN_Z

BORDER = 2  # pixels at the border of both feature maps that match nothing
SLACK = 5e-4  # pixels, so that float error does not drop the border where nothing moves
# Warped features at a time; more planes wait for the next round. A CPU keeps them in its cache.
ELEMENTS = {False: 1 << 20, True: 1 << 26}


@dataclass
class CostVolume:
    """cost (B, P, h, w): mean absolute difference of the features, 0 where not seen; seen
    (B, P, h, w) bool: something was there to compare with; planes (B, P): their depths, nearest
    first. Without gradient: what matches is an input of a network, not what it learns from.
    """

    cost: Tensor
    seen: Tensor
    planes: Tensor

    def confident(self, share: float = 1.0) -> Tensor:
        """(B, 1, h, w) bool: pixels that at least this share of the planes could be compared at;
        Watson et al.: all of them.
        """
        return self.seen.float().mean(1, keepdim=True) >= share - 1e-6

    def filled(self) -> Tensor:
        """cost (B, P, h, w), where not seen the largest of that pixel; 0 where nothing was seen."""
        worst = self.cost.amax(1, keepdim=True)
        return torch.where(self.seen, self.cost, worst)

    def averaged(self, window: int) -> CostVolume:
        """Every cost the mean over a square of `window` (odd) feature pixels, of those seen."""
        if window == 1:
            return self
        seen = F.avg_pool2d(self.seen.to(self.cost.dtype), window, 1, window // 2)
        cost = F.avg_pool2d(self.cost, window, 1, window // 2) / seen.clamp(min=1e-6)
        return CostVolume(cost * self.seen, self.seen, self.planes)

    def guide(self) -> Tensor:
        """(B, 1, h, w) in [0, 1]: inverse depth of the plane of the least cost, 0 at the farthest
        plane, 1 at the nearest; 0 where nothing was seen.
        """
        near, far = 1 / self.planes[:, :1, None, None], 1 / self.planes[:, -1:, None, None]
        found = (1 / self.best_depth() - far) / (near - far)
        return found * self.seen.any(1, keepdim=True)

    def best_depth(self) -> Tensor:
        """(B, 1, h, w): depth of the plane of the least cost among those seen; the nearest where
        there is none.
        """
        best = self.cost.masked_fill(~self.seen, torch.inf).min(1).indices
        return self.planes.gather(1, best.flatten(1)).view_as(best)[:, None]


def depth_planes(nearest: Tensor, farthest: Tensor, count: int, inverse: bool = False) -> Tensor:
    """Depths (..., count) from nearest to farthest, (...) both: in even steps, or in even steps of
    the inverse depth, which are even steps of the image.
    """
    steps = torch.linspace(0, 1, count, device=nearest.device, dtype=nearest.dtype)
    near, far = nearest[..., None], farthest[..., None]
    if inverse:
        return 1 / (1 / near + (1 / far - 1 / near) * steps)
    return near + (far - near) * steps


@torch.no_grad()
def plane_sweep(
    tgt: Tensor,
    src: Tensor,
    T_src_tgt: Tensor,
    K: Tensor,
    planes: Tensor,
    usable: Tensor | None = None,
    valid_src: Tensor | None = None,
) -> CostVolume:
    """Match features tgt (B, C, h, w) with those of S sources (B, S, C, h, w) at planes (B, P).

    T_src_tgt (B, S, 4, 4); K (B, 3, 3) in pixels of the features. usable (B, S) bool: sources that
    there are (none at the start of a sequence); valid_src (B, S, 1, h, w) bool: their pixels that
    show the static scene. cost = mean over the sources that see it of mean_c |src(x') - tgt(x)|,
    x' = pi(K (R d K^-1 x + t)), both at least BORDER pixels inside. In float32 also under autocast.
    """
    with torch.autocast(tgt.device.type, enabled=False):
        batch, sources = src.shape[:2]
        height, width = tgt.shape[-2:]
        K, T = K.float(), T_src_tgt.float()
        turned = K[:, None] @ T[..., :3, :3] @ inverse_K(K)[:, None]  # (B, S, 3, 3)
        far = turned.flatten(0, 1) @ pixel_grid(height, width, K.device, K.dtype).flatten(1)
        shift = (K[:, None] @ T[..., :3, 3:]).flatten(0, 1)  # (B S, 3, 1)
        planes = planes.float()
        src = src.float().flatten(0, 1)
        if valid_src is not None:  # looked up with the features
            src = torch.cat((src, valid_src.flatten(0, 1).to(src.dtype)), 1)
        table = src.permute(0, 2, 3, 1).reshape(-1, src.shape[1])
        tgt = tgt.detach().float().flatten(2).mT.repeat_interleave(sources, 0)[:, None]
        at_once = ELEMENTS[tgt.is_cuda] // max(1, len(src) * height * width * src.shape[1])
        found = [
            _compare(tgt.contiguous(), table, far, shift, depths, (height, width))
            for depths in planes.repeat_interleave(sources, 0).split(max(1, at_once), 1)
        ]
        cost, seen = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        seen = seen & _inner(height, width, seen).flatten()
        if usable is not None:
            seen = seen & usable.flatten().view(-1, 1, 1)
        cost = cost.mul_(seen).view(batch, sources, -1, height, width)
        seen = seen.view_as(cost)
        if sources == 1:
            return CostVolume(cost[:, 0], seen[:, 0], planes)
        count = seen.sum(1)
        return CostVolume(cost.sum(1) / count.clamp(min=1), count > 0, planes)


def _compare(
    tgt: Tensor, table: Tensor, far: Tensor, shift: Tensor, depths: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """cost and seen (N, p, h w) at some planes.

    tgt (N, 1, h w, C); table (N h w, C) of the source, one channel more where the last says if it
    is valid; depths (N, p), far (N, 3, h w), shift (N, 3, 1).
    """
    (height, width), (images, planes), channels = size, depths.shape, tgt.shape[3]
    where = depths[:, :, None, None] * far[:, None] + shift[:, None]  # (N, p, 3, h w)
    z = where[:, :, 2]
    u, v = (where[:, :, :2] / z[:, :, None].clamp(min=MIN_Z)).unbind(2)
    low, high = BORDER - SLACK, BORDER + 1 - SLACK
    seen = (z > MIN_Z) & (u >= low) & (u <= width - high) & (v >= low) & (v <= height - high)
    # A sum of four weighted rows of a table: several times faster on a CPU than grid_sample, whose
    # channels lie far apart in memory.
    u, v = (torch.where(seen, x, BORDER) for x in (u, v))
    left, top = u.floor(), v.floor()
    x, y = u - left, v - top
    first = torch.arange(images, device=u.device).view(-1, 1, 1) * (height * width)
    first = first + (top * width + left).long()
    x1, y1 = (left < width - 1).long(), (top < height - 1).long() * width
    corners = torch.stack((first, first + x1, first + y1, first + x1 + y1), -1).view(-1, 4)
    weights = torch.stack(((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y), -1).view(-1, 4)
    found = F.embedding_bag(corners, table, mode="sum", per_sample_weights=weights)
    found = found.view(images, planes, height * width, -1)
    if found.shape[3] > channels:
        seen = seen & (found[..., -1] > 0.999)
        found = found[..., :-1]
    return (found - tgt).abs_().mean(3), seen


def _inner(height: int, width: int, like: Tensor) -> Tensor:
    """(h, w) bool: at least BORDER pixels inside."""
    inner = torch.zeros((height, width), dtype=torch.bool, device=like.device)
    inner[BORDER : height - BORDER, BORDER : width - BORDER] = True
    return inner
