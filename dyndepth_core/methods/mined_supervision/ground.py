"""Where the ground is, from the static depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.camera import backproject

REACH = 11 / 192  # of the image height: how far the neighbours of a normal are, as published
LEVEL = 0.94  # cosine of about 20 degrees: normals of the ground against its plane's
OFF = 0.15  # relative depth error off the plane of what still is ground
ROUNDS = 8


@torch.no_grad()
def ground_mask(depth: Tensor, K: Tensor) -> Tensor:
    """Bool (B, 1, H, W): lies on the ground plane and faces up; depth (B, 1, H, W), K (B, 3, 3).

    Normals from four cross products of neighbours REACH away; the plane m X = 1 through what faces
    up below the horizon, by least squares reweighted with 1 / (1 + (m X - 1)^2 / 0.1^2)^2 (Geman
    and McClure 1987); ground: |m X - 1| < OFF, which is the relative error of the depth, and the
    normal within 20 degrees of m.
    """
    points = backproject(depth.float(), K.float())
    normal = normals(points, max(1, round(REACH * depth.shape[-2])))
    height = depth.shape[-2]
    rows = torch.arange(height, device=depth.device).view(1, 1, -1, 1)
    below = rows > K[:, 1, 2].view(-1, 1, 1, 1)
    candidate = (normal[:, 1:2].abs() > LEVEL) & below & depth.isfinite()
    m = _plane(points, candidate & (rows > 0.6 * height))
    off = (m[:, :, None, None] * points).sum(1, keepdim=True) - 1
    size = m.norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
    level = (normal * m[:, :, None, None]).sum(1, keepdim=True).abs() > LEVEL * size
    return level & (off.abs() < OFF) & below


def normals(points: Tensor, reach: int) -> Tensor:
    """Unit normals (B, 3, H, W) of points (B, 3, H, W): mean of the cross products of neighbouring
    pairs of the four pixels `reach` away; the border repeats its neighbours.
    """
    padded = F.pad(points, (reach,) * 4, mode="replicate")
    height, width = points.shape[-2:]

    def at(dy: int, dx: int) -> Tensor:
        y, x = reach + dy * reach, reach + dx * reach
        return padded[..., y : y + height, x : x + width] - points

    right, down, left, up = at(0, 1), at(1, 0), at(0, -1), at(-1, 0)
    pairs = ((right, down), (down, left), (left, up), (up, right))
    total = sum(F.normalize(torch.linalg.cross(a, b, dim=1), dim=1) for a, b in pairs)
    return F.normalize(total, dim=1)


def _plane(points: Tensor, where: Tensor) -> Tensor:
    """m (B, 3) with m X = 1 on the plane of the points (B, 3, H, W); 0 where there are none."""
    flat, low = points.flatten(2).mT.double(), where.flatten(1).double()
    usual = (flat[..., 2] * low).sum(1) / low.sum(1).clamp(min=1)
    flat = flat / usual.clamp(min=1e-9)[:, None, None]
    weight = low
    for _ in range(ROUNDS):
        weighted = flat.mT * weight[:, None]
        square = weighted @ flat + 1e-9 * torch.eye(3).to(flat)
        m = torch.linalg.solve(square, weighted.sum(-1))
        off = (flat @ m[..., None])[..., 0] - 1
        weight = low / (1 + (off / 0.1).square()).square()
    return (m / usual.clamp(min=1e-9)[:, None]).float()
