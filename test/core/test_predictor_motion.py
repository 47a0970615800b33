"""Velocities of the Predictor: signs, stamps, where there is none, sizes."""

import math

import numpy as np
import pytest
import torch
from small_model import camera, picture, small_meta

from dyndepth_core.geometry.se3 import exp_so3, make_T
from dyndepth_core.inference.predictor import Predictor

SIZE = (128, 200)  # wider than the model's 64 x 96: cropped and resized
SECOND = 1_000_000_000


class Mover(torch.nn.Module):
    """Depth 5; the right half of the image has moved by `shift` since the previous image, whose
    camera looked `yaw` to the side. likely: of the upper half that it moves; 0.9 of the lower.
    """

    def __init__(self, shift=(0.0, 0.0, -0.5), yaw=0.0, likely=None):
        super().__init__()
        self.likely = likely
        self.shift, self.conv = torch.tensor(shift), torch.nn.Conv2d(3, 1, 1)
        self.T = make_T(exp_so3(torch.tensor([[0.0, yaw, 0.0]])), torch.zeros(1, 3))

    def forward(self, image, previous, K, state):
        h, w = image.shape[-2:]
        depth = torch.full((1, 1, h, w), 5.0)
        if previous is None:
            return depth, None, None, state
        residual = torch.zeros(1, 3, h, w)
        residual[..., w // 2 :] = (self.T[0, :3, :3] @ self.shift).view(1, 3, 1, 1)
        if self.likely is not None:
            maps = torch.full((1, 1, h, w), 0.9)
            maps[..., : h // 2, :] = self.likely
            residual = torch.cat((residual, maps), 1)
        return depth, residual, self.T, state


def predictor(scale=1.0, **options):
    return Predictor.from_graph(Mover(**options), small_meta(), device="cpu", assumed_scale=scale)


def run(p, stamps, size="model", **options):
    K = camera(SIZE)
    return [p(picture(SIZE), K, s, motion=True, output_size=size, **options) for s in stamps]


@pytest.mark.parametrize("yaw", [0.0, 0.1])
@pytest.mark.parametrize("period", [0.1, 0.04])
def test_what_recedes_reads_plus_whatever_the_camera_turns_and_the_rate(yaw, period):
    """Half a unit nearer in the image before: it recedes by 0.5 per period."""
    first, second = run(predictor(yaw=yaw), (0, int(period * SECOND)))
    assert first.velocity is None
    height, width = second.depth.shape
    assert second.velocity.shape == (height, width, 3) and second.velocity.dtype == np.float32
    moving = second.velocity[height // 2, -width // 4]
    np.testing.assert_allclose(moving, (0, 0, 0.5 / period), rtol=1e-4, atol=1e-5)
    assert (second.velocity[height // 2, width // 4] == 0).all()


def test_a_dropped_frame_is_twice_the_time():
    p = predictor()
    usual, late = run(p, (0, SECOND // 10, 3 * SECOND // 10))[1:]
    np.testing.assert_allclose(2 * late.velocity[..., 2], usual.velocity[..., 2])


def test_the_scale_of_the_depth_is_that_of_the_velocity():
    one, three = (run(predictor(scale=s), (0, SECOND))[1] for s in (1.0, 3.0))
    np.testing.assert_allclose(three.velocity, 3 * one.velocity)
    np.testing.assert_allclose(three.depth, 3 * one.depth)


@pytest.mark.parametrize("likely", [0.3, 0.8])
def test_what_the_network_does_not_find_likely_has_its_velocity_and_no_mask(likely):
    plain, second = (
        run(predictor(likely=x, shift=(0.0, 0.0, -5.0)), (0, SECOND))[1] for x in (None, likely)
    )
    np.testing.assert_array_equal(second.velocity, plain.velocity)
    upper = np.arange(second.depth.shape[0])[:, None] < second.depth.shape[0] // 2
    expected = plain.motion.mask & (~upper | (likely > 0.5))
    assert np.array_equal(second.motion.mask, expected) and plain.motion.mask[upper[:, 0]].any()
    assert np.nanmax(second.motion.probability[:8]) <= likely + 1e-6


def test_at_input_size_and_where_the_network_saw_nothing():
    second = run(predictor(), (0, SECOND), "input")[1]
    assert second.velocity.shape == (*SIZE, 3)
    known = np.isfinite(second.velocity).all(-1)
    assert (known == np.isfinite(second.depth)).all() and 0.5 < known.mean() < 1
    middle = second.velocity[SIZE[0] // 2]
    assert middle[3 * SIZE[1] // 4, 2] == 0.5 and middle[SIZE[1] // 4, 2] == 0
    edge = middle[known[SIZE[0] // 2], 2]
    assert (np.diff(edge) >= 0).all()  # linear in between


@pytest.mark.parametrize(
    "stamps", [(None, None), (0, None), (SECOND, SECOND), (SECOND, 0), (0, 10 * SECOND)]
)
def test_without_two_stamps_that_follow_each_other_there_is_no_velocity(stamps):
    assert run(predictor(), stamps)[1].velocity is None


def test_nobody_asked_and_reset():
    p, K = predictor(), camera(SIZE)
    p(picture(SIZE), K, 0, motion=True)
    assert p(picture(SIZE), K, SECOND).velocity is None
    assert p(picture(SIZE), K, 2 * SECOND, motion=True).velocity is not None
    p.reset()
    assert p(picture(SIZE), K, 3 * SECOND, motion=True).velocity is None
    assert not math.isnan(p(picture(SIZE), K, 4 * SECOND, motion=True).velocity[32, 48, 2])
