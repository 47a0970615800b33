"""What methods of one depth and one pose network share: the networks, motions of pairs, cameras,
the graph for the vehicle.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from dyndepth_core.data.sample import Sample
from dyndepth_core.geometry.alignment import refine_motions
from dyndepth_core.geometry.se3 import invert_T
from dyndepth_core.losses.distillation import kept_shape_loss
from dyndepth_core.methods.base import Objective, Predictions
from dyndepth_core.methods.depth_pose_graph import DepthPoseGraph
from dyndepth_core.methods.metric import MetricConfig, MetricScale, metric_source
from dyndepth_core.networks.depth_net import DepthNet, disp_to_depth
from dyndepth_core.networks.pose_net import PoseNet, VideoIntrinsics

KEEP = 0.5  # found on tuning seeds
PredictionsT = TypeVar("PredictionsT", bound=Predictions)


class StartConfig(MetricConfig):
    """How a training of these methods starts, how fast its parts learn, whence its metres."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    pyramid: int = Field(
        4, ge=1, le=5, description="image levels (1/1, 1/2, ...) that judge the depth early on"
    )
    pyramid_until: float = Field(
        0.5, ge=0, le=1, description="progress at which only the full resolution is left"
    )
    pose_lr_factor: float = Field(
        2.5, gt=0, description="learning rate of the pose network over that of the rest"
    )
    intrinsics_lr_factor: float = Field(
        5.0, gt=0, description="learning rate of intrinsics per video over that of the rest"
    )
    pose_first: float = Field(
        0.08, ge=0, lt=1, description="share of the training in which only motion learns"
    )
    keep: float = Field(
        0.0, ge=0,
        description="weight of: depth stays as in the model that the training begins with (--from) "
        "where the images say nothing",
    )  # fmt: skip

    @classmethod
    def going_on(cls) -> dict[str, Any]:
        """Fields of a training that starts from depth and motion instead of from nothing."""
        return {"pyramid": 1, "pose_first": 0.0, "keep": KEEP}

    def pyramid_weight(self, progress: float) -> float:
        """Weight of the smaller images: 1 at the start, 0 from `pyramid_until` on or without
        them.
        """
        if self.pyramid < 2 or not self.pyramid_until:
            return 0.0
        return max(0.0, 1 - progress / self.pyramid_until)


class DepthPoseConfig(StartConfig):
    """With the photometric error of Godard et al. 2019."""

    ssim_weight: float = Field(
        0.85, ge=0, le=1, description="share of SSIM in the photometric error"
    )
    automask: bool = Field(True, description="drop pixels the unwarped source explains better")


class DepthPoseObjective(Objective):
    """Depth network, pose network and, where cameras are unknown, their intrinsics.

    config: the whole config tree (data, network, objective); videos: names of the recordings, for
    intrinsics per video; canonical_focal: f0 in pixels at network size; scales: of the disps.
    """

    graph_class: type[DepthPoseGraph] = DepthPoseGraph

    def __init__(
        self, config: Any, videos: list[str], canonical_focal: float, scales: tuple[int, ...] = (0,)
    ) -> None:
        super().__init__()
        self.config: StartConfig = config.objective
        self.lr_factors = {"intrinsics": self.config.intrinsics_lr_factor}
        self.partial_gradients = self.config.pose_first > 0
        self.network, self.canonical_focal = config.network, float(canonical_focal)
        intrinsics = config.data.intrinsics
        self.make_networks(scales, intrinsics == "pair")
        self.intrinsics = (
            VideoIntrinsics(len(videos), config.data.size) if intrinsics == "video" else None
        )
        self.metric = MetricScale(config) if metric_source(config) else None
        if self.metric is not None:  # set before the training begins, and resumed with it
            self.register_buffer("units", torch.ones(()))
        self.start_net: nn.Module | None = None

    def began(self) -> None:
        """See Objective; with `keep`, the depth network as it is now stays at hand."""
        if self.config.keep > 0:
            self.start_net = copy.deepcopy(self.depth_net).requires_grad_(False)

    @property
    def keeps(self) -> bool:
        """Whether `kept_terms` asks where the images are silent."""
        return self.start_net is not None

    def make_networks(self, scales: tuple[int, ...], intrinsics: bool) -> None:
        """Set the networks; intrinsics: the one of motion also says those of each pair."""
        network = self.network
        self.depth_net = DepthNet(network.encoder, network.decoder_channels, scales, network.width)
        self.pose_net = PoseNet(
            network.pose_encoder,
            network.width,
            network.pose_downscale,
            intrinsics,
        )
        self.lr_factors["pose_net"] = self.config.pose_lr_factor
        if network.pretrained:
            self.depth_net.encoder.load_imagenet(network.weights)
            self.pose_net.encoder.load_imagenet(network.weights)

    def disps(self, images: Tensor, progress: float) -> dict[int, Tensor]:
        """Disps of images (B, 3, H, W) per scale; without gradient while only motion learns."""
        # While motions are wrong, the best depth is infinite: there the disp head saturates.
        learns = torch.is_grad_enabled() and progress >= self.config.pose_first
        with torch.set_grad_enabled(learns):
            return self.depth_net(images)

    def motions(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        """T_src_tgt (B, S, 4, 4), K (B, 3, 3) in pixels, depth_scale (B,): see Predictions.

        One forward pass for all pairs.
        """
        batch, sources = sample.dt.shape
        tgt = sample.tgt_net[:, None].expand(-1, sources, -1, -1, -1).flatten(0, 1)
        src = sample.src_net.flatten(0, 1)
        # Pairs go in temporal order, so that the network only ever sees time run forwards.
        past = (sample.dt < 0).flatten()
        swap = past.view(-1, 1, 1, 1)
        first, second = torch.where(swap, src, tgt), torch.where(swap, tgt, src)
        T_second_first, K_pair = self.pose_net(first, second)
        K_pair = None if K_pair is None else K_pair.unflatten(0, (batch, sources)).mean(1)
        K, scale = self.cameras_and_scales(sample, K_pair)
        T_src_tgt = torch.where(past.view(-1, 1, 1), invert_T(T_second_first), T_second_first)
        return T_src_tgt.unflatten(0, (batch, sources)), K, scale

    def with_refined_motion(self, sample: Sample, predictions: PredictionsT) -> PredictionsT:
        """The predictions with ego-motion as the model will say it, refined where
        network.pose_align says so, for validation: a pose network knows its training images by
        heart long before the depth network does, and would end every choice of weights early. Also
        for the units of a model, which are those of what it says.
        """
        if not self.network.pose_align:
            return predictions
        disp = predictions.disps[min(predictions.disps)]
        depth = self.depth(disp, predictions.depth_scale)
        T = refine_motions(sample.tgt, sample.src, depth, predictions.T_src_tgt, predictions.K)
        return replace(predictions, T_src_tgt=T)

    def metric_terms(
        self,
        sample: Sample,
        predictions: Predictions,
        T: Tensor | None = None,
        depth: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses that make the model metric (metric.py); T (..., B, S, 4, 4) and depth of tgt
        (B, 1, H, W) where a method has others than T_src_tgt and what disps say.
        """
        if self.metric is None:
            return {}
        if depth is None:
            disp = predictions.disps[min(predictions.disps)]
            depth = self.depth(disp, predictions.depth_scale)
        T = predictions.T_src_tgt if T is None else T
        return self.metric.terms(self.units, sample, T, depth, predictions.K)

    def kept_terms(self, sample: Sample, depth: Tensor, silent: Tensor | None) -> dict[str, Tensor]:
        """Loss that holds what the model knew that the training began with: depth (B, 1, H, W) of
        tgt with gradient, silent (B, 1, H, W) in {0, 1}: where the images say nothing about it;
        None will do where nothing is kept.
        """
        if not self.keeps:
            return {}
        with torch.no_grad():
            before = self.start_net.eval()(sample.tgt_net)
            before = (
                before
                if isinstance(before, Tensor)
                else disp_to_depth(
                    before[min(before)].float(), self.network.min_depth, self.network.max_depth
                )
            )
        return {"kept": self.config.keep * kept_shape_loss(depth, before, silent)}

    def cameras_and_scales(self, sample: Sample, K_pair: Tensor | None) -> tuple[Tensor, Tensor]:
        """K (B, 3, 3) and depth_scale (B,): see Predictions. K_pair: of networks that learn it."""
        K = self.cameras(sample)
        if K_pair is not None:
            K = torch.where(sample.K_known.view(-1, 1, 1), K, K_pair)
        # Without gradient: the focal length is learned from how the image moves, not by making
        # everything nearer. One of a single pair is too noisy to scale depth with: f0 is found when
        # the training has ended.
        focal = K[:, 0, 0].detach()
        known = sample.K_known | (self.intrinsics is not None)
        return K, torch.where(known, focal / self.canonical_focal, torch.ones_like(focal))

    def cameras(self, sample: Sample) -> Tensor:
        """K (B, 3, 3): given ones and those learned per video."""
        if self.intrinsics is None:
            return sample.K
        learned = self.intrinsics(sample.video, sample.flipped)
        return torch.where(sample.K_known.view(-1, 1, 1), sample.K, learned)

    def depth(self, disp: Tensor, scale: Tensor) -> Tensor:
        """Depth (B, 1, H, W) at the camera's focal length."""
        return disp_to_depth(disp, self.network.min_depth, self.network.max_depth) * scale.view(
            -1, 1, 1, 1
        )

    @torch.no_grad()
    def inference_graph(self) -> DepthPoseGraph:
        """Depth at scale 0 and motion."""
        graph = self.graph_class(**self.architecture())
        for name, network in graph.named_children():
            copy_weights(getattr(self, name), network)
        return graph.eval()

    def architecture(self) -> dict[str, Any]:
        """What rebuilds the graph."""
        n = self.network
        return {
            "encoder": n.encoder, "decoder_channels": n.decoder_channels, "width": n.width,
            "canonical_focal": self.canonical_focal, "min_depth": n.min_depth,
            "max_depth": n.max_depth, "pose_encoder": n.pose_encoder,
            "pose_downscale": n.pose_downscale, "pose_align": n.pose_align,
        }  # fmt: skip


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy what the target has; the heads of coarser scales and of intrinsics stay behind in
    training.
    """
    state = source.state_dict()
    target.load_state_dict({k: state[k].cpu() for k in target.state_dict()})
