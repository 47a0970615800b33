"""Focal lengths from point tracks: known cameras and motions, and motions that tell nothing."""

import numpy as np
import pytest

from dyndepth_core.geometry import bundle
from dyndepth_core.geometry.bundle import Observations
from dyndepth_core.geometry.self_calibration import estimate, stack

SIZE = 96, 320
CENTRE = np.array((163.0, 46.0))
NOISE = 0.15


def tracks(focal, turn, speed, seed, outliers=0.0, count=60, keys=4, aspect=1.0):
    """A window: frames before and after a middle one of a camera that turns by `turn` (pitch, yaw,
    roll) and moves by `speed` (3,) metres from one to the next, along its own axes; street-like
    points.
    """
    rng = np.random.default_rng(seed)
    f = np.array((focal, focal * aspect))
    points = rng.uniform((8, 6), (SIZE[1] - 9, SIZE[0] - 7), (count, 2))
    rays = np.concatenate(((points - CENTRE) / f, np.ones((count, 1))), 1)
    X = rays * np.exp(rng.uniform(np.log(6), np.log(80), (count, 1)))
    seen, valid = [], []
    wrong = rng.random(count) < outliers
    drift = rng.uniform(-3, 3, (count, 2))
    for side in (-1, 1):
        R, t = np.eye(3), np.zeros(3)
        for k in range(1, keys + 1):
            step = bundle.exp_rotation(side * np.array(turn) * (1 + 0.2 * k))
            R = step @ R
            t = step @ t - side * np.array(speed)
            Y = X @ R.T + t
            pixels = Y[:, :2] / Y[:, 2:] * f + CENTRE + NOISE * rng.standard_normal((count, 2))
            pixels = np.where(wrong[:, None], pixels + side * k * drift, pixels)
            inside = (pixels > 0).all(1) & (pixels < (SIZE[1] - 1, SIZE[0] - 1)).all(1)
            seen.append(pixels)
            valid.append(inside & (Y[:, 2] > 0.5))
    return points, np.array(seen), np.array(valid), keys


def video(focal, turn, speed, windows=5, **options):
    found = [tracks(focal, turn, speed, seed, **options) for seed in range(windows)]
    return stack(found, 60)


TURNS = {
    "turning": (240.0, (0.0, 0.04, 0.0), (0.0, 0.0, 0.02)),
    "an arc": (170.0, (0.0, 0.06, 0.0), (0.03, 0.0, 0.8)),
    "walking": (300.0, (0.02, 0.03, 0.01), (0.05, 0.02, 0.3)),
}


@pytest.mark.parametrize("name", TURNS)
def test_a_camera_that_turns_tells_its_focal_length(name):
    focal, turn, speed = TURNS[name]
    found = estimate(video(focal, turn, speed), SIZE)
    off = found.camera[0] - np.log(focal)
    assert abs(off) < 0.03 and abs(off) < 2 * found.sigma[0] < 0.1
    assert found.noise == pytest.approx(NOISE, rel=0.2)
    assert (np.abs(found.camera[2:] - CENTRE) < 2 * found.sigma[2:]).all()


@pytest.mark.parametrize("name", ["an arc", "walking"])
def test_with_a_third_of_the_points_on_moving_things_too(name):
    focal, turn, speed = TURNS[name]
    found = estimate(video(focal, turn, speed, outliers=0.3), SIZE)
    off = found.camera[0] - np.log(focal)
    assert abs(off) < 0.1 and abs(off) < 2 * found.sigma[0] < 0.2


@pytest.mark.parametrize("speed", [(0.0, 0.0, 0.8), (0.3, 0.0, 0.5)])
def test_without_turning_the_focal_length_is_not_determined(speed):
    found = estimate(video(240.0, (0.0, 0.0, 0.0), speed), SIZE)
    assert found is None or found.sigma[0] > 0.1


def test_derivatives_of_the_bundle_are_those_of_its_cost():
    """Camera and motions: the gradient of the normal equations against differences."""
    data = video(200.0, (0.01, 0.04, 0.0), (0.0, 0.0, 0.6), windows=1, aspect=1.05)
    rng = np.random.default_rng(0)
    frames, count = data.valid.shape[1:]
    R = bundle.exp_rotation(0.02 * rng.standard_normal((1, frames, 3)))
    t = 0.1 * rng.standard_normal((1, frames, 3))
    camera = np.array((np.log(190.0), 0.02, *CENTRE))
    state = bundle.State(R, t, rng.uniform(0.1, 1, (1, count)), camera)
    linear = bundle.linearise(data, state, 50.0, np.zeros(1))
    b = linear.b[0] - (linear.H_mix[0] / linear.H_rho[0]) @ linear.g_rho[0]  # points as they are

    def cost(step):
        own = step[:-4].reshape(1, frames, 6)
        new = bundle.State(
            bundle.exp_rotation(own[..., :3]) @ R, t + own[..., 3:], state.rho, camera + step[-4:]
        )
        return bundle.robust_cost(bundle.errors(data, new), 50.0).sum()

    for k in (0, 1, 2, 3, 4, 5, -4, -3, -2, -1):
        step = np.zeros(len(b))
        step[k] = 1e-5
        slope = (cost(step) - cost(-step)) / 2e-5
        assert -b[k] == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_windows_are_padded_and_keep_the_points_seen_most():
    rng = np.random.default_rng(0)
    points, seen = rng.random((6, 2)), rng.random((3, 6, 2))
    valid = np.ones((3, 6), bool)
    valid[1:, :2] = False
    data = stack([(points, seen, valid, 1), (points[:3], seen[:2, :3], valid[:2, :3], 0)], 4)
    assert data.points.shape == (2, 4, 2) and data.seen.shape == (2, 4, 4, 2)
    assert np.array_equal(data.points[0], points[2:])
    assert np.array_equal(data.seen[0, [0, 2, 3]], seen[:, 2:])  # one before, two after
    assert not data.valid[0, 1].any() and data.valid[1].sum(1).tolist() == [0, 0, 3, 1]
    assert isinstance(data, Observations)
