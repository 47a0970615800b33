"""Geometry consistency of two depth maps (Bian et al., NeurIPS 2019 and IJCV 2021)."""

from __future__ import annotations

from torch import Tensor

MIN_Z = 1e-3


def depth_inconsistency(z: Tensor, depth: Tensor) -> Tensor:
    """D_diff = |z - D| / (z + D) in [0, 1), (B, 1, H, W).

    z: depth of tgt's points along the axis of src; depth: what src itself says at the pixels they
    fall on. 0 where the two agree; unchanged by scaling both, so that shrinking the scene does not
    lower it. z is clamped to 1e-3: a point behind src (one reference code leaves it negative) would
    push the quotient out of its range.
    """
    z = z.clamp(min=MIN_Z)
    return (z - depth).abs() / (z + depth)


def self_discovered_mask(inconsistency: Tensor) -> Tensor:
    """M_s = 1 - D_diff, without gradient: small on moving objects and occlusions."""
    return 1 - inconsistency.detach()
