"""Distillation: hints, where the student imitates whoever explains the image best (Dong et al.,
ICRA 2024), and what a training that goes on keeps of the depth it began with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyndepth_core.losses.parallel import step_sum

TEACHER, ENSEMBLE, STUDENT = 0, 1, 2


def ensemble_depth(teacher: Tensor, student: Tensor) -> Tensor:
    """D_E = sqrt(sg(D_T) D_S), (B, 1, H, W), the mean of the logarithms: what the ensemble is
    judged at and what the student is pulled to. (As released it is judged at the mean disparity and
    pulls to the mean depth.)
    """
    return (teacher.detach() * student).sqrt()


@torch.no_grad()
def best_of(teacher: Tensor, student: Tensor, ensemble: Tensor | None = None) -> Tensor:
    """k* (B, 1, H, W): TEACHER, ENSEMBLE or STUDENT, whose photometric error (B, 1, H, W) is the
    least; the teacher where all are alike. ensemble None: it is not asked.
    """
    choice = torch.where(student < teacher, STUDENT, TEACHER)
    if ensemble is None:
        return choice
    least = torch.minimum(student, teacher)
    return torch.where(ensemble < least, ENSEMBLE, choice)


def distillation_loss(best: Tensor, teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
    """L_D = mean(M |log D* / D_S|), D* the depth of k*: sg(D_T), D_E or D_S itself; 0-dim.

    Of logarithms (the paper: of depths), as the unit of a training is arbitrary. The gradient to
    log D_S is that of |log D_T / D_S| times 1, 1/2 or 0, none goes to D_T. All maps (B, 1, H, W);
    mask in [0, 1]: where the student's cost volume can be trusted (elsewhere the student is pulled
    to the teacher anyway).
    """
    # |log D_E / D_S| = |log D_T / D_S| / 2
    share = torch.where(best == TEACHER, 1.0, torch.where(best == ENSEMBLE, 0.5, 0.0))
    return (mask * share * (teacher.detach().log() - student.log()).abs()).mean()


LEAST_JUDGED = 0.05  # share of an image from which on its pixels say what the scale is


def silent_pixels(error: Tensor, identity: Tensor, valid: Tensor) -> Tensor:
    """S (B, 1, H, W) in {0, 1}: pixels about whose depth the images say nothing: not better
    explained by ego-motion (valid 0, see automask) and no more changed than ego-motion usually
    leaves, the mean of `error` over valid. What changes more has a wrong depth, which may change.

    error, identity: photometric errors (B, 1, H, W) of the warp and of the unwarped source. The
    mean is over the pixels of all processes (masked_mean is a share of one, for gradients).
    """
    total, count = step_sum(torch.stack(((error * valid).sum(), valid.sum())))
    usual = total / count.clamp(min=1)
    nothing = count <= 1  # a camera that stands
    return (1 - valid) * ((identity < usual) | nothing)


def kept_shape_loss(depth: Tensor, before: Tensor, silent: Tensor) -> Tensor:
    """L_K = mean(S |log(D / D_0) - a|), a per image the median of log(D / D_0) where S = 0; 0-dim.

    Where the images are silent (S: what moves, what keeps its distance to the camera, what has no
    parallax), depth stays what it was before, in the scale that the depth around it has now: the
    height and lens of another camera change that by one factor. D, D_0, S (B, 1, H, W), S in
    {0, 1}; D_0 and a without gradient. Where hardly anything else is left, a is of the whole image.
    Ours; learning without forgetting (Li and Hoiem, TPAMI 2017) keeps outputs of old tasks so.
    """
    ratio = (depth / before.detach()).log()
    flat, where = ratio.detach().flatten(1), silent.flatten(1) == 0
    where = where | (where.float().mean(1, keepdim=True) < LEAST_JUDGED)
    scale = flat.masked_fill(~where, torch.nan).nanmedian(1).values
    return (silent * (ratio - scale.view(-1, 1, 1, 1)).abs()).mean()
