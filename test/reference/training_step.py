"""Plain self-supervised training step (Monodepth2, 2019), from the paper's mathematics.

NCHW, SSIM by five average pools, four loss scales at full resolution, one pass of the pose network
per source, no statistics shared between comparisons.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import DepthNet, PoseNet
from .ssim import photometric_error


def rotation(axis_angle: Tensor) -> Tensor:
    """Rodrigues: (B, 3) -> (B, 3, 3)."""
    angle = axis_angle.norm(dim=1)[:, None, None]
    x, y, z = (axis_angle / (angle[:, 0] + 1e-7)).unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    eye = torch.eye(3, device=x.device).expand_as(cross)
    return eye + torch.sin(angle) * cross + (1 - torch.cos(angle)) * (cross @ cross)


def transform(axis_angle: Tensor, translation: Tensor, invert: bool) -> Tensor:
    """(B, 4, 4), or its inverse R^T, -R^T t."""
    R, t = rotation(axis_angle), translation[:, :, None]
    if invert:
        R = R.transpose(1, 2)
        t = -R @ t
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], device=t.device).expand(len(t), 1, 4)
    return torch.cat([torch.cat([R, t], 2), bottom], 1)


def warp(image: Tensor, depth: Tensor, T: Tensor, K: Tensor) -> Tensor:
    """Sample image (B, 3, H, W) of src where the points of tgt fall."""
    batch, _, height, width = depth.shape
    v, u = torch.meshgrid(
        torch.arange(height, device=depth.device, dtype=depth.dtype),
        torch.arange(width, device=depth.device, dtype=depth.dtype),
        indexing="ij",
    )
    grid = torch.stack([u, v, torch.ones_like(u)]).view(1, 3, -1).expand(batch, -1, -1)
    points = (torch.inverse(K) @ grid) * depth.view(batch, 1, -1)
    points = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    camera = (K @ T[:, :3]) @ points
    pixels = camera[:, :2] / (camera[:, 2:] + 1e-7)
    pixels = pixels.view(batch, 2, height, width).permute(0, 2, 3, 1)
    size = torch.tensor([width - 1, height - 1], device=depth.device, dtype=depth.dtype)
    return F.grid_sample(image, 2 * pixels / size - 1, padding_mode="border", align_corners=True)


def smoothness(disp: Tensor, image: Tensor) -> Tensor:
    """Edge-aware, of mean-normalised disp."""
    disp = disp / (disp.mean((2, 3), keepdim=True) + 1e-7)
    dx, dy = disp[..., :-1] - disp[..., 1:], disp[..., :-1, :] - disp[..., 1:, :]
    edge_x = (image[..., :-1] - image[..., 1:]).abs().mean(1, keepdim=True)
    edge_y = (image[..., :-1, :] - image[..., 1:, :]).abs().mean(1, keepdim=True)
    return (dx.abs() * torch.exp(-edge_x)).mean() + (dy.abs() * torch.exp(-edge_y)).mean()


class PlainStep(nn.Module):
    """Networks and loss; `forward` returns the loss of one batch."""

    def __init__(self, scales: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.scales, self.depth_net, self.pose_net = scales, DepthNet(scales), PoseNet()

    def forward(self, tgt: Tensor, past: Tensor, future: Tensor, K: Tensor) -> Tensor:
        """tgt, past, future (B, 3, H, W) in [0, 1], K (B, 3, 3) in pixels."""
        disps = self.depth_net(tgt)
        T_past = transform(*self.pose_net(past, tgt), invert=True)
        T_future = transform(*self.pose_net(tgt, future), invert=False)
        return self.loss(disps, T_past, T_future, tgt, past, future, K)

    def loss(
        self,
        disps: dict[int, Tensor],
        T_past: Tensor,
        T_future: Tensor,
        tgt: Tensor,
        past: Tensor,
        future: Tensor,
        K: Tensor,
    ) -> Tensor:
        """(1/4) sum_s [ mean min(identity errors, warp errors) + 1e-3 / 2^s smoothness ]."""
        total = tgt.new_zeros(())
        identity = torch.cat([photometric_error(src, tgt) for src in (past, future)], 1)
        for s in self.scales:
            image = tgt if s == 0 else F.interpolate(tgt, disps[s].shape[-2:], mode="area")
            disp = disps[s]
            if s:
                disp = F.interpolate(disp, tgt.shape[-2:], mode="bilinear", align_corners=False)
            depth = 1 / (0.01 + 9.99 * disp)
            errors = [
                photometric_error(warp(src, depth, T, K), tgt)
                for src, T in ((past, T_past), (future, T_future))
            ]
            noisy = identity + 1e-5 * torch.randn_like(identity)
            least = torch.cat([noisy, *errors], 1).min(1).values
            total = total + least.mean() + 1e-3 * smoothness(disps[s], image) / 2**s
        return total / len(self.scales)
