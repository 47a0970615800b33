"""Inference of many_depth: depth of an image, better with the one before it, and ego-motion."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dyndepth_core.geometry.alignment import refine_motions
from dyndepth_core.geometry.flow import mean_parallax
from dyndepth_core.geometry.se3 import invert_T, make_T
from dyndepth_core.methods.base import InferenceGraph
from dyndepth_core.methods.depth_pose_graph import DepthPoseArchitecture, DepthPoseGraph
from dyndepth_core.networks.depth_net import DepthNet, disp_to_depth
from dyndepth_core.networks.pose_net import PoseNet
from dyndepth_core.networks.volume_depth_net import VolumeDepthNet

MIN_PARALLAX = 0.5  # pixels; with less the volume tells nothing: the camera stands or only turns


class ManyDepthArchitecture(DepthPoseArchitecture):
    """What rebuilds a ManyDepthGraph; see ManyDepthNetworkConfig. teacher: the file also holds the
    single-image teacher, which only training and evaluation look at; volume: depth looks at the
    previous image, unless it is older than max_gap_s.
    """

    pose_encoder: Literal["efficientnet_lite0", "resnet18"]
    planes: int = Field(96, ge=2, le=512)
    inverse_planes: bool = False
    match_channels: int = Field(0, ge=0, le=512)
    fuse_channels: int = Field(64, ge=1, le=1024)
    least_seen: float = Field(1.0, gt=0, le=1)
    window: Literal[1, 3, 5, 7, 9] = 5
    blend: bool = False
    max_gap_s: float = Field(0.5, gt=0, le=1e4)
    teacher: bool = True
    volume: bool = True


class ManyDepthGraph(InferenceGraph):
    """depth = u f / f0 disp_to_depth(student(image, cost volume)); T_src_tgt from PoseNet(previous,
    image), refined by `align`, lengths times u (`units`).

    The ego-motion comes first, so it is refined with the depth that the student has said of the
    previous image: one depth network per image, no teacher. Without a previous image, or where the
    translation moves the image by less than MIN_PARALLAX, the volume is empty, which the student
    has met in training, and depth is that of a single image. state: depth in units of the training
    and early features of this image, so that each goes through each network once.
    Keyword arguments: those of ManyDepthArchitecture; ValueError when they are none.
    """

    method = "many_depth"
    architecture_class = ManyDepthArchitecture

    def __init__(self, **architecture: Any) -> None:
        super().__init__()
        a = self.architecture_class(**architecture)
        self.architecture = {"method": self.method, **a.model_dump(mode="json")}
        self.canonical_focal, self.previous_for_depth = a.canonical_focal, a.volume
        self.max_gap_s = a.max_gap_s
        self.student = make_student(a, (0,))
        self.pose_net = PoseNet(a.pose_encoder, a.width, a.pose_downscale)
        self.depth_net = (
            DepthNet(a.encoder, a.decoder_channels, (0,), a.width) if a.teacher else None
        )

    def deployed(self) -> ManyDepthGraph:
        """Without the teacher."""
        return self._part(teacher=False)

    def depth_only(self) -> ManyDepthGraph:
        """Without the teacher; depth itself needs the motion."""
        return self.deployed()

    def arms(self) -> dict[str, InferenceGraph]:
        """teacher: depth of a single image; empty: the student without a volume."""
        found: dict[str, InferenceGraph] = {"empty": self._part(teacher=False, volume=False)}
        if self.depth_net is not None:
            names = DepthPoseArchitecture.model_fields
            graph = DepthPoseGraph(**{k: v for k, v in self.architecture.items() if k in names})
            graph.depth_net, graph.pose_net = self.depth_net, self.pose_net
            found = {"teacher": graph.train(self.training), **found}
        return found

    def _part(self, **changes: Any) -> ManyDepthGraph:
        arguments = {k: v for k, v in self.architecture.items() if k != "method"}
        graph = type(self)(**{**arguments, **changes})
        graph.student, graph.pose_net = self.student, self.pose_net
        return graph.train(self.training)

    def forward(
        self,
        image: Tensor,
        previous_image: Tensor | None,
        K: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, tuple[Tensor, Tensor]]:
        """See InferenceGraph."""
        early = self.student.early(image)
        if previous_image is None:
            depth = self._depth(early, None, K)
            return self.architecture["units"] * depth, None, None, (depth, early[1])
        if state is None:
            before = self.student.early(previous_image)
            state = self._depth(before, None, K), before[1]
        T, usable = self.motion(image, previous_image, state[0], K)
        volume = None
        if self.architecture["volume"]:
            volume = self.student.match(
                early[1], state[1][:, None], T[:, None], K, self._scale(K), usable[:, None]
            )
        depth = self._depth(early, volume, K)
        units = self.architecture["units"]
        T = make_T(T[:, :3, :3], units * T[:, :3, 3])
        return units * depth, None, T, (depth, early[1])

    def motion(
        self, image: Tensor, previous_image: Tensor, previous_depth: Tensor, K: Tensor
    ) -> tuple[Tensor, Tensor]:
        """T_src_tgt (B, 4, 4), src the previous image, in units of the training, and (B,) bool:
        whether the camera has moved enough for a cost volume.
        """
        ahead, _ = self.pose_net(previous_image, image)
        aligned = self.architecture["pose_align"]
        ahead, usable = refined_motions(
            previous_image, image[:, None], previous_depth, ahead[:, None], K, aligned
        )
        return invert_T(ahead[:, 0]), usable[:, 0]

    def _depth(self, early: list[Tensor], volume: Any, K: Tensor) -> Tensor:
        """In units of the training."""
        a = self.architecture
        disp = self.student(early, volume)[0]
        depth = disp_to_depth(disp, a["min_depth"], a["max_depth"])
        return depth * self._scale(K).view(-1, 1, 1, 1)

    def _scale(self, K: Tensor) -> Tensor:
        return K[:, 0, 0] / self.canonical_focal


def make_student(network: Any, scales: tuple[int, ...]) -> VolumeDepthNet:
    """The student of an architecture or a network configuration."""
    n = network
    return VolumeDepthNet(
        n.encoder, n.decoder_channels, scales, n.width, n.planes, n.inverse_planes,
        n.fuse_channels, n.match_channels, n.least_seen, n.window,
        (n.min_depth, n.max_depth) if n.blend else None,
    )  # fmt: skip


@torch.no_grad()
def refined_motions(
    tgt: Tensor, src: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor, aligned: bool
) -> tuple[Tensor, Tensor]:
    """T_src_tgt (B, S, 4, 4) as the student meets them, and (B, S) bool: whether the camera has
    moved enough; tgt (B, 3, H, W), src (B, S, 3, H, W), depth (B, 1, H, W) of tgt, K (B, 3, 3).
    Without gradient.
    """
    T = T_src_tgt.detach().float()
    if aligned:
        T = refine_motions(tgt, src, depth, T, K)
    depth, K = (x.repeat_interleave(T.shape[1], 0) for x in (depth, K))
    parallax = mean_parallax(depth, T.flatten(0, 1), K)
    return T, (parallax >= MIN_PARALLAX).unflatten(0, T.shape[:2])
