"""Distillation hints: the student imitates whoever explains the image best (Dong et al., ICRA
2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

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
