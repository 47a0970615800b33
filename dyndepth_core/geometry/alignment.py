"""Ego-motion refined to an optical flow, under which depth may be wrong and things may move."""

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
            weight = (1 + z.square().sum(1) / scale**2).square().reciprocal() * usable[:, 0]
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
    size = parallax.norm(dim=1, keepdim=True)
    x, y = (parallax / size.clamp(min=1e-6)).split(1, 1)
    x, y = torch.where(size > 1e-3, x, 1.0), torch.where(size > 1e-3, y, 0.0)
    axes = torch.stack((torch.cat((x, y), 1), torch.cat((-y, x), 1)), 1)  # (B, 2, 2, N)
    along = (FLOW_ERROR**2 + (DEPTH_ERROR * size).square()).sqrt()
    axes = axes / torch.cat((along, torch.full_like(along, FLOW_ERROR)), 1)[:, :, None]
    z = (axes * (ends - found)[:, None]).sum(2)
    moved, inverse = moved[..., 0], 1 / depth.clamp(min=MIN_Z)
    gx = axes[:, :, 0] * K[:, 0, 0].view(-1, 1, 1) * inverse
    gy = axes[:, :, 1] * K[:, 1, 1].view(-1, 1, 1) * inverse
    gz = -(gx * moved[:, :1] + gy * moved[:, 1:2]) * inverse
    by_translation = torch.stack((gx, gy, gz), 1)  # (B, 3, 2, N)
    by_rotation = torch.linalg.cross(
        moved[:, :, None].expand_as(by_translation), by_translation, dim=1
    )
    square = z.square().sum(1)
    inside = usable[:, 0] & (depth[:, 0] > MIN_Z)
    cost = torch.where(inside, square / (ROBUST**2 + square), 1.0).mean(1)
    J = torch.cat((by_rotation, by_translation), 1) * inside[:, None, None]
    return J, z, cost
