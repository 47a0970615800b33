"""An analytic street for tests: a road, a wall far off, and painted boards that stand on the road
or drive; exact images, depths and ids from any camera.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scenes import SIZE, _paint, camera, pose

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.geometry.camera import rays

ROAD, WALL = 1.5, 30.0  # metres below the camera, ahead of it


@dataclass
class Board:
    """A painted rectangle: middle x and depth z of its foot at frame 0, width, height, slope dz/dx;
    step: what it moves by from frame to frame, along x and z."""

    x: float
    z: float
    width: float = 1.6
    height: float = 1.4
    slope: float = 0.0
    step: tuple = (0.0, 0.0)
    paint: int = 3


def view(boards, T_world_cam, frame=0, K=None, size=SIZE):
    """Image (1, 3, H, W), depth (1, 1, H, W), float64, and ids (H, W), 0 = none, of one camera."""
    K = camera() if K is None else K
    direction = rays(K, *size)[0].flatten(1)
    R, centre = T_world_cam[0, :3, :3], T_world_cam[0, :3, 3:]
    world = R @ direction
    nearest = torch.full_like(world[0], float("inf"))
    colour, ids = torch.zeros_like(world), torch.zeros(world.shape[1], dtype=torch.long)

    def draw(normal, offset, paint, inside, shift, name):
        nonlocal nearest, colour, ids
        n = torch.tensor(normal, dtype=torch.float64)
        depth = (offset - n @ centre) / (n @ world)
        points = centre + depth * world - torch.tensor(shift, dtype=torch.float64)[:, None]
        hit = (depth > 0.1) & (depth < nearest) & inside(points)
        nearest = torch.where(hit, depth, nearest)
        # paint is finer where z is small: a board's own z would be about 0
        far = torch.tensor((0.0, 0.0, 1.5 if name else 0.0), dtype=torch.float64)[:, None]
        colour = torch.where(hit, _paint(points + far, paint), colour)
        ids = torch.where(hit, name, ids)

    def everywhere(points):
        return torch.ones_like(points[0], dtype=torch.bool)

    draw((0.0, 0.0, 1.0), WALL, 0, everywhere, (0.0, 0.0, 0.0), 0)
    draw((0.0, 1.0, 0.0), ROAD, 1, everywhere, (0.0, 0.0, 0.0), 0)
    for name, b in enumerate(boards, 1):
        x, z = b.x + frame * b.step[0], b.z + frame * b.step[1]

        def inside(points, b=b):
            across = (points[0].abs() < b.width / 2) & (points[1] < 0)
            return across & (points[1] > -b.height)

        # the board wears its colours: they move with it
        normal, shift = (-b.slope, 0.0, 1.0), (x, ROAD, z)
        draw(normal, z - b.slope * x, b.paint + name, inside, shift, name)
    shape = (1, -1, *size)
    return colour.reshape(1, 3, *size), nearest.reshape(shape), ids.reshape(size).numpy()


def drive(count, forward=0.25):
    """Poses of a camera that drives ahead and sways a little."""
    return [
        pose(x=0.05 * np.sin(i), z=forward * i, yaw=0.01 * np.sin(0.7 * i)) for i in range(count)
    ]


def write_street(path, boards, poses, truth=True):
    """A recording of it at 10 Hz; truth: with depth, instances and dynamic masks."""
    height, width = SIZE
    moves = np.array([0, *(any(b.step) for b in boards)], bool)
    calib = Calibration.from_K(camera()[0].numpy(), width, height)
    with RecordingWriter(path, calib, image_format="png") as writer:
        for i, T in enumerate(poses):
            image, depth, ids = view(boards, T, i)
            pixels = (image[0].permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
            known = {"depth": depth[0, 0].numpy(), "instances": ids, "dynamic": moves[ids]}
            writer.add(pixels, int(i * 1e8), **(known if truth else {}))
