"""Regularisers of a residual translation field and its motion (Li et al., CoRL 2020).

Fields are (B, 3, H, W), translations in the units of the depth.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-24  # under square roots and quotients: zero motion gives zero, with a finite gradient


def normalise_residual(residual: Tensor, translation: Tensor) -> Tensor:
    """Q = residual / sqrt(mean_px |T|^2 + 1e-12), T (B, 3, H, W) the whole translation, ego-motion
    and residual: the regularisers then do not depend on the unit of length.

    The gradient flows through the norm, so that a larger ego-motion is not a way to a smaller Q
    that costs nothing.
    """
    square = translation.square().sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return residual / (square + 1e-12).sqrt()


def group_smoothness(Q: Tensor) -> Tensor:
    """L_g1 = mean_{px, c} sqrt((d_x Q)^2 + (d_y Q)^2) over all pixels that have a neighbour on the
    left and above; 0 for a constant field.

    The reference code lets the differences wrap around the border where it uses no sparsity term,
    which binds opposite sides of the image; here they never do.
    """
    d_x = Q[..., 1:, 1:] - Q[..., 1:, :-1]
    d_y = Q[..., 1:, 1:] - Q[..., :-1, 1:]
    return (d_x.square() + d_y.square() + TINY).sqrt().mean()


def half_norm_sparsity(Q: Tensor) -> Tensor:
    """L_1/2 = mean[2 q sqrt(1 + |Q| / q)], q = mean_px |Q| per image and component, without
    gradient.

    Grows like |Q| where |Q| is below its mean and like sqrt(q |Q|) above, so that it asks for few
    large values rather than many small ones. A constant field |Q| = c gives 2 sqrt(2) c.
    """
    size = Q.abs()
    mean = size.detach().mean((2, 3), keepdim=True)
    return (2 * mean * (1 + size / (mean + TINY)).sqrt()).mean()


def rotation_cycle(R_ab: Tensor, R_ba: Tensor) -> Tensor:
    """L_rot = mean[|R_ab R_ba - 1|^2 / (|R_ab - 1|^2 + |R_ba - 1|^2)], |.|^2 the mean over the 9
    entries of (B, 3, 3); 0 for inverse rotations and for no rotation.
    """
    eye = torch.eye(3, dtype=R_ab.dtype, device=R_ab.device)

    def energy(R: Tensor) -> Tensor:
        return (R - eye).square().mean((1, 2))

    # element by element: under autocast a matrix product would round to half precision
    product = (R_ab[:, :, :, None] * R_ba[:, None, :, :]).sum(2)
    return (energy(product) / (TINY + energy(R_ab) + energy(R_ba))).mean()


def translation_cycle(R_ab: Tensor, t_ab: Tensor, t_ba: Tensor, weight: Tensor) -> Tensor:
    """L_trans = mean_px[O |R_ab t_ba + t_ab|^2 / (|t_ab|^2 + |t_ba|^2)]; 0 when every pixel moves
    back by what it moved.

    R_ab (B, 3, 3) of X_a = R_ab X_b + t_ab; t_ab (B, 3, H, W) in the image plane of b; t_ba
    (B, 3, H, W) of the way back, looked up where the pixels of b fall in a; weight O (B, 1, H, W)
    in {0, 1}.
    """
    turned = (R_ab[:, :, :, None, None] * t_ba[:, None]).sum(2)
    error = (turned + t_ab).square().sum(1, keepdim=True)
    size = t_ab.square().sum(1, keepdim=True) + t_ba.square().sum(1, keepdim=True)
    return (weight * error / (TINY + size)).mean()
