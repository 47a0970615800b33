"""Rotations a pose network's head for turns learns from images that were turned by known ones
(after Bian et al., SC-Depth V2, TPAMI 2022, who do so for hand-held video).

Where a camera turns, the image shifts by ten pixels and more. Before a network knows that, its warp
explains such a pair no better than the unwarped source does, the automask drops it, and nothing
ever teaches the turn: it stays blind to curves for tens of thousands of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyndepth_core.geometry.warp import rotate
from dyndepth_core.networks.pose_net import ROTATION_SCALE, PoseNet

LARGEST = (0.02, 0.06, 0.02)  # rad per frame about x, y, z: pitching, a tight bend, rolling
ZOOM = 1.25  # into the image, so that no border shows by how much it was turned
TABLE = 4096


def draw(numbers: Tensor) -> Tensor:
    """Uniform (B, 3) in [-1, 1] for samples with numbers (B,): with the same seed those of a sample
    are the same, whichever process has it.
    """
    return 2 * torch.rand((TABLE, 3), device=numbers.device)[numbers % TABLE] - 1


def draw_turns(numbers: Tensor) -> Tensor:
    """Random rotations (B, 3) in radians, small ones more often, for samples with numbers (B,)."""
    drawn = draw(numbers)
    return drawn.sign() * drawn.square() * drawn.new_tensor(LARGEST)


@torch.no_grad()
def turned_pair(images: Tensor, turns: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Two views (B, 3, H, W) of each image, ZOOM times its focal length K (B, 3, 3): X_second =
    exp(turns) X_first.
    """
    size = images.new_tensor((images.shape[-1] - 1, images.shape[-2] - 1))
    K_view = K.clone()
    K_view[:, :2, :2] *= ZOOM
    K_view[:, :2, 2] = size / 2 + (K[:, :2, 2] - size / 2) * ZOOM
    first, _ = rotate(images, turns, K, K_view)
    second, _ = rotate(images, torch.zeros_like(turns), K, K_view)
    return first, second


def turning_loss(net: PoseNet, images: Tensor, turns: Tensor, K: Tensor, zoom: Tensor) -> Tensor:
    """mean |found - turns| / 0.03 of the canonical camera: images (B, 3, H, W), turns (B, 3) rad, K
    (B, 3, 3) and zoom (B,), f / f0, of their camera.

    Only the head learns: pairs without parallax are nothing the encoder should get used to.
    """
    first, second = turned_pair(images, turns, K)
    zoom = (ZOOM * zoom)[:, None]
    target = torch.cat((turns[:, :2] * zoom, turns[:, 2:]), 1)  # see pose_net.at_camera
    return (net.turning(first, second) - target).abs().mean() / ROTATION_SCALE
