"""Ego-motion refined to the images, under which depth may be wrong and things may move: flow of a
moving camera after Longuet-Higgins and Prazdny 1980, the weights are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyndepth_core.geometry.camera import backproject, project
from dyndepth_core.geometry.optical_flow import Flow, at_stride, large_flow, small_flow
from dyndepth_core.geometry.se3 import exp_so3, make_T, transform
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
        usable = usable & points.isfinite().all(1, keepdim=True)
        points, ends = points.nan_to_num(0.0, 0.0, 0.0), ends.nan_to_num(0.0, 0.0, 0.0)
        given = points[..., None], ends, covariance[:, :, None], usable, K
        begin, scale, first_cost = T, start, None
        for _ in range(steps):
            J, z, cost = _errors(T, *given)
            first_cost = cost if first_cost is None else first_cost
            square = z[:, 0].square() + z[:, 1].square()
            weight = (1 + square / scale**2).square().reciprocal() * usable[:, 0]
            weighted = (J * weight[:, None, None]).flatten(2).double()
            matrix = weighted @ J.flatten(2).double().mT + 1e-6 * torch.eye(6).to(weighted)
            slope = (weighted * z.flatten(1)[:, None].double()).sum(2)
            step = torch.linalg.solve_ex(matrix, slope)[0].float()
            T = make_T(exp_so3(step[:, :3]), step[:, 3:]) @ T
            scale = max(ROBUST, DECAY * scale)
        enough = usable.float().mean((1, 2)) >= LEAST_SEEN
        better = (_errors(T, *given)[2] < first_cost) & enough & T.isfinite().all(2).all(1)
        return torch.where(better.view(-1, 1, 1), T, begin)


def _errors(
    T: Tensor, points: Tensor, ends: Tensor, covariance: Tensor, usable: Tensor, K: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives J (B, 6, 2, N) of the predicted pixels by a small motion after T and errors z
    (B, 2, N), both times W^T; mean rho (B,).

    points (B, 3, N, 1), ends (B, 2, N), covariance (B, 3, 1, N), usable (B, 1, N).
    """
    moved = transform(T, points)
    found, depth = (x[..., 0] for x in project(moved, K, MIN_Z))
    turned = make_T(T[:, :3, :3], torch.zeros_like(T[:, :3, 3]))
    parallax = found - project(transform(turned, points), K, MIN_Z)[0][..., 0]
    # element by element: reductions over two or three numbers take longer than all of it
    x, y = (DEPTH_ERROR * parallax)[:, :, None].split(1, 1)  # (B, 1, 1, N)
    xx, xy, yy = covariance.split(1, 1)
    # Cholesky: covariance = C C^T, C = [[1 / a, 0], [b, 1 / c]], W^T = C^-1
    a = (xx + x * x + FLOW_ERROR**2).rsqrt()
    b = (xy + x * y) * a
    c = (yy + y * y + FLOW_ERROR**2 - b * b).clamp(min=1e-9).rsqrt()

    def white(u: Tensor, v: Tensor) -> Tensor:  # (B, k, 1, N) each -> (B, k, 2, N)
        first = a * u
        return torch.cat((first, c * (v - b * first)), 2)

    z = white(*(ends - found)[:, :, None].split(1, 1))[:, 0]
    X, Y, Z = moved[..., 0][:, :, None].split(1, 1)
    inverse = 1 / Z.clamp(min=MIN_Z)
    nothing = torch.zeros_like(Z)
    gx = white(K[:, 0, 0].view(-1, 1, 1, 1) * inverse, nothing)  # by a translation along x
    gy = white(nothing, K[:, 1, 1].view(-1, 1, 1, 1) * inverse)
    gz = -(gx * X + gy * Y) * inverse
    by_rotation = Y * gz - Z * gy, Z * gx - X * gz, X * gy - Y * gx
    inside = usable & (depth > MIN_Z)
    J = torch.cat((*by_rotation, gx, gy, gz), 1) * inside[:, :, None]
    square = z[:, :1].square() + z[:, 1:].square()
    cost = torch.where(inside, square / (ROBUST**2 + square), 1.0).mean((1, 2))
    return J, z, cost
