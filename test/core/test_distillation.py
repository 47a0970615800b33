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
    kept_shape_loss,
    silent_pixels,
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


def test_depth_is_kept_where_images_are_silent_at_the_scale_of_the_rest():
    torch.manual_seed(0)
    before = torch.rand(2, 1, 4, 10, dtype=torch.float64) + 1
    silent = torch.zeros_like(before)
    silent[..., 8:] = 1
    depth = before * torch.tensor([3.0, 0.2]).view(2, 1, 1, 1)  # another camera, unit, lens
    assert kept_shape_loss(depth, before, silent).item() == pytest.approx(0, abs=1e-12)
    other = torch.where(silent > 0, 2 * depth, depth)  # what is silent went away
    assert kept_shape_loss(other, before, silent).item() == pytest.approx(0.2 * np.log(2))
    free = torch.where(silent > 0, depth, depth * (0.9 + 0.2 * torch.rand_like(depth)))
    assert kept_shape_loss(free, before, silent).item() < 0.2 * 0.1  # the others may change


def test_only_what_is_silent_gets_a_gradient():
    before, log_depth = row(1, 2, 3, 4), row(0.1, 0.9, 1.2, 5.0).requires_grad_()
    silent = row(0, 0, 0, 1)
    kept_shape_loss(log_depth.exp(), before.requires_grad_(), silent).backward()
    assert (4 * log_depth.grad).flatten().tolist() == pytest.approx([0, 0, 0, 1])
    assert before.grad is None


def test_where_all_is_silent_the_scale_is_that_of_the_whole_image():
    before = torch.ones(1, 1, 1, 101)
    depth = 7 * before
    depth[..., 0] = 70.0
    silent = torch.ones_like(before)
    silent[..., 0] = 0  # one pixel decides nothing
    assert kept_shape_loss(depth, before, silent).item() == pytest.approx(0, abs=1e-6)
    silent.fill_(1)
    assert kept_shape_loss(depth, before, silent).item() == pytest.approx(np.log(10) / 101)


def test_silent_is_what_is_not_better_explained_and_hardly_changes():
    #     judged, judged, standing along, a wrong depth
    error, identity = row(0.1, 0.3, 0.02, 0.5), row(0.4, 0.9, 0.01, 0.45)
    valid = (error < identity).double()
    assert silent_pixels(error, identity, valid).flatten().tolist() == [0, 0, 1, 0]
    still = row(0.05, 0.02, 0.04, 0.03)  # of a camera that stands only noise is left
    assert silent_pixels(still + 0.1, still, torch.zeros_like(still)).all()
