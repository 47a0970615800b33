"""Depth from several images whose motion is known, on a scene whose depth is known exactly."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from dyndepth_core.data.synthetic import World
from dyndepth_core.geometry.multi_view import (
    multi_view_depth,
    parallax,
    plane_costs,
    semi_global,
    usual_factor,
)

SIZE = (96, 320)
STEPS = (-3, -2, -1, 1, 2, 3)


def grey(image):
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255


@pytest.fixture(scope="module")
def scene():
    """tgt, others, T, K, a rough depth and the true one (0 = sky) of a drive through a street."""
    world = World(1000, 0, size=SIZE)
    frames = {i: world.render(i + 3) for i in (0, *STEPS)}
    T = [np.linalg.inv(frames[i].T_world_cam) @ frames[0].T_world_cam for i in STEPS]
    assert np.linalg.norm(T[0][:3, 3]) > 1  # it drives
    depth = frames[0].depth
    rough = 1.2 * np.exp(cv2.blur(np.log(np.where(depth > 0, depth, 80.0)), (31, 31)))
    truth = np.where(frames[0].dynamic, 0, depth)
    others = [grey(frames[i].image) for i in STEPS]
    return grey(frames[0].image), others, np.stack(T), world.calib.K, rough, truth


def off(found, truth):
    where = found.sure & (truth > 0)
    return np.abs(found.depth[where] / truth[where] - 1)


def test_depth_is_found_to_a_few_hundredths_where_it_is_sure(scene):
    *given, rough, truth = scene
    found = multi_view_depth(*given, rough)
    assert found.sure.mean() > 0.3
    assert np.median(off(found, truth)) < 0.04 and off(found, truth).mean() < 0.1
    assert off(replace(found, depth=rough), truth).mean() > 0.2


def test_the_unit_of_the_motions_is_that_of_the_depth(scene):
    tgt, others, T, K, rough, _ = scene
    T_double = T.copy()
    T_double[:, :3, 3] *= 2
    one, two = multi_view_depth(tgt, others, T, K, rough), multi_view_depth(
        tgt, others, T_double, K, 2 * rough
    )  # fmt: skip
    assert (one.sure == two.sure).mean() > 0.99
    assert two.depth == pytest.approx(2 * one.depth, rel=1e-3)


def test_a_camera_that_stands_is_sure_of_nothing(scene):
    tgt, others, T, K, rough, _ = scene
    still = np.broadcast_to(np.eye(4), T.shape)
    assert not multi_view_depth(tgt, [tgt] * len(others), still, K, rough).sure.any()


def test_images_that_show_something_else_do_no_harm(scene):
    """As where something passes in front; what half of the images show is believed."""
    tgt, others, T, K, rough, truth = scene
    noise = np.random.default_rng(0).random((2, *SIZE)).astype(np.float32)
    found = multi_view_depth(tgt, [noise[0], *others[1:5], noise[1]], T, K, rough)
    assert found.sure.mean() > 0.15 and np.median(off(found, truth)) < 0.06


def test_what_differs_by_more_than_a_factor_from_what_is_expected_is_not_believed(scene):
    *given, _, truth = scene
    found = multi_view_depth(*given, 4 * np.where(truth > 0, truth, 80.0))
    ratio = found.depth[found.sure] / np.where(truth > 0, truth, 80.0)[found.sure]
    assert (ratio > 1.32).all() and found.sure.mean() < 0.15


def test_a_plane_that_no_image_shows_costs_one(scene):
    K = scene[3]
    tgt = np.random.default_rng(0).random(SIZE).astype(np.float32)
    away = np.eye(4)[None].copy()
    away[0, 0, 3] = 1e3
    costs = plane_costs(tgt, [tgt], away, K, np.array([0.1, 0.5], np.float32))
    assert (costs == 1).all()
    same = plane_costs(tgt, [tgt], np.eye(4)[None], K, np.array([0.1], np.float32))
    assert np.abs(same).max() < 0.02


def test_a_plane_behind_a_camera_is_not_seen_by_it():
    grey, K = np.random.default_rng(0).random(SIZE, np.float32), np.diag((200.0, 200.0, 1.0))
    K[:2, 2] = SIZE[1] / 2, SIZE[0] / 2
    T = np.eye(4)
    T[2, 3] = -2.0  # two ahead
    planes = np.array([1 / 1.5, 1 / 4], np.float32)
    costs = plane_costs(grey, [grey], T[None], K, planes)
    assert (costs[0] == 1).all() and (costs[1] != 1).mean() > 0.2


def test_paths_take_neighbours_along_and_break_at_edges():
    """Two halves of depths 2 and 6; one pixel of each that says otherwise gives in."""
    costs = np.ones((8, 9, 12), np.float32)
    costs[2, :, :6], costs[6, :, 6:] = 0.0, 0.0
    costs[:, 4, 2], costs[:, 4, 9] = 1.0, 1.0
    costs[5, 4, 2], costs[1, 4, 9] = 0.7, 0.7
    image = np.zeros((9, 12), np.float32)
    image[:, 6:] = 1.0
    best = semi_global(costs, image).argmin(2)
    assert (best[:, :6] == 2).all() and (best[:, 6:] == 6).all()


def test_parallax_by_hand():
    """Sideways f t / Z, the same everywhere; straight on r t / (Z - t), 0 in the middle."""
    K = np.array([[100.0, 0, 10], [0, 100, 5], [0, 0, 1]])
    T = np.broadcast_to(np.eye(4), (2, 4, 4)).copy()
    T[0, 0, 3] = 0.5
    depth = np.full((11, 21), 10.0)
    assert parallax(depth, T, K) == pytest.approx(5.0)
    T[0] = np.eye(4)
    T[0, 2, 3] = -1.0
    found = parallax(depth, T[:1], K)
    assert found[5, 10] == pytest.approx(0) and found[5, 19] == pytest.approx(9 / 9)


def test_what_is_off_by_itself_is_not_believed(scene):
    """The network is wrong alike all over the image, which is no reason for doubt, but for one
    place, where something may move.
    """
    *given, _, truth = scene
    truth = np.where(truth > 0, truth, 80.0)
    rough = 5 * (truth / 5) ** 0.7  # what is far too near, by a factor of up to 2.3
    plain = multi_view_depth(*given, rough)
    rough[72:90, 100:160] *= 2.6
    found = multi_view_depth(*given, rough)
    odd = np.zeros(SIZE, bool)
    odd[72:90, 100:160] = True
    assert plain.sure[odd].mean() > 0.2 and plain.sure.mean() > 0.2
    assert found.sure[odd].mean() < 0.2 * plain.sure[odd].mean()
    assert found.sure[~odd].mean() > 0.9 * plain.sure[~odd].mean()


def test_a_usual_factor_is_found_among_outliers():
    rng = np.random.default_rng(0)
    expected = np.exp(rng.normal(2, 0.5, SIZE))
    y = np.mgrid[: SIZE[0], : SIZE[1]][0] / SIZE[0] - 0.5
    usual = 0.3 - 0.4 * (np.log(expected) - np.log(expected).mean()) + 0.5 * y
    factor = usual + rng.normal(0, 0.02, SIZE)
    factor[40:70, 100:160] += 1.0
    found = usual_factor(factor, expected, np.ones(SIZE, bool))
    assert np.abs(found - usual).max() < 0.05
    nothing = usual_factor(factor, expected, np.zeros(SIZE, bool))
    assert (nothing == 0).all()
