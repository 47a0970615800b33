"""Coarse flow by block matching, and motions of cameras of other focal lengths."""

import pytest
import torch
from scenes import camera

from dyndepth_core.geometry.se3 import exp_so3, make_T
from dyndepth_core.geometry.warp import correspond
from dyndepth_core.geometry.warp import sample as look_up
from dyndepth_core.networks.block_matching import COLUMNS, REACH, BlockMatching
from dyndepth_core.networks.pose_net import ROTATION_SCALE, PoseNet, at_camera

SIZE = (96, 160)
K = camera(120.0, SIZE)


def image():
    """Patches of a few cells, of all grey values."""
    noise = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, SIZE, mode="bicubic").clamp(0, 1)


def shifted(dx, dy):
    """The image moved by (dx, dy) pixels; its border is held."""
    v, u = torch.meshgrid(torch.arange(96.0), torch.arange(160.0), indexing="ij")
    return look_up(image(), torch.stack((u - dx, v - dy))[None])


def flow(first, second):
    """Weighted mean flow (x, y) in cells, and the mean weight."""
    found = BlockMatching()(first, second)
    x, y = found.flow[0, :, 6:-6, 8:-8]
    weight = found.weight[0, 0, 6:-6, 8:-8]
    along = [((f * weight).sum() / weight.sum()).item() for f in (x, y)]
    return *along, weight.mean().item()


@pytest.mark.parametrize("move", [(0.0, 0.0), (4.0, 0.0), (-6.0, 2.0), (1.0, -1.0), (0.0, 5.0)])
def test_a_shift_is_found_in_cells_of_an_80th_of_the_width(move):
    x, y, _ = flow(image(), shifted(*move))
    cell = SIZE[1] / COLUMNS
    assert x * cell == pytest.approx(move[0], abs=0.5)
    assert y * cell == pytest.approx(move[1], abs=0.5)


def test_the_flow_is_the_same_for_a_larger_image():
    pair = image(), shifted(4.0, -2.0)
    large = [torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear") for x in pair]
    x, y, _ = flow(*pair)
    X, Y, _ = flow(*large)
    assert X == pytest.approx(x, abs=0.1) and Y == pytest.approx(y, abs=0.1)


def test_without_texture_the_weight_is_that_of_no_choice():
    grey = torch.full((1, 3, *SIZE), 0.5)
    x, y, weight = flow(grey, grey)
    count = (2 * REACH + 1) ** 2
    assert abs(x) < 1e-4 and abs(y) < 1e-4 and weight == pytest.approx(1 / count, rel=1e-3)
    assert flow(image(), image())[2] > 3 / count


def test_it_has_nothing_to_learn_and_nothing_to_store():
    matching = BlockMatching()
    assert not list(matching.parameters()) and not matching.state_dict()
    x = image().requires_grad_()
    assert not matching(x, x).flow.requires_grad


def test_the_gain_says_whether_anything_moved():
    gain = BlockMatching()(image(), shifted(6.0, 0.0)).gain[0, 0, 6:-6, 8:-8]
    assert gain.median() > 0.2
    assert BlockMatching()(image(), image()).gain.max() < 0.02


def test_brightness_and_contrast_do_not_matter():
    x, y, _ = flow(image(), 0.2 + 0.6 * shifted(4.0, 2.0))
    assert (x, y) == pytest.approx(flow(image(), shifted(4.0, 2.0))[:2], abs=0.1)


def test_the_head_adds_to_rotations_alone_and_next_to_nothing_to_begin_with():
    torch.manual_seed(0)
    net = PoseNet("resnet18", 0.125, matching=True).eval()
    torch.nn.init.normal_(net.head.weight, std=0.3)
    pair = image(), shifted(4.0, 0.0)
    before = net.vector(*pair)
    head, net.turn = net.turn, None
    alone = net.vector(*pair)
    torch.testing.assert_close(alone[:, 3:], before[:, 3:])
    assert 0 < (alone - before).abs().max() < 0.05 * ROTATION_SCALE
    net.turn = head
    torch.nn.init.constant_(head.head.bias, 2.0)
    moved = net.vector(*pair) - before
    torch.testing.assert_close(moved, torch.tensor([[2 * ROTATION_SCALE] * 3 + [0.0] * 3]))
    torch.testing.assert_close(net.turning(*pair), net.vector(*pair)[:, :3] - alone[:, :3])


def test_the_published_network_is_a_switch_away():
    plain, ours = (PoseNet("resnet18", 0.125, matching=m).eval() for m in (False, True))
    assert plain.turn is None
    extra = set(ours.state_dict()) - set(plain.state_dict())
    assert extra and all(name.startswith("turn.") for name in extra)


@pytest.mark.parametrize("zoom", [0.7, 1.4])
@pytest.mark.parametrize("axis", range(3))
def test_the_image_turns_alike_for_cameras_of_other_focal_lengths(zoom, axis):
    """Rotation of the canonical camera and that of a camera with zoom times its focal length: to
    first order the same flow.
    """
    vector = torch.zeros(1, 3, dtype=torch.float64)
    vector[0, axis] = 1e-3
    z = torch.ones(1, 1, *SIZE, dtype=torch.float64)
    other = K.clone()
    other[:, :2, :2] *= zoom

    def pixels(vector, K):
        return correspond(z, make_T(exp_so3(vector), torch.zeros_like(vector)), K).pixels

    still = pixels(torch.zeros_like(vector), K)
    one = pixels(vector, K) - still
    two = pixels(at_camera(vector, torch.tensor([zoom])), other) - still
    assert one.abs().max() > 1e-3
    # rotation bends the image by p^2 / f, which is no longer first order
    assert (one - two).abs().max() < (0.02 if axis >= 2 else 0.5) * one.abs().max()
    naive = pixels(vector, other) - still
    assert (one - two).abs().mean() <= (one - naive).abs().mean() + 1e-12
