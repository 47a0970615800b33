"""The camera's height in units of the depth, on roads whose plane is known."""

import math

import numpy as np
import pytest
import torch
from drives import SIZE, K, flat_road

from dyndepth_core.inference.ground_plane import fit_ground
from dyndepth_core.inference.mount import down_in_camera, parse_mount

WHOLE = (slice(0, SIZE[0]), slice(0, SIZE[1]))
LEVEL = down_in_camera(None)


def fit(depth, down=LEVEL, valid=WHOLE):
    return fit_ground(depth, K, valid, down)


@pytest.mark.parametrize("pitch", [0.0, 0.06, -0.04])
@pytest.mark.parametrize("scale", [1.0, 0.04])
def test_height_is_exact_on_a_plane_whatever_the_pitch_and_the_unit(pitch, scale):
    ground = fit(flat_road(1.5, pitch) * scale)
    assert ground.height == pytest.approx(1.5 * scale, rel=1e-6) and ground.share == 1
    tensor = torch.tensor(flat_road(1.5, pitch) * scale)
    assert fit(tensor).height == pytest.approx(1.5 * scale, rel=1e-5)


def test_a_steep_camera_needs_its_mount():
    depth = flat_road(1.5, pitch=0.45)
    assert fit(depth) is None
    mount = down_in_camera(parse_mount("0 0 1.5 0 0.45 0"))
    assert fit(depth, mount).height == pytest.approx(1.5, rel=1e-6)


def test_a_car_in_front_noise_and_holes_do_not_move_it():
    random = np.random.default_rng(0)
    depth = flat_road() * np.exp(0.015 * random.normal(size=SIZE))
    depth[20:75, 110:210] = 6.5  # its rear is a wall
    depth[random.random(SIZE) < 0.2] = np.nan
    ground = fit(depth)
    assert ground.height == pytest.approx(1.5, rel=0.02) and 0.5 < ground.share < 0.95
    assert fit(depth) == ground  # the same again


def test_a_wall_a_void_and_an_image_without_road_are_no_ground():
    assert fit(np.full(SIZE, 6.5)) is None
    assert fit(np.full(SIZE, np.nan)) is None
    random = np.random.default_rng(1)
    assert fit(random.uniform(3, 60, SIZE)) is None
    near = flat_road()
    near[:, 80:240] = 3.0  # a lorry fills the view
    assert fit(near) is None
    assert fit(np.zeros((4, 6)), valid=(slice(0, 4), slice(0, 6))) is None


def test_padding_is_not_looked_at():
    depth = np.full(SIZE, 1.0)
    depth[:80] = flat_road()[:80]
    assert fit(depth, valid=(slice(0, 80), slice(0, SIZE[1]))).height == pytest.approx(1.5, 1e-6)
    assert math.isfinite(fit(flat_road(), valid=WHOLE).height)
