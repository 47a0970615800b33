"""Inference: single-image depth, and ego-motion where a previous image and a pose network are
there.
"""

from __future__ import annotations

from torch import Tensor

from dyndepth_core.geometry.se3 import invert_T, make_T
from dyndepth_core.methods.base import InferenceGraph
from dyndepth_core.networks.depth_net import DepthNet, disp_to_depth
from dyndepth_core.networks.pose_net import PoseNet


class DepthPoseGraph(InferenceGraph):
    """depth = u f / f0 disp_to_depth(DepthNet(image)); T_src_tgt from PoseNet(previous, image), src
    the previous image, its translation times u (`units`: output units per unit of the training).
    """

    method = "monodepth"  # a method with the same graph subclasses it

    def __init__(
        self,
        encoder: str,
        decoder_channels: tuple[int, ...],
        canonical_focal: float,
        min_depth: float,
        max_depth: float,
        width: float = 1.0,
        pose_encoder: str | None = None,
        pose_downscale: int = 1,
        units: float = 1.0,
    ) -> None:
        super().__init__()
        self.architecture = {
            "method": self.method, "encoder": encoder, "decoder_channels": list(decoder_channels),
            "canonical_focal": canonical_focal, "min_depth": min_depth, "max_depth": max_depth,
            "width": width, "pose_encoder": pose_encoder, "pose_downscale": pose_downscale,
            "units": float(units),
        }  # fmt: skip
        self.canonical_focal, self.min_depth, self.max_depth = (
            float(canonical_focal),
            float(min_depth),
            float(max_depth),
        )
        self.depth_net = DepthNet(encoder, tuple(decoder_channels), (0,), width)
        self.pose_net = PoseNet(pose_encoder, width, pose_downscale) if pose_encoder else None

    def depth_only(self) -> DepthPoseGraph:
        """See InferenceGraph."""
        arguments = {k: v for k, v in self.architecture.items() if k != "method"}
        graph = type(self)(**{**arguments, "pose_encoder": None})
        graph.depth_net = self.depth_net
        return graph.train(self.training)

    def forward(
        self, image: Tensor, previous_image: Tensor | None, K: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """See InferenceGraph."""
        depth = disp_to_depth(self.depth_net(image)[0], self.min_depth, self.max_depth)
        units = self.architecture["units"]
        depth = depth * (units * K[:, 0, 0] / self.canonical_focal).view(-1, 1, 1, 1)
        motion = None
        if previous_image is not None and self.pose_net is not None:
            # The earlier image first, as in training.
            T_tgt_src, _ = self.pose_net(previous_image, image)
            motion = invert_T(T_tgt_src)
            motion = make_T(motion[:, :3, :3], units * motion[:, :3, 3])
        return depth, None, motion, state
