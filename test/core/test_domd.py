"""Moving objects re-rendered as static: the cost volume then finds their depth."""

import moving_box
import torch
import torch.nn.functional as F
from scenes import camera

from dyndepth_core.methods.dynamic_depth.domd import domd
from dyndepth_core.networks.cost_volume import depth_planes, plane_sweep

MOVE = moving_box.MOVE


def both(move=MOVE, source=-1):
    """tgt and a source, each (image, depth, box), T_src_tgt and the source with a standing box."""
    poses = moving_box.T_WORLD_CAM
    T = torch.linalg.inv(poses[source]) @ poses[0]
    tgt, src = moving_box.view(0, move), moving_box.view(source, move)
    return tgt, src, T, moving_box.view(source, 0 * move)


def rendered(move=MOVE, source=-1, depth=1.0):
    tgt, src, T, _ = both(move, source)
    return domd(tgt[0], tgt[2], src[0], src[2], tgt[1] * depth, T, camera())


def test_the_box_is_put_where_it_would_be_had_it_stood():
    for source in (-1, 1):
        standing = both(source=source)[3]
        found, valid = rendered(source=source)
        box, there = standing[2], valid.expand_as(found)
        assert (valid & box).sum() > 0.97 * box.sum()
        inner = box & valid  # its rim is where z-buffers round
        assert (found - standing[0]).abs().mean(1, keepdim=True)[inner].mean() < 0.02
        assert (found - standing[0]).abs()[there].mean() < 0.01


def test_what_the_moved_box_hid_is_unknown_and_nothing_else():
    """And it says so itself: black would be a colour like any other."""
    _, src, _, standing = both()
    _, valid = rendered()
    hidden = src[2] & ~standing[2]
    assert not valid[hidden].float().mean() > 0.1 and valid[~src[2]].all()
    assert (~valid).sum() > 20


def test_without_objects_the_source_stays_as_it_is():
    tgt, src, T, _ = both()
    none = torch.zeros_like(tgt[2])
    found, valid = domd(tgt[0], none, src[0], none, tgt[1], T, camera())
    assert torch.equal(found, src[0]) and valid.all()


def test_a_nearer_surface_hides_the_box_there_as_well():
    """A pole before the box, of the static scene, stays before it."""
    tgt, src, T, _ = both()
    depth = tgt[1].clone()
    pole = torch.zeros_like(tgt[2])
    pole[..., 44:47] = True
    depth[pole] = 3.0
    found, valid = domd(tgt[0], tgt[2] & ~pole, src[0], src[2], depth, T, camera())
    without, _ = domd(tgt[0], tgt[2], src[0], src[2], tgt[1], T, camera())
    changed = ((found - without).abs().sum(1) > 1e-9)[0]
    assert changed.any() and 2 <= changed.any(0).sum() <= 8


def test_a_box_that_comes_nearer_has_no_holes():
    tgt, _, _, _ = both()
    T = torch.eye(4, dtype=torch.float64)[None].clone()
    T[0, 2, 3] = -2.0  # the source is two metres nearer
    black, none = torch.zeros_like(tgt[0]), torch.zeros_like(tgt[2])
    found, _ = domd(tgt[0] + 1, tgt[2], black, none, tgt[1], T, camera())
    seen = (found.sum(1) > 0)[0]
    rows, cols = seen.nonzero().T
    box = seen[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    assert box.all() and seen.sum() > 2 * tgt[2].sum()


# -- the cost volume on the box --------------------------------------------------------------------


def patches(image):
    """Features (B, 75, H, W): a pixel alone looks like too many others."""
    return F.unfold(image, 5, padding=2).unflatten(2, image.shape[-2:]).float()


def matched(tgt, src, T, valid=None):
    """Depth of the plane that matches best, at the pixels well inside the box."""
    planes = depth_planes(torch.tensor([2.0]), torch.tensor([40.0]), 64, inverse=True)
    volume = plane_sweep(
        patches(tgt[0]), patches(src)[:, None], T[:, None], camera(), planes,
        valid_src=None if valid is None else valid[:, None],
    )  # fmt: skip
    inner = F.max_pool2d((~tgt[2]).float(), 7, 1, 3) == 0
    return volume.best_depth()[inner & volume.seen.all(1, keepdim=True)], volume


def test_the_argmin_on_a_moving_box_is_wrong_without_disentanglement_and_right_with_it():
    for source in (-1, 1):
        tgt, src, T, _ = both(source=source)
        found, valid = domd(tgt[0], tgt[2], src[0], src[2], tgt[1], T, camera())
        plain, _ = matched(tgt, src[0], T)
        apart, _ = matched(tgt, found, T, valid)
        assert len(plain) > 100 and len(apart) > 100
        error = [(d / moving_box.BOX - 1).abs().median() for d in (plain, apart)]
        assert error[0] > 0.5 and error[1] < 0.1


def test_nothing_is_matched_with_a_hole():
    """Planes whose pixels fall into it are not seen, so that they are not the best by chance."""
    tgt, src, T, _ = both()
    found, valid = domd(tgt[0], tgt[2], src[0], src[2], tgt[1], T, camera())
    _, volume = matched(tgt, found, T, valid)
    _, careless = matched(tgt, found, T)
    assert (volume.seen <= careless.seen).all() and (volume.seen < careless.seen).any()
