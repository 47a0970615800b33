"""Temporal hints in a scene with known answers: a box before a wall, and a camera that moves."""

import moving_box
import pytest
import torch
from scenes import camera, pose

from dyndepth_core.geometry.warp import correspond, sample
from dyndepth_core.losses.photometric import photometric_error
from dyndepth_core.methods.motion_aware.temporal import (
    could_stand,
    lay_out,
    match_instances,
    paint,
    paint_by_grid,
)

GATE = 0.95
# of the camera: past the box, towards it, and past one that the left border of the images cuts
BESIDE = {f: pose(x=0.4 * f) for f in (-1, 0, 1)}
AHEAD = {f: pose(z=0.5 * f) for f in (-1, 0, 1)}
BORDER = {f: pose(x=3.7 + 0.5 * f) for f in (-1, 0, 1)}


def scene_of(move, poses=moving_box.T_WORLD_CAM, wall=moving_box.WALL):
    """tgt, src (1, 2, ...), K, T_src_tgt (1, 2, 4, 4), depth, mask and those (1, 2, H, W) of the
    sources.
    """
    views = {f: moving_box.view(f, move, poses, wall) for f in (-1, 0, 1)}
    T = torch.stack([torch.linalg.inv(poses[s][0]) @ poses[0][0] for s in (-1, 1)])[None]
    src = torch.stack([views[s][0][0] for s in (-1, 1)])[None]
    masks = torch.stack([views[s][2][0, 0] for s in (-1, 1)])[None]
    return views[0][0], src, camera(), T, views[0][1], views[0][2], masks


@pytest.fixture(scope="module")
def scene():
    return scene_of(moving_box.MOVE)


def warp(scene, depth):
    _, src, K, T, _, mask, masks = scene
    pixels = torch.stack([correspond(depth, T[:, s], K).pixels for s in (0, 1)], 1)
    warped = torch.stack([sample(src[:, s], pixels[:, s]) for s in (0, 1)], 1)
    seen = [
        sample(masks[:, s, None].double(), pixels[:, s].detach(), "zeros", "nearest")
        for s in (0, 1)
    ]
    ids = torch.cat([mask.double(), *seen], 1).long()
    return pixels, warped, ids


def matched_in(scene, depth, ids):
    return match_instances(ids, scene[6].long(), depth, scene[3], scene[2], GATE)


def error(scene, warped):
    tgt, mask = scene[0], scene[5]
    each = [photometric_error(w, tgt, 0.0) for w in warped.unbind(1)]
    return torch.minimum(*each)[mask].mean()


def test_hints_explain_a_moving_box_at_its_true_depth_with_either_gradient(scene):
    _, src, K, T, depth, *_ = scene
    pixels, warped, ids = warp(scene, depth)
    found = matched_in(scene, depth, ids)
    plan = lay_out(found, found.known, torch.tensor([0.5]))
    before = error(scene, warped)
    for painted in (paint(plan, warped), paint_by_grid(plan, src, pixels, warped, T, K)):
        assert error(scene, painted) < 0.4 * before


def test_the_gradient_lands_on_the_pixel_itself_or_half_a_step_away(scene):
    _, src, K, T, depth, mask, _ = scene
    depth = depth.clone().requires_grad_()
    pixels, warped, ids = warp(scene, depth)
    found = matched_in(scene, depth, ids)
    plan = lay_out(found, found.known, torch.tensor([0.5]))
    v, u = (int(x) for x in mask[0, 0].nonzero().float().mean(0))
    step = plan.shift[0, 0, 1].round().int().tolist()
    assert step != [0, 0]
    for painted, at in (
        (paint(plan, warped), (v - step[1], u - step[0])),
        (paint_by_grid(plan, src, pixels, warped, T, K), (v, u)),
    ):
        (gradient,) = torch.autograd.grad(painted[0, 0, :, v, u].sum(), depth, retain_graph=True)
        assert gradient[0, 0].nonzero().tolist() == [list(at)]


def test_a_parked_car_gets_no_hint_that_hides_a_wrong_depth(scene):
    """A standing box whose depth is wrong seems to move; across the camera's way it does move."""
    T, K = scene[3:1:-1]
    parked = scene_of(0 * moving_box.MOVE)
    for there, factor, stands in ((parked, 2.0, True), (parked, 0.6, True), (scene, 1.0, False)):
        depth = torch.where(there[5], there[4] * factor, there[4])
        _, _, ids = warp(there, depth)
        found = matched_in(there, depth, ids)
        assert found.delta[0, 1].norm() > 1
        assert bool(could_stand(found, T, K, tolerance=2.0)[0, 1]) is stands
        assert (lay_out(found, ~could_stand(found, T, K, 2.0), torch.ones(1) / 2) is None) is stands


def test_a_car_ahead_at_our_speed_does_not_pass_for_standing():
    """It would have to be infinitely far away."""
    lead = scene_of(torch.tensor([0.15, 0.0, 0.2], dtype=torch.float64))
    _, _, ids = warp(lead, lead[4])
    found = matched_in(lead, lead[4], ids)
    assert not could_stand(found, lead[3], lead[2], tolerance=1.25)[0, 1]


# -- where the box moves, at its true depth ------------------------------------------------------


def found_in(scene):
    """What is matched at the true depth."""
    return matched_in(scene, scene[4], warp(scene, scene[4])[2])


def truth(move, poses):
    """Pixels (2,) by which the middle of a box moves from A to B as the camera of tgt sees it."""
    at = []
    for frame in (-1, 1):
        point = torch.tensor([0, 0, moving_box.BOX], dtype=torch.float64) + frame * move
        seen = camera()[0] @ (point - poses[0][0, :3, 3])
        at.append(seen[:2] / seen[2])
    return at[1] - at[0]


@pytest.mark.parametrize("poses", [moving_box.T_WORLD_CAM, BESIDE, AHEAD, BORDER])
@pytest.mark.parametrize("wall", [10.0, 20.0])
def test_a_parked_box_does_not_move(poses, wall):
    """Although the wall behind looks it up beside where it is, there and then by its parallax."""
    there = scene_of(0 * moving_box.MOVE, poses, wall)
    found = found_in(there)
    assert found.known[0, 1] and found.delta[0, 1].abs().max() < 1
    assert could_stand(found, there[3], there[2], tolerance=1.25)[0, 1]


@pytest.mark.parametrize("move", [(0.4, 0, 0), (-0.4, 0, 0), (0.3, -0.1, 0), (-0.3, 0.1, 0)])
@pytest.mark.parametrize("poses", [BESIDE, AHEAD, BORDER])
def test_a_box_that_moves_across_moves_as_far_as_it_does(move, poses):
    move = torch.tensor(move, dtype=torch.float64)
    there = scene_of(move, poses, wall=20.0)
    found = found_in(there)
    assert (found.delta[0, 1] - truth(move, poses)).abs().max() < 1
    assert not could_stand(found, there[3], there[2], tolerance=1.25)[0, 1]


@pytest.mark.parametrize("poses", [moving_box.T_WORLD_CAM, AHEAD])
def test_a_box_that_comes_nearer_on_the_axis_does_not_move_across(poses):
    """Its sides do, apart."""
    found = found_in(scene_of(torch.tensor([0, 0, -0.6], dtype=torch.float64), poses))
    assert found.delta[0, 1].abs().max() < 1


def test_of_a_box_that_the_images_cut_on_both_sides_nothing_says_that_it_moves():
    there = scene_of(0 * moving_box.MOVE, BESIDE)
    wide = torch.zeros(1, 3, *there[4].shape[2:], dtype=torch.long)
    wide[:, :, 20:40] = 1
    found = match_instances(wide, wide[:, 1:], there[4], there[3], there[2], GATE)
    assert found.delta[0, 1].tolist() == pytest.approx([0, 0], abs=1e-4)


def test_a_box_whose_plane_a_camera_has_passed_is_not_compared(scene):
    _, _, K, T, depth, *_ = scene
    ids = warp(scene, depth)[2]
    T = T.clone()
    T[:, 1, 2, 3] = -moving_box.BOX - 1
    found = match_instances(ids, scene[6].long(), depth, T, K, GATE)
    assert not found.known.any() and found.delta.eq(0).all()


def test_names_that_only_a_source_knows_do_no_harm(scene):
    ids, sources = warp(scene, scene[4])[2], scene[6].long()
    other = sources.clone()
    other[0, 1, :2, :2] = 7  # out of what tgt sees
    given = scene[4], scene[3], scene[2], GATE
    found, more = match_instances(ids, sources, *given), match_instances(ids, other, *given)
    assert torch.equal(found.delta[:, :2], more.delta[:, :2]) and not more.known[:, 2:].any()


def painted_in(scene):
    """Errors (1, 2, H, W) of the sources that are painted and of those that are not, both images
    (1, 2, 3, H, W), and the ids.
    """
    tgt, src, K, T, depth, *_ = scene
    pixels, warped, ids = warp(scene, depth)
    found = matched_in(scene, depth, ids)
    plan = lay_out(found, found.known, torch.tensor([0.5]))
    painted = paint_by_grid(plan, src, pixels, warped, T, K)
    errors = [
        torch.cat([photometric_error(x, tgt, 0.0) for x in images.unbind(1)], 1)
        for images in (painted, warped)
    ]
    return *errors, painted, warped, ids


@pytest.mark.parametrize("x", [0.4, -0.4])
@pytest.mark.parametrize("poses", [BESIDE, AHEAD, BORDER])
def test_hints_explain_the_pixels_of_a_moving_box_at_its_true_depth(x, poses):
    there = scene_of(torch.tensor([x, 0, 0], dtype=torch.float64), poses, wall=20.0)
    hinted, plain, *_ = painted_in(there)
    mask = there[5][:, 0]
    assert (hinted.amin(1) < plain.amin(1))[mask].float().mean() >= 0.9
    if poses is not BORDER:  # each source shows the whole box, up to its front
        for s in (0, 1):
            assert (hinted[:, s] < plain[:, s])[mask].float().mean() >= 0.9


def test_nobody_is_painted_beside_the_box():
    """Where the wall looks the box up once more, only what one source hides is filled."""
    there = scene_of(torch.tensor([-0.4, 0, 0], dtype=torch.float64), BESIDE, wall=20.0)
    *_, painted, warped, ids = painted_in(there)
    beside = ~there[5][0, 0]
    for s in (0, 1):
        fill = (ids[0, 1 + s] > 0) & (ids[0, 2 - s] == 0)
        wanted = torch.where(fill, warped[0, 1 - s], warped[0, s])
        assert (fill & beside).any() and torch.equal(painted[0, s][:, beside], wanted[:, beside])
