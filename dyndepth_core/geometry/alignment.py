"""Ego-motion by direct image alignment: the motion under which the depth of one image explains the
other best (after Steinbrücker et al. 2011 and Wang et al., CVPR 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.camera import backproject, project, resize_K
from dyndepth_core.geometry.se3 import exp_so3, make_T, transform
from dyndepth_core.geometry.warp import MIN_Z, sample

# Pixels per cell, from coarse to fine: a coarse grid sees large motions. The finest, 1, would cost
# four times the rest together and brings 10 % less rotation error.
FACTORS = (8, 4, 2)
ITERATIONS = 5  # per grid
ROBUST = 0.25  # standard deviations of the image: an error counts less from there on
LEAST_SEEN = 0.5  # share of the cells that must fall into the other image
LEAST = 1e-4  # added to the diagonal: where nothing is seen nothing moves
CONTRAST = 0.02  # of an image that shows something; grey values in [0, 1]


def _cells(image: Tensor, factor: int) -> Tensor:
    """Grey cells (B, 1, H / factor, W / factor) of an image (B, 3, H, W) over its contrast."""
    grey = F.avg_pool2d(image.mean(1, keepdim=True), factor)
    grey = grey - grey.mean((2, 3), keepdim=True)
    return grey / grey.square().mean((2, 3), keepdim=True).sqrt().clamp(min=CONTRAST)


@torch.no_grad()
def align(
    tgt: Tensor,
    src: Tensor,
    depth: Tensor,
    T_src_tgt: Tensor,
    K: Tensor,
) -> Tensor:
    """T_src_tgt (B, 4, 4) that minimises sum_p rho(b(pi(K T X_p)) - a(p)).

    a, b: grey values of tgt and src over the contrast of the image; X_p: the points of tgt's depth;
    rho(r) = r^2 / (c^2 + r^2) (Geman and McClure 1987), so that what moves by itself or is hidden
    hardly counts. Levenberg-Marquardt on coarse grids first; on the coarsest from the given
    T_src_tgt and from no motion, of which the better goes on: a network may be far astray.

    tgt, src (B, 3, H, W) in [0, 1], depth (B, 1, H, W), K (B, 3, 3) in pixels. In float32 also
    under autocast; no gradient: at the minimum, to first order, the error does not depend on the
    motion.
    """
    with torch.autocast(tgt.device.type, enabled=False):
        tgt, src, T, K = tgt.float(), src.float(), T_src_tgt.float(), K.float()
        inverse = 1 / depth.float()
        for factor in FACTORS:
            a, b = _cells(tgt, factor), _cells(src, factor)
            small = resize_K(K, 1 / factor, 1 / factor)
            points = backproject(1 / F.avg_pool2d(inverse, factor), small)
            given = a, torch.cat((b, *_gradient(b)), 1), points, small
            found = _minimise(T, *given)
            if factor == FACTORS[0]:
                still = torch.eye(4, device=T.device).expand_as(T)
                _, found = found.better(_minimise(still, *given))
            T = found.T
    return T


def _gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    along_x = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    along_y = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return along_x / 2, along_y / 2


@dataclass
class _System:
    """cost (B,), matrix (B, 6, 6) and slope (B, 6) of its quadratic model at T (B, 4, 4)."""

    T: Tensor
    cost: Tensor
    matrix: Tensor
    slope: Tensor

    def better(self, other: _System) -> tuple[Tensor, _System]:
        """(B,) where the other costs less, and the better of the two."""
        wins = other.cost < self.cost
        pick = (
            torch.where(wins.view(-1, *[1] * (x.dim() - 1)), y, x)
            for x, y in zip(self.__dict__.values(), other.__dict__.values(), strict=True)
        )
        return wins, _System(*pick)


def _minimise(T: Tensor, a: Tensor, maps: Tensor, points: Tensor, K: Tensor) -> _System:
    """maps (B, 3, h, w): b and its gradients."""
    best = _system(T, a, maps, points, K)
    damping = torch.full_like(best.cost, 1e-3)
    for _ in range(ITERATIONS):
        wins, best = best.better(_system(_step(best, damping), a, maps, points, K))
        damping = torch.where(wins, damping / 5, damping * 10)
    return best


def _step(at: _System, damping: Tensor) -> Tensor:
    matrix = at.matrix.double()
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    eye = torch.eye(6, dtype=matrix.dtype, device=matrix.device)
    damped = matrix + torch.diag_embed(damping[:, None] * diagonal) + LEAST * eye
    # unchecked: what is not finite costs more than any motion and is never taken
    step = -torch.linalg.solve_ex(damped, at.slope.double())[0].float()
    return make_T(exp_so3(step[:, :3]), step[:, 3:]) @ at.T


def _system(T: Tensor, a: Tensor, maps: Tensor, points: Tensor, K: Tensor) -> _System:
    moved = transform(T, points)
    pixels, z = project(moved, K, MIN_Z)
    height, width = a.shape[-2:]
    u, v = pixels[:, :1], pixels[:, 1:]
    seen = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1) & (z > MIN_Z)
    found = sample(maps, pixels)
    r = found[:, :1] - a
    square = r.square() / ROBUST**2
    count = seen.sum((1, 2, 3)).clamp(min=1)
    cost = torch.where(seen, square / (1 + square), 0.0).sum((1, 2, 3)) / count
    # looking away from nearly everything explains nothing
    cost = torch.where(count >= LEAST_SEEN * height * width, cost, torch.inf)
    weight = torch.where(seen, (1 + square).square().reciprocal(), 0.0) / count.view(-1, 1, 1, 1)
    inverse = 1 / z.clamp(min=MIN_Z)
    x = found[:, 1:2] * K[:, 0, 0].view(-1, 1, 1, 1) * inverse
    y = found[:, 2:] * K[:, 1, 1].view(-1, 1, 1, 1) * inverse
    by_translation = torch.cat((x, y, -(x * moved[:, :1] + y * moved[:, 1:2]) * inverse), 1)
    by_rotation = torch.linalg.cross(moved, by_translation, dim=1)
    J = torch.cat((by_rotation, by_translation), 1).flatten(2)
    weighted = J * weight.flatten(2)
    slope = (weighted * r.flatten(2)).sum(2)
    return _System(T, cost, weighted @ J.mT, slope)
