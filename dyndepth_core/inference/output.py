"""From the network's depth to the depth that is handed out: padding away, input size if wanted,
cloud, copy to the host.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dyndepth_core.data.transforms import Fit

from .cloud import ray_factors

OutputSize = Literal["model", "input"]


class OutputPlan:
    """How the depth of one camera leaves the network; made once per camera, size and device.

    size (h, w) and K (3, 3) float64 are those of the depth that is handed out, K_network those the
    network is told.
    """

    def __init__(
        self, fit: Fit, K: np.ndarray, output_size: OutputSize, device: torch.device
    ) -> None:
        """Plan for images that `fit` prepares, whose input-size intrinsics are K, on `device`."""
        self.fit, self.output_size, self.device = fit, output_size, device
        self.K_network = torch.as_tensor(fit.K(K)[None], dtype=torch.float32, device=device)
        if output_size == "model":
            self.size, self.K = fit.out_size, fit.K(K)
        else:
            self.size, self.K = fit.in_size, K.copy()
            top, left, height, width = fit.crop
            self._window = (slice(top, top + height), slice(left, left + width))
            self._rows = _linear(height, fit.resized[0], device)
            self._cols = _linear(width, fit.resized[1], device)
        self._factors: tuple[Tensor, Tensor] | None = None

    def depth(self, network_depth: Tensor) -> Tensor:
        """Depth (h, w) of the network -> float32 depth of this plan's size, NaN where the network
        saw no image.

        At input size depth is interpolated linearly in its inverse: that is exact on planes such as
        the road, and only between pixels that show the image.
        """
        rows, cols = self.fit.valid
        seen = network_depth.float()[rows, cols]
        out = torch.full(self.size, torch.nan, dtype=torch.float32, device=self.device)
        if self.output_size == "model":
            out[rows, cols] = seen
            return out
        inverse = seen.reciprocal()
        low, high, weight = self._cols
        inverse = torch.lerp(inverse[:, low], inverse[:, high], weight)
        low, high, weight = self._rows
        out[self._window] = torch.lerp(inverse[low], inverse[high], weight[:, None]).reciprocal_()
        return out

    def field(self, network_field: Tensor) -> Tensor:
        """A field (C, h, w) of the network -> float32 (H, W, C) of this plan's size, NaN where the
        network saw no image; interpolated linearly at input size.
        """
        rows, cols = self.fit.valid
        seen = network_field.float()[:, rows, cols]
        shape = (*self.size, len(seen))
        out = torch.full(shape, torch.nan, dtype=torch.float32, device=self.device)
        if self.output_size == "model":
            out[rows, cols] = seen.permute(1, 2, 0)
            return out
        low, high, weight = self._cols
        seen = torch.lerp(seen[..., low], seen[..., high], weight)
        low, high, weight = self._rows
        seen = torch.lerp(seen[:, low], seen[:, high], weight[:, None])
        out[self._window] = seen.permute(1, 2, 0)
        return out

    def labels(self, network_labels: np.ndarray) -> np.ndarray:
        """Labels (h, w) of the network's size -> int32 of this plan's size, nearest pixel, 0 where
        the network saw no image.
        """
        if self.output_size == "model":
            return network_labels.astype(np.int32)
        seen = network_labels[self.fit.valid].astype(np.int32)
        out = np.zeros(self.size, np.int32)
        window = out[self._window]
        rows, cols = (
            (np.arange(n) * m) // n for n, m in zip(window.shape, seen.shape, strict=True)
        )
        window[...] = seen[rows[:, None], cols]
        return out

    def cloud(self, depth: Tensor, rgb: Tensor, out: Tensor) -> None:
        """Fill out, float32 (h, w, 4), with x y z rgb on the device; the same numbers as
        `CloudWriter.write`.
        """
        if self._factors is None:
            x_factor, y_factor = ray_factors(self.K, self.size)
            self._factors = (
                torch.from_numpy(x_factor).to(self.device),
                torch.from_numpy(y_factor).to(self.device)[:, None],
            )
        torch.mul(depth, self._factors[0], out=out[..., 0])
        torch.mul(depth, self._factors[1], out=out[..., 1])
        out[..., 2] = depth
        red, green, blue = rgb.to(torch.int32).unbind(-1)
        out.view(torch.int32)[..., 3] = (red << 16) | (green << 8) | blue


class Staging:
    """Page-locked host memory between the CPU and a GPU: without it a copy waits and takes an extra
    pass.

    Each buffer is reused by the next frame of its kind, so what `download` returns holds only until
    the next call.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}

    def _buffer(self, use: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        key = (use, shape, dtype)
        if key not in self._buffers:
            for old in [k for k in self._buffers if k[0] == use]:
                del self._buffers[old]
            self._buffers[key] = torch.empty(
                shape, dtype=dtype, pin_memory=self.device.type == "cuda"
            )
        return self._buffers[key]

    def upload(self, use: str, image: np.ndarray) -> Tensor:
        """Copy uint8 (h, w, 3) to the device."""
        staged = self._buffer(use, image.shape, torch.uint8)
        np.copyto(staged.numpy(), image)
        return staged.to(self.device, non_blocking=True)

    def download(self, tensor: Tensor) -> np.ndarray:
        """Copy a tensor to the host in one transfer and wait for it."""
        staged = self._buffer("down", tuple(tensor.shape), tensor.dtype)
        staged.copy_(tensor, non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return staged.numpy()


def copy_down(
    plan: OutputPlan, depth: Tensor, rgb: Tensor | None, staging: Staging
) -> tuple[np.ndarray, np.ndarray | None]:
    """Bring depth (h, w) and, where rgb uint8 (h, w, 3) is given, the cloud (h, w, 4) of it to the
    host in one transfer.

    The depth is a copy of its own; the cloud lies in the staging buffer and holds until the next
    download.
    """
    if rgb is None:
        return staging.download(depth).copy(), None
    height, width = plan.size
    points = height * width
    packed = torch.empty(points * 5, dtype=torch.float32, device=plan.device)
    packed[:points] = depth.flatten()
    plan.cloud(depth, rgb, packed[points:].view(height, width, 4))
    host = staging.download(packed)
    return host[:points].reshape(height, width).copy(), host[points:].reshape(height, width, 4)


def _linear(length: int, source: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower index, upper index and weight of the upper one for linear resizing `source` samples to
    `length`.

    Sample i lies at (i + 0.5) source / length - 0.5; beyond the outermost centres the outermost
    sample is held.
    """
    position = ((torch.arange(length, dtype=torch.float64) + 0.5) * (source / length) - 0.5).clamp(
        0, source - 1
    )
    low = position.floor().long()
    high = (low + 1).clamp(max=source - 1)
    return low.to(device), high.to(device), (position - low).float().to(device)
