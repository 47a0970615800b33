"""Pinhole cameras: intrinsics that follow the image, rays, back-projection, projection, lens
distortion.

`K` is (..., 3, 3) in pixels with pixel centres at integers: the top-left pixel's centre is (0, 0)
and the image covers [-0.5, W - 0.5] x [-0.5, H - 0.5]. The functions on K take numpy arrays and
tensors alike. Optical frame: x right, y down, z forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Matrix = TypeVar("Matrix", np.ndarray, Tensor)
# How many each model can have.
LENS_COEFFICIENTS = {"plumb_bob": 8, "rational_polynomial": 8, "equidistant": 4}


def _copy(K: Matrix) -> Matrix:
    return K.clone() if isinstance(K, Tensor) else K.copy()


def resize_K(K: Matrix, scale_x: float, scale_y: float) -> Matrix:
    """Intrinsics of the image resized by (scale_x, scale_y): f' = s f, c' = (c + 0.5) s - 0.5."""
    out = _copy(K)
    out[..., 0, :] *= scale_x
    out[..., 1, :] *= scale_y
    out[..., 0, 2] += 0.5 * scale_x - 0.5
    out[..., 1, 2] += 0.5 * scale_y - 0.5
    return out


def crop_K(K: Matrix, left: float, top: float) -> Matrix:
    """Intrinsics after dropping `left` columns and `top` rows (negative: after padding them)."""
    out = _copy(K)
    out[..., 0, 2] -= left
    out[..., 1, 2] -= top
    return out


def flip_K(K: Matrix, width: int) -> Matrix:
    """Intrinsics after a horizontal flip: cx' = W - 1 - cx; cy stays."""
    out = _copy(K)
    out[..., 0, 2] = width - 1 - out[..., 0, 2]
    return out


def check_K(K: np.ndarray, source: str = "K") -> np.ndarray:
    """Return K as float64 (3, 3) or raise ValueError naming `source` and the fault (shape, NaN,
    focal length, skew row).
    """
    K = np.asarray(K, dtype=np.float64)
    if K.shape != (3, 3):
        raise ValueError(
            f"{source}: intrinsics of shape {K.shape}, expected a 3x3 matrix in pixels"
        )
    if not np.isfinite(K).all():
        raise ValueError(
            f"{source}: intrinsics hold NaN or infinity; calibrate the camera or fix its "
            "camera_info"
        )
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise ValueError(
            f"{source}: focal lengths fx={K[0, 0]:g}, fy={K[1, 1]:g} must be positive; is the "
            "camera calibrated?"
        )
    if not np.allclose(K[2], (0, 0, 1)):
        raise ValueError(
            f"{source}: last row of the intrinsics is {K[2].tolist()}, expected [0, 0, 1]"
        )
    return K


def pixel_grid(
    height: int, width: int, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Homogeneous pixel coordinates (3, H, W): u, v, 1 with u, v integers at the pixel centres."""
    v, u = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype),
        torch.arange(width, device=device, dtype=dtype),
        indexing="ij",
    )
    return torch.stack((u, v, torch.ones_like(u)))


def inverse_K(K: Tensor) -> Tensor:
    """Closed-form inverse of upper-triangular (B, 3, 3) intrinsics; cheaper than a solver and exact
    under autocast.
    """
    fx, skew, cx = K[:, 0, 0], K[:, 0, 1], K[:, 0, 2]
    fy, cy = K[:, 1, 1], K[:, 1, 2]
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = (
        torch.stack((1 / fx, -skew / (fx * fy), (skew * cy - cx * fy) / (fx * fy)), -1),
        torch.stack((zero, 1 / fy, -cy / fy), -1),
        torch.stack((zero, zero, one), -1),
    )
    return torch.stack(rows, 1)


def rays(K: Tensor, height: int, width: int) -> Tensor:
    """Viewing rays K^-1 [u v 1]^T, (B, 3, H, W), scaled to z = 1, so that X = depth * ray."""
    grid = pixel_grid(height, width, K.device, K.dtype).reshape(3, -1)
    return (inverse_K(K) @ grid).reshape(K.shape[0], 3, height, width)


def backproject(depth: Tensor, K: Tensor) -> Tensor:
    """Points X = depth K^-1 [u v 1]^T, (B, 3, H, W) in the camera frame, from depth (B, 1, H, W)
    along z and K (B, 3, 3).
    """
    return depth * rays(K, *depth.shape[-2:])


def project(points: Tensor, K: Tensor, min_z: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Project points (B, 3, H, W) to pixels (B, 2, H, W) and z (B, 1, H, W).

    The division uses max(z, min_z): a point behind the camera gets a finite pixel (callers mask it
    by z), never a mirrored one, and no gradient explodes near z = 0.
    """
    image = (K @ points.flatten(2)).unflatten(2, points.shape[2:])
    z = points[:, 2:3]
    return image[:, :2] / z.clamp(min=min_z), z


def distort(x: Tensor, y: Tensor, model: str, coeffs: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Apply lens distortion to normalised coordinates (z = 1), any shape.

    plumb_bob (k1 k2 p1 p2 k3) and rational_polynomial (+ k4 k5 k6): Brown-Conrady as in OpenCV's
    calib3d documentation, where the number of coefficients counts and not the name; equidistant
    (k1..k4): Kannala-Brandt, theta_d = theta (1 + k1 theta^2 + ... + k4 theta^8).
    Raises ValueError for another model and for coefficients it does not have (OpenCV's thin prism
    and tilt).
    """
    if model not in LENS_COEFFICIENTS:
        raise ValueError(f"distortion model {model!r}: use {', '.join(LENS_COEFFICIENTS)}")
    k, most = [float(c) for c in coeffs] + [0.0] * 8, LENS_COEFFICIENTS[model]
    if any(k[most:]):
        raise ValueError(
            f"distortion {list(coeffs)}: {model} has at most {most} coefficients; calibrate for a "
            "model it has"
        )
    if model == "equidistant":
        # Clamped before the root, whose slope at 0 is infinite.
        radius = torch.sqrt((x * x + y * y).clamp(min=1e-24))
        theta = torch.atan(radius)
        t2 = theta * theta
        scale = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3])))) / radius
        return x * scale, y * scale
    r2 = x * x + y * y
    radial = (1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4]))) / (
        1 + r2 * (k[5] + r2 * (k[6] + r2 * k[7]))
    )
    tangential_x = 2 * k[2] * x * y + k[3] * (r2 + 2 * x * x)
    tangential_y = k[2] * (r2 + 2 * y * y) + 2 * k[3] * x * y
    return x * radial + tangential_x, y * radial + tangential_y
