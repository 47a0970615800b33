"""Components, rims and the sources of instances."""

import cv2
import numpy as np
import pytest
from tiny import blank

from dyndepth_core.instances.components import connect, measure, neighbours, rims
from dyndepth_core.instances.sources import RecordedInstances


def components(mask, depth, velocity, limit=1.0):
    """Labels (h, w) and the rest of what they were made of."""
    rows, cols = np.nonzero(mask)
    pairs = neighbours(rows, cols)
    z, v = depth[rows, cols], velocity[rows, cols]
    labels = connect(rows, cols, pairs, z, v, np.full(len(rows), limit))
    image = np.zeros(mask.shape, int)
    image[rows, cols] = labels
    return image, (labels, rows, cols, pairs, z, v)


def flat(shape=(8, 12)):
    velocity = np.zeros((*shape, 3))
    velocity[..., 0] = 3
    return np.ones(shape, bool), np.full(shape, 10.0), velocity


@pytest.mark.parametrize("kind", ["depth", "velocity", "gap", "nothing"])
def test_neighbours_are_joined_where_depth_and_velocity_agree(kind):
    mask, depth, velocity = flat()
    if kind == "depth":
        depth[:, 6:] = 11.5
    elif kind == "velocity":
        velocity[:, 6:] = (-3, 0, 0)
    elif kind == "gap":
        mask[:, 6] = False
    image, _ = components(mask, depth, velocity)
    left, right = np.unique(image[:, :6]), np.unique(image[:, 7:])
    assert len(left) == len(right) == 1 and left[0] > 0 and right[0] > 0
    assert (left[0] == right[0]) == (kind == "nothing")


def test_slanted_surfaces_hold_together_and_corners_do_not_touch():
    mask, depth, velocity = flat()
    depth[:] = 10 * 1.08 ** np.arange(12)  # twice as far at its end
    assert len(np.unique(components(mask, depth, velocity)[0])) == 1
    corner = np.kron(np.eye(2), np.ones((4, 6))) > 0
    image, _ = components(corner, depth, velocity)
    assert image[0, 0] != image[7, 11] and (image[~corner] == 0).all()


def test_no_pixels_at_all():
    none = np.zeros(0, int)
    pairs = neighbours(none, none)
    assert connect(none, none, pairs, none, np.zeros((0, 3)), none).size == 0
    assert measure(none, none, none, np.zeros((0, 3)), np.zeros((0, 3))) == []


@pytest.mark.parametrize("turned", [False, True])
def test_a_rim_goes_the_way_of_its_object_and_another_object_does_not(turned):
    """Ten columns of a car at 10 m, and one of the wall behind it that seems to follow, slower."""
    mask, depth, velocity = flat((12, 11))
    depth[:, 10] = 40
    velocity[:, 10] = (0, 1.2, 0) if turned else (1.2, 0, 0)
    _, (labels, rows, cols, pairs, z, v) = components(mask, depth, velocity)
    points = np.stack((cols * z / 100, rows * z / 100, z), -1)
    found = measure(labels, rows, cols, points, v)
    small = min(found, key=lambda c: c.pixels)
    assert [c.pixels for c in sorted(found, key=lambda c: c.pixels)] == [12, 120]
    assert small.box == (10, 0, 10, 11)
    assert rims(labels, pairs, found) == (set() if turned else {small.label})


def test_ids_of_files(tmp_path):
    recording = blank(tmp_path, [0, 10**8, 2 * 10**8])
    for kind in ("instances", "dynamic"):
        (tmp_path / kind).mkdir()
    ids = np.zeros((64, 96), np.uint16)
    ids[:10], ids[20:30] = 700, 3
    dynamic = np.zeros((64, 96), np.uint8)
    dynamic[:6] = 255  # more than half of 700, nothing of 3
    for i in (0, 1):
        cv2.imwrite(str(tmp_path / "instances" / f"{i:06d}.png"), ids)
    cv2.imwrite(str(tmp_path / "dynamic" / "000000.png"), dynamic)
    everything, moving = (RecordedInstances(recording, only) for only in (False, True))
    assert np.array_equal(everything.ids(1), ids) and everything.ids(1).dtype == np.int32
    assert everything.ids(2) is None and moving.ids(1) is None
    assert np.array_equal(moving.ids(0), np.where(ids == 700, 700, 0))
    cv2.imwrite(str(tmp_path / "dynamic" / "000000.png"), dynamic[:32])
    with pytest.raises(ValueError, match="of one size"):
        moving.ids(0)
