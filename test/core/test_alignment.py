"""Ego-motion refined to optical flow: known motions through known depth are found."""

import pytest
import torch
from scenes import camera, pose, render

from dyndepth_core.geometry.alignment import align as align_flow
from dyndepth_core.geometry.optical_flow import flow_beside
from dyndepth_core.geometry.se3 import invert_T

SIZE = (96, 160)
K = camera(110.0, SIZE)
MOTIONS = [
    pose(),
    pose(z=0.4),
    pose(x=-0.2, y=0.05, z=0.3),
    pose(yaw=0.04, z=0.3),
    pose(pitch=-0.02, roll=0.03),
]


def align(tgt, src, depth, start, K):
    return align_flow(*flow_beside(tgt, src, depth, start, K), depth, start, K)


def pair(motion):
    """tgt, src, depth of tgt and T_src_tgt of a camera that moved by `motion` (T_tgt_src)."""
    tgt, depth = render(pose(), K, SIZE)
    src, _ = render(motion, K, SIZE)
    return tgt, src, depth, invert_T(motion).float()


def errors(found, true):
    turned = true[:, :3, :3].mT @ found[:, :3, :3]
    angle = (turned - turned.mT).norm() / 8**0.5  # |R - R^T| = sqrt(8) sin a
    return angle.item(), (found[:, :3, 3] - true[:, :3, 3]).norm().item()


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_known_motion_is_found_from_no_motion(motion):
    tgt, src, depth, true = pair(motion)
    found = align(tgt, src, depth, torch.eye(4)[None], K)
    turned, moved = errors(found, true)
    assert turned < 2e-3 and moved < 0.035  # radians; metres: a first step, of 0.4 m
    torch.testing.assert_close(found[:, :3, :3] @ found[:, :3, :3].mT, torch.eye(3)[None])


def test_a_turn_of_ten_pixels_is_seen():
    turn = pose(yaw=0.09)
    assert errors(align(*pair(turn)[:3], torch.eye(4)[None], K), pair(turn)[3])[0] < 4e-3


def test_translation_has_the_unit_of_the_depth():
    tgt, src, depth, true = pair(MOTIONS[2])
    found = align(tgt, src, 7 * depth, torch.eye(4)[None], K)
    assert (found[:, :3, 3] / 7 - true[:, :3, 3]).norm() < 0.035


def test_what_moves_by_itself_hardly_counts():
    """A tenth of the image moves by 5 pixels more than it should."""
    tgt, src, depth, true = pair(MOTIONS[3])
    other = src.clone()
    other[..., 30:66, 100:142] = src[..., 30:66, 95:137]
    start = torch.eye(4)[None]
    without, with_it = (errors(align(tgt, x, depth, start, K), true) for x in (src, other))
    assert with_it[0] < without[0] + 6e-3 and with_it[1] < without[1] + 0.04


def test_members_of_a_batch_do_not_see_each_other():
    pairs = [pair(m) for m in MOTIONS]
    tgt, src, depth, _ = (torch.cat(x) for x in zip(*pairs, strict=True))
    start = torch.eye(4).repeat(len(pairs), 1, 1)
    together = align(tgt, src, depth, start, K.repeat(len(pairs), 1, 1))
    alone = [align(*p[:3], torch.eye(4)[None], K) for p in pairs]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-3)


def test_it_never_explains_the_images_worse_than_its_start():
    """From a start that is right nothing is spoilt; images that show nothing change nothing."""
    tgt, src, depth, true = pair(MOTIONS[2])
    turned, moved = errors(align(tgt, src, depth, true, K), true)
    assert turned < 2e-3 and moved < 0.02
    grey = torch.full((1, 3, *SIZE), 0.5)
    torch.testing.assert_close(align(grey, grey, depth, true, K), true)
    noise = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(align(noise, noise.flip(3), depth, true, K)).all()


def test_brightness_and_contrast_do_not_matter():
    tgt, src, depth, true = pair(MOTIONS[2])
    found = align(tgt, 0.1 + 0.6 * src, depth, torch.eye(4)[None], K)
    turned, moved = errors(found, true)
    assert turned < 8e-3 and moved < 0.06


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_depth_that_is_none_leaves_the_motion_as_it_is(value):
    tgt, src, depth, true = pair(MOTIONS[2])
    found = align(tgt, src, torch.full_like(depth, value), true, K)
    assert torch.isfinite(found).all()
    hole = depth.clone()
    hole[..., 40:60, 60:90] = value
    assert torch.isfinite(align(tgt, src, hole, true, K)).all()
