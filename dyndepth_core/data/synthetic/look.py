"""What a camera makes of light: exposure, and the colours of its make."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .light import Weather

GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Look:
    """The make of a camera, by default the plain one of the world's cars.

    saturation: 0 is grey; balance: factors of red, green and blue; gamma: exponent of the shown
    brightness; vignette: loss of light towards the corners; grain: factor on the noise.
    """

    saturation: float = 1.0
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    vignette: float = 0.35
    grain: float = 1.0


def draw_look(rng: np.random.Generator) -> Look:
    """A make unlike the plain one: pale or grey, with a cast, dark or bright in its mid tones."""
    red, blue = np.exp(rng.uniform(-0.25, 0.25, 2))
    gamma = rng.uniform(0.6, 0.75) if rng.random() < 0.5 else rng.uniform(1.35, 1.7)
    return Look(
        saturation=float(rng.uniform(0.0, 0.6)),
        balance=(float(red), 1.0, float(blue)),
        gamma=float(gamma),
        vignette=float(rng.uniform(0.7, 1.3)),
        grain=float(rng.uniform(1.5, 2.5)),
    )


def expose(
    color: np.ndarray, weather: Weather, look: Look, t: float, rng: np.random.Generator
) -> np.ndarray:
    """Samples (2H + 1, 2W + 1, 3) to a uint8 image (H, W, 3): tent filter, vignette, gain drift,
    the colours of the make, shot and read noise.
    """
    kernel = np.array([0.25, 0.5, 0.25], np.float32)
    image = cv2.sepFilter2D(color, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)[1::2, 1::2]
    h, w = image.shape[:2]
    r2 = ((np.arange(w) / w - 0.5) ** 2)[None] + ((np.arange(h) / w - 0.5 * h / w) ** 2)[:, None]
    gain = weather.gain * (1 + weather.drift * np.sin(0.9 * t + weather.wind[0] * 6.28))
    image = image * (np.maximum(1 - look.vignette * r2, 0) * gain).astype(np.float32)[..., None]
    image = np.where(image > 0.7, 0.7 + 0.3 * (1 - np.exp(-(image - 0.7) / 0.3)), image)  # shoulder
    if look != Look():
        grey = image @ GREY
        image = grey[..., None] + look.saturation * (image - grey[..., None])
        image = np.maximum(image * np.float32(look.balance), 0) ** np.float32(look.gamma)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= look.grain * weather.noise * np.sqrt(0.3 + image)
    return np.clip((image + noise) * 255.0 + 0.5, 0, 255).astype(np.uint8)
