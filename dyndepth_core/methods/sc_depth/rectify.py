"""Rotation rectification for hand-held video (Bian et al., SC-Depth V2, TPAMI 2022).

In such video rotation moves the image far more than translation does, but only translation tells
of depth. A network takes the rotation out of the pair before depth and pose see it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyndepth_core.geometry.se3 import exp_so3, make_T
from dyndepth_core.geometry.warp import rotate
from dyndepth_core.networks.pose_net import PoseNet

MARGIN = 0.05  # rad
KNOWN_RANGE = (0.02, 0.1)  # rad; rotations in it are worth to learn from, others are drawn
DRAWN = 0.05  # rad
TABLE = 4096


class RectifyNet(nn.Module):
    """tgt and src, (N, 3, H, W), at half the resolution -> rotation (N, 3), axis times angle in
    radians, of R_src_tgt; past (N,) bool: src is the earlier one.
    """

    def __init__(self, encoder: str, width: float = 1.0) -> None:
        super().__init__()
        self.net = PoseNet(encoder, width, downscale=2)

    def forward(self, tgt: Tensor, src: Tensor, past: Tensor) -> Tensor:
        """See the class."""
        swap = past.view(-1, 1, 1, 1)
        first, second = torch.where(swap, src, tgt), torch.where(swap, tgt, src)
        rotation = self.net.vector(first, second)[:, :3]
        return torch.where(past.view(-1, 1), -rotation, rotation)


@dataclass
class Rectified:
    """Sources turned to the orientation of tgt; N = B S pairs.

    rotation (N, 3) of R_src_rect; src, src_net (N, 3, H, W), the one for networks without gradient;
    seen (N, 1, H, W) bool, where they show something.
    """

    rotation: Tensor
    src: Tensor
    src_net: Tensor
    seen: Tensor

    @property
    def T_src_rect(self) -> Tensor:
        """(N, 4, 4)."""
        return make_T(exp_so3(self.rotation), torch.zeros_like(self.rotation))


def rectify(
    net: RectifyNet, tgt: Tensor, src: Tensor, src_net: Tensor, K: Tensor, past: Tensor
) -> Rectified:
    """Take the rotation out of N pairs: tgt as the networks see it, src for the loss and as the
    networks see it, (N, 3, H, W).

    The photometric loss teaches the rotation through `src`; the copy for the networks carries no
    gradient, which through two encoders would cost more than the rest of the step.
    """
    rotation = net(tgt, src_net, past)
    turned, seen = rotate(src, rotation, K)
    for_nets, _ = rotate(src_net, rotation.detach(), K.detach())
    return Rectified(rotation, turned, for_nets, seen)


def draw_rotations(pairs: Tensor) -> Tensor:
    """Random rotations (N, 3) in [-0.05, 0.05] rad for pairs with the numbers (N,): with the same
    seed those of a pair are the same, whichever process has it.
    """
    return DRAWN * (2 * torch.rand((TABLE, 3), device=pairs.device)[pairs % TABLE] - 1)


def rotation_losses(
    net: RectifyNet,
    tgt: Tensor,
    src: Tensor,
    rectified: Rectified,
    K: Tensor,
    past: Tensor,
    drawn: Tensor,
) -> dict[str, Tensor]:
    """The auxiliary losses of V2, |.| the mean over the three components.

    triplet: mean max(0, |rot2| - |rot1| + margin), rot2 what is left after rot1 is taken out. The
    margin is 0.05 rad, but at most |rot1|: a pair that turned less could only reach the paper's by
    making rot1 larger than it is.
    known: mean |rot3 - rot|, rot3 found between src and src turned by rot: rot1 where 0.02 < |rot1|
    < 0.1 rad, else `drawn` (N, 3) from [-0.05, 0.05].
    """
    rot1 = rectified.rotation
    size = rot1.abs().mean(1)
    left = net(tgt, rectified.src_net, past).abs().mean(1)
    triplet = (left - size + size.detach().clamp(max=MARGIN)).clamp(min=0).mean()
    worth = (size > KNOWN_RANGE[0]) & (size < KNOWN_RANGE[1])
    known = torch.where(worth[:, None], rot1, drawn).detach()
    # a camera that is learned must not make a rotation right that is wrong
    turned, _ = rotate(src, known, K.detach())
    found = net(turned, src, torch.zeros_like(past))
    return {"triplet": triplet, "known": (found - known).abs().mean()}
