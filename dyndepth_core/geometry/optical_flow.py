"""Optical flow between two images, with nothing to learn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.warp import Correspondence, identity_pixels, inverse_warp

MEDIAN = 5  # pixels of the median filter on the flow
STRIDE, FIRST = 4, 2  # pixels from one that counts to the next; the flow between says nothing new
# Of small flows, found on tuning seeds; grey levels of 0 to 255:
WINDOW = 7  # pixels that move alike
NOISE = 0.7  # of a pixel
FLAT = 1.0  # squared gradient, below which a flow is drawn to 0
LEAST = 0.0025  # the same for what is known of it: in flat places within 14 pixels
LIMIT = 3.0  # pixels; beyond, the linear model says nothing


class Flow(NamedTuple):
    """From every STRIDE-th pixel of tgt to src: ends (B, 2, h, w), pixels along x and y; seen
    (B, 1, h, w) bool: where src shows anything; covariance (B, 3, h, w) of ends, xx xy yy in square
    pixels: what texture leaves open, NOISE^2 (mean over WINDOW of g g^T + LEAST)^-1, g the gradient
    (Simoncelli et al. 1991).
    """

    ends: Tensor
    seen: Tensor
    covariance: Tensor


def at_stride(maps: Tensor) -> Tensor:
    """Every STRIDE-th pixel of (..., H, W), those that Flow is of."""
    return maps[..., FIRST::STRIDE, FIRST::STRIDE]


def optical_flow(first: Tensor, second: Tensor) -> Tensor:
    """(B, 2, H, W) along x and y in pixels, from the first to the second of two images (B, 3, H, W)
    in [0, 1]: dense inverse search (Kroeger et al., ECCV 2016; OpenCV's), then a median filter. On
    the CPU, whatever the device.
    """
    a, b = (
        (255 * x.detach().float().mean(1)).round().nan_to_num().clamp(0, 255).byte().cpu().numpy()
        for x in (first, second)
    )
    if len(a) == 1:
        found = [_flow(a[0], b[0])]
    else:
        with ThreadPoolExecutor(min(len(a), torch.get_num_threads())) as pool:
            found = list(pool.map(_flow, a, b))
    return torch.from_numpy(np.stack(found)).to(first.device)


def _flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(np.ascontiguousarray(a), np.ascontiguousarray(b), None)
    return np.stack([cv2.medianBlur(flow[..., k], MEDIAN) for k in range(2)])


@torch.no_grad()
def flow_beside(
    tgt: Tensor, src: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor
) -> tuple[Tensor, Tensor]:
    """Optical flow from tgt to src (B, 2, H, W), pixels, and where src shows anything (B, 1, H, W),
    bool: the rigid flow of depth and ego-motion, and what it leaves between tgt and the warped src.

    tgt, src (B, 3, H, W) in [0, 1], depth (B, 1, H, W) of tgt, T_src_tgt (B, 4, 4), K (B, 3, 3) in
    pixels. What moves with the scene is found however large its flow is.
    """
    with torch.autocast(tgt.device.type, enabled=False):
        warped, found = _warp(src, depth, T_src_tgt, K)
        # Where src shows nothing, tgt itself: there nothing is left.
        left = optical_flow(tgt, torch.where(found.valid, warped, tgt.float()))
        own = identity_pixels(*depth.shape[:1], *depth.shape[-2:], like=found.pixels)
        return found.pixels - own + left, found.valid


@torch.no_grad()
def large_flow(tgt: Tensor, src: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Flow:
    """flow_beside as a Flow, as well known as the texture of tgt allows."""
    with torch.autocast(tgt.device.type, enabled=False):
        flow, seen = flow_beside(tgt, src, depth, T_src_tgt, K)
        own = identity_pixels(*depth.shape[:1], *depth.shape[-2:], like=flow)
        gx, gy = _gradient(_grey(tgt))
        known = _covariance(*_means(gx * gx, gx * gy, gy * gy))
        return Flow(at_stride(own + flow), at_stride(seen), known)


@torch.no_grad()
def small_flow(tgt: Tensor, src: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Flow:
    """As large_flow, where little is left: u = -(mean g g^T + FLAT)^-1 mean g (I_src - I_tgt) over
    WINDOW, one step of Lucas and Kanade (1981), I_src warped and as bright and as contrasted as
    I_tgt. On the images' device.
    """
    with torch.autocast(tgt.device.type, enabled=False):
        a = _grey(tgt)
        warped, found = _warp(_grey(src), depth, T_src_tgt, K)
        b = torch.where(found.valid, _as_bright(warped, a, found.valid), a)
        gx, gy = _gradient((a + b) / 2)
        change = b - a
        xx, xy, yy, x, y = _means(gx * gx, gx * gy, gy * gy, gx * change, gy * change)
        ixx, ixy, iyy = _inverse(xx + FLAT, xy, yy + FLAT)
        left = -torch.cat((ixx * x + ixy * y, ixy * x + iyy * y), 1)
        ends = at_stride(found.pixels) + left.clamp(-LIMIT, LIMIT)
        return Flow(ends, at_stride(found.valid), _covariance(xx, xy, yy))


def _warp(src: Tensor, depth: Tensor, T: Tensor, K: Tensor) -> tuple[Tensor, Correspondence]:
    return inverse_warp(src.float(), depth.float(), T.float(), K.float())


def _grey(image: Tensor) -> Tensor:
    return 255 * image.float().mean(1, keepdim=True)


def _as_bright(b: Tensor, a: Tensor, seen: Tensor) -> Tensor:
    """b (B, 1, H, W) with the mean and the spread of a over the pixels that are seen."""
    some_a, some_b, known = (at_stride(x) for x in (a, b, seen))
    count = known.sum((2, 3), keepdim=True).clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return torch.where(known, x, 0.0).sum((2, 3), keepdim=True) / count

    mean_a, mean_b = mean(some_a), mean(some_b)
    spread_a, spread_b = mean((some_a - mean_a).square()), mean((some_b - mean_b).square())
    gain = torch.where(spread_b > 1, spread_a / spread_b, 1.0).sqrt()
    return (b - mean_b) * gain + mean_a


def _gradient(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Along x and y, (B, 1, H, W) each: Scharr's, grey levels a pixel."""
    wide = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    along = (wide[..., :, 2:] - wide[..., :, :-2]) / 32
    down = (wide[..., 2:, :] - wide[..., :-2, :]) / 32
    gx = 3 * (along[..., :-2, :] + along[..., 2:, :]) + 10 * along[..., 1:-1, :]
    gy = 3 * (down[..., :, :-2] + down[..., :, 2:]) + 10 * down[..., :, 1:-1]
    return gx, gy


def _means(*maps: Tensor) -> tuple[Tensor, ...]:
    """Each (B, 1, H, W) averaged over WINDOW around every STRIDE-th pixel, at the border over what
    there is of it but for the first FIRST rows and columns.
    """
    found, half = torch.cat(maps, 1)[..., FIRST:, FIRST:], WINDOW // 2
    found = F.avg_pool2d(found, (1, WINDOW), (1, STRIDE), (0, half), count_include_pad=False)
    found = F.avg_pool2d(found, (WINDOW, 1), (STRIDE, 1), (half, 0), count_include_pad=False)
    return found.split(1, 1)


def _covariance(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
    """See Flow."""
    return NOISE**2 * torch.cat(_inverse(xx + LEAST, xy, yy + LEAST), 1)


def _inverse(xx: Tensor, xy: Tensor, yy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of symmetric 2x2 matrices."""
    determinant = xx * yy - xy * xy
    return yy / determinant, -xy / determinant, xx / determinant
