"""Inference of residual_motion: depth of one image; ego-motion and residual translations where the
previous image is there.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dyndepth_core.geometry.se3 import make_T
from dyndepth_core.methods.base import InferenceGraph
from dyndepth_core.methods.depth_pose_graph import DepthPoseArchitecture
from dyndepth_core.networks.depth_net import DepthNet, disp_to_depth
from dyndepth_core.networks.motion_net import (
    MotionNet,
    PublishedMotionNet,
    automask_residual,
)
from dyndepth_core.networks.softplus_depth_net import SoftplusDepthNet


class ResidualMotionArchitecture(DepthPoseArchitecture):
    """What rebuilds a ResidualMotionGraph; see ResidualNetworkConfig."""

    depth_head: Literal["disp", "softplus"] = "disp"
    motion_net: Literal["pose", "published"] | None = None
    motion_width: float = Field(0.25, gt=0, le=2)
    motion_depth: bool = True
    motion_flow: bool = False
    motion_automask: bool = True


class ResidualMotionGraph(InferenceGraph):
    """depth = u f / f0 DepthNet(image); T_src_tgt and residual (B, 3, H, W) from MotionNet(image,
    previous, depths), src the previous image, lengths times u (`units`); with motion_flow its p as
    the fourth map of the residual.

    state: the depth of the previous image in units of the training, so that each image goes through
    the depth network once. Keyword arguments: those of ResidualMotionArchitecture; ValueError when
    they are none.
    """

    method = "residual_motion"  # a method with the same graph subclasses it
    architecture_class = ResidualMotionArchitecture

    def __init__(self, **architecture: Any) -> None:
        super().__init__()
        a = self.architecture_class(**architecture)
        self.architecture = {"method": self.method, **a.model_dump(mode="json")}
        self.canonical_focal = a.canonical_focal
        self.depth_net = (
            SoftplusDepthNet(a.width)
            if a.depth_head == "softplus"
            else DepthNet(a.encoder, a.decoder_channels, (0,), a.width)
        )
        self.motion_net = make_motion_net(a, a.motion_net, a.pose_encoder, aligned=a.pose_align)

    def depth_only(self) -> ResidualMotionGraph:
        """See InferenceGraph."""
        arguments = {k: v for k, v in self.architecture.items() if k != "method"}
        graph = type(self)(**{**arguments, "motion_net": None})
        graph.depth_net = self.depth_net
        return graph.train(self.training)

    def forward(
        self, image: Tensor, previous_image: Tensor | None, K: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """See InferenceGraph."""
        units = self.architecture["units"]
        depth = self._depth(image, K)
        if self.motion_net is None:
            return units * depth, None, None, None
        if previous_image is None:
            return units * depth, None, None, depth
        before = self._depth(previous_image, K) if state is None else state
        past = depth.new_ones(len(depth), dtype=torch.bool)
        found = self.motion_net(image, previous_image, depth, before, K, past)
        T, residual = found.T_src_tgt, found.residual
        if self.architecture["motion_automask"]:
            residual = automask_residual(residual)
        T = make_T(T[:, :3, :3], units * T[:, :3, 3])
        residual = units * residual
        if found.moving is not None:
            likely = F.interpolate(
                found.moving.sigmoid(), residual.shape[-2:], mode="bilinear", align_corners=True
            )
            residual = torch.cat((residual, likely), 1)
        return units * depth, residual, T, depth

    def _depth(self, image: Tensor, K: Tensor) -> Tensor:
        depth = self.depth_net(image)
        if self.architecture["depth_head"] == "disp":
            a = self.architecture
            depth = disp_to_depth(depth[0], a["min_depth"], a["max_depth"])
        return depth * (K[:, 0, 0] / self.canonical_focal).view(-1, 1, 1, 1)


def make_motion_net(
    network: Any,
    kind: str | None,
    encoder: str | None,
    intrinsics: bool = False,
    aligned: bool = True,
) -> nn.Module | None:
    """The motion network of an architecture or a network configuration; None: depth alone."""
    n = network
    if kind is None:
        return None
    if kind == "published":
        return PublishedMotionNet(n.motion_width, n.motion_depth, n.pose_downscale, intrinsics)
    return MotionNet(
        encoder, n.width, n.motion_width, n.motion_depth, n.pose_downscale, intrinsics,
        n.motion_flow, aligned,
    )  # fmt: skip
