"""Where the camera sits on the vehicle, from six numbers of a parameter."""

from __future__ import annotations

import numpy as np

# Columns: the optical x (right), y (down), z (forward) in body axes (forward, left, up), REP 103.
BODY_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def parse_mount(text: str) -> np.ndarray | None:
    """T_base_camera, float64 (4, 4), from 'x y z roll pitch yaw' in metres and radians; None from
    an empty text.

    The six numbers place the camera's body axes (x forward, y left, z up) in base_link, turned by R
    = Rz(yaw) Ry(pitch) Rx(roll); the result maps optical axes to base_link. Raises ValueError for
    anything but six finite numbers.
    """
    if not text.strip():
        return None
    try:
        numbers = np.array([float(word) for word in text.replace(",", " ").split()])
    except ValueError:
        numbers = np.full(0, np.nan)
    if len(numbers) != 6 or not np.isfinite(numbers).all():
        raise ValueError(
            f"base_to_camera is {text!r}: give six numbers, 'x y z roll pitch yaw', metres, radians"
        )
    roll, pitch, yaw = numbers[3:]
    T = np.eye(4)
    T[:3, :3] = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll) @ BODY_OPTICAL
    T[:3, 3] = numbers[:3]
    return T


def down_in_camera(T_base_camera: np.ndarray | None) -> np.ndarray:
    """Unit vector (3,) that points to the ground, in optical axes; of a level camera without mount.

    T_base_camera: (4, 4) of `parse_mount`, the vehicle standing on a level road.
    """
    if T_base_camera is None:
        return np.array([0.0, 1.0, 0.0])
    return -T_base_camera[2, :3]


def _turn(axis: int, angle: float) -> np.ndarray:
    """Rotation (3, 3) by `angle` about axis 0 (x), 1 (y) or 2 (z)."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[a, a] = R[b, b] = np.cos(angle)
    R[a, b], R[b, a] = -np.sin(angle), np.sin(angle)
    return R
