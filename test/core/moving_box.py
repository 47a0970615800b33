"""An analytic scene for tests: a wall, a box before it that moves, a camera that moves; frames -1,
0 and 1.
"""

import torch
from scenes import _paint, camera, pose

from dyndepth_core.geometry.camera import rays

SIZE = (64, 96)
WALL, BOX = 10.0, 6.0  # metres along the axis of the first camera
HALF = (1.3, 0.9)  # of the box, in x and y
T_WORLD_CAM = {
    -1: pose(x=-0.15, z=-0.2, yaw=-0.01), 0: pose(), 1: pose(x=0.15, z=0.2, yaw=0.01)
}  # fmt: skip
# of the box from one image to the next: across, which is what so small a box shows
MOVE = torch.tensor([0.3, -0.1, 0.0], dtype=torch.float64)


def view(frame: int, move=MOVE, poses=T_WORLD_CAM, wall=WALL):
    """Image (1, 3, H, W), depth (1, 1, H, W) and where the box is (1, 1, H, W), float64."""
    T = poses[frame][0]
    world = T[:3, :3] @ rays(camera(), *SIZE)[0].flatten(1)
    shift = frame * move
    layers = []
    for surface, z in ((0, wall), (2, BOX + shift[2])):
        depth = (z - T[2, 3]) / world[2]
        points = T[:3, 3:] + depth * world
        # the box wears its colours: they move with it
        own = points - shift[:, None] if surface else points
        layers.append((depth, _paint(own, surface), own))
    (behind, wall_colour, _), (box, box_colour, own) = layers
    hit = (own[0].abs() < HALF[0]) & (own[1].abs() < HALF[1])
    image = torch.where(hit, box_colour, wall_colour)
    depth = torch.where(hit, box, behind)
    shape = (1, -1, *SIZE)
    return image.reshape(1, 3, *SIZE), depth.reshape(shape), hit.reshape(shape)


def pair():
    """Images, depths and box masks of both views, T_b_a (4, 4) and the true residual of the box in
    the frame of b, seen from the first; and the same from the second.
    """
    a, b = view(0), view(1)
    T_ba = torch.linalg.inv(T_WORLD_CAM[1][0]) @ T_WORLD_CAM[0][0]
    T_ab = torch.linalg.inv(T_ba)
    there = torch.linalg.inv(T_WORLD_CAM[1][0])[:3, :3] @ MOVE
    back = -torch.linalg.inv(T_WORLD_CAM[0][0])[:3, :3] @ MOVE
    return a, b, torch.stack((T_ba, T_ab)), torch.stack((there, back))
