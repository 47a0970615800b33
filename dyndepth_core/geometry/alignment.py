"""Ego-motion refined to an optical flow, under which depth may be wrong and things may move: flow
of a moving camera after Longuet-Higgins and Prazdny 1980, the weights are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyndepth_core.geometry.camera import backproject, project
from dyndepth_core.geometry.se3 import exp_so3, make_T, transform
from dyndepth_core.geometry.warp import MIN_Z, identity_pixels

STRIDE = 4  # pixels from one that counts to the next; the flow between them says nothing new
# Found on tuning seeds, with the flow of optical_flow.py:
FLOW_ERROR = 0.15  # pixels
DEPTH_ERROR = 0.25  # of the inverse depth, relative: so much parallax may be missing or too much
ROBUST = 2.0  # of these errors: what is further off hardly counts
START = 8.0  # the same at the start, which may be far off
ITERATIONS = 8
LEAST_SEEN = 0.3  # share of the pixels that must fall into the other image


@torch.no_grad()
def align(flow: Tensor, seen: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Tensor:
    """T_src_tgt (B, 4, 4) that minimises sum_p rho(|z_p|), z_p = W (p + flow(p) - pi(K T X_p)) over
    the pixels that are seen, from the given one.

    W divides by the errors to expect: FLOW_ERROR across the parallax of the point, along it also
    DEPTH_ERROR of that parallax, so that rough depth hardly speaks where it cannot know: rotation
    then comes from what is far, the direction of travel from the directions of the flow, its length
    from the depth. rho(z) = z^2 / (s^2 + z^2) (Geman and McClure 1987), s from START down to
    ROBUST: what moves by itself drops out. Gauss-Newton; what explains the flow no better than the
    given motion is dropped.

    flow (B, 2, H, W) from tgt to src in pixels, seen (B, 1, H, W) bool, depth (B, 1, H, W) of tgt,
    K (B, 3, 3) in pixels. In float32 also under autocast; no gradient.
    """
    with torch.autocast(flow.device.type, enabled=False):
        depth, T, K = depth.float(), T_src_tgt.float(), K.float()
        first = STRIDE // 2
        points, pixels, flow, seen = (
            x[..., first::STRIDE, first::STRIDE].flatten(2)
            for x in (
                backproject(depth, K),
                identity_pixels(*depth.shape[:1], *depth.shape[-2:], like=depth),
                flow.float(),
                seen,
            )
        )
        ends = pixels + flow
        usable = seen & ends.isfinite().all(1, keepdim=True)
        usable = usable & points.isfinite().all(1, keepdim=True)
        points, ends = points.nan_to_num(0.0, 0.0, 0.0), ends.nan_to_num(0.0, 0.0, 0.0)
        given = points[..., None], ends, usable, K
        start, scale, first_cost = T, START, None
        for _ in range(ITERATIONS):
            J, z, cost = _errors(T, *given)
            first_cost = cost if first_cost is None else first_cost
            square = z[:, 0].square() + z[:, 1].square()
            weight = (1 + square / scale**2).square().reciprocal() * usable[:, 0]
            weighted = (J * weight[:, None, None]).flatten(2).double()
            matrix = weighted @ J.flatten(2).double().mT + 1e-6 * torch.eye(6).to(weighted)
            slope = (weighted * z.flatten(1)[:, None].double()).sum(2)
            step = torch.linalg.solve_ex(matrix, slope)[0].float()
            T = make_T(exp_so3(step[:, :3]), step[:, 3:]) @ T
            scale = max(ROBUST, 0.7 * scale)
        enough = usable.float().mean((1, 2)) >= LEAST_SEEN
        better = (_errors(T, *given)[2] < first_cost) & enough & T.isfinite().all(2).all(1)
        return torch.where(better.view(-1, 1, 1), T, start)


def _errors(
    T: Tensor, points: Tensor, ends: Tensor, usable: Tensor, K: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives J (B, 6, 2, N) of the predicted pixels by a small motion after T, errors z
    (B, 2, N), along the parallax and across it, both over what is to be expected; mean rho (B,).

    points (B, 3, N, 1), ends (B, 2, N), usable (B, 1, N).
    """
    moved = transform(T, points)
    found, depth = (x[..., 0] for x in project(moved, K, MIN_Z))
    turned = make_T(T[:, :3, :3], torch.zeros_like(T[:, :3, 3]))
    parallax = found - project(transform(turned, points), K, MIN_Z)[0][..., 0]
    # element by element: reductions over two or three numbers take longer than all of it
    x, y = parallax.split(1, 1)
    square = x * x + y * y
    shown = square > 1e-6
    inverse = square.clamp(min=1e-12).rsqrt()
    x, y = torch.where(shown, x * inverse, 1.0), torch.where(shown, y * inverse, 0.0)
    per_along = (FLOW_ERROR**2 + DEPTH_ERROR**2 * square).rsqrt()
    ax = torch.stack((x * per_along, -y / FLOW_ERROR), 2)  # (B, 1, 2, N): along, across
    ay = torch.stack((y * per_along, x / FLOW_ERROR), 2)
    u, v = (ends - found)[:, :, None].split(1, 1)
    z = (ax * u + ay * v)[:, 0]
    X, Y, Z = (w[:, :, None] for w in moved[..., 0].split(1, 1))
    inverse = 1 / Z.clamp(min=MIN_Z)
    gx = ax * K[:, 0, 0].view(-1, 1, 1, 1) * inverse  # (B, 1, 2, N), by a translation along x
    gy = ay * K[:, 1, 1].view(-1, 1, 1, 1) * inverse
    gz = -(gx * X + gy * Y) * inverse
    by_rotation = Y * gz - Z * gy, Z * gx - X * gz, X * gy - Y * gx
    inside = usable & (depth > MIN_Z)
    J = torch.cat((*by_rotation, gx, gy, gz), 1) * inside[:, :, None]
    square = z[:, :1].square() + z[:, 1:].square()
    cost = torch.where(inside, square / (ROBUST**2 + square), 1.0).mean((1, 2))
    return J, z, cost
