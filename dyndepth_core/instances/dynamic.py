"""How likely something moves, from its speed and how well speed can be known at its distance."""

from __future__ import annotations

import numpy as np

PIXEL_NOISE = 0.25  # pixels by which motion in the image is misread
DEPTH_NOISE = 0.03  # relative error of depth; what stands still then seems to move with the camera
SIGMAS = 3.0  # of the noise that a speed must exceed
SOFTNESS = 0.25  # of the step from unlikely to likely, over the speed in its middle


def speed_noise(depth: np.ndarray, focal: float, ego_translation: float, dt: float) -> np.ndarray:
    """Standard deviation of a speed, in units of depth per second, shaped like depth.

    sqrt((PIXEL_NOISE depth / (focal dt))^2 + (DEPTH_NOISE ego_translation / dt)^2): a pixel spans
    depth / focal, and under a camera that moved by ego_translation (units of depth) a point whose
    depth is wrong by the factor 1 + e matches the image when it moves by e times that. focal in
    pixels, dt in seconds, > 0.
    """
    per_depth = PIXEL_NOISE / (focal * dt)
    return np.sqrt(np.square(per_depth * depth) + (DEPTH_NOISE * ego_translation / dt) ** 2)


def speed_limit(noise: np.ndarray, threshold: float) -> np.ndarray:
    """The speed from which something moves more likely than not: sqrt(threshold^2 + (SIGMAS
    noise)^2), in the unit of both.
    """
    return np.sqrt(np.square(SIGMAS * noise) + threshold**2)


def dynamic_probability(speed: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-(speed / limit - 1) / SOFTNESS)), float32, NaN where speed or limit is: 0.02
    for what stands still, 0.5 at the limit, 0.98 at twice the limit.
    """
    return 1 / (1 + np.exp((1 - speed / limit) / SOFTNESS))
