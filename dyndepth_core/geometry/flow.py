"""Optical flow implied by geometry, in pixels from tgt to src, (B, 2, H, W), and velocities."""

from __future__ import annotations

import torch
from torch import Tensor

from dyndepth_core.geometry.camera import backproject, project
from dyndepth_core.geometry.se3 import make_T, transform
from dyndepth_core.geometry.warp import MIN_Z, correspond, identity_pixels


def rigid_flow(depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Tensor:
    """Flow of a static scene: pi(K (R X + t)) - p."""
    pixels = correspond(depth, T_src_tgt, K).pixels
    return pixels - identity_pixels(depth.shape[0], *depth.shape[-2:], like=pixels)


def residual_flow(depth: Tensor, T_src_tgt: Tensor, K: Tensor, residual: Tensor) -> Tensor:
    """What object motion adds to the rigid flow: pi(K (R X + t + residual)) - pi(K (R X + t)); 0
    where residual is 0.
    """
    return correspond(depth, T_src_tgt, K, residual).pixels - correspond(depth, T_src_tgt, K).pixels


def residual_velocity(residual: Tensor, T_src_tgt: Tensor, dt: Tensor) -> Tensor:
    """Velocity relative to the ground in the axes of tgt: R_src_tgt^T residual / dt, (B, 3, H, W).

    residual (B, 3, H, W) in the src frame, X_src = R X_tgt + t + residual; dt (B,) = t_src - t_tgt
    in seconds, negative for an older src, not 0. Metres give m/s.
    """
    # element by element: under autocast a matrix product would round to half precision
    turned = (T_src_tgt[:, :3, :3, None, None] * residual[:, :, None]).sum(1)
    return turned / dt.view(-1, 1, 1, 1)


def mean_parallax(depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Tensor:
    """(B,) pixels by which the translation of T_src_tgt (B, 4, 4) moves the image of depth
    (B, 1, H, W), mean over the pixels: near 0 when the camera stands or only turns. In float32 also
    under autocast, where a pixel times its depth would overflow.
    """
    with torch.autocast(depth.device.type, enabled=False):
        T, K = T_src_tgt.float(), K.float()
        turned = make_T(T[:, :3, :3], torch.zeros_like(T[:, :3, 3]))
        points = backproject(depth.float(), K)
        (moved, z), (still, _) = (project(transform(M, points), K, MIN_Z) for M in (T, turned))
        shift = (moved - still).norm(dim=1, keepdim=True)
        return torch.where(z > MIN_Z, shift, 0.0).mean((1, 2, 3))
