"""Distillation hints: whom the student imitates, and how strongly."""

import numpy as np
import pytest
import torch

from dyndepth_core.losses.distillation import (
    ENSEMBLE,
    STUDENT,
    TEACHER,
    best_of,
    distillation_loss,
    ensemble_depth,
)


def row(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_the_best_is_the_one_of_the_least_error():
    teacher, student, ensemble = row(1, 2, 3, 1), row(2, 1, 2, 1), row(3, 3, 1, 1)
    assert best_of(teacher, student, ensemble).flatten().tolist() == [
        TEACHER, STUDENT, ENSEMBLE, TEACHER,
    ]  # fmt: skip
    assert best_of(teacher, student).flatten().tolist() == [TEACHER, STUDENT, STUDENT, TEACHER]


def test_gradients_are_whole_half_and_none_on_the_student_and_none_on_the_teacher():
    D_T, log_S = row(5, 5, 5, 5).requires_grad_(), row(1, 1, 1, 2).requires_grad_()
    best = torch.tensor([TEACHER, ENSEMBLE, STUDENT, ENSEMBLE]).view(1, 1, 1, 4)
    loss = distillation_loss(best, D_T, log_S.exp(), torch.ones(1, 1, 1, 4))
    loss.backward()
    away = np.log(5) - 1
    assert loss.item() == pytest.approx((away + away / 2 + 0 + (1 - away) / 2) / 4)
    assert (4 * log_S.grad).flatten().tolist() == pytest.approx([-1, -0.5, 0, 0.5])
    assert D_T.grad is None


def test_the_ensemble_is_pulled_where_it_was_judged():
    """Mean of logarithms both times: |log D_E / D_S| is what the loss takes."""
    D_T, D_S = row(8, 2), row(4, 3)
    best = torch.full((1, 1, 1, 2), ENSEMBLE)
    expected = (ensemble_depth(D_T, D_S) / D_S).log().abs().mean()
    assert torch.isclose(distillation_loss(best, D_T, D_S, torch.ones(1, 1, 1, 2)), expected)


def test_nothing_is_distilled_outside_of_the_mask():
    best = torch.full((1, 1, 1, 2), TEACHER)
    loss = distillation_loss(best, row(5, 5), row(1, 4), row(0, 1))
    assert float(loss) == pytest.approx(np.log(5 / 4) / 2)
