"""An analytic world for tests: planes painted with smooth colours, rendered exactly from any pose.

Every colour is a function of the point in the world, so brightness is constant between views and
the only error of a warp is that of bilinear sampling. World frame: x right, y down, z forward.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.geometry.camera import rays
from dyndepth_core.geometry.se3 import exp_so3, make_T

SIZE = (64, 96)
# normal n, offset d (n X = d), and half-open ranges of world x and y: a wall, a ground, a near box
PLANES = (
    ((0.0, 0.0, 1.0), 12.0, (-1e9, 1e9), (-1e9, 1e9)),
    ((0.0, 1.0, 0.0), 1.5, (-1e9, 1e9), (-1e9, 1e9)),
    ((0.2, 0.0, 1.0), 4.5, (-1.6, 0.4), (-1.0, 1.5)),
)


def camera(focal: float = 70.0, size: tuple[int, int] = SIZE, batch: int = 1) -> Tensor:
    """K (B, 3, 3), float64, principal point a little off the centre."""
    height, width = size
    K = [[focal, 0, width / 2 - 1.5], [0, 1.05 * focal, height / 2 + 0.7], [0, 0, 1]]
    return torch.tensor([K] * batch, dtype=torch.float64)


def pose(x=0.0, y=0.0, z=0.0, pitch=0.0, yaw=0.0, roll=0.0) -> Tensor:
    """T (1, 4, 4), float64: metres and radians about x, y, z."""
    angles = torch.tensor([[pitch, yaw, roll]], dtype=torch.float64)
    return make_T(exp_so3(angles), torch.tensor([[x, y, z]], dtype=torch.float64))


def _paint(points: Tensor, surface: int) -> Tensor:
    """Colours (3, N) in [0, 1]; waves in x/z and y/z, so that they are as smooth near as far."""
    rng = np.random.default_rng(surface)
    x, y, z = points
    where = torch.stack((x / (z + 1), y / (z + 1), 1 / (z + 1)))
    colours = []
    for _ in range(3):
        waves = torch.tensor(rng.uniform(-1, 1, (6, 3)) * (22, 22, 9))
        phases = torch.tensor(rng.uniform(0, 6.28, (6, 1)))
        colours.append(0.5 + 0.25 * torch.sin(waves @ where + phases).mean(0) * 6**0.5)
    return torch.stack(colours).clamp(0, 1)


def render(T_world_cam: Tensor, K: Tensor, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """Image (1, 3, H, W) in [0, 1] and depth along z (1, 1, H, W), float64, of one camera."""
    direction = rays(K, *size)[0].flatten(1)
    R, centre = T_world_cam[0, :3, :3], T_world_cam[0, :3, 3:]
    world = R @ direction
    nearest = torch.full_like(world[0], float("inf"))
    colour = torch.zeros_like(world)
    for surface, (normal, offset, x_range, y_range) in enumerate(PLANES):
        n = torch.tensor(normal, dtype=torch.float64)
        depth = (offset - n @ centre) / (n @ world)  # rays have z = 1, so length = depth
        points = centre + depth * world
        hit = (depth > 0) & (depth < nearest)
        hit &= (points[0] >= x_range[0]) & (points[0] < x_range[1])
        hit &= (points[1] >= y_range[0]) & (points[1] < y_range[1])
        nearest = torch.where(hit, depth, nearest)
        colour = torch.where(hit, _paint(points, surface), colour)
    return colour.reshape(1, 3, *size), nearest.reshape(1, 1, *size)


def drive(count: int, seed: int = 0, sway: float = 0.02) -> list[Tensor]:
    """Poses T_world_cam of a short curvy drive with all three rotations."""
    phase = np.random.default_rng(seed).uniform(0, 6.28, 4)
    poses = []
    for i in range(count):
        a, b, c, d = np.sin(0.9 * i + phase)
        poses.append(pose(0.25 * i + 0.1 * a, 0.05 * b, 0.1 * i, sway * c, 2 * sway * d, sway * a))
    return poses


def write_recording(path, poses, K: Tensor, size=SIZE, rate_hz=10.0, known=True, **options) -> None:
    """Render a recording with depth and poses; `options` go to RecordingWriter.add."""
    height, width = size
    calib = Calibration.from_K(K[0].numpy(), width, height) if known else Calibration(width, height)
    with RecordingWriter(path, calib, image_format="png") as writer:
        for i, T in enumerate(poses):
            image, depth = render(T, K, size)
            pixels = (image[0].permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
            stamp = int(i * 1e9 / rate_hz)
            truth = {"depth": depth[0, 0].numpy(), "T_world_cam": T[0].numpy()}
            writer.add(pixels, stamp, **{**truth, **options})
