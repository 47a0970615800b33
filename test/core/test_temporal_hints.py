"""Temporal hints: a moving object is painted at the midpoint of its two sightings."""

import numpy as np
import pytest
import torch
from scenes import camera

from dyndepth_core.methods.motion_aware.temporal import lay_out, match_instances, paint

SIZE = (24, 48)
GATE = 0.95


def picture(*squares, stripe=None, seed=0):
    """Image (3, H, W) and ids (H, W): a textured ground, squares (id, left, top, size), each with
    colours of its own; a stripe of another ground over columns `stripe`.
    """
    rng = np.random.default_rng(seed)
    image, ids = rng.random((3, *SIZE)) * 0.5, np.zeros(SIZE, int)
    if stripe:
        image[:, :, slice(*stripe)] = 0.9
    for name, left, top, size in squares:
        colours = np.random.default_rng(100 + name).random((3, size, size))
        cols = [c for c in range(size) if 0 <= left + c < SIZE[1]]
        at = slice(top, top + size), slice(left + cols[0], left + cols[-1] + 1)
        image[(slice(None), *at)] = colours[:, :, cols]
        ids[at] = name
    return torch.tensor(image), torch.tensor(ids)


def batch(*pictures, names=((1, 2), (2, 1), (1, 2))):
    """tgt, A and B, and their ids; `names`: what ids 1 and 2 are called in each."""
    images = torch.stack([p[0] for p in pictures])[None]
    ids = [torch.tensor((0, *n))[p[1]] for p, n in zip(pictures, names, strict=True)]
    return images[:, 0], images[:, 1:], torch.stack(ids)[None]


def matched(ids, depth=None, gate=GATE):
    """Of a camera that stands: the sources are in the plane of tgt."""
    depth = torch.full((len(ids), 1, *SIZE), 10.0) if depth is None else depth
    standing = torch.eye(4).expand(len(ids), 2, -1, -1)
    return match_instances(ids, ids[:, 1:], depth, standing, camera(batch=len(ids)), gate)


def hints(ids, depth=None, gate=GATE, share=0.5):
    found = matched(ids, depth, gate)
    if found is None:
        return None
    return lay_out(found, found.known, torch.full((len(ids),), share))


def test_a_square_that_moves_evenly_is_painted_where_tgt_has_it():
    tgt, warped, ids = batch(
        picture((1, 15, 6, 12)), picture((1, 10, 6, 12)), picture((1, 20, 6, 12))
    )
    found = hints(ids)
    painted = paint(found, warped)
    for s in (0, 1):
        assert torch.equal(painted[0, s], tgt[0]) and not torch.equal(warped[0, s], tgt[0])
    assert found.found.tolist() == [True]


def test_a_stripe_that_only_one_image_shows_is_filled_into_the_other():
    """It stands where A shows the object, and B and tgt the ground behind."""
    stripe = (8, 10)
    tgt, warped, ids = batch(
        picture((1, 12, 6, 10), stripe=stripe), picture((1, 8, 6, 10), stripe=stripe),
        picture((1, 16, 6, 10), stripe=stripe),
    )  # fmt: skip
    painted = paint(hints(ids), warped)
    assert torch.equal(
        painted[0, 0, :, 6:16, 8:10], torch.full((3, 10, 2), 0.9, dtype=torch.float64)
    )
    assert torch.equal(painted[0, 0], tgt[0])


def test_without_instances_there_is_nothing_to_paint():
    _, _, ids = batch(picture(), picture(), picture())
    assert hints(ids) is None
    _, _, ids = batch(picture((1, 10, 6, 8)), picture((1, 8, 6, 8)), picture())  # not in B
    assert hints(ids) is None
    _, _, ids = batch(*[picture((1, x, 6, 8)) for x in (10, 8, 30)])  # too far to be the same
    assert hints(ids) is None


def test_the_edge_that_moves_farther_counts_where_an_object_leaves_the_image():
    _, _, ids = batch(*[picture((1, x, 6, 10)) for x in (-3, 0, -6)])
    found = matched(ids)  # its left edge is outside and does not move
    assert found.delta[0, 1].tolist() == pytest.approx([-6, 0], abs=1e-4)
    _, _, ids = batch(*[picture((1, x, 6, 10)) for x in (41, 38, 44)])
    found = matched(ids)
    assert found.delta[0, 1].tolist() == pytest.approx([6, 0], abs=1e-4)


def test_a_fast_object_does_not_vanish():
    """Its midpoint lies outside of both sightings, and is painted all the same."""
    tgt, warped, ids = batch(*[picture((1, x, 6, 10)) for x in (19, 10, 28)])
    painted = paint(hints(ids), warped)
    assert torch.equal(painted[0, 0], tgt[0]) and torch.equal(painted[0, 1], tgt[0])


def test_where_objects_overlap_the_nearest_is_seen_and_nothing_is_summed():
    near, far = (1, 16, 4, 10), (2, 20, 8, 10)  # of tgt; they pass through each other
    tgt, warped, ids = batch(
        picture(far, near), picture((2, 25, 8, 10), (1, 13, 4, 10)),
        picture((2, 15, 8, 10), (1, 19, 4, 10)),
    )  # fmt: skip
    depth = torch.full((1, 1, *SIZE), 30.0)
    depth[0, 0][ids[0, 0] == 1], depth[0, 0][ids[0, 0] == 2] = 5.0, 9.0
    painted = paint(hints(ids, depth), warped)
    assert painted.max() <= 1
    for s in (0, 1):  # the near one is whole in A and B, or hidden by what B and A paint over it
        seen = hints(ids, depth).who[0, s] == 1
        assert torch.equal(painted[0, s][:, seen], tgt[0][:, seen]) and seen.sum() > 60


def test_uneven_frames_share_the_way_by_their_times():
    tgt, warped, ids = batch(*[picture((1, x, 6, 12)) for x in (12, 10, 18)])
    painted = paint(hints(ids, share=0.25), warped)
    assert torch.equal(painted[0, 0], tgt[0]) and torch.equal(painted[0, 1], tgt[0])


def test_images_of_a_batch_do_not_touch_each_other():
    moving = batch(*[picture((1, x, 6, 12)) for x in (15, 10, 20)])
    still = batch(picture(seed=4), picture(seed=5), picture(seed=6))
    warped, ids = (torch.cat((still[i], moving[i])) for i in (1, 2))
    found = hints(ids)
    painted = paint(found, warped)
    assert torch.equal(painted[0], warped[0]) and torch.equal(painted[1, 0], moving[0][0])
    assert found.found.tolist() == [False, True]
