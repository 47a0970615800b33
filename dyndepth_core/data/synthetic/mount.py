"""Where the camera sits: on a car that shakes a bit, or in the hand of somebody who walks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dyndepth_core.data.calibration import Calibration

# columns: the camera's right, down, forward in car axes (x forward, y left, z up)
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
PACE = 1.4  # m/s


class Mount(Protocol):
    """height in metres above the ground, pitch in radians, down is positive, both on average."""

    height: float
    pitch: float

    def pose(self, time: float, speed: float, accel: float) -> np.ndarray:
        """T_body_cam (4, 4): body x forward, y left, z up, on the ground below the agent."""
        ...


def draw_camera(
    rng: np.random.Generator, size: tuple[int, int], other: bool = False
) -> Calibration:
    """A pinhole camera for images of size (H, W); other: a wider or longer lens than cars have."""
    h, w = size
    f = w * (_outside(rng, (0.36, 0.46), (1.0, 1.25)) if other else float(rng.uniform(0.52, 0.92)))
    cx = (w - 1) / 2 + w * float(rng.uniform(-0.02, 0.02))
    cy = (h - 1) / 2 + h * float(rng.uniform(-0.07, 0.07))
    return Calibration(fx=f, fy=f, cx=cx, cy=cy, width=w, height=h, source="synthetic world")


@dataclass(frozen=True)
class CarMount:
    """On a car: pitch within 2 degrees, fast small shakes that grow with the speed."""

    height: float
    pitch: float
    side: float
    yaw: float
    roll: float
    phases: np.ndarray  # (6,)
    sizes: np.ndarray  # (3,) of the shakes

    @classmethod
    def draw(cls, rng: np.random.Generator, other: bool = False) -> CarMount:
        """Angles in radians, lengths in metres; other: lower than cars, or on a lorry or bus."""
        height = _outside(rng, (0.6, 1.0), (2.4, 3.0)) if other else float(rng.uniform(1.25, 2.15))
        pitch = math.radians(float(rng.uniform(-1.7, 1.7)))
        side = float(rng.uniform(-0.25, 0.25))
        yaw = math.radians(float(rng.uniform(-1.2, 1.2)))
        roll = math.radians(float(rng.normal(0, 0.35)))
        return cls(
            height, pitch, side, yaw, roll, rng.uniform(0, 2 * np.pi, 6), rng.uniform(0.3, 1.0, 3)
        )

    def pose(self, time: float, speed: float, accel: float) -> np.ndarray:
        """See Mount."""
        size, share = self.sizes, min(speed / 6.0, 1.0)
        wave = [
            math.sin(f * time + p)
            for f, p in zip((7.9, 11.7, 6.3, 4.1, 9.0, 3.3), self.phases, strict=True)
        ]
        pitch = self.pitch + math.radians(0.11 * size[0] * share * (wave[0] + 0.6 * wave[1]))
        pitch -= math.radians(0.05) * float(np.clip(accel, -3, 2))
        roll = self.roll + math.radians(0.10 * size[1] * share * (wave[2] + wave[3]))
        up = self.height + 0.008 * size[2] * share * (wave[4] + wave[5])
        return camera_in_body(self.yaw, pitch, roll, (0.6, self.side, up))


@dataclass(frozen=True)
class HandMount:
    """In the hand of a walker: it sways with the steps and wanders slowly by several degrees, so
    that between frames rotation moves the image much more than translation does.
    """

    height: float
    pitch: float
    phases: np.ndarray  # (8,)
    sizes: np.ndarray  # (4,) yaw, pitch, roll, position

    @classmethod
    def draw(cls, rng: np.random.Generator) -> HandMount:
        """Angles in radians, lengths in metres."""
        return cls(
            float(rng.uniform(1.4, 1.7)),
            math.radians(float(rng.uniform(-3.0, 3.0))),
            rng.uniform(0, 2 * np.pi, 8),
            rng.uniform(0.6, 1.2, 4),
        )

    def pose(self, time: float, speed: float, accel: float) -> np.ndarray:
        """See Mount; two steps take a second, the hand wanders on while its owner stands."""
        step, share = 2 * math.pi * 0.95 * time, min(speed / PACE, 1.0)
        p, (yaw, pitch, roll, way) = self.phases, self.sizes
        yaw *= 3.2 * math.sin(1.9 * time + p[0]) + 0.8 * share * math.sin(step + p[1])
        pitch *= 1.8 * math.sin(1.4 * time + p[2]) + 0.7 * share * math.sin(2 * step + p[3])
        roll *= 1.2 * math.sin(1.1 * time + p[4]) + 0.9 * share * math.sin(step + p[5])
        side = 0.03 * way * share * math.sin(step + p[6])
        up = self.height + 0.025 * way * share * math.sin(2 * step + p[7])
        angles = math.radians(yaw), self.pitch + math.radians(pitch), math.radians(roll)
        return camera_in_body(*angles, (0.3, side, up))


def _outside(
    rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float]
) -> float:
    """From one of two ranges."""
    return float(rng.uniform(*(low if rng.random() < 0.5 else high)))


def camera_in_body(
    yaw: float, pitch: float, roll: float, position: tuple[float, float, float]
) -> np.ndarray:
    """T_body_cam (4, 4) of a camera turned by yaw (left), then pitch (down), then roll, radians."""
    cp, sp = math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    cr, sr = math.cos(roll), math.sin(roll)
    R_yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1.0]])
    R_pitch = np.array([[1.0, 0, 0], [0, cp, sp], [0, -sp, cp]])
    R_roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1.0]])
    T = np.eye(4)
    T[:3, :3] = R_yaw @ OPTICAL @ R_pitch @ R_roll
    T[:3, 3] = position
    return T
