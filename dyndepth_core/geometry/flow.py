"""Optical flow implied by geometry, in pixels from tgt to src, (B, 2, H, W)."""

from __future__ import annotations

from torch import Tensor

from dyndepth_core.geometry.warp import correspond, identity_pixels


def rigid_flow(depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Tensor:
    """Flow of a static scene: pi(K (R X + t)) - p."""
    pixels = correspond(depth, T_src_tgt, K).pixels
    return pixels - identity_pixels(depth.shape[0], *depth.shape[-2:], like=pixels)


def residual_flow(depth: Tensor, T_src_tgt: Tensor, K: Tensor, residual: Tensor) -> Tensor:
    """What object motion adds to the rigid flow: pi(K (R X + t + residual)) - pi(K (R X + t)); 0
    where residual is 0.
    """
    return correspond(depth, T_src_tgt, K, residual).pixels - correspond(depth, T_src_tgt, K).pixels
