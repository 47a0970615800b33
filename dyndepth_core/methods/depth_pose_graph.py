"""Inference: single-image depth, and ego-motion where a previous image and a pose network are
there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from dyndepth_core.geometry.alignment import refine_motion
from dyndepth_core.geometry.se3 import invert_T, make_T
from dyndepth_core.methods.base import InferenceGraph
from dyndepth_core.networks.depth_net import DepthNet, disp_to_depth
from dyndepth_core.networks.pose_net import PoseNet

Channels = Annotated[int, Field(ge=1, le=4096)]


class DepthPoseArchitecture(BaseModel):
    """What rebuilds a DepthPoseGraph; bounds, because it may come out of a damaged file.

    min_depth, max_depth: scene units of the training at canonical_focal (pixels at network size);
    units: output units per unit of the training.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    encoder: Literal["efficientnet_lite0", "resnet18"]
    decoder_channels: tuple[Channels, Channels, Channels, Channels, Channels]
    canonical_focal: float = Field(gt=0)
    min_depth: float = Field(gt=0)
    max_depth: float = Field(gt=0)
    width: float = Field(1.0, gt=0, le=4)
    pose_encoder: Literal["efficientnet_lite0", "resnet18"] | None = None
    pose_downscale: int = Field(1, ge=1, le=4)
    pose_align: bool = False
    units: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _range(self) -> DepthPoseArchitecture:
        if self.min_depth >= self.max_depth:
            raise ValueError(f"min_depth {self.min_depth:g} is not below {self.max_depth:g}")
        return self


class DepthPoseGraph(InferenceGraph):
    """depth = u f / f0 disp_to_depth(DepthNet(image)); T_src_tgt from PoseNet(previous, image), src
    the previous image, refined (alignment.py) where trained so, its translation times u (`units`).

    Keyword arguments: those of DepthPoseArchitecture; ValueError when they are none.
    """

    method = "monodepth"  # a method with the same graph subclasses it
    architecture_class = DepthPoseArchitecture

    def __init__(self, **architecture: Any) -> None:
        super().__init__()
        a = self.architecture_class(**architecture)
        self.architecture = {"method": self.method, **a.model_dump(mode="json")}
        self.canonical_focal, self.min_depth, self.max_depth = (
            a.canonical_focal, a.min_depth, a.max_depth
        )  # fmt: skip
        self.depth_net = DepthNet(a.encoder, a.decoder_channels, (0,), a.width)
        self.pose_net = (
            PoseNet(a.pose_encoder, a.width, a.pose_downscale) if a.pose_encoder else None
        )

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
        depth = depth * (K[:, 0, 0] / self.canonical_focal).view(-1, 1, 1, 1)
        motion = None
        if previous_image is not None and self.pose_net is not None:
            motion = self.motion(image, previous_image, K)
            if self.architecture["pose_align"]:
                motion = refine_motion(image, previous_image, depth, motion, K)
            motion = make_T(motion[:, :3, :3], units * motion[:, :3, 3])
        return units * depth, None, motion, state

    def motion(self, image: Tensor, previous_image: Tensor, K: Tensor) -> Tensor:
        """T_src_tgt (B, 4, 4), src the previous image, in units of the training."""
        # the earlier first, as in training
        T_tgt_src, _ = self.pose_net(previous_image, image)
        return invert_T(T_tgt_src)
