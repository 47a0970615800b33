"""Which pixels of an image are static, dynamic, at the camera's own speed, or raised above the
ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dyndepth_core.data.recording import Recording
from dyndepth_core.evaluation.metrics import valid_depth
from dyndepth_core.geometry.camera import backproject, resize_K

RAISED_ABOVE_M = 0.3
SAME_SPEED_MPS = 1.0
MAX_TILT_DEG = 12.0  # ground against the camera's y axis: pitch, roll, grade; banks are steeper
_SAMPLES = 4000
_TRIALS = 256
_LEVEL = float(np.cos(np.radians(MAX_TILT_DEG)))


@dataclass(frozen=True)
class GroundPlane:
    """Points X (camera frame, metres) with normal . X = height; normal points down, height > 0."""

    normal: np.ndarray
    height: float


def fit_ground(depth: np.ndarray, K: np.ndarray, seed: int = 0) -> GroundPlane | None:
    """Fit the ground plane to ground-truth depth (H, W) in metres; None where no ground is seen.

    RANSAC (Fischler and Bolles 1981) on the back-projected points below the horizon row cy, then
    least squares on its inliers. An inlier lies within 5 cm + 1 % of its depth (stereo and LiDAR
    truth get coarser with range). Near points count more (1/z), and points under a plane count
    against it: nothing lies under the ground. Only planes within MAX_TILT_DEG of level are tried,
    so that no wall and no embankment wins. The same image gives the same plane. None below 50
    points or where less than 15 % of the weight lies on the plane.
    """
    below = valid_depth(depth) & (np.arange(depth.shape[0])[:, None] > K[1, 2])
    points = _points(depth, K)[below]
    if len(points) < 50:
        return None
    points = points[:: max(1, len(points) // _SAMPLES)]
    tolerance = 0.05 + 0.01 * points[:, 2]
    weight = 1.0 / points[:, 2]
    weight /= weight.sum()
    triples = points[np.random.default_rng(seed).choice(len(points), (_TRIALS, 3), p=weight)]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    length = np.linalg.norm(normals, axis=1)
    normals *= np.where(normals[:, 1] < 0, -1.0, 1.0)[:, None] / np.maximum(length, 1e-12)[:, None]
    heights = np.einsum("ij,ij->i", normals, triples[:, 0])
    level = (normals[:, 1] > _LEVEL) & (heights > 0) & (length > 1e-9)
    if not level.any():
        return None
    under = points @ normals[level].T - heights[level]
    on = weight @ (np.abs(under) < tolerance[:, None])
    votes = on - weight @ (under > 3 * tolerance[:, None])
    best = int(np.argmax(votes))
    if on[best] < 0.15:
        return None
    first = GroundPlane(normals[level][best], float(heights[level][best]))
    return _refine(points, tolerance, weight, first)


def _points(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Points (H, W, 3), float64 metres, of a depth image (H, W)."""
    image = torch.from_numpy(np.asarray(depth, dtype=np.float64))[None, None]
    return backproject(image, torch.from_numpy(K)[None])[0].permute(1, 2, 0).numpy()


def _refine(
    points: np.ndarray, tolerance: np.ndarray, weight: np.ndarray, plane: GroundPlane
) -> GroundPlane:
    """Weighted least squares y = a x + b z + c on the inliers, three rounds, never steeper than
    MAX_TILT_DEG."""
    for _ in range(3):
        inlier = np.abs(points @ plane.normal - plane.height) < tolerance
        near, root = points[inlier], np.sqrt(weight[inlier]) / tolerance[inlier]
        design = np.stack([near[:, 0], near[:, 2], np.ones(len(near))], axis=1)
        (a, b, c), *_ = np.linalg.lstsq(design * root[:, None], near[:, 1] * root, rcond=None)
        norm = np.sqrt(a * a + b * b + 1.0)
        if c <= 0 or 1.0 / norm < _LEVEL:
            break
        plane = GroundPlane(np.array([-a, 1.0, -b]) / norm, float(c / norm))
    return plane


def height_above(depth: np.ndarray, K: np.ndarray, plane: GroundPlane) -> np.ndarray:
    """Height (H, W) in metres of every pixel of a depth image above the ground plane."""
    return plane.height - _points(depth, K) @ plane.normal


def camera_velocity(recording: Recording, i: int) -> np.ndarray | None:
    """Velocity (3,) of the camera relative to the ground, m/s, optical axes of frame i; None
    without poses.

    The difference of the neighbouring camera positions over the real time between their stamps.
    """
    pose = recording.pose(i)
    if pose is None:
        return None
    near = [j for j in (i - 1, i + 1) if 0 <= j < len(recording) and recording.pose(j) is not None]
    first, last = min([i, *near]), max([i, *near])
    seconds = (recording.stamps_ns[last] - recording.stamps_ns[first]) * 1e-9
    if seconds <= 0:
        return None
    moved = recording.pose(last)[:3, 3] - recording.pose(first)[:3, 3]
    return pose[:3, :3].T @ (moved / seconds)


def strata_of(recording: Recording, i: int, depth: np.ndarray) -> dict[str, np.ndarray]:
    """Strata of frame i as bool (H, W) masks at the size of its ground-truth depth (H, W), metres.

    static and dynamic where the recording has dynamic masks; same_speed (dynamic and below
    SAME_SPEED_MPS relative to the camera) where it also has velocity and poses; raised where K is
    known and a ground plane is found. What the recording cannot tell is absent, never guessed.
    """
    found: dict[str, np.ndarray] = {}
    dynamic = recording.dynamic(i)
    if dynamic is not None:
        _check_size(recording, i, "dynamic", dynamic, depth)
        found["static"], found["dynamic"] = ~dynamic, dynamic
        velocity, own = recording.velocity(i), camera_velocity(recording, i)
        if velocity is not None and own is not None:
            _check_size(recording, i, "velocity", velocity, depth)
            relative = np.linalg.norm(velocity - own.astype(np.float32), axis=-1)
            found["same_speed"] = dynamic & (relative < SAME_SPEED_MPS)  # NaN compares false
    K = depth_intrinsics(recording, depth)
    plane = None if K is None else fit_ground(depth, K)
    if plane is not None:
        found["raised"] = valid_depth(depth) & (height_above(depth, K, plane) > RAISED_ABOVE_M)
    return found


def depth_intrinsics(recording: Recording, depth: np.ndarray) -> np.ndarray | None:
    """K (3, 3) of a ground-truth depth image (H, W), carried from the image size; None when
    unknown."""
    K = recording.calib.K
    if K is None:
        return None
    sy, sx = depth.shape[0] / recording.calib.height, depth.shape[1] / recording.calib.width
    return resize_K(K, sx, sy)


def _check_size(
    recording: Recording, i: int, name: str, data: np.ndarray, depth: np.ndarray
) -> None:
    if data.shape[:2] != depth.shape:
        raise ValueError(
            f"{recording.path}: {name} of frame {i} is {data.shape[:2]} but its depth is"
            f" {depth.shape}; the ground truth of a frame must have one size"
        )
