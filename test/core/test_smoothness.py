"""Edge-aware smoothness."""

import pytest
import torch

from dyndepth_core.losses.smoothness import edge_aware_smoothness


def test_constant_disp_is_perfectly_smooth():
    image = torch.rand(2, 3, 6, 8)
    assert edge_aware_smoothness(torch.full((2, 1, 6, 8), 0.3), image) == 0


def test_a_ramp_on_a_blank_image_by_hand():
    """d = 1..8 over its mean 4.5: every step across is 1 / 4.5, none down."""
    disp = torch.arange(1.0, 9).expand(1, 1, 6, 8)
    blank = torch.full((1, 3, 6, 8), 0.5)
    assert edge_aware_smoothness(disp, blank).item() == pytest.approx(1 / 4.5, rel=1e-5)
    down = torch.arange(1.0, 7).view(1, 1, 6, 1).expand(1, 1, 6, 8)
    assert edge_aware_smoothness(down, blank).item() == pytest.approx(1 / 3.5, rel=1e-5)


def test_an_edge_of_the_image_excuses_an_edge_of_disp_by_its_exponential():
    disp = torch.ones(1, 1, 4, 6)
    disp[..., 3:] = 3.0  # mean 2, a step of 1 in one of five columns
    image = torch.zeros(1, 3, 4, 6)
    assert edge_aware_smoothness(disp, image).item() == pytest.approx(0.2, rel=1e-5)
    image[:, :2, :, 3:] = 0.9  # in two of three channels: mean_c |dx I| = 0.6
    expected = 0.2 * torch.exp(torch.tensor(-0.6)).item()
    assert edge_aware_smoothness(disp, image).item() == pytest.approx(expected, rel=1e-5)


def test_smoothness_does_not_fall_when_the_scene_shrinks():
    disp, image = torch.rand(2, 1, 6, 8) + 0.1, torch.rand(2, 3, 6, 8)
    once = edge_aware_smoothness(disp, image).item()
    for scale in (0.01, 50.0):
        assert edge_aware_smoothness(scale * disp, image).item() == pytest.approx(once, rel=1e-4)
    mixed = torch.cat((disp[:1], 20 * disp[1:]))  # each image by its own mean
    assert edge_aware_smoothness(mixed, image).item() == pytest.approx(once, rel=1e-4)


def test_gradcheck_of_smoothness():
    disp = (torch.rand(1, 1, 4, 5, dtype=torch.float64) + 0.1).requires_grad_()
    image = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: edge_aware_smoothness(d, image), (disp,))
