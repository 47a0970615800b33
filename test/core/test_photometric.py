"""Photometric error, minimum reprojection and automask."""

import pytest
import torch
import torch.nn.functional as F

from dyndepth_core.losses.photometric import (
    automask,
    box3,
    image_stats,
    masked_mean,
    min_reprojection,
    photometric_error,
    ssim_error,
)


def images(seed=0, size=(9, 12), batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, *size, generator=generator)


def ssim(a, b):
    return ssim_error(image_stats(a), image_stats(b))


def plain_ssim_error(a, b):
    """Wang et al. 2004 as everyone writes it: five 3x3 means, population variances."""

    def mean(x):
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2
    cov = mean(a * b) - mu_a * mu_b
    value = (2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)
    value = value / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4))
    return ((1 - value) / 2).clamp(0, 1)


def test_box3_is_the_mean_of_the_nine_neighbours():
    x = images()
    expected = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
    torch.testing.assert_close(box3(x), expected)


@pytest.mark.parametrize("seed", range(3))
def test_ssim_is_that_of_the_plain_formula(seed):
    a = images(seed)
    b = (a + 0.2 * images(seed + 10) - 0.1).clamp(0, 1)
    torch.testing.assert_close(ssim(a, b), plain_ssim_error(a, b), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ssim(a, b), ssim(b, a))


def test_ssim_lies_between_0_and_1_and_is_exactly_0_on_equal_images():
    for a in (images(), torch.zeros(1, 3, 5, 5), torch.ones(1, 3, 5, 5), 1 - 1e-6 * images()):
        assert ssim(a, a.clone()).abs().max() == 0
    error = ssim(images(0), images(1))
    assert error.min() >= 0 and error.max() <= 1 and error.mean() > 0.2
    checker = (torch.arange(9)[:, None] + torch.arange(12)) % 2
    assert ssim(checker[None, None].float(), 1 - checker[None, None].float()).min() > 0.9


def test_gradcheck_of_the_photometric_error():
    a, b = (images(seed, (4, 5), 1).double().requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(photometric_error, (a, b))


def test_the_error_of_one_changed_pixel_by_hand():
    """Black images but one pixel of value 0.9 in one of three channels, far from the border."""
    a, b = torch.zeros(1, 3, 7, 7), torch.zeros(1, 3, 7, 7)
    b[0, 1, 3, 3] = 0.9
    mean, square = 0.1, 0.09  # of a window that holds it
    value = (1e-4 * 9e-4) / ((mean**2 + 1e-4) * (square - mean**2 + 9e-4))
    structure = (1 - value) / 2 / 3  # a third of the channels
    expected = torch.zeros(1, 1, 7, 7)
    expected[..., 2:5, 2:5] = 0.85 * structure
    expected[..., 3, 3] += 0.15 * 0.3
    torch.testing.assert_close(photometric_error(a, b), expected, atol=1e-6, rtol=1e-5)
    absolute = photometric_error(a, b, ssim_weight=0)
    assert absolute.sum().item() == pytest.approx(0.3) and absolute[0, 0, 3, 3] > 0.29
    torch.testing.assert_close(photometric_error(a, b, 1.0)[0, 0, 2, 2], torch.tensor(structure))


def test_shared_statistics_give_the_same_error():
    a, b = images(0), images(1)
    torch.testing.assert_close(
        photometric_error(image_stats(a), image_stats(b)), photometric_error(a, b), atol=0, rtol=0
    )


def test_the_error_does_not_lose_small_differences_to_half_precision():
    a = images()
    b = a + 1e-3
    half = photometric_error(a.bfloat16(), a.bfloat16())
    assert half.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(photometric_error(a, b), photometric_error(a.clone(), b))


def test_minimum_reprojection_picks_the_source_that_sees_the_pixel():
    errors = torch.tensor([[0.5, 0.1, 0.3], [0.2, 0.4, 0.3]]).view(1, 2, 1, 3).requires_grad_()
    least = min_reprojection(errors)
    torch.testing.assert_close(least.flatten(), torch.tensor([0.2, 0.1, 0.3]))
    least.sum().backward()
    assert errors.grad.flatten()[[0, 1, 3, 4]].tolist() == [0, 1, 1, 0]


def test_an_object_hidden_in_one_source_is_judged_by_the_other():
    """tgt shows a patch that src 0 hides behind something bright and src 1 shows."""
    tgt = images(0, (12, 12), 1)
    hidden, seen = tgt.clone(), tgt.clone()
    hidden[..., 4:8, 4:8] = 1.0
    errors = torch.cat([photometric_error(s, tgt) for s in (hidden, seen)], 1)
    assert errors[:, 0].max() > 0.3 and min_reprojection(errors).max() == 0


def test_automask_drops_what_stands_still_in_the_image_and_keeps_what_moves():
    """Left half: the unwarped source is right already. Right half: only the warp explains it."""
    tgt = images(0, (12, 24), 1)
    src = tgt.clone()
    src[..., 12:] = images(5, (12, 12), 1)
    warped = tgt + 0.01
    mask = automask(photometric_error(warped, tgt), photometric_error(src, tgt))
    assert mask[..., :11].sum() == 0 and mask[..., 13:].min() == 1
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_automask_carries_no_gradient_and_ties_are_dropped():
    error = torch.rand(1, 1, 3, 3, requires_grad=True)
    mask = automask(error, error.detach())
    assert not mask.requires_grad and mask.sum() == 0


def test_a_masked_mean_ignores_what_is_masked_and_survives_that_everything_is():
    values = torch.tensor([1.0, 2.0, 30.0])
    assert masked_mean(values, torch.tensor([1.0, 1.0, 0.0])) == 1.5
    assert masked_mean(values, torch.zeros(3)) == 0
