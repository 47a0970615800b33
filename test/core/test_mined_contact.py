"""Where the road is, where objects stand on it, and how far away that makes them."""

import numpy as np
import pytest
import torch
from scenes import camera, pose
from street import ROAD, SIZE, Board, view

from dyndepth_core.geometry.camera import backproject
from dyndepth_core.geometry.se3 import transform
from dyndepth_core.methods.mined_supervision.contact import contact_scales
from dyndepth_core.methods.mined_supervision.ground import ground_mask

BOARDS = [Board(-1.8, 5.0), Board(1.2, 8.0, width=2.0)]
NONE = np.zeros(SIZE, bool)


def contact_scale(*arrays):
    return contact_scales(*arrays)[0]


def _road(depth, T):
    world = transform(T, backproject(depth, camera()))
    return (world[0, 1] > ROAD - 1e-6).numpy()


def car():
    """Depth (h, w) of a street, the mask of the nearer board and that of the road."""
    _, depth, ids = view(BOARDS, pose())
    ground = _road(depth, pose()) & (ids == 0)
    return depth[0, 0].numpy(), ids == 1, ground


@pytest.mark.parametrize("pitch", [0.0, 0.06])
def test_the_ground_is_found_and_boards_are_not(pitch):
    _, depth, ids = view(BOARDS, pose(pitch=pitch))
    truth = _road(depth, pose(pitch=pitch)) & (ids == 0)
    found = ground_mask(depth.float(), camera().float())[0, 0].numpy()
    assert (found & ~truth).sum() <= 0.02 * truth.sum()
    # what reaches over an edge has no normal of the ground
    assert (found & truth).sum() > 0.7 * truth.sum()
    assert found[ids > 0].mean() < 0.03  # the last row of a board lies on the road


@pytest.mark.parametrize("pitch", [0.0, 0.06])
def test_contact_gives_the_scale_of_what_stands_on_a_plane(pitch):
    _, depth, ids = view(BOARDS, pose(pitch=pitch))
    depth = depth[0, 0].numpy()
    ground = _road(torch.tensor(depth)[None, None], pose(pitch=pitch)) & (ids == 0)
    for name in (1, 2):
        mask = ids == name
        shape = np.where(mask, depth / depth[mask].mean(), 0)
        found = contact_scale(depth, shape, mask, ground, NONE)
        # the edge lies anywhere between two pixels
        assert found == pytest.approx(depth[mask].mean(), rel=0.03)
        # without road around it says nothing
        assert np.isnan(contact_scale(depth, shape, mask, NONE, NONE))


def test_the_scene_may_say_anything_of_the_object_itself():
    depth, mask, ground = car()
    shape = np.where(mask, 1.0, 0)
    wrong = np.where(mask, 9 * depth, depth)
    found = contact_scale(depth, shape, mask, ground, NONE)
    assert contact_scale(wrong, shape, mask, ground, NONE) == found


def test_an_object_does_not_stand_where_another_one_begins():
    """Part of a car whose lower half is taken for another object, or a car behind one."""
    depth, mask, ground = car()
    shape = np.where(mask, depth / depth[mask].mean(), 0)
    rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    middle = rows.mean().astype(int)
    upper, lower = mask.copy(), mask.copy()
    upper[middle:], lower[: middle + 1] = False, False  # a gap of a pixel between them
    assert contact_scale(depth, shape, upper, ground, NONE) > 1.5 * depth[mask].mean()
    assert np.isnan(contact_scale(depth, shape, upper, ground, lower))
    half = lower.copy()
    half[:, cols[len(cols) // 2] :] = False
    mask = mask & ~half  # what is left of the right half still tells
    found = contact_scale(depth, shape, mask, ground, half)
    assert found == pytest.approx(depth[mask].mean(), rel=0.04)


def test_a_car_that_is_raised_but_for_its_wheels_stands_on_them():
    """The road that is seen below a bumper is farther away than the car."""
    depth, mask, ground = car()
    rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    wheel = len(cols) // 5
    raised = mask.copy()
    raised[rows[-1] - len(rows) // 8 :, cols[0] + wheel : cols[-1] - wheel] = False
    shape = np.where(raised, depth / depth[raised].mean(), 0)
    found = contact_scale(depth, shape, raised, ground, NONE)
    assert found == pytest.approx(depth[raised].mean(), rel=0.04)


def test_what_leaks_down_or_ends_with_the_image_tells_no_depth():
    depth, mask, ground = car()
    shape = np.where(mask, depth / depth[mask].mean(), 0)
    rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    leaks = mask.copy()
    leaks[rows[-1] : rows[-1] + 5, cols[3]] = True
    shape = np.where(leaks & ~mask, 1.0, shape)
    found = contact_scale(depth, shape, leaks, ground & ~leaks, NONE)
    assert found == pytest.approx(depth[mask].mean(), rel=0.04)
    deep = np.roll(mask, SIZE[0] - 1 - rows[-1], 0)  # its last row is the image's
    deep[-1, cols[::2]] = False
    assert np.isnan(contact_scale(depth, deep.astype(float), deep, ground & ~deep, NONE))


def test_what_is_cut_off_or_far_from_road_gets_a_guess():
    depth, mask, ground = car()
    true = depth[mask].mean()
    shape = np.where(mask, depth / true, 0)
    known = contact_scales(depth, shape, mask, ground, NONE)
    assert known[0] == known[1] == pytest.approx(true, rel=0.03)
    rows = np.flatnonzero(mask.any(1))
    low = slice(0, rows[-1])  # a row short of where it stands, with road beside it
    cut = contact_scales(*(x[low] for x in (depth, shape, mask, ground, NONE)))
    assert np.isnan(cut[0]) and cut[1] == pytest.approx(true, rel=0.1)
    hidden = np.roll(mask, 2, 0) & ~mask
    found = contact_scales(depth, shape, mask, ground, hidden)
    assert np.isnan(found[0]) and found[1] == pytest.approx(true, rel=0.03)
    cols = np.flatnonzero(mask.any(0))
    away = ground.copy()  # road is seen far from it alone
    away[:, max(0, cols[0] - 2 * len(rows)) : cols[-1] + 2 * len(rows)] = False
    found = contact_scales(depth, shape, mask, away, NONE)
    assert np.isnan(found[0]) and found[1] == pytest.approx(true, rel=0.05)
