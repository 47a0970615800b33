"""Training objective: the teacher's is that of monodepth; the student matches images where the cost
volume can be trusted and follows its teacher elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.losses.photometric import masked_mean
from dyndepth_core.losses.smoothness import edge_aware_smoothness
from dyndepth_core.methods.base import LossTerms
from dyndepth_core.methods.depth_pose import copy_weights
from dyndepth_core.methods.many_depth.config import ManyDepthConfig
from dyndepth_core.methods.many_depth.graph import ManyDepthGraph, make_student, refined_motions
from dyndepth_core.methods.many_depth.predictions import (
    ManyPredictions,
    Role,
    Sources,
    StudentPredictions,
    depth_range,
    draw_augmentation,
)
from dyndepth_core.methods.monodepth.objective import MonodepthObjective
from dyndepth_core.methods.views import Reprojection, View

GAPS = 5.0  # times as old as in training an image before may be

OF_TEACHER = "teacher_"  # how the names of its loss terms begin


class ManyDepthObjective(MonodepthObjective):
    """L = L_teacher + L_student (Watson et al., CVPR 2021).

    L_teacher: that of monodepth; its depth gives the volume its range, its motions both. From
    `freeze_teacher` on it and the motions stay as they are, batch statistics, too.
    L_student = <min_s pe(warp_s) M> + mean((1 - M) |log D_S / D_T|) + smoothness, without automask;
    M = 1 where the volume could be made, is a true one, and its best plane lies within a factor
    `agreement` of the teacher's depth. No gradient to the teacher or the motions; the volume is a
    constant to the networks, as published.

    Ours beside the paper: the student begins as a copy of its teacher (`student_from`) with motions
    refined to the optical flow, as on the vehicle; its distance is that of logarithms, as the unit
    of a training is arbitrary; the range follows quantiles; what was not seen is a mask.

    A plug-in overrides `candidates` and `extra_losses`, a method with other images `sources`.
    """

    graph_class = ManyDepthGraph
    config: ManyDepthConfig
    teacher_always_seen = False  # the teacher's warps are wanted after it is frozen, too

    def __init__(self, config: Any, videos: list[str], canonical_focal: float) -> None:
        past = [o for o in config.data.source_offsets if o < 0]
        if not past:
            raise ValueError(
                f"data.source_offsets {config.data.source_offsets}: many_depth needs an earlier "
                "image for its cost volume, e.g. -1,1"
            )
        super().__init__(config, videos, canonical_focal)
        self.lookup = config.data.source_offsets.index(max(past))
        self.stride_s = -max(past) / config.data.target_rate_hz
        self.partial_gradients = True  # the student waits, the teacher is frozen
        self.register_buffer("begun", torch.zeros(()))
        self.register_buffer("range_steps", torch.zeros(()))

    def make_networks(self, scales: tuple[int, ...], intrinsics: bool) -> None:
        """See DepthPoseObjective."""
        super().make_networks(scales, intrinsics)
        self.student = make_student(self.network, scales)
        for name in ("fuse_in", "fuse_out", "blend"):
            self.lr_factors[f"student.{name}"] = self.config.fuse_lr_factor

    def architecture(self) -> dict[str, Any]:
        """See DepthPoseObjective."""
        names = (
            "planes", "inverse_planes", "match_channels", "fuse_channels", "window", "least_seen",
            "blend",
        )  # fmt: skip
        own = {name: getattr(self.network, name) for name in names}
        return {**super().architecture(), **own, "max_gap_s": GAPS * self.stride_s}

    def adopt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A file without its teacher: the student's part that sees one image stands in. A student
        in the file goes on from the first step.
        """
        found = dict(weights)
        if not any(name.startswith("student.") for name in weights):
            return found
        found["begun"], found["range_steps"] = torch.ones(()), torch.tensor(1e9)
        if not any(name.startswith("depth_net.") for name in weights):
            for name, weight in weights.items():
                if name.startswith(("student.encoder.", "student.decoder.")):
                    found[name.replace("student.", "depth_net.", 1)] = weight
        return found

    @torch.no_grad()
    def inference_graph(self) -> ManyDepthGraph:
        """See DepthPoseObjective; a student that has not begun is its teacher."""
        graph = super().inference_graph()
        if not self.begun:
            for part in ("encoder", "decoder"):
                copy_weights(getattr(self.depth_net, part), getattr(graph.student, part))
        return graph

    # -- predictions -------------------------------------------------------------------------------

    def predict(self, sample: Sample, progress: float = 1.0) -> ManyPredictions:
        """The teacher's predictions, and the student's once it has begun."""
        learns = self.teacher_learns(progress)
        self.depth_net.train(self.training and learns)
        self.pose_net.train(self.training and learns)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            disps = self.disps(sample.tgt_net, progress)
            found = ManyPredictions(disps, *self.motions(sample), sample)
        depth = self.depth(found.disps[min(disps)].detach(), found.depth_scale)
        if self.training and (learns or self.range_steps * self.config.range_rate < 1):
            self._adapt_range(depth / found.depth_scale.view(-1, 1, 1, 1))
        if self.training and not self.begun and progress >= self.config.student_from:
            self._begin()
        if self.begun:
            found.student = self._predict_student(sample, found, depth)
        return found

    def teacher_learns(self, progress: float) -> bool:
        """Whether teacher and motions still learn."""
        return self.training and progress < self.config.freeze_teacher

    def sources(self, sample: Sample, depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Sources:
        """The other images as volume and student's loss shall see them, from the teacher's depth
        (B, 1, H, W) and the motions (B, S, 4, 4); to be overridden.
        """
        return Sources(sample.src, sample.src_net)

    def augmentation(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) bool each: samples whose camera is made to stand, and those without a volume."""
        if not self.training:
            return index < 0, index < 0
        return draw_augmentation(index, self.config.static_share, self.config.empty_share)

    def _predict_student(
        self, sample: Sample, found: ManyPredictions, depth: Tensor
    ) -> StudentPredictions:
        K = found.K.detach().float()
        T, moves = refined_motions(
            sample.tgt, sample.src, depth, found.T_src_tgt, K, self.network.pose_align
        )
        static, empty = self.augmentation(sample.index)
        early = self.student.early(sample.tgt_net)
        with torch.no_grad():
            sources = self.sources(sample, depth, T, K)
            where = slice(self.lookup, self.lookup + 1)
            still, valid = static.view(-1, 1, 1, 1), sources.net_valid
            before = torch.where(still, sample.tgt_net, sources.net[:, self.lookup])
            valid = None if valid is None else valid[:, where] | still[:, None]
            volume = self.student.match(
                early[1], self.student.early(before)[1][:, None], T[:, where], K,
                found.depth_scale, moves[:, where] & ~empty[:, None], valid,
            )  # fmt: skip
        confident = self.student.confident(volume)
        # what the camera that stands shows shall not teach whom to believe: on the vehicle such a
        # volume is empty
        disps = self.student(early, volume, ~static)
        return StudentPredictions(disps, T, volume, confident, depth, static | empty, sources)

    @torch.no_grad()
    def _adapt_range(self, depth: Tensor) -> None:
        """Let the planes follow the teacher's depth (B, 1, H, W) at the canonical focal length."""
        low, high = depth_range(depth, self.config.range_quantiles)
        # a running mean until it is an exponential one, so that short trainings have a range, too
        rate = (1 / (self.range_steps + 1)).clamp(min=self.config.range_rate)
        near = (0.9 * low).clamp(min=self.network.min_depth)
        self.student.adapt(near, torch.maximum(1.1 * high, 2 * near), rate)
        self.range_steps += 1

    @torch.no_grad()
    def _begin(self) -> None:
        for part in ("encoder", "decoder"):
            copy_weights(getattr(self.depth_net, part), getattr(self.student, part))
        self.begun.fill_(1)

    # -- losses ------------------------------------------------------------------------------------

    def candidates(
        self, role: Role, seen: Reprojection, view: View, predictions: ManyPredictions
    ) -> Tensor | None:
        """Further errors (B, N, H, W) that the minimum over the sources is taken with, None for
        none; seen: the sources warped by the teacher or the student, view: what they were warped
        to. To be overridden.
        """
        return None

    def extra_losses(
        self, predictions: ManyPredictions, mask: Tensor, view: View
    ) -> dict[str, Tensor]:
        """Further terms once the student learns: mask (B, 1, H, W) is M of the class, view the
        sample as the student's loss sees it. To be overridden.
        """
        return {}

    def depth_difference(self, depth: Tensor, other: Tensor) -> Tensor:
        """|log depth / other|, shapes alike; 0 where equal, the same in any unit of length."""
        return (depth.log() - other.log()).abs()

    def losses(
        self, sample: Sample, predictions: ManyPredictions, progress: float = 1.0
    ) -> LossTerms:
        """See the class; in float32 also under autocast."""
        with torch.autocast(sample.tgt.device.type, enabled=False):
            view = View.of(sample, predictions.K, 0, self.config.ssim_weight, self.training)
            terms: dict[str, Tensor] = {}
            if not self.training or self.teacher_learns(progress):
                coarse = self.config.pyramid_weight(progress)
                found = self._losses(sample, predictions, self.training, coarse, view)
                found.terms |= self.shared_terms(sample, predictions, found.maps)
                if predictions.student is None:
                    return LossTerms(sum(found.terms.values()), found.terms, found.maps)
                terms = {OF_TEACHER + name: value for name, value in found.terms.items()}
            elif self.teacher_always_seen:
                with torch.no_grad():
                    self._score(view, predictions.disps[min(predictions.disps)], predictions)
            own, maps = self._student_losses(sample, predictions, view)
            terms |= own
        return LossTerms(sum(terms.values()), terms, maps)

    def _score(
        self, view: View, disp: Tensor, predictions: ManyPredictions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See MonodepthObjective; the teacher's."""
        depth = self.depth(disp, predictions.depth_scale)
        seen = view.warp(depth, predictions.T_src_tgt, self.config.ssim_weight)
        return self._least("teacher", seen, view, predictions), depth, seen.warped[:, -1]

    def _least(
        self, role: Role, seen: Reprojection, view: View, predictions: ManyPredictions
    ) -> Tensor:
        """Minimum error (B, 1, H, W) over sources and, at full resolution, `candidates`."""
        if view.level:
            return seen.least()
        predictions.seen.setdefault(role, seen)  # the finest scale comes first
        return seen.least(self.candidates(role, seen, view, predictions))

    def _student_view(self, sample: Sample, predictions: ManyPredictions, view: View) -> View:
        """The view of the student's loss: its own sources, and a camera without gradient."""
        sources = predictions.student.sources
        if sources.images is not sample.src:
            sample = replace(sample, src=sources.images)
            view = View.of(sample, predictions.K, 0, self.config.ssim_weight, noise=False)
        valid = None if sources.valid is None else sources.valid.flatten(0, 1)
        return replace(view, K=view.K.detach(), valid=valid)

    def _student_losses(
        self, sample: Sample, predictions: ManyPredictions, view: View
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Terms and maps."""
        own, config = predictions.student, self.config
        mask = own.trusted(config.agreement)
        view = self._student_view(sample, predictions, view)
        size = mask.shape[-2:]
        photometric, consistency, smoothness, maps = [], [], [], {}
        for s, disp in sorted(own.disps.items()):
            image = sample.tgt if s == 0 else F.avg_pool2d(sample.tgt, 2**s)
            smoothness.append(edge_aware_smoothness(disp, image) / 2**s)
            if s > 0:
                disp = F.interpolate(disp, size, mode="bilinear", align_corners=False)
            depth = self.depth(disp, predictions.depth_scale)
            seen = view.warp(depth, own.T_src_tgt, config.ssim_weight)
            error = self._least("student", seen, view, predictions)
            shown = mask if seen.seen is None else mask * seen.seen.any(1, keepdim=True)
            photometric.append(masked_mean(error, shown))
            apart = self.depth_difference(depth, own.teacher_depth)
            consistency.append(((1 - mask) * apart).mean())
            maps = maps or {
                "depth": depth.detach(), "error": error.detach(), "automask": shown,
                "warped": seen.warped[:, -1].detach(),
            }  # fmt: skip
        terms = {
            "photometric": torch.stack(photometric).mean(),
            "consistency": config.consistency * torch.stack(consistency).mean(),
            "smoothness": config.smoothness * torch.stack(smoothness).mean(),
        }
        return terms | self.extra_losses(predictions, mask, view), maps

    @torch.no_grad()
    def validation(self, sample: Sample) -> Tensor:
        """That of monodepth for the student; a student that has not begun is worse than any."""
        predictions = self.predict(sample)
        own = predictions.student
        if own is None:
            return super().validation(sample) + 1
        with torch.autocast(sample.tgt.device.type, enabled=False):
            view = View.of(sample, predictions.K, 0, self.config.ssim_weight, False)
            depth = self.depth(own.disps[min(own.disps)], predictions.depth_scale)
            error, _ = view.reproject(depth, own.T_src_tgt, self.config.ssim_weight)
            return self._explained(error, view)
