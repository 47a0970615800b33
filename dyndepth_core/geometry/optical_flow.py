"""Optical flow between two images, with nothing to learn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from torch import Tensor

from dyndepth_core.geometry.warp import identity_pixels, inverse_warp

MEDIAN = 5  # pixels of the median filter on the flow


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
        depth, T, K = depth.float(), T_src_tgt.float(), K.float()
        warped, found = inverse_warp(src.float(), depth, T, K)
        # Where src shows nothing, tgt itself: there nothing is left.
        left = optical_flow(tgt, torch.where(found.valid, warped, tgt.float()))
        own = identity_pixels(*depth.shape[:1], *depth.shape[-2:], like=depth)
        return found.pixels - own + left, found.valid
