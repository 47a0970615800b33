"""Regularisers of residual translations and the losses that see what is in front: closed forms."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from dyndepth_core.geometry.se3 import exp_so3
from dyndepth_core.losses.motion import (
    group_smoothness,
    half_norm_sparsity,
    normalise_residual,
    rotation_cycle,
    translation_cycle,
)
from dyndepth_core.losses.occlusion import agreement, in_front, weighted_contrast_error
from dyndepth_core.networks.motion_net import automask_residual


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the field by itself ---------------------------------------------------------------------------


def test_the_unit_of_length_does_not_matter():
    field, ego = noise(2, 3, 8, 9), noise(2, 3, 1, 1, seed=1)
    Q = normalise_residual(field, field + ego)
    torch.testing.assert_close(normalise_residual(50 * field, 50 * (field + ego)), Q)
    # |residual| = 3 everywhere against a whole translation of length 6
    along = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    along[:, 2] = 3
    torch.testing.assert_close(normalise_residual(along, 2 * along), along / 6)


def test_group_smoothness_of_a_constant_a_ramp_and_a_step():
    flat = torch.full((1, 3, 8, 10), 0.7, dtype=torch.float64)
    assert group_smoothness(flat).item() < 1e-11
    x, y = torch.arange(10.0), torch.arange(8.0)[:, None]
    ramp = (3 * x + 4 * y).double().expand(1, 3, 8, 10)
    assert group_smoothness(ramp).item() == pytest.approx(5.0)  # sqrt(3^2 + 4^2) at every pixel
    step = torch.zeros(1, 3, 8, 10, dtype=torch.float64)
    step[..., 5:] = 2
    assert group_smoothness(step).item() == pytest.approx(2 / 9)  # one of 9 differences
    # opposite sides of the image are no neighbours
    torch.testing.assert_close(group_smoothness(step), group_smoothness(step.flip(-1)))


def test_group_smoothness_prefers_both_directions_at_one_pixel():
    """sqrt(a^2 + b^2) < |a| + |b|: gradients in x and y belong together."""
    together = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    together[..., 3:, 3:] = 1  # the corner has both
    apart = (together.diff(dim=-1).abs()[..., 1:, :] + together.diff(dim=-2).abs()[..., 1:]).mean()
    assert group_smoothness(together) < apart


def test_sparsity_of_a_constant_field_and_of_few_large_values():
    flat = torch.full((2, 3, 8, 8), -0.4, dtype=torch.float64)
    assert half_norm_sparsity(flat).item() == pytest.approx(2 * math.sqrt(2) * 0.4)
    assert half_norm_sparsity(torch.zeros(1, 3, 4, 4)).item() == 0
    # one pixel of 64 with the same sum: q = c, 63 sqrt(1) and once sqrt(1 + 64)
    few = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    few[..., 0, 0] = 64 * 0.4
    expected = 2 * 0.4 * (63 + math.sqrt(65)) / 64
    assert half_norm_sparsity(few).item() == pytest.approx(expected)
    assert expected < 2 * math.sqrt(2) * 0.4  # plain L1 does not tell the two apart


def test_the_mean_of_the_sparsity_carries_no_gradient():
    """d/d|Q| of 2 q sqrt(1 + |Q| / q) with q held: 1 / sqrt(1 + |Q| / q), 1 / sqrt(2) when all
    are equal.
    """
    field = torch.full((1, 1, 4, 4), 0.3, dtype=torch.float64, requires_grad=True)
    half_norm_sparsity(field).backward()
    torch.testing.assert_close(field.grad * 16, torch.full_like(field, 1 / math.sqrt(2)))


def test_a_field_of_nothing_has_finite_gradients():
    field = torch.zeros(1, 3, 6, 6, requires_grad=True)
    Q = normalise_residual(field, field)
    (group_smoothness(Q) + half_norm_sparsity(Q)).backward()
    assert torch.isfinite(field.grad).all()


def test_regularisers_pass_gradcheck():
    field = (noise(1, 3, 5, 6) - 0.5).requires_grad_()
    ego = torch.tensor([0.1, -0.2, 0.9], dtype=torch.float64).view(1, 3, 1, 1)
    assert gradcheck(lambda r: group_smoothness(normalise_residual(r, r + ego)), field)


def test_automask_keeps_what_is_above_the_mean_of_its_image():
    field = torch.zeros(2, 3, 4, 4)
    field[0, 0, 0, 0], field[0, 2, 1, 1], field[1] = 3.0, 1.0, 0.1
    kept = automask_residual(field)
    assert kept[0, 0, 0, 0] == 3 and kept[0, 2, 1, 1] == 1  # the mean of image 0 is 0.25
    assert (kept[1] == 0).all()  # nothing exceeds the mean of a constant field
    over = automask_residual(field, torch.mean)
    assert over[0, 0, 0, 0] == 3
    field[1, 0] = 0.5  # |field| 0.52 against 0.39 over both images
    assert (automask_residual(field)[1] == 0).all()
    assert (automask_residual(field, torch.mean)[1] != 0).all()


# -- cycles ----------------------------------------------------------------------------------------


def test_cycles_vanish_for_inverse_motions_and_for_none():
    R = exp_so3(torch.tensor([[0.02, -0.3, 0.1]], dtype=torch.float64))
    t = noise(1, 3, 5, 6, seed=3)
    back = -(R.mT[:, :, :, None, None] * t[:, None]).sum(2)
    seen = torch.ones(1, 1, 5, 6, dtype=torch.float64)
    assert rotation_cycle(R, R.mT).item() < 1e-25
    assert translation_cycle(R, t, back, seen).item() < 1e-25
    eye, none = torch.eye(3)[None], torch.zeros(1, 3, 5, 6)
    assert rotation_cycle(eye, eye).item() == 0
    assert translation_cycle(eye, none, none, seen.float()).item() == 0


def test_cycles_of_motions_that_do_not_turn_back():
    """Twice the same translation: |2 t|^2 / (2 |t|^2) = 2; a still way back: 1; unseen: 0."""
    eye = torch.eye(3, dtype=torch.float64)[None]
    t = noise(1, 3, 4, 4) + 0.1
    seen = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    assert translation_cycle(eye, t, t, seen).item() == pytest.approx(2)
    assert translation_cycle(eye, t, 0 * t, seen).item() == pytest.approx(1)
    seen[..., :2, :] = 0
    assert translation_cycle(eye, t, t, seen).item() == pytest.approx(1)
    R = exp_so3(torch.tensor([[0.0, 1e-3, 0.0]], dtype=torch.float64))
    assert rotation_cycle(R, eye).item() == pytest.approx(1)
    assert rotation_cycle(R, R).item() == pytest.approx(2, rel=1e-3)  # (2 a)^2 / (2 a^2)


# -- what is in front ------------------------------------------------------------------------------


def test_only_what_lies_in_front_is_judged():
    z = torch.tensor([3.0, 5.0, 7.0, 3.0]).view(1, 1, 1, 4)
    valid = torch.tensor([True, True, True, False]).view(1, 1, 1, 4)
    assert in_front(z, torch.full_like(z, 5.0), valid).flatten().tolist() == [1, 0, 0, 0]


def test_agreement_is_one_where_depths_agree_and_a_half_at_the_typical_difference():
    depth = torch.full((1, 1, 10, 10), 5.0)
    z = depth.clone()
    z[..., :5, :] = 4.0  # in front by 1 on half of the pixels
    visible = z < depth
    weight = agreement(z, depth, visible, torch.ones_like(visible))
    assert weight[..., 5:, :].min() == 1
    # e2 = 50 / 51 + 1e-4
    typical = 50 / 51 + 1e-4
    assert weight[0, 0, 0, 0].item() == pytest.approx(typical / (1 + typical))
    assert not weight.requires_grad
    assert (agreement(z, depth, visible, torch.zeros_like(visible)) == 0).all()


def test_structure_ignores_brightness_and_what_has_no_weight():
    a = noise(1, 3, 12, 12).float() * 0.5
    ones = torch.ones(1, 1, 12, 12)
    assert weighted_contrast_error(a, a, ones).max() < 1e-6
    assert weighted_contrast_error(a + 0.3, a, ones).max() < 1e-3  # no luminance term
    # an inverted picture: s_ab = -s_a^2, S = -1 but for c2
    assert weighted_contrast_error(1 - a, a, ones).mean() > 0.95
    hidden = ones.clone()
    hidden[..., 6:] = 0
    b = a.clone()
    b[..., 6:] = noise(1, 3, 12, 6, seed=5).float()
    error = weighted_contrast_error(b, a, hidden)
    assert (error[..., 6:] == 0).all()  # windows of nothing but hidden pixels
    # hidden pixels count a hundredth in the window that touches them
    assert error[..., :4].max() < 1e-6 and error[..., 4].max() < 0.5
