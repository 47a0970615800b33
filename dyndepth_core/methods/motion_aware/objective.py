"""The motion-aware loss beside the losses of a method with a teacher and a student."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field, create_model
from torch import Tensor

from dyndepth_core.data.sample import MAX_INSTANCES, Sample
from dyndepth_core.geometry.warp import correspond
from dyndepth_core.geometry.warp import sample as look_up
from dyndepth_core.losses.balance import LossBalance
from dyndepth_core.losses.distillation import best_of, distillation_loss, ensemble_depth
from dyndepth_core.losses.parallel import process_count, step_sum
from dyndepth_core.losses.photometric import photometric_error
from dyndepth_core.methods.base import LossTerms, MethodInfo
from dyndepth_core.methods.many_depth.objective import OF_TEACHER, ManyDepthObjective
from dyndepth_core.methods.many_depth.predictions import ManyPredictions, Role
from dyndepth_core.methods.masks import MaskConfig, masked_stages
from dyndepth_core.methods.motion_aware.config import MotionAwareConfig
from dyndepth_core.methods.motion_aware.temporal import (
    Hints,
    could_stand,
    lay_out,
    match_instances,
    paint,
    paint_by_grid,
)
from dyndepth_core.methods.views import Reprojection, View

DISTILLATION = "distillation"


class MotionAware:
    """Before the objective of a method in the order of bases; see Dong et al., ICRA 2024.

    Temporal hints are further candidates of the minimum over the sources, distillation hints a
    further term. Batches without instances have the method's own losses, bit by bit, and so does
    validation: they need no masks.
    """

    teacher_always_seen = True  # its errors say whom to imitate

    def __init__(self, config: Any, videos: list[str], canonical_focal: float) -> None:
        super().__init__(config, videos, canonical_focal)
        offsets = config.data.source_offsets
        if len(offsets) != 2 or min(offsets) > 0 or max(offsets) < 0:
            raise ValueError(
                f"data.source_offsets {offsets}: motion_aware needs an earlier and a later image, "
                "e.g. -1,1"
            )
        self.hints: MotionAwareConfig = config.objective.motion_aware
        self.order = [offsets.index(min(offsets)), offsets.index(max(offsets))]  # A, B
        self.balance = LossBalance()

    def losses(
        self, sample: Sample, predictions: ManyPredictions, progress: float = 1.0
    ) -> LossTerms:
        """Those of the method, with the hints."""
        found = super().losses(sample, predictions, progress)
        if not self.hints.distillation or predictions.student is None:
            return found
        terms = dict(found.terms)
        own = terms.pop(DISTILLATION, None)
        weight = self._weight(terms, own, progress)
        if own is None:
            return found
        rest = sum(terms.values())
        terms[DISTILLATION] = weight * own
        return replace(found, total=rest + terms[DISTILLATION], terms=terms)

    def _weight(
        self, terms: dict[str, Tensor], own: Tensor | None, progress: float
    ) -> Tensor | float:
        """Of the distillation `own` beside the other terms; None: no image here has instances.
        Of several processes all weigh it alike, by the mean of what they have.
        """
        if not self.hints.balance:
            return self.hints.weight
        if not self.training:
            return self.balance.ratio
        # not the teacher's: they end when it is frozen, which is no progress of the student
        first = sum(v for name, v in terms.items() if not name.startswith(OF_TEACHER))
        there = first.new_tensor(float(own is not None))
        second = first.new_zeros(()) if own is None else own
        first, second, there = step_sum(torch.stack((first, second, there)))
        if not there:
            return self.balance.ratio
        count = process_count()
        return self.balance.step(first / count, second / count, progress)

    # -- temporal hints ----------------------------------------------------------------------------

    def candidates(
        self, role: Role, seen: Reprojection, view: View, predictions: ManyPredictions
    ) -> Tensor | None:
        """Errors of both painted sources (B, 2, H, W), infinite for images without instances."""
        own, sample = super().candidates(role, seen, view, predictions), predictions.sample
        if role != "teacher" or not self.hints.temporal or sample.instances is None:
            return own
        T, K = predictions.T_src_tgt.float(), predictions.K.float()
        painted = self._painted(sample, sample.src[:, self.order], seen, T[:, self.order], K)
        if painted is None:
            return own
        images, found = painted
        target = sample.tgt.repeat_interleave(2, 0)
        errors = photometric_error(images.flatten(0, 1), target, self.config.ssim_weight)
        errors = errors.unflatten(0, (-1, 2)).squeeze(2)
        errors = errors.masked_fill(~found.view(-1, 1, 1, 1), torch.inf)
        return errors if own is None else torch.cat((own, errors), 1)

    def _painted(
        self, sample: Sample, src: Tensor, seen: Reprojection, T: Tensor, K: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Sources A and B warped to tgt, objects at their midpoints, (B, 2, 3, H, W), and which
        images have any (B,); None where none has.
        """
        if not sample.instances.any():
            return None
        depth = seen.depth
        pixels = torch.stack([correspond(depth, T[:, s], K).pixels for s in (0, 1)], 1)
        hints = self._hints(sample, depth.detach(), pixels.detach(), T.detach(), K.detach())
        if hints is None:
            return None
        warped = seen.warped[:, self.order]
        if self.hints.gradient == "published":
            return paint(hints, warped), hints.found
        return paint_by_grid(hints, src, pixels, warped, T.detach(), K.detach()), hints.found

    @torch.no_grad()
    def _hints(
        self, sample: Sample, depth: Tensor, pixels: Tensor, T: Tensor, K: Tensor
    ) -> Hints | None:
        ids = sample.instances.long()
        ids = torch.where(ids > MAX_INSTANCES, 0, ids)  # no object, but all that are too many
        tgt, sources = ids[:, :1], ids[:, 1:][:, self.order]
        there = [
            look_up(sources[:, s, None].float(), pixels[:, s], "zeros", "nearest") for s in (0, 1)
        ]
        warped = torch.cat((tgt, *there), 1).long()
        found = match_instances(warped, sources, depth, T, K, self.hints.gate)
        if found is None:
            return None
        keep = found.known
        if self.hints.standing is not None:
            keep = keep & ~could_stand(found, T, K, self.hints.standing)
        before, after = (sample.dt[:, o] for o in self.order)
        return lay_out(found, keep, -before / (after - before))

    # -- distillation hints ------------------------------------------------------------------------

    def extra_losses(
        self, predictions: ManyPredictions, mask: Tensor, view: View
    ) -> dict[str, Tensor]:
        """With `distillation`, where the image has instances and the volume can be trusted."""
        own, sample = super().extra_losses(predictions, mask, view), predictions.sample
        if not self.hints.distillation or sample.instances is None:
            return own
        instances = sample.instances[:, :1].flatten(1).any(1).view(-1, 1, 1, 1)
        if not instances.any():
            return own
        student, teacher = (predictions.seen[role] for role in ("student", "teacher"))
        # Depths are compared, so all are judged by one motion and the same images: the student's,
        # whose motion may be refined and whose objects may be re-rendered. Only the painted sources
        # of the temporal hints are those that taught the teacher.
        T, weight = predictions.student.T_src_tgt, self.config.ssim_weight
        with torch.no_grad():
            hinted = self.candidates("teacher", teacher, view, predictions)
            judged = view.warp(teacher.depth, T, weight)
            errors = [judged.least(hinted, torch.inf), student.least(unseen=torch.inf)]
            if self.hints.ensemble:
                mean = ensemble_depth(teacher.depth, student.depth)
                errors.append(view.warp(mean, T, weight).least(unseen=torch.inf))
            best = best_of(*errors)
            shown = torch.stack(errors).amin(0).isfinite()
        loss = distillation_loss(best, teacher.depth, student.depth, mask * instances * shown)
        return own | {DISTILLATION: loss}


def apply(info: MethodInfo) -> MethodInfo:
    """The method with the motion-aware loss; ValueError where there is no teacher and student."""
    if not issubclass(info.objective_class, ManyDepthObjective):
        raise ValueError(
            f"motion_aware: {info.name} has no teacher and student for it; use many_depth or "
            "dynamic_depth"
        )
    fields: dict[str, Any] = {
        "motion_aware": (MotionAwareConfig, Field(default_factory=MotionAwareConfig))
    }
    if "masks" not in info.config_class.model_fields:
        fields["masks"] = (MaskConfig, Field(default_factory=MaskConfig))
    name = f"{info.config_class.__name__}MotionAware"
    config = create_model(name, __base__=info.config_class, **fields)
    objective = type(name, (MotionAware, info.objective_class), {})
    return replace(info, config_class=config, objective_class=objective, stages=masked_stages)
