"""Rigid motions. `T_a_b` is (B, 4, 4), maps coordinates in b to those in a: X_a = T_a_b X_b."""

from __future__ import annotations

import torch
from torch import Tensor


def skew(v: Tensor) -> Tensor:
    """Cross-product matrices [v]_x, (B, 3, 3) from (B, 3)."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def exp_so3(axis_angle: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) from axis-angle vectors (B, 3) in radians.

    Rodrigues: R = I + sin(a)/a [v]_x + (1 - cos a)/a^2 [v]_x^2, [v]_x^2 = v v^T - a^2 I. Near a = 0
    the factors come from their series and 1 - cos a = 2 sin^2(a/2), so that value and gradient are
    exact near the identity, where a pose network starts. No matrix product: under autocast it would
    round to half precision.
    """
    square = (axis_angle * axis_angle).sum(-1, keepdim=True)
    small = square < 1e-8
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    first = torch.where(small, 1 - square / 6, angle.sin() / angle)
    second = torch.where(small, 0.5 - square / 24, 2 * ((angle / 2).sin() / angle) ** 2)
    eye = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    cross_squared = axis_angle[..., :, None] * axis_angle[..., None, :] - square[..., None] * eye
    return eye + first[..., None] * skew(axis_angle) + second[..., None] * cross_squared


def euler_to_matrix(angles: Tensor) -> Tensor:
    """R = Rx(rx) Ry(ry) Rz(rz), (B, 3, 3) from (B, 3) in radians (Li et al. 2020, SC-Depth)."""
    cx, cy, cz = angles.cos().unbind(-1)
    sx, sy, sz = angles.sin().unbind(-1)
    rows = (
        (cy * cz, -cy * sz, sy),
        (cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy),
        (sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def make_T(R: Tensor, t: Tensor) -> Tensor:
    """(B, 4, 4) from R (B, 3, 3) and t (B, 3)."""
    top = torch.cat((R, t[..., None]), -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3] = 1
    return torch.cat((top, bottom), -2)


def invert_T(T: Tensor) -> Tensor:
    """Inverse of rigid (B, 4, 4): [R^T | -R^T t]."""
    R, t = T[..., :3, :3], T[..., :3, 3:]
    # A sum, because autocast rounds matrix products.
    return make_T(R.transpose(-1, -2), -(R * t).sum(-2))


def compose(T_a_b: Tensor, T_b_c: Tensor) -> Tensor:
    """T_a_c = T_a_b T_b_c, (..., 4, 4); in full precision also under autocast."""
    return (T_a_b[..., None] * T_b_c[..., None, :, :]).sum(-2)


def transform(T: Tensor, points: Tensor) -> Tensor:
    """Apply T (B, 4, 4) to points (B, 3, H, W)."""
    moved = T[:, :3, :3] @ points.flatten(2) + T[:, :3, 3:]
    return moved.unflatten(2, points.shape[2:])
