"""Inference of sc_depth: single-image depth, and ego-motion, for which the rotation is taken out
first where it was trained so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dyndepth_core.geometry.se3 import compose, exp_so3, invert_T, make_T
from dyndepth_core.geometry.warp import rotate
from dyndepth_core.methods.depth_pose_graph import DepthPoseArchitecture, DepthPoseGraph
from dyndepth_core.methods.sc_depth.rectify import RectifyNet


class SCDepthArchitecture(DepthPoseArchitecture):
    """rectify: with a network for the rotation of hand-held video."""

    rectify: bool = False


class SCDepthGraph(DepthPoseGraph):
    """The graph of a depth and a pose network; see DepthPoseGraph."""

    method = "sc_depth"
    architecture_class = SCDepthArchitecture

    def __init__(self, **architecture: Any) -> None:
        super().__init__(**architecture)
        a = self.architecture
        self.rectify_net = (
            RectifyNet(a["pose_encoder"], a["width"])
            if a["rectify"] and a["pose_encoder"]
            else None
        )

    def motion(self, image: Tensor, previous_image: Tensor, K: Tensor) -> Tensor:
        """See DepthPoseGraph."""
        if self.rectify_net is None:
            return super().motion(image, previous_image, K)
        past = torch.ones(len(image), dtype=torch.bool, device=image.device)
        rotation = self.rectify_net(image, previous_image, past)
        turned, _ = rotate(previous_image, rotation, K)
        T_tgt_rect, _ = self.pose_net(turned, image)
        T_src_rect = make_T(exp_so3(rotation), torch.zeros_like(rotation))
        return compose(T_src_rect, invert_T(T_tgt_rect))
