"""Losses that know metres: nothing at the right scale, and a pull towards it from both sides."""

import math

import pytest
import torch
from scenes import camera, pose, render

from dyndepth_core.losses.metric import camera_height, height_loss, log_travel_ratio, travel_loss

TRAVEL = torch.tensor([[0.5, 1.0], [2.0, math.nan]])
GROUND = 1.5  # m, of the scene


def translations(factor=1.0):
    """Of the lengths in TRAVEL, in some direction."""
    direction = torch.tensor([0.6, 0.0, -0.8])
    return factor * TRAVEL.nan_to_num(7.0)[..., None] * direction


def test_the_travel_loss_is_the_mean_log_ratio_over_known_pairs():
    assert float(travel_loss(translations(), TRAVEL)) == pytest.approx(0, abs=1e-6)
    for factor in (2.0, 0.5):
        assert float(travel_loss(translations(factor), TRAVEL)) == pytest.approx(math.log(2))
    ratio = log_travel_ratio(translations(3.0), TRAVEL)
    assert ratio[1, 1].isnan() and ratio[0].tolist() == pytest.approx([math.log(3)] * 2)
    both_ways = torch.stack((translations(2.0), translations(4.0)))
    assert float(travel_loss(both_ways, TRAVEL)) == pytest.approx(1.5 * math.log(2))


@pytest.mark.parametrize(("factor", "sign"), [(1.5, 1), (0.7, -1)])
def test_the_travel_loss_pulls_lengths_towards_the_odometry(factor, sign):
    t = translations(factor).requires_grad_()
    travel_loss(t, TRAVEL).backward()
    along = (t.grad * t.detach()).sum(-1)  # d loss / d log |t|: the same for every known pair
    torch.testing.assert_close(along, torch.tensor([[sign, sign], [sign, 0.0]]) / 3)
    assert torch.linalg.cross(t.grad, t.detach()).abs().max() < 1e-6  # no direction is preferred


def test_without_any_known_pair_nothing_is_lost_and_nothing_learned():
    t = torch.zeros(2, 2, 3, requires_grad=True)  # not even a length
    loss = travel_loss(t, torch.full((2, 2), math.nan))
    loss.backward()
    assert loss.item() == 0 and t.grad.abs().max() == 0
    travel_loss(t, torch.ones(2, 2)).backward()
    assert t.grad.isfinite().all()


@pytest.mark.parametrize(
    "angles", [{}, {"pitch": 0.05, "roll": 0.03}, {"pitch": -0.08, "yaw": 0.2}]
)
def test_the_height_over_a_plane_is_found_whatever_the_tilt(angles):
    K = camera()
    for y in (0.0, -0.4, 0.3):  # y is down
        depth = render(pose(x=6.0, y=y, **angles), K)[1]
        assert float(camera_height(depth, K)) == pytest.approx(GROUND - y, rel=0.005)
        assert float(camera_height(0.1 * depth, K)) == pytest.approx(0.1 * (GROUND - y), rel=0.005)


def test_what_stands_on_the_road_does_not_move_the_ground():
    K = camera()
    depth = render(pose(x=6.0), K)[1]
    depth[..., 44:58, 30:52] = 3.0  # a car's tail
    assert float(camera_height(depth, K)) == pytest.approx(GROUND, rel=0.02)


def test_where_no_ground_is_seen_nobody_knows_the_height():
    K = camera(batch=3)
    wall = torch.full((1, 1, 64, 96), 8.0, dtype=torch.float64)
    rough = 3 + 5 * torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    depth = torch.cat((wall, rough, render(pose(x=6.0), K[:1])[1])).requires_grad_()
    assert camera_height(depth, K).isnan().tolist() == [True, True, False]
    loss = height_loss(depth, K, 2 * GROUND)  # of the third alone
    assert loss.item() == pytest.approx(math.log(2), abs=0.01)
    loss.backward()
    assert depth.grad[:2].abs().max() == 0


@pytest.mark.parametrize(("factor", "sign"), [(1.5, 1), (0.7, -1)])
def test_the_height_loss_scales_the_image_as_a_whole(factor, sign):
    K = camera()
    depth = (factor * render(pose(x=6.0), K)[1]).requires_grad_()
    loss = height_loss(depth, K, GROUND)
    assert loss.item() == pytest.approx(abs(math.log(factor)), abs=0.01)
    loss.backward()
    share = depth.grad * depth.detach() * depth.numel()
    torch.testing.assert_close(share, torch.full_like(share, sign))
