"""Inverse warping (sample src at where tgt's points fall) and forward splatting (push tgt's pixels
into src).

One pixel convention: coordinates are pixels with centres at integers, normalised by (W - 1, H - 1)
and sampled with align_corners=True, so that the identity warp returns the image exactly.
(Well-known reference codes mix this with align_corners=False and are off by up to half a pixel.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.camera import backproject, pixel_grid, project
from dyndepth_core.geometry.se3 import exp_so3, make_T, transform

MIN_Z = 1e-3


@dataclass
class Correspondence:
    """Where the pixels of tgt fall in src: pixels (B, 2, H, W), z_src (B, 1, H, W) along src's
    axis, valid (B, 1, H, W) bool.
    """

    pixels: Tensor
    z_src: Tensor
    valid: Tensor


def correspond(
    depth: Tensor,
    T_src_tgt: Tensor,
    K: Tensor,
    residual: Tensor | None = None,
    K_src: Tensor | None = None,
) -> Correspondence:
    """Project every pixel of tgt into src: X_src = R (depth K^-1 p) + t + residual, p' = pi(K_src
    X_src).

    depth (B, 1, H, W), T_src_tgt (B, 4, 4), K (B, 3, 3), residual (B, 3, H, W) in the src frame.
    valid: inside the image
    and in front of the camera (z > 1e-3).
    """
    points = transform(T_src_tgt, backproject(depth, K))
    if residual is not None:
        points = points + residual
    pixels, z = project(points, K if K_src is None else K_src, MIN_Z)
    height, width = depth.shape[-2:]
    u, v = pixels[:, :1], pixels[:, 1:]
    # Half a thousandth of a pixel of slack, so that float error does not drop the border of an
    # identity warp.
    slack = 5e-4
    inside = (u >= -slack) & (u <= width - 1 + slack) & (v >= -slack) & (v <= height - 1 + slack)
    return Correspondence(pixels, z, inside & (z > MIN_Z))


def sample(
    image: Tensor, pixels: Tensor, padding: str = "border", mode: str = "bilinear"
) -> Tensor:
    """Sample image (B, C, H, W) at pixels (B, 2, h, w); gradients flow to both. padding: border or
    zeros.
    """
    height, width = image.shape[-2:]
    scale = pixels.new_tensor((2 / max(width - 1, 1), 2 / max(height - 1, 1))).view(1, 2, 1, 1)
    grid = (pixels * scale - 1).permute(0, 2, 3, 1)
    bad = None
    if grid.device.type == "cpu" and grid.detach().sum().isnan():
        # The CPU's gradient of grid_sample reads beyond its memory where the grid is NaN. It gets a
        # finite one; the NaN goes on in the result, where the health checks see it.
        bad = grid.isnan().any(-1)[:, None]
        grid = grid.nan_to_num(0.0, 0.0, 0.0)
    found = F.grid_sample(
        image, grid.to(image.dtype), mode=mode, padding_mode=padding, align_corners=True
    )
    return found if bad is None else found.masked_fill(bad, torch.nan)


def inverse_warp(
    image_src: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor, residual: Tensor | None = None
) -> tuple[Tensor, Correspondence]:
    """Synthesise tgt from image_src (B, C, H, W); see `correspond` for the rest. Returns the image
    and the correspondence.
    """
    found = correspond(depth, T_src_tgt, K, residual)
    return sample(image_src, found.pixels), found


def rotate(
    image: Tensor, rotation: Tensor, K: Tensor, K_view: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The image (N, C, H, W) a camera turned by `rotation` (N, 3), axis times angle in radians,
    would have taken: view(p) = image(pi(K R K_view^-1 p)), X_image = R X_view.

    Returns it and where (N, 1, H, W), bool, the image shows what belongs there. K (N, 3, 3) in
    pixels, K_view that of the turned camera, the same by default. At least in float32, also under
    autocast, where pixels would be rounded to whole ones and more.
    """
    given = image, rotation, K, K if K_view is None else K_view
    with torch.autocast(image.device.type, enabled=False):
        image, rotation, K, K_view = (
            x.to(torch.promote_types(x.dtype, torch.float32)) for x in given
        )
        T = make_T(exp_so3(rotation), torch.zeros_like(rotation))
        ones = image.new_ones((len(image), 1, *image.shape[-2:]))
        found = correspond(ones, T, K_view, K_src=K)
        return sample(image, found.pixels), found.valid


def forward_splat(
    values: Tensor,
    found: Correspondence,
    fill: float = float("nan"),
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Push values (B, C, H, W) of tgt to the nearest src pixel; the nearest surface wins
    (z-buffer).

    Returns the splatted values and z (B, 1, h, w) in src, of `size` (h, w), by default that of tgt;
    pixels nothing falls on hold `fill` and z = +inf. Not differentiable in the positions.
    """
    batch, channels = values.shape[:2]
    height, width = values.shape[-2:] if size is None else size
    target = found.pixels.detach().round().long()
    u, v = target[:, 0], target[:, 1]
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (found.z_src[:, 0] > MIN_Z)
    # A dump slot behind the image takes what falls outside, so that no index needs filtering.
    flat = torch.where(inside, v * width + u, height * width).flatten(1)
    z = found.z_src.detach().flatten(1)
    buffer = z.new_full((batch, height * width + 1), float("inf")).scatter_reduce(
        1, flat, z, "amin"
    )
    wins = (z <= buffer.gather(1, flat)) & inside.flatten(1)
    flat = torch.where(wins, flat, height * width)
    out = values.new_full((batch, channels, height * width + 1), fill)
    out.scatter_(2, flat[:, None].expand(-1, channels, -1), values.flatten(2))
    shape = (batch, -1, height, width)
    return out[..., :-1].reshape(shape), buffer[:, :-1].reshape(shape)


def identity_pixels(batch: int, height: int, width: int, like: Tensor) -> Tensor:
    """Pixel coordinates (B, 2, H, W) of the image itself."""
    return pixel_grid(height, width, like.device, like.dtype)[:2].expand(batch, -1, -1, -1)
