"""Training objective of Li et al., CoRL 2020: depth, ego-motion, residual translations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.losses.motion import (
    group_smoothness,
    half_norm_sparsity,
    normalise_residual,
    rotation_cycle,
)
from dyndepth_core.losses.smoothness import edge_aware_smoothness
from dyndepth_core.methods.base import SPEED_THRESHOLD, LossTerms, Predictions
from dyndepth_core.methods.depth_pose import DepthPoseObjective, copy_weights
from dyndepth_core.methods.residual_motion.config import ResidualMotionConfig
from dyndepth_core.methods.residual_motion.graph import ResidualMotionGraph
from dyndepth_core.methods.residual_motion.threshold import moving_speed
from dyndepth_core.methods.residual_motion.ways import Ways
from dyndepth_core.networks.depth_net import DepthNet
from dyndepth_core.networks.motion_net import MotionNet, automask_residual
from dyndepth_core.networks.softplus_depth_net import SoftplusDepthNet, set_noise


@dataclass
class ResidualPredictions(Predictions):
    """Of N = B S pairs, tgt to src first, then src to tgt: depth (2N, 1, H, W) of the image the way
    starts from, T (2N, 4, 4) to where it ends, residual (2N, 3, H, W) in that frame.
    """

    depth: Tensor
    T: Tensor
    residual: Tensor


class ResidualMotionObjective(DepthPoseObjective):
    """L = sum of weighted terms over the pairs (a, b) of tgt with every source, both ways: X_b =
    R X_a + t + residual.

    With O where a's point lies in front of what b sees there: rgb mean(O |I_b^ - I_a|), ssim of
    the structure, weighted by the agreement of the depths, depth mean(O |D_b^ - z|) (off), edge-
    aware smoothness of 1 / depth; for the motions: cycle consistency of both ways, and group
    smoothness and L1/2 sparsity of residual / sqrt(mean |t + residual|^2). Formulas: ways.py,
    losses/motion.py, losses/occlusion.py.

    rgb is a mean over all pixels, so that it falls where O shrinks: watch `automask` in the
    pictures, which shows O. Ours beside the paper: the start of a training (`pose_first`,
    `pyramid`; see monodepth), schedules as fractions of the training.
    """

    graph_class = ResidualMotionGraph
    config: ResidualMotionConfig

    def make_networks(self, scales: tuple[int, ...], intrinsics: bool) -> None:
        """See DepthPoseObjective."""
        n = self.network
        if n.depth_head == "softplus":
            self.depth_net = SoftplusDepthNet(n.width)
        else:
            self.depth_net = DepthNet(n.encoder, n.decoder_channels, scales, n.width)
        self.motion_net = MotionNet(
            n.motion_trunk, n.motion_width, n.motion_depth, n.pose_downscale, intrinsics
        )
        self.lr_factors["motion_net"] = self.config.pose_lr_factor
        if n.pretrained:
            if n.depth_head == "disp":
                self.depth_net.encoder.load_imagenet(n.weights)
            if n.motion_trunk != "plain":
                self.motion_net.trunk.load_imagenet(n.weights)

    def architecture(self) -> dict[str, Any]:
        """See DepthPoseObjective."""
        names = ("depth_head", "motion_trunk", "motion_width", "motion_depth")
        return {
            **super().architecture(),
            **{name: getattr(self.network, name) for name in names},
            "motion_automask": self.config.motion_automask,
        }

    def predict(self, sample: Sample, progress: float = 1.0) -> ResidualPredictions:
        """One forward pass of each network for both images and both ways."""
        shape = batch, sources = sample.dt.shape
        set_noise(self.depth_net, progress, self.config.norm_ramp)
        tgt = sample.tgt_net[:, None].expand(-1, sources, -1, -1, -1).flatten(0, 1)
        src = sample.src_net.flatten(0, 1)
        raw = self._depths(torch.cat((sample.tgt_net, src)), progress)
        if self.motion_net.intrinsics is None:
            K, scale = self.cameras_and_scales(sample, None)
        else:  # K comes out of the network that depth goes into: depth at the canonical camera
            scale = torch.ones_like(sample.K[:, 0, 0])

        def spread(x: Tensor) -> Tensor:  # (B, ...) -> (N, ...)
            return x.repeat_interleave(sources, 0)

        factor = scale.view(-1, 1, 1, 1)
        tgt_depth, src_depth = spread(raw[:batch] * factor), raw[batch:] * spread(factor)
        T, residual, K_pair = self.motion_net(
            torch.cat((tgt, src)), torch.cat((src, tgt)),
            torch.cat((tgt_depth, src_depth)), torch.cat((src_depth, tgt_depth)),
        )  # fmt: skip
        if K_pair is not None:  # the mean over both ways
            K, _ = self.cameras_and_scales(sample, K_pair.unflatten(0, (2, *shape)).mean((0, 2)))
        if self.config.motion_automask:
            residual = automask_residual(residual, self.config.automask_over_batch)
        residual = residual * self.config.residual_share(progress)
        T_src_tgt = T[: batch * sources].unflatten(0, shape)
        depth = torch.cat((tgt_depth, src_depth))
        return ResidualPredictions({}, T_src_tgt, K, scale, depth, T, residual)

    def _depths(self, images: Tensor, progress: float) -> Tensor:
        """Depth (N, 1, H, W) at the canonical focal length."""
        found = self.disps(images, progress)
        if self.network.depth_head == "softplus":
            return found
        return self.depth(found[0], torch.ones_like(found[0][:, 0, 0, 0]))

    def losses(
        self, sample: Sample, predictions: ResidualPredictions, progress: float = 1.0
    ) -> LossTerms:
        """See the class; in float32 also under autocast."""
        config, sources = self.config, sample.dt.shape[1]
        with torch.autocast(sample.tgt.device.type, enabled=False):
            ways = self._ways(sample, predictions)
            seen = ways.compare()
            moves = self._moving(ways)
            field = predictions.residual
            Q = normalise_residual(field, ways.translation())
            sparse = half_norm_sparsity(Q) if config.sparsity_norm == "half" else Q.abs().mean()
            terms = {
                "rgb": config.rgb * ways.mean(seen.rgb, moves),
                "ssim": config.ssim * ways.mean(ways.structure(seen), moves),
                "smoothness": config.smoothness
                * edge_aware_smoothness(1 / ways.depth_a, ways.image_a),
                "rotation_cycle": config.rotation_cycle
                * rotation_cycle(ways.T_b_a[:, :3, :3], ways.back(ways.T_b_a)[:, :3, :3]),
                "translation_cycle": config.translation_cycle * ways.cycle(seen),
                "motion_smoothness": config.motion_smoothness * group_smoothness(Q),
                "motion_sparsity": config.motion_sparsity * sparse,
            }
            if config.depth_consistency:
                terms["depth"] = config.depth_consistency * ways.mean(seen.depth_error, moves)
            coarse = config.pyramid_weight(progress)
            if coarse > 0:
                terms["pyramid"] = (
                    coarse
                    * torch.stack(
                        [self._smaller(ways, level, moves) for level in range(1, config.pyramid)]
                    ).mean()
                )
            both_ways = predictions.T.unflatten(0, (2, *sample.dt.shape))
            depth = predictions.depth[: sample.dt.numel() : sources]
            terms |= self.metric_terms(sample, predictions, both_ways, depth)
        last = slice(sources - 1, sample.dt.numel(), sources)
        maps = {
            "depth": ways.depth_a[last], "error": seen.rgb[last], "warped": seen.warped[last],
            "automask": seen.visible[last].float(),
            "residual": field[last].norm(dim=1, keepdim=True),
        }  # fmt: skip
        return LossTerms(sum(terms.values()), terms, {k: m.detach() for k, m in maps.items()})

    def _smaller(self, ways: Ways, level: int, moves: Tensor) -> Tensor:
        ways = ways.smaller(level)
        seen = ways.compare()
        rgb, ssim = (ways.mean(x, moves) for x in (seen.rgb, ways.structure(seen)))
        return self.config.rgb * rgb + self.config.ssim * ssim

    def _moving(self, ways: Ways) -> Tensor:
        """(2N, 1, 1, 1) in {0, 1}: the images differ; a standing camera teaches no depth."""
        change = (ways.image_a - ways.image_b).abs().mean((1, 2, 3), keepdim=True)
        return (change > self.config.static_pairs).to(change.dtype)

    def _ways(self, sample: Sample, predictions: ResidualPredictions) -> Ways:
        sources = sample.dt.shape[1]
        tgt, src = sample.tgt.repeat_interleave(sources, 0), sample.src.flatten(0, 1)
        K = predictions.K.float().repeat_interleave(sources, 0).repeat(2, 1, 1)
        return Ways(
            torch.cat((tgt, src)), torch.cat((src, tgt)), predictions.depth.float(),
            predictions.T.float(), predictions.residual.float(), K,
        )  # fmt: skip

    @torch.no_grad()
    def validation(self, sample: Sample) -> Tensor:
        """The photometric score of monodepth, both ways: mean_px min over warp and source."""
        predictions = self.predict(sample)
        with torch.autocast(sample.tgt.device.type, enabled=False):
            return self._ways(sample, predictions).least_error().mean()

    @torch.no_grad()
    def thresholds(self, batches: Iterable[Sample]) -> dict[str, float]:
        """The speed from which on something moves; see threshold.py."""

        def parts() -> Iterator[tuple[Ways, Tensor]]:
            for sample in batches:
                ways = self._ways(sample, self.predict(sample))
                yield ways, sample.dt.flatten().abs().repeat(2)

        found = moving_speed(parts())
        return {} if found is None else {SPEED_THRESHOLD: found}

    @torch.no_grad()
    def inference_graph(self) -> ResidualMotionGraph:
        """Depth and motion of the newest image."""
        graph = self.graph_class(**self.architecture())
        for name, network in graph.named_children():
            copy_weights(getattr(self, name), network)
        return graph.eval()
