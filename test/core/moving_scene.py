"""Boxes that move before a wall, with exact depth, velocity and ego-motion, frame by frame."""

from dataclasses import dataclass

import numpy as np

SIZE = (96, 320)
K = np.array([[200.0, 0, 160.3], [0, 200.0, 47.6], [0, 0, 1]])
WALL = 60.0
PERIOD_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000


@dataclass
class Box:
    """Centre (3,) in world axes (those of the camera's start) at frame 0; half width and height in
    metres; velocity in m/s."""

    centre: tuple
    velocity: tuple
    half: tuple = (0.9, 0.7)


def yaw(angle):
    """T (4, 4) of a turn about y."""
    c, s = np.cos(angle), np.sin(angle)
    T = np.eye(4)
    T[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    return T


def shift(x=0.0, y=0.0, z=0.0):
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


def view(boxes, T_world_cam, seconds):
    """velocity (h, w, 3), depth (h, w) float32 and whose pixel it is (h, w), 0 = wall."""
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]]
    depth, whose = np.full(SIZE, WALL, np.float32), np.zeros(SIZE, int)
    velocity = np.zeros((*SIZE, 3), np.float32)
    T_cam_world = np.linalg.inv(T_world_cam)
    for i, box in enumerate(boxes, 1):
        world = np.array(box.centre) + seconds * np.array(box.velocity)
        x, y, z = T_cam_world[:3, :3] @ world + T_cam_world[:3, 3]
        if z < 1:
            continue
        X, Y = (cols - K[0, 2]) * z / K[0, 0], (rows - K[1, 2]) * z / K[1, 1]
        own = (np.abs(X - x) <= box.half[0]) & (np.abs(Y - y) <= box.half[1]) & (depth > z)
        depth[own], whose[own] = z, i
        velocity[own] = T_cam_world[:3, :3] @ np.array(box.velocity)
    return velocity, depth, whose


class Drive:
    """Feeds views of boxes to a tracker; camera: T_world_cam (4, 4) at a time in seconds."""

    def __init__(self, tracker, boxes, camera=lambda seconds: np.eye(4), threshold=1.0):
        self.tracker, self.boxes, self.camera, self.threshold = tracker, boxes, camera, threshold
        self.last = 0

    def step(self, frame, change=lambda velocity, depth, whose: None, likely=None):
        """Motion of a frame whose predecessor is the one given last, and whose pixel is whose; with
        likely what a network finds likely to move.
        """
        seconds = frame * PERIOD_NS / 1e9
        T_world_tgt = self.camera(seconds)
        T_world_src = self.camera(self.last * PERIOD_NS / 1e9)
        velocity, depth, whose = view(self.boxes, T_world_tgt, seconds)
        change(velocity, depth, whose)
        T = np.linalg.inv(T_world_src) @ T_world_tgt
        stamps = [START_NS + k * PERIOD_NS for k in (frame, self.last)]
        self.last = frame
        return self.tracker.step(velocity, depth, K, T, *stamps, self.threshold, likely), whose

    def run(self, frames, **options):
        return [self.step(frame, **options) for frame in frames]


def owners(motion, whose):
    """{id: which box it covers}; every id covers one box only."""
    found = {}
    for name in np.unique(motion.ids[motion.ids > 0]):
        (box,) = np.unique(whose[motion.ids == name])
        found[int(name)] = int(box)
    return found
