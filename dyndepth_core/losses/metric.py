"""Losses that say how long a metre is: by the distance travelled, and by the camera's height."""

from __future__ import annotations

import torch
from torch import Tensor

from dyndepth_core.geometry.camera import backproject
from dyndepth_core.losses.photometric import masked_mean

# Where the road is, in shares of the image's height and width; on a car, left and right of it are
# kerbs and cars, above it whatever drives ahead.
ROAD_TOP, ROAD_LEFT, ROAD_RIGHT = 0.65, 0.25, 0.75
ROUNDS = 6  # of reweighting
OFF_PLANE = 0.05  # off the plane by this share of its distance a pixel has a quarter of the weight
MIN_SHARE = 0.5  # of those pixels; on fewer no ground is believed
MIN_UPRIGHT = 0.87  # cosine of about 30 degrees: the ground's normal against the image's y axis


def log_travel_ratio(translation: Tensor, travel: Tensor) -> Tensor:
    """log(|t| / travel), (..., B, S), NaN where travel is; translation (..., B, S, 3) and travel
    (B, S) in metres.
    """
    known = travel.isfinite()
    length = translation.square().sum(-1).clamp(min=1e-12).sqrt()
    ratio = length.log() - torch.where(known, travel, 1.0).log()
    return torch.where(known, ratio, torch.nan)


def travel_loss(translation: Tensor, travel: Tensor) -> Tensor:
    """Mean over the pairs whose travel is known of |log(|t| / travel)|; 0-dim, 0 without any.

    After the velocity supervision of Guizilini et al. 2020 (PackNet), ||t| - v dt|. Ours compares
    by ratio: the scale of every pair counts alike, however fast the vehicle, and a wrong speed
    pulls no harder than a right one. Shapes: see log_travel_ratio.
    """
    return _known_mean(log_travel_ratio(translation, travel))


def height_loss(depth: Tensor, K: Tensor, expected: float) -> Tensor:
    """Mean of |log(height / expected)| over images whose ground is seen; 0-dim, 0 without any.

    depth (B, 1, H, W) in metres; K (B, 3, 3) in pixels; expected in metres. The height itself has
    no gradient, only the mean of log depth: the loss scales an image as a whole, bends no ground.
    """
    level = depth.clamp(min=1e-6).log().mean((1, 2, 3))
    ratio = (camera_height(depth, K) / expected).log()
    return _known_mean(ratio + (level - level.detach()))


@torch.no_grad()
def camera_height(depth: Tensor, K: Tensor) -> Tensor:
    """Height (B,) of the camera above the ground in the unit of depth (B, 1, H, W), NaN where no
    ground is seen; K (B, 3, 3) in pixels.

    The plane m X = 1 through the points X of the lower middle of the image, by least squares;
    height = 1 / |m|. What stands on the ground has m X < 1, so a pixel that lies off the plane of
    the round before by off = m X - 1 has the weight 1 / (1 + (off / OFF_PLANE)^2)^2 (Geman and
    McClure 1987, iteratively reweighted), times one that grows with the square of its row from 0 at
    the top: if there is road anywhere, then at the bottom. No ground: fewer than MIN_SHARE of the
    pixels lie within twice OFF_PLANE, or the plane does not face up.
    """
    height, width = depth.shape[-2:]
    top = int(ROAD_TOP * height)
    columns = slice(int(ROAD_LEFT * width), int(ROAD_RIGHT * width))
    points = backproject(depth, K)[..., top:, columns].double()
    low = torch.linspace(0, 1, height - top, dtype=torch.float64, device=depth.device).square()
    low = low[:, None].expand(points.shape[2:]).flatten()
    points = points.flatten(2).mT
    weight = low.expand(len(points), -1)
    for _ in range(ROUNDS):
        weighted = points.mT * weight[:, None]
        square = weighted @ points + 1e-9 * torch.eye(3).to(points)
        m = torch.linalg.solve(square, weighted.sum(-1))
        off = (points @ m[..., None])[..., 0] - 1
        weight = low / (1 + (off / OFF_PLANE).square()).square()
    size = m.norm(dim=1)
    seen = (off.abs() < 2 * OFF_PLANE).double().mean(1) > MIN_SHARE
    seen &= m[:, 1] > MIN_UPRIGHT * size
    return torch.where(seen, 1 / size, torch.nan).to(depth.dtype)


def _known_mean(log_ratio: Tensor) -> Tensor:
    known = log_ratio.isfinite()
    return masked_mean(torch.where(known, log_ratio, 0.0).abs(), known.to(log_ratio.dtype))
