"""Dynamic object motion disentanglement (Feng et al., ECCV 2022): a source as it would be if what
moves had stood still since tgt.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.camera import resize_K
from dyndepth_core.geometry.se3 import invert_T
from dyndepth_core.geometry.warp import correspond, forward_splat
from dyndepth_core.geometry.warp import sample as look_up

FINER = 3  # points per pixel and axis, so that an object that comes nearer has no holes


@torch.no_grad()
def domd(
    I_t: Tensor, S_t: Tensor, I_s: Tensor, S_s: Tensor, D_T: Tensor, T_s: Tensor, K: Tensor
) -> tuple[Tensor, Tensor]:
    """I^d_s (B, C, H, W) and valid_s (B, 1, H, W) bool, where it shows the static scene.

    I_t, I_s (B, C, H, W): tgt and source; S_t, S_s (B, 1, H, W) bool: their objects; D_T
    (B, 1, H, W): prior depth of tgt; T_s = T_src_tgt (B, 4, 4); K (B, 3, 3). The objects of the
    source are taken out: what they hid is unknown, valid_s = 0. Those of tgt are put where
    they would be seen had they not moved, valid_s = 1: the depth of all of tgt is splatted into the
    source (z-buffer), and where an object is in front, I^d_s(x') = I_t(pi(K T_s^-1 [z K^-1 x'])).
    What validity says is a mask of its own: a dark pixel is not a hole.
    """
    size = I_s.shape[-2:]
    fine = {"scale_factor": FINER, "mode": "nearest"}
    found = correspond(
        F.interpolate(D_T, **fine), T_s.to(D_T.dtype), resize_K(K, FINER, FINER).to(D_T.dtype),
        K_src=K.to(D_T.dtype),
    )  # fmt: skip
    objects, z = forward_splat(F.interpolate(S_t.to(D_T.dtype), **fine), found, 0.0, size)
    shown = objects > 0.5
    back = correspond(torch.where(shown, z, 1.0), invert_T(T_s).to(D_T.dtype), K.to(D_T.dtype))
    moved = look_up(I_t, back.pixels.to(I_t.dtype))
    return torch.where(shown, moved, I_s), shown | ~S_s
