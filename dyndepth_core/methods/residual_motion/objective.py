"""Training objective of Li et al., CoRL 2020: depth, ego-motion, residual translations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.losses.motion import group_smoothness, half_norm_sparsity, normalise_residual
from dyndepth_core.losses.parallel import step_mean
from dyndepth_core.losses.photometric import SSIM_WEIGHT, masked_mean
from dyndepth_core.methods.base import SPEED_THRESHOLD, LossTerms, Predictions
from dyndepth_core.methods.depth_pose import DepthPoseObjective, copy_weights
from dyndepth_core.methods.residual_motion.best_source import best_source_losses
from dyndepth_core.methods.residual_motion.config import ResidualMotionConfig
from dyndepth_core.methods.residual_motion.graph import ResidualMotionGraph, make_motion_net
from dyndepth_core.methods.residual_motion.hinted import (
    HintedSample,
    hint_loss,
    hinted_motion,
    motion_loss,
)
from dyndepth_core.methods.residual_motion.published import published_losses
from dyndepth_core.methods.residual_motion.threshold import enlarged, helped, movers, moving_speed
from dyndepth_core.methods.residual_motion.ways import Ways
from dyndepth_core.methods.views import View
from dyndepth_core.networks.depth_net import DepthNet
from dyndepth_core.networks.motion_net import automask_residual
from dyndepth_core.networks.softplus_depth_net import SoftplusDepthNet, set_noise

MOTION = 0.1  # weight of a pixel of hinted motion against 100 % of hinted depth
NEAR = 8  # pixels around a mask of `foreground` that may move, too: published


@dataclass
class ResidualPredictions(Predictions):
    """Of N = B S pairs from tgt to src, and with both_ways (W = 2) then of N from src to tgt: depth
    (W N, 1, H, W) of the image a way starts from, T (W N, 4, 4) to where it ends, residual
    (W N, 3, H, W) in that frame; refined (W N, 4, 4): T as residuals are seen beside it, without
    gradient. src_depth (N, 1, H, W). moving, likely, seen (W N, 1, h, w): logit that something
    moves, what the optical flow says of that, and where src shows it; None without flow. unmasked
    (W N, 3, H, W): residual before the masks of `foreground`; None without masks.
    """

    depth: Tensor
    src_depth: Tensor
    T: Tensor
    residual: Tensor
    refined: Tensor
    moving: Tensor | None = None
    likely: Tensor | None = None
    seen: Tensor | None = None
    unmasked: Tensor | None = None


class ResidualMotionObjective(DepthPoseObjective):
    """L = sum of weighted terms over pairs (a, b): X_b = R X_a + t + residual.

    How well the images are explained: best_source.py (default), published.py (both_ways). Always,
    for the motions: group smoothness and L1/2 sparsity of residual / sqrt(mean |t + residual|^2)
    (losses/motion.py). Ours beside the paper: the start of a training (`pose_first`, `pyramid`; see
    monodepth), schedules as fractions of the training; the masks of `foreground` come after these
    two, which then hold residuals outside.
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
        self.motion_net = make_motion_net(n, n.motion_net, n.pose_encoder, intrinsics, n.pose_align)
        self.motion_says_K = intrinsics
        if self.config.burn_in[1] > 0:  # until then nothing asks for residuals
            self.partial_gradients = True
        self.lr_factors["motion_net"] = self.config.pose_lr_factor
        if n.pretrained:
            if n.depth_head == "disp":
                self.depth_net.encoder.load_imagenet(n.weights)
            if n.motion_net == "pose":
                self.motion_net.pose.encoder.load_imagenet(n.weights)

    def architecture(self) -> dict[str, Any]:
        """See DepthPoseObjective."""
        names = ("depth_head", "motion_net", "motion_width", "motion_depth", "motion_flow")
        return {
            **super().architecture(),
            **{name: getattr(self.network, name) for name in names},
            "motion_automask": self.config.both_ways and self.config.motion_automask,
        }

    def adopt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The pose network of other methods is part of the motion network."""
        return {re.sub(r"^pose_net\.", "motion_net.pose.", name): w for name, w in weights.items()}

    def predict(self, sample: Sample, progress: float = 1.0) -> ResidualPredictions:
        """One forward pass of each network, for both ways where they are wanted."""
        config, shape = self.config, sample.dt.shape
        batch, sources = shape
        set_noise(self.depth_net, progress, config.norm_ramp)

        def spread(x: Tensor) -> Tensor:  # (B, ...) -> (N, ...)
            return x.repeat_interleave(sources, 0)

        tgt, src = spread(sample.tgt_net), sample.src_net.flatten(0, 1)
        if config.both_ways:
            raw = self._depths(torch.cat((sample.tgt_net, src)), progress).split((batch, len(src)))
        else:
            tgt_raw = self._depths(sample.tgt_net, progress)
            with torch.no_grad():
                raw = tgt_raw, self._depths(src, progress)
        if self.motion_says_K:  # of what depth goes into: depth at the canonical camera
            K, scale = sample.K, torch.ones_like(sample.K[:, 0, 0])
        else:
            K, scale = self.cameras_and_scales(sample, None)
        factor = scale.view(-1, 1, 1, 1)
        tgt_depth, src_depth = spread(raw[0] * factor), raw[1] * spread(factor)
        given = [tgt, src, tgt_depth, src_depth, spread(K), (sample.dt < 0).flatten()]
        if config.both_ways:
            back = [src, tgt, src_depth, tgt_depth, given[4], ~given[5]]
            given = [torch.cat(pair) for pair in zip(given, back, strict=True)]
        share = config.residual_share(progress)
        found = self.motion_net(*given, moves=share > 0)
        residual, T, parts = found.residual, found.ego, found.parts
        if found.K is not None:  # the mean over the pairs
            K_pair = found.K.unflatten(0, (-1, *shape)).mean((0, 2))
            K, _ = self.cameras_and_scales(sample, K_pair)
        if config.both_ways and config.motion_automask:
            of_batch = step_mean if config.automask_over_batch else None
            residual = automask_residual(residual, of_batch)
        residual, unmasked = residual * share, None
        if config.foreground != "none" and sample.instances is not None:
            residual, unmasked = residual * self._foreground(sample.instances), residual
        T_src_tgt = T[: batch * sources].unflatten(0, shape)
        return ResidualPredictions(
            {}, T_src_tgt, K, scale, given[2], src_depth, T, residual, found.T_src_tgt,
            found.moving, parts and self._witness(parts.likely, shape),
            parts and self._witness(parts.seen, shape), unmasked,
        )  # fmt: skip

    def with_refined_motion(
        self, sample: Sample, predictions: ResidualPredictions
    ) -> ResidualPredictions:
        """See DepthPoseObjective."""
        return replace(predictions, T_src_tgt=self._refined(sample, predictions))

    def _foreground(self, ids: Tensor) -> Tensor:
        """(W N, 1, H, W) in {0, 1}: within NEAR pixels of an instance of the image a way starts
        from; ids (B, 1 + S, H, W) of tgt and every src, 0 = none.
        """
        sources = ids.shape[1] - 1
        starts = [ids[:, :1].repeat_interleave(sources, 0)]
        if self.config.both_ways:
            starts.append(ids[:, 1:].flatten(0, 1)[:, None])
        return F.max_pool2d((torch.cat(starts) > 0).float(), 2 * NEAR + 1, 1, NEAR)

    def _witness(self, maps: Tensor, shape: torch.Size) -> Tensor:
        """Maps (N, ...) of the pairs of each tgt in reverse: what a pair shall learn another one
        says, so that it cannot copy the noise that it sees. Both ways every image plane is alone.
        """
        if self.config.both_ways:
            return maps
        return maps.unflatten(0, shape).flip(1).flatten(0, 1)

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
        config, (batch, sources) = self.config, sample.dt.shape
        last = slice(sources - 1, batch * sources, sources)
        with torch.autocast(sample.tgt.device.type, enabled=False):
            p = predictions
            depth, T, residual = p.depth.float(), p.T.float(), p.residual.float()
            hints, T_src_tgt = self._hints(sample, p, depth[last])
            if config.both_ways:
                ways = self._ways(sample, predictions)
                found = published_losses(config, ways, config.pyramid_weight(progress))
                found.maps = {name: values[last] for name, values in found.maps.items()}
            else:
                found = best_source_losses(
                    config, sample, depth[last], p.src_depth.float(), T_src_tgt,
                    self._refined(sample, p), residual, p.moving, p.K.float(), progress,
                    self.training, self.taught(sample),
                )  # fmt: skip
            terms = found.terms | hints
            if config.residual_share(progress) > 0:
                ego = T[:, :3, 3, None, None]
                # The model has no masks: what they hide from the images stays small, too.
                field = residual if p.unmasked is None else p.unmasked.float()
                Q = normalise_residual(field, (ego if config.both_ways else ego.detach()) + field)
                sparse = half_norm_sparsity(Q) if config.sparsity_norm == "half" else Q.abs().mean()
                terms["motion_smoothness"] = config.motion_smoothness * group_smoothness(Q)
                terms["motion_sparsity"] = config.motion_sparsity * sparse
            if p.moving is not None:
                errors = F.binary_cross_entropy_with_logits(p.moving, p.likely, reduction="none")
                terms["dynamic"] = config.dynamic * masked_mean(errors, p.seen)
            terms |= self.kept_terms(sample, depth[last], found.maps["silent"])
            terms |= self.metric_terms(sample, p, T.view(-1, batch, sources, 4, 4), depth[last])
        maps = {**found.maps, "residual": residual[last].norm(dim=1, keepdim=True)}
        return LossTerms(sum(terms.values()), terms, {k: m.detach() for k, m in maps.items()})

    def _hints(
        self, sample: Sample, p: ResidualPredictions, depth: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What hints say, and the ego-motion (B, S, 4, 4) by which depth is to explain the images:
        theirs where they know it.
        """
        T = p.T_src_tgt.float()
        if not isinstance(sample, HintedSample):
            return {}, T
        weight, (aimed, known) = self.config.hints, hinted_motion(sample, depth)
        sure, (batch, sources) = sample.sure, sample.dt.shape
        if p.moving is not None:  # it may know better by now than the model of the hints
            sure = sure * ~movers(p.moving[: batch * sources], sources, sure.shape[-2:])
        terms = {
            "hints": weight * hint_loss(depth, sample.hint, sure),
            "motion_hints": weight * MOTION * motion_loss(T, aimed, known, depth, p.K.float()),
        }
        return terms, torch.where(known[..., None, None], aimed, T)

    def taught(self, sample: Sample) -> Tensor | None:
        """Where something else teaches the depth, (B, 1, H, W) in [0, 1]; None: nowhere. To be
        overridden.
        """
        return None

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
        """The photometric score of monodepth with what moves: mean_px min over the sources of warp
        and source.
        """
        p = self.predict(sample)
        with torch.autocast(sample.tgt.device.type, enabled=False):
            view, (_, moved) = self._errors(sample, p)
            return torch.minimum(moved, view.identity).mean()

    def _refined(self, sample: Sample, p: ResidualPredictions) -> Tensor:
        return p.refined[: sample.dt.numel()].float().unflatten(0, sample.dt.shape)

    def _errors(self, sample: Sample, p: ResidualPredictions) -> tuple[View, list[Tensor]]:
        """Error (B, 1, H, W) of ego-motion alone and with the residuals."""
        batch, sources = sample.dt.shape
        view = View.of(sample, p.K, 0, SSIM_WEIGHT, False)
        depth = p.depth[: batch * sources : sources].float()
        fields = None, p.residual[: batch * sources].float()
        T = self._refined(sample, p)
        return view, [view.reproject(depth, T, SSIM_WEIGHT, field)[0] for field in fields]

    @torch.no_grad()
    def thresholds(self, batches: Iterable[Sample]) -> dict[str, float]:
        """The speed from which on something moves; see threshold.py."""

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            for sample in batches:
                p, (batch, sources) = self.predict(sample), sample.dt.shape
                if p.likely is None:
                    moving = helped(*self._errors(sample, p)[1])
                else:
                    likely = p.likely[: batch * sources].unflatten(0, (batch, sources)).mean(1)
                    moving = enlarged(likely, sample.tgt.shape[-2:]) > 0.5
                speed = p.residual[: batch * sources].norm(dim=1).unflatten(0, (batch, sources))
                speed = speed / sample.dt.abs()[..., None, None]
                yield speed.mean(1, keepdim=True), moving

        found = moving_speed(parts())
        return {} if found is None else {SPEED_THRESHOLD: found}

    @torch.no_grad()
    def inference_graph(self) -> ResidualMotionGraph:
        """Depth and motion of the newest image."""
        graph = self.graph_class(**self.architecture())
        for name, network in graph.named_children():
            copy_weights(getattr(self, name), network)
        return graph.eval()
