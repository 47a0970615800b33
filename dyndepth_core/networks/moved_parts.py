"""What a static scene leaves unexplained between two images: optical flow beside ego-motion, with
nothing to learn, which a motion network would need thousands of steps to find out by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.geometry.flow import rigid_flow

DEPTH_ERROR = 0.5  # of the inverse depth, relative: so much parallax may be missing or too much
FLOW_ERROR = 0.6  # pixels
LIKELY = 2.1  # of these errors: as likely as not it moves; found on tuning seeds
CHANNELS = 5


@dataclass
class MovedParts:
    """maps: (B, CHANNELS, h, w) and (B, CHANNELS, h / 2, w / 2), what the motion network sees: the
    flow that is left, along x and y, in hundredths of the image's width; the same times depth over
    its mean, which is a translation in the image plane; likely. As if time ran forwards.

    likely (B, 1, h, w) in [0, 1): that it moves, z^2 / (z^2 + 2.1^2) of z = |flow over its error|:
    across the parallax of a static point that is 0.6 pixels; along it an error of its depth adds
    half of the parallax. seen (B, 1, h, w) in [0, 1]: where src shows anything.
    """

    maps: list[Tensor]
    likely: Tensor
    seen: Tensor


@torch.no_grad()
def moved_parts(
    flow: Tensor, seen: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor, sign: Tensor, by: int
) -> MovedParts:
    """What the flow from tgt to src (B, 2, H, W) in pixels has beyond that of depth and ego-motion.

    seen (B, 1, H, W) bool: where src shows anything; depth (B, 1, H, W) of tgt, T_src_tgt
    (B, 4, 4), K (B, 3, 3) in pixels, sign (B, 1, 1, 1) of the time from tgt to src; h = H / by.
    """
    with torch.autocast(flow.device.type, enabled=False):
        depth, T, K = depth.float(), T_src_tgt.float(), K.float()
        rigid, turned = rigid_flow(depth, T, K), T.clone()
        turned[:, :3, 3] = 0
        left = torch.where(seen, flow - rigid, 0.0)
        # element by element: reductions over two channels take longer than all of it
        x, y = (rigid - rigid_flow(depth, turned, K)).split(1, 1)
        u, v = left.split(1, 1)
        square = x * x + y * y
        along = (x * u + y * v).square() / square.clamp(min=1e-12)
        across = (u * u + v * v - along).clamp(min=0)
        z2 = across / FLOW_ERROR**2 + along / (FLOW_ERROR**2 + DEPTH_ERROR**2 * square)
        likely = z2 / (z2 + LIKELY**2)
        moved = left * sign * (100 / flow.shape[-1])
        lateral = moved * depth / depth.mean((2, 3), keepdim=True)
        fine, shown = torch.cat((moved, lateral, likely), 1), seen.float()
        if by > 1:
            fine, likely, shown = (F.avg_pool2d(m, by) for m in (fine, likely, shown))
        return MovedParts([fine, F.avg_pool2d(fine, 2)], likely, shown)
