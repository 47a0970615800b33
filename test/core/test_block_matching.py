"""Flow by block matching."""

import pytest
import torch

from dyndepth_core.geometry.warp import sample as look_up
from dyndepth_core.networks.block_matching import REACH, BlockMatching

SIZE = (96, 160)


def image():
    """Patches of a few cells, of all grey values."""
    noise = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, SIZE, mode="bicubic").clamp(0, 1)


def shifted(dx, dy):
    """The image moved by (dx, dy) pixels; its border is held."""
    v, u = torch.meshgrid(torch.arange(96.0), torch.arange(160.0), indexing="ij")
    return look_up(image(), torch.stack((u - dx, v - dy))[None])


def flow(first, second):
    """Weighted mean flow (x, y) in cells, and the mean weight."""
    found = BlockMatching()(first, second, 2)
    x, y = found.flow[0, :, 6:-6, 8:-8]
    weight = found.weight[0, 0, 6:-6, 8:-8]
    along = [((f * weight).sum() / weight.sum()).item() for f in (x, y)]
    return *along, weight.mean().item()


@pytest.mark.parametrize("move", [(0.0, 0.0), (4.0, 0.0), (-6.0, 2.0), (1.0, -1.0), (0.0, 5.0)])
def test_a_shift_is_found_in_cells(move):
    x, y, _ = flow(image(), shifted(*move))
    assert 2 * x == pytest.approx(move[0], abs=0.6)
    assert 2 * y == pytest.approx(move[1], abs=0.6)


def test_without_texture_the_weight_is_that_of_no_choice():
    grey = torch.full((1, 3, *SIZE), 0.5)
    x, y, weight = flow(grey, grey)
    count = (2 * REACH + 1) ** 2
    assert abs(x) < 1e-4 and abs(y) < 1e-4 and weight == pytest.approx(1 / count, rel=1e-3)
    assert flow(image(), image())[2] > 3 / count


def test_it_has_nothing_to_learn_and_nothing_to_store():
    matching = BlockMatching()
    assert not list(matching.parameters()) and not matching.state_dict()
    x = image().requires_grad_()
    assert not matching(x, x).flow.requires_grad


def test_the_gain_says_whether_anything_moved():
    gain = BlockMatching()(image(), shifted(6.0, 0.0), 2).gain[0, 0, 6:-6, 8:-8]
    assert gain.median() > 0.2
    still = BlockMatching()(image(), image(), 2).gain[0, 0, 6:-6, 8:-8]
    assert still.median() < 0.01 and still.quantile(0.95) < 0.05


def test_brightness_and_contrast_do_not_matter():
    x, y, _ = flow(image(), 0.2 + 0.6 * shifted(4.0, 2.0))
    assert (x, y) == pytest.approx(flow(image(), shifted(4.0, 2.0))[:2], abs=0.1)
