"""Ego-motion refined to optical flow: known motions through known depth are found."""

import pytest
import torch
import torch.nn.functional as F
from scenes import camera, pose, render

from dyndepth_core.geometry.alignment import align as align_flow
from dyndepth_core.geometry.alignment import refine_motion as align
from dyndepth_core.geometry.optical_flow import at_stride, large_flow, small_flow
from dyndepth_core.geometry.se3 import invert_T
from dyndepth_core.geometry.warp import identity_pixels

SIZE = (96, 160)
K = camera(110.0, SIZE)
MOTIONS = [
    pose(),
    pose(z=0.4),
    pose(x=-0.2, y=0.05, z=0.3),
    pose(yaw=0.04, z=0.3),
    pose(pitch=-0.02, roll=0.03),
]


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


def test_a_start_does_not_vote_for_itself():
    """A dense flow alone keeps what the start has wrong; the small flows after it do not."""
    tgt, src, depth, true = pair(MOTIONS[2])
    tgt, src = (F.avg_pool2d(x, 5, 1, 2, count_include_pad=False) for x in (tgt, src))
    start = true.clone()
    start[:, :3, 3] += torch.tensor([0.1, 0.0, 0.0])
    once = align_flow(large_flow(tgt, src, depth, start, K), depth, start, K)
    (_, before), (_, after) = (errors(T, true) for T in (once, align(tgt, src, depth, start, K)))
    assert after < 0.8 * before and after < 0.02


@pytest.mark.parametrize("shift", [(0.4, 0.0), (-0.7, 0.3), (0.0, 0.0)])
def test_a_small_flow_is_found_to_a_tenth_of_a_pixel(shift):
    """However bright the other image is."""
    tgt = waves(0.0, 0.0)
    src = 0.2 + 0.5 * waves(*shift)
    flow = small_flow(tgt, src, torch.ones(1, 1, *SIZE), torch.eye(4)[None], K)
    found = (flow.ends - at_stride(identity_pixels(1, *SIZE, like=tgt)))[..., 2:-2, 2:-2]
    torch.testing.assert_close(
        found, torch.tensor(shift).view(1, 2, 1, 1).expand_as(found), atol=0.1, rtol=0
    )
    assert flow.seen.all()


def waves(x, y):
    """(1, 3, H, W) whose content lies x, y pixels further right and down."""
    v, u = torch.meshgrid(*(torch.arange(float(n)) for n in SIZE), indexing="ij")
    u, v = u - x, v - y
    grey = 0.5 + 0.2 * torch.sin(u / 2.5) * torch.cos(v / 3.0) + 0.1 * torch.sin((u + v) / 4.0)
    return grey.expand(1, 3, *SIZE)


def test_a_flow_is_known_across_an_edge_only():
    """Columns of grey levels say how far along x, nothing about y; an even image says nothing."""
    columns = waves(0.0, 0.0)[..., :1, :].expand(1, 3, *SIZE)
    xx, xy, yy = small_flow(
        columns, columns, torch.ones(1, 1, *SIZE), torch.eye(4)[None], K
    ).covariance[0, :, 2:-2, 2:-2]
    assert xx.max() < 0.1 and yy.min() > 100 and xy.abs().max() < 0.1
    even = torch.full((1, 3, *SIZE), 0.5)
    flat = small_flow(even, even, torch.ones(1, 1, *SIZE), torch.eye(4)[None], K)
    assert flat.covariance[:, ::2].min() > 100


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
    torch.testing.assert_close(found, true)
    hole = depth.clone()
    hole[..., 40:60, 60:90] = value
    assert torch.isfinite(align(tgt, src, hole, true, K)).all()
