"""Periodic noise, and noise to pictures."""

from __future__ import annotations

import cv2
import numpy as np


def noise(rng: np.random.Generator, side: int, octaves: list[tuple[int, float]]) -> np.ndarray:
    """Periodic value noise (side, side): octaves of (cells per side, amplitude)."""
    out = np.zeros((side, side), np.float32)
    for cells, amplitude in octaves:
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        if cells == side:
            out += amplitude * grid
            continue
        step = side // cells
        wide = np.pad(grid, 2, mode="wrap")
        wide = cv2.resize(wide, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        out += amplitude * wide[2 * step : 2 * step + side, 2 * step : 2 * step + side]
    return out


def rgb(base, value: np.ndarray, warm: np.ndarray | float = 0.0) -> np.ndarray:  # noqa: ANN001
    """A base colour (3,) varied by value (H, W) around 0, and warmer where warm is above 0."""
    warmth = np.stack(
        [1.0 + warm * np.ones_like(value), np.ones_like(value), 1.0 - warm * np.ones_like(value)],
        -1,
    )
    return np.asarray(base, np.float32) * (1.0 + value[..., None]) * warmth


def u8(image: np.ndarray) -> np.ndarray:
    """0..1 to uint8."""
    return np.clip(image * 255.0, 0, 255).astype(np.uint8)
