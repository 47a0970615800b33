"""Image transforms that carry K with them; the same code prepares images for training and on the
vehicle.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from dyndepth_core.geometry.camera import crop_K, flip_K, resize_K

# A wider image loses at most this share of its columns before rows are padded instead.
MAX_SIDE_CROP = 0.1


@dataclass(frozen=True)
class Fit:
    """Crop (input pixels), then resize, then pad (output pixels): how an image fills a network
    input without stretching.
    """

    in_size: tuple[int, int]
    out_size: tuple[int, int]
    crop: tuple[int, int, int, int]  # top, left, height, width in the input
    resized: tuple[int, int]
    pad: tuple[int, int]  # rows above, columns to the left

    @property
    def valid(self) -> tuple[slice, slice]:
        """Rows and columns of the output that show the input; the rest is padding."""
        (top, left), (height, width) = self.pad, self.resized
        return slice(top, top + height), slice(left, left + width)

    @property
    def lost(self) -> str:
        """What the network does not get to see, in words; empty where that is less than a tenth."""
        (rows, cols), (top, left, height, width) = self.in_size, self.crop
        if height * width >= (1 - MAX_SIDE_CROP) * rows * cols:
            return ""
        share = height * width / (rows * cols)
        return (
            f"the network sees {share:.0%} of images of {cols}x{rows} (rows {top} to "
            f"{top + height - 1}, columns {left} to {left + width - 1}), there is no depth for the "
            "rest"
        )

    @property
    def scale(self) -> tuple[float, float]:
        """(scale_x, scale_y) of the resize; equal up to the rounding to whole pixels."""
        return self.resized[1] / self.crop[3], self.resized[0] / self.crop[2]

    def image(self, image: np.ndarray, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
        """Transform (H, W) or (H, W, C); resize first and on integers, floats come later (20 times
        cheaper at 1080p).
        """
        if image.shape[:2] != self.in_size:
            raise ValueError(
                f"image of {image.shape[:2]} given to a fit planned for {self.in_size}; plan it "
                "again"
            )
        top, left, height, width = self.crop
        out = image[top : top + height, left : left + width]
        if (height, width) != self.resized:
            if interpolation == cv2.INTER_AREA and self.scale[0] > 1:
                interpolation = cv2.INTER_LINEAR
            if (
                interpolation == cv2.INTER_AREA
                and max(self.scale) <= 0.5
                and height % 2 == width % 2 == 0
            ):
                # Halving is vectorised, other ratios are not: in two steps 1080p takes 1.1 ms, not
                # 2.7.
                out = cv2.resize(out, (width // 2, height // 2), interpolation=interpolation)
            out = cv2.resize(out, self.resized[::-1], interpolation=interpolation)
        if self.resized != self.out_size:
            above, before = self.pad
            below = self.out_size[0] - above - self.resized[0]
            after = self.out_size[1] - before - self.resized[1]
            out = cv2.copyMakeBorder(out, above, below, before, after, cv2.BORDER_REPLICATE)
        return out

    def K(self, K: np.ndarray) -> np.ndarray:
        """Intrinsics (3, 3) of the output image."""
        out = resize_K(crop_K(K, self.crop[1], self.crop[0]), *self.scale)
        return crop_K(out, -self.pad[1], -self.pad[0])

    def inverse_K(self, K: np.ndarray) -> np.ndarray:
        """Intrinsics (3, 3) of the input image from those of the output image."""
        sx, sy = self.scale
        out = resize_K(crop_K(K, self.pad[1], self.pad[0]), 1 / sx, 1 / sy)
        return crop_K(out, -self.crop[1], -self.crop[0])


def whole_size(in_size: tuple[int, int], out_size: tuple[int, int]) -> tuple[int, int]:
    """The network size (h, w), multiples of 32, that shows images of in_size (H, W) whole, or
    nearly, with about as many pixels as out_size.
    """
    (rows, cols), pixels = in_size, out_size[0] * out_size[1]
    sizes = [(h, 32 * max(1, round(h * cols / rows / 32))) for h in range(32, out_size[1] + 1, 32)]
    whole = [size for size in sizes if not plan_fit(in_size, size).lost] or sizes
    return min(whole, key=lambda size: abs(size[0] * size[1] - pixels))


def plan_fit(
    in_size: tuple[int, int], out_size: tuple[int, int], K: np.ndarray | None = None
) -> Fit:
    """Plan how images of in_size (H, W) fill out_size (h, w): same width, rows cropped around the
    principal point.

    Where the input is wider than the output, up to 10 % of the columns are cropped, beyond that
    rows are padded.
    """
    (rows, cols), (h, w) = in_size, out_size
    if min(rows, cols, h, w) < 1:
        raise ValueError(
            f"image of {rows}x{cols} to {h}x{w}: an image size is zero; check the camera driver"
        )
    cx, cy = (K[0, 2], K[1, 2]) if K is not None else ((cols - 1) / 2, (rows - 1) / 2)
    # Even crops, so that Fit.image can halve them first.
    step = 2 if rows >= 2 * h and cols >= 2 * w else 1
    if rows * w >= h * cols:  # taller than the output: crop rows
        width = cols - cols % step
        height = min(rows - rows % step, max(step, step * round(h * width / w / step)))
        top = int(np.clip(round(cy - (height - 1) / 2), 0, rows - height))
        return Fit(in_size, out_size, (top, 0, height, width), out_size, (0, 0))
    height = rows - rows % step
    width = max(1, step * round(w * height / h / step))
    if (1 - MAX_SIDE_CROP) * cols <= width <= cols:
        left = int(np.clip(round(cx - (width - 1) / 2), 0, cols - width))
        return Fit(in_size, out_size, (0, left, height, width), out_size, (0, 0))
    height = max(1, round(rows * w / cols))
    return Fit(in_size, out_size, (0, 0, rows, cols), (height, w), ((h - height) // 2, 0))


def zoom_crop(
    images: list[np.ndarray],
    K: np.ndarray,
    zoom: float,
    shift_x: float,
    shift_y: float,
    interpolation: int = cv2.INTER_LINEAR,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Zoom into equally sized images by `zoom` >= 1 and resize back; shifts in [0, 1] place the
    window. K follows.
    """
    rows, cols = images[0].shape[:2]
    height, width = min(rows, round(rows / zoom)), min(cols, round(cols / zoom))
    top, left = round(shift_y * (rows - height)), round(shift_x * (cols - width))
    fit = Fit((rows, cols), (rows, cols), (top, left, height, width), (rows, cols), (0, 0))
    return [fit.image(image, interpolation) for image in images], fit.K(K)


def image_tensor(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) RGB to float32 (1, 3, H, W) in [0, 1], channels_last by strides alone.

    In numpy, on one thread: torch's threads wait for each other on a busy CPU, which took 40 ms
    where the work takes 0.06.
    """
    scaled = np.multiply(image, np.float32(1 / 255), dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled)).permute(2, 0, 1)[None]


def flip_horizontal(images: list[np.ndarray], K: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Mirror images left to right; K follows."""
    return [np.ascontiguousarray(image[:, ::-1]) for image in images], flip_K(K, images[0].shape[1])


def largest(ids: np.ndarray, count: int) -> np.ndarray:
    """The `count` objects of the most pixels of ids (H, W), 0 = nobody's, renamed to 1, 2, ... in
    the order of their ids; all others together are count + 1; uint8.
    """
    names, place, pixels = np.unique(ids, return_inverse=True, return_counts=True)
    pixels[names == 0] = 0
    kept = np.sort(np.argsort(-pixels, kind="stable")[:count])
    kept = kept[pixels[kept] > 0]
    renamed = np.where(names == 0, 0, count + 1).astype(np.uint8)
    renamed[kept] = np.arange(1, len(kept) + 1)
    return renamed[place].reshape(ids.shape)


@dataclass(frozen=True)
class ColourJitter:
    """One draw of a colour change, applied alike to every frame of a sample so that brightness
    constancy survives.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # turns
    grey: bool = False

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        strength: float = 0.2,
        hue: float = 0.1,
        grey_share: float = 0.1,
    ) -> ColourJitter:
        """Draw brightness, contrast and saturation in 1 +- strength, hue in +- hue turns, grey with
        grey_share.
        """
        factors = rng.uniform(1 - strength, 1 + strength, 3)
        return cls(
            *(float(f) for f in factors),
            float(rng.uniform(-hue, hue)),
            bool(rng.random() < grey_share),
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Apply to uint8 (H, W, 3) RGB; returns uint8."""
        table = (np.arange(256, dtype=np.float32) - 127.5) * self.contrast + 127.5
        out = cv2.LUT(image, np.clip(table * self.brightness, 0, 255).astype(np.uint8))
        if self.grey:
            return cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        hsv = cv2.cvtColor(out, cv2.COLOR_RGB2HSV)
        steps = np.arange(256)
        hue = ((steps + round(self.hue * 180)) % 180).astype(np.uint8)
        saturation = np.clip(steps * self.saturation, 0, 255).astype(np.uint8)
        hsv = cv2.LUT(hsv, np.stack((hue, saturation, steps.astype(np.uint8)), -1)[None])
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
