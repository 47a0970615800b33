"""Ego-motion refined to the images, under which depth may be wrong and things may move: flow of a
moving camera after Longuet-Higgins and Prazdny 1980, the weights are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyndepth_core.geometry.camera import backproject, project
from dyndepth_core.geometry.optical_flow import Flow, at_stride, large_flow, small_flow
from dyndepth_core.geometry.se3 import exp_so3, make_T
from dyndepth_core.geometry.warp import MIN_Z

# Found on tuning seeds, with the flow of optical_flow.py:
FLOW_ERROR = 0.15  # pixels, beside what the texture leaves open
DEPTH_ERROR = 0.25  # of the inverse depth, relative: so much parallax may be missing or too much
ROBUST = 2.0  # of these errors: what is further off hardly counts
DECAY = 0.7  # of the same from step to step, which is larger at the start
FIRST = 8, 8.0  # steps, and where the same starts, of a motion that may be far off
FURTHER = 3, 4.0  # of one that was refined before
ROUNDS = 3  # of these
LEAST_SEEN = 0.3  # share of the pixels that must fall into the other image


@torch.no_grad()
def refine_motion(tgt: Tensor, src: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Tensor:
    """T_src_tgt (B, 4, 4) from the given one: aligned to the optical flow beside it, which may be
    large, then to the small flows that are left (Lucas and Kanade 1981), again and again.

    A dense flow says 'nothing is left' where it sees no texture, and so votes for the motion it
    started from, several degrees in the direction of travel. Small flows say how well they are
    known. tgt, src (B, 3, H, W) in [0, 1]; the rest as in `align`. No gradient.
    """
    T = align(large_flow(tgt, src, depth, T_src_tgt, K), depth, T_src_tgt, K, *FIRST)
    for _ in range(ROUNDS):
        T = align(small_flow(tgt, src, depth, T, K), depth, T, K, *FURTHER)
    return T


def refine_motions(tgt: Tensor, src: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Tensor:
    """refine_motion of all pairs: T_src_tgt (B, S, 4, 4) from tgt (B, 3, H, W), its sources
    (B, S, 3, H, W), depth (B, 1, H, W) of tgt and K (B, 3, 3).
    """
    shape = T_src_tgt.shape[:2]
    tgt, depth, K = (x.repeat_interleave(shape[1], 0) for x in (tgt, depth, K))
    T = refine_motion(tgt, src.flatten(0, 1), depth, T_src_tgt.flatten(0, 1), K)
    return T.unflatten(0, shape)


@torch.no_grad()
def align(
    flow: Flow, depth: Tensor, T_src_tgt: Tensor, K: Tensor, steps: int = 8, start: float = 8.0
) -> Tensor:
    """T_src_tgt (B, 4, 4) that minimises sum_p rho(|z_p|), z_p = W^T (end(p) - pi(K T X_p)) over
    the ends of the flow that are seen, from the given one.

    W W^T = (the flow's covariance + FLOW_ERROR^2 + DEPTH_ERROR^2 q q^T)^-1, q the parallax of the
    point: rough depth hardly speaks where it cannot know, nor does flow along an edge or without
    texture. Rotation then comes from what is far, the direction of travel from the directions of
    the flow, its length from the depth. rho(z) = z^2 / (s^2 + z^2) (Geman and McClure 1987), s from
    `start` down to ROBUST: what moves by itself drops out. Gauss-Newton; what explains the flow no
    better than the given motion is dropped.

    flow: from tgt to src; depth (B, 1, H, W) of tgt, K (B, 3, 3) in pixels. In float32 also under
    autocast; no gradient.
    """
    with torch.autocast(depth.device.type, enabled=False):
        depth, T, K = depth.float(), T_src_tgt.float(), K.float()
        points = at_stride(backproject(depth, K)).flatten(2)
        ends, seen, covariance = (x.flatten(2) for x in flow)
        usable = seen & ends.isfinite().all(1, keepdim=True)
        usable = (usable & points.isfinite().all(1, keepdim=True))[:, 0]
        points, ends = points.nan_to_num(0.0, 0.0, 0.0), ends.nan_to_num(0.0, 0.0, 0.0)
        given = points, ends, covariance.unbind(1), usable, K
        begin, scale, first_cost = T, start, None
        least = 1e-6 * torch.eye(6, dtype=torch.float64, device=T.device)
        for _ in range(steps):
            J, z, square, inside = _errors(T, *given)
            first_cost = _cost(square, inside) if first_cost is None else first_cost
            weight = (1 + square / scale**2).square().reciprocal() * inside
            weighted = (J * weight[:, None, None]).flatten(2).double()
            matrix = weighted @ J.flatten(2).double().mT + least
            slope = weighted @ z.flatten(1)[..., None].double()
            step = torch.linalg.solve_ex(matrix, slope)[0][..., 0].float()
            T = make_T(exp_so3(step[:, :3]), step[:, 3:]) @ T
            scale = max(ROBUST, DECAY * scale)
        enough = usable.float().mean(1) >= LEAST_SEEN
        better = (_cost(*_errors(T, *given)[2:]) < first_cost) & enough
        better = better & T.isfinite().all(2).all(1)
        return torch.where(better.view(-1, 1, 1), T, begin)


def _errors(
    T: Tensor, points: Tensor, ends: Tensor, covariance: Sequence[Tensor], usable: Tensor, K: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives J (B, 6, 2, N) of the predicted pixels by a small motion after T and errors z
    (B, 2, N), both times W^T; |z|^2 (B, N); which points count (B, N), bool.

    points (B, 3, N), ends (B, 2, N), covariance xx, xy, yy (B, N) each, usable (B, N). Coordinate
    by coordinate: reductions over two or three numbers take longer than all of it.
    """
    turned = T[:, :3, :3] @ points
    moved = turned + T[:, :3, 3:]
    found = project(moved, K, MIN_Z)[0]
    x, y = (DEPTH_ERROR * (found - project(turned, K, MIN_Z)[0])).unbind(1)
    xx, xy, yy = covariance
    # Cholesky: covariance = C C^T, C = [[1 / a, 0], [b, 1 / c]], W^T = C^-1
    a = (xx + x * x + FLOW_ERROR**2).rsqrt()
    b = (xy + x * y) * a
    c = (yy + y * y + FLOW_ERROR**2 - b * b).clamp(min=1e-9).rsqrt()
    u, v = (ends - found).unbind(1)
    u = a * u
    v = c * (v - b * u)
    X, Y, Z = moved.unbind(1)
    inverse = Z.clamp(min=MIN_Z).reciprocal()
    # by a translation along x, along y (which along u is nothing), along z
    xu = K[:, 0, :1] * a * inverse
    xv = -(b * c) * xu
    yv = K[:, 1, 1:2] * c * inverse
    X_Z, Y_Z = X * inverse, Y * inverse
    zu, zv = -xu * X_Z, -(xv * X_Z + yv * Y_Z)
    J = torch.stack((
        Y * zu, Y * zv - Z * yv, Z * xu - X * zu, Z * xv - X * zv, -Y * xu, X * yv - Y * xv,
        xu, xv, torch.zeros_like(xu), yv, zu, zv,
    ), 1).unflatten(1, (6, 2))  # fmt: skip
    return J, torch.stack((u, v), 1), u * u + v * v, usable & (Z > MIN_Z)


def _cost(square: Tensor, inside: Tensor) -> Tensor:
    """Mean rho (B,) of |z|^2 (B, N); that of points that do not count is 1."""
    return torch.where(inside, square / (ROBUST**2 + square), 1.0).mean(1)
