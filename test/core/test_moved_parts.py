"""Optical flow that ego-motion leaves unexplained, and what it says of motion."""

import pytest
import torch
from scenes import camera

from dyndepth_core.geometry.optical_flow import flow_beside, optical_flow
from dyndepth_core.networks.moved_parts import FLOW_ERROR, LIKELY, moved_parts

SIZE = (64, 160)
STILL, AHEAD = torch.eye(4)[None], torch.ones(1, 1, 1, 1)
K = camera(100.0, SIZE).float()


def wall(seed=0):
    """Patches of a few pixels, of all grey values."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, SIZE[0] // 4, SIZE[1] // 4, generator=draw)
    return torch.nn.functional.interpolate(noise, SIZE, mode="bicubic").clamp(0, 1)


def parts(first, second, depth, T, sign, by):
    return moved_parts(*flow_beside(first, second, depth, T, K), depth, T, K, sign, by)


@pytest.mark.parametrize("move", [(0, 0), (4, 0), (-6, 2), (1, -1), (0, 5)])
def test_a_shift_is_found_in_every_image_of_a_batch(move):
    first = torch.cat((wall(), wall(1), wall(2)))
    second = first.roll((move[1], move[0]), (-2, -1))
    flow = optical_flow(first, second)
    assert flow.shape == (3, 2, *SIZE) and not flow.requires_grad
    middle = flow[..., 12:-12, 12:-12].flatten(2).median(2).values
    torch.testing.assert_close(middle, torch.tensor([move] * 3).float(), atol=0.2, rtol=0)


def test_small_images_have_a_flow_too():
    assert torch.isfinite(optical_flow(wall()[..., :16, :32], wall(1)[..., :16, :32])).all()


def square(shift):
    """The wall, and the same with a square of it moved to the right."""
    first = wall()
    second = first.clone()
    second[..., 16:48, 60 + shift : 100 + shift] = first[..., 16:48, 60:100]
    return first, second


def test_what_moves_is_seen_where_it_is_and_how_sure_that_is():
    """The camera stands and a square moves by 4 pixels: z = 4 / 0.6."""
    first, second = square(4)
    depth = torch.full((1, 1, *SIZE), 5.0)
    found = parts(first, second, depth, STILL, AHEAD, 1)
    fine, coarse = found.maps
    assert fine.shape == (1, 5, *SIZE) and coarse.shape == (1, 5, 32, 80)
    inside = (..., slice(24, 40), slice(70, 92))
    assert (fine[:, 0] * SIZE[1] / 100)[inside].median() == pytest.approx(4, abs=0.2)
    torch.testing.assert_close(fine[:, 2:4], fine[:, :2])  # depth over its mean is 1
    z2 = (4 / FLOW_ERROR) ** 2
    assert found.likely[inside].median() == pytest.approx(z2 / (z2 + LIKELY**2), abs=0.02)
    assert found.likely[..., :10, :].median() < 0.01 and (found.seen == 1).all()
    back = parts(first, second, depth, STILL, -AHEAD, 1)
    torch.testing.assert_close(back.maps[0][:, :4], -fine[:, :4])
    torch.testing.assert_close(back.likely, found.likely)
    small = parts(first, second, depth, STILL, AHEAD, 2)
    assert small.likely.shape == (1, 1, 32, 80) == small.maps[0][:, :1].shape


def test_along_the_parallax_wrong_depth_is_an_excuse_across_it_none():
    """A wall 5 m away and a camera that moved 0.4 m sideways: a parallax of 8 pixels, of which the
    depth may be wrong by half. The rest of the flow is 3 pixels.
    """
    first = wall()
    depth = torch.full((1, 1, *SIZE), 5.0)
    T = STILL.clone()
    T[0, 0, 3] = 0.4  # K X / z moves by 100 * 0.4 / 5 = 8 pixels to the right
    middle = (..., slice(16, 48), slice(40, 120))
    for move, error in (((0, 8), None), ((0, 11), (0.6**2 + 4**2) ** 0.5), ((3, 8), 0.6)):
        found = parts(first, first.roll(move, (-2, -1)), depth, T, AHEAD, 1)
        z2 = 0.0 if error is None else (3 / error) ** 2
        expected = z2 / (z2 + LIKELY**2)
        assert found.likely[middle].median() == pytest.approx(expected, abs=0.03)
    assert found.seen[..., -6:].max() == 0 and found.seen[middle].min() == 1
