"""Inverse warp and forward splat: where pixels go, and that they come back."""

import pytest
import torch
from scenes import camera, drive, pose, render

from dyndepth_core.geometry.se3 import exp_so3, invert_T, make_T
from dyndepth_core.geometry.warp import (
    correspond,
    forward_splat,
    identity_pixels,
    inverse_warp,
    sample,
)

EYE = pose()


def plane(depth, size=(16, 24)):
    return torch.full((1, 1, *size), depth, dtype=torch.float64)


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 5), (192, 640)])
def test_the_identity_warp_is_exact(size):
    torch.manual_seed(0)
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    depth = torch.rand(2, 1, *size, dtype=torch.float64) * 80 + 0.5
    out, found = inverse_warp(image, depth, EYE.expand(2, 4, 4), camera(0.9 * size[1], size, 2))
    torch.testing.assert_close(out, image, atol=1e-10, rtol=0)
    assert found.valid.all()
    torch.testing.assert_close(found.z_src, depth)


@pytest.mark.parametrize("size", [(64, 96), (128, 416), (480, 640)])
def test_the_identity_warp_is_exact_to_rounding_in_float32(size):
    """A ten-thousandth of a pixel at most, and no pixel of the border is called invalid."""
    torch.manual_seed(0)
    image, depth = torch.rand(1, 3, *size), torch.rand(1, 1, *size) * 80 + 0.5
    out, found = inverse_warp(image, depth, EYE.float(), camera(0.9 * size[1], size).float())
    offset = found.pixels - identity_pixels(1, *size, like=found.pixels)
    assert found.valid.all()
    assert offset.abs().max() < 2e-7 * size[1] * 2
    assert (out - image).abs().max() < 4e-7 * size[1] * 2


def test_pixels_are_sampled_at_their_centres():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    pixels = torch.tensor([[2.0, 1.0], [0.5, 0.0], [-7.0, 2.0], [3.0, 9.0]]).T.view(1, 2, 1, 4)
    assert sample(image, pixels).flatten().tolist() == pytest.approx([6, 0.5, 8, 11])
    assert sample(image, pixels, "zeros").flatten().tolist() == pytest.approx([6, 0.5, 0, 0])


@pytest.mark.parametrize(("t", "z"), [(0.5, 10.0), (-1.2, 7.0)])
def test_a_plane_shifts_by_focal_times_baseline_over_depth(t, z):
    """src stands t metres to the right, so the world moves f t / z pixels to the left."""
    T_src_tgt = pose(x=-t)
    found = correspond(plane(z), T_src_tgt, camera(70.0, (16, 24)))
    shift = found.pixels - identity_pixels(1, 16, 24, like=found.pixels)
    torch.testing.assert_close(shift[:, 0], torch.full_like(shift[:, 0], -70.0 * t / z))
    torch.testing.assert_close(shift[:, 1], torch.zeros_like(shift[:, 1]))
    columns = torch.arange(24) - 70.0 * t / z
    inside = (columns >= 0) & (columns <= 23)
    assert (found.valid[0, 0] == inside).all()


def test_the_residual_is_added_after_ego_motion_in_the_frame_of_src():
    """An object drives along the x axis of src; the camera turns too, so that the order counts."""
    T = pose(z=-0.5, yaw=0.3)
    residual = torch.zeros(1, 3, 16, 24, dtype=torch.float64)
    residual[:, 0, :, 12:] = 1.0
    K = camera(20.0, (16, 24))
    still, moved = correspond(plane(8.0), T, K), correspond(plane(8.0), T, K, residual)
    torch.testing.assert_close(moved.z_src, still.z_src)
    expected = 20.0 / still.z_src[..., 12:]
    torch.testing.assert_close((moved.pixels - still.pixels)[:, :1, :, 12:], expected)
    assert (moved.pixels == still.pixels)[..., :12].all()


def test_src_may_be_another_camera():
    K, K_src = camera(70.0), camera(140.0)
    a, b = correspond(plane(5.0), EYE, K, K_src=K_src).pixels, identity_pixels(1, 16, 24, like=K)
    torch.testing.assert_close(a - K_src[:, :2, 2:, None], 2 * (b - K[:, :2, 2:, None]))


def test_what_leaves_the_image_or_passes_behind_is_invalid():
    K = camera(70.0, (16, 24))
    assert not correspond(plane(2.0), pose(z=-3.0), K).valid.any()
    assert not correspond(plane(2.0), pose(x=100.0), K).valid.any()
    image = torch.rand(1, 3, 16, 24, dtype=torch.float64)
    out, _ = inverse_warp(image, plane(2.0), pose(z=-3.0), K)
    assert torch.isfinite(out).all()
    # the one point behind the camera that projects into the image: on the axis, seen in a corner
    K[:, :2, 2] = 0
    found = correspond(plane(2.0), pose(z=-3.0), K)
    assert found.pixels[0, :, 0, 0].abs().max() == 0 and not found.valid.any()
    assert forward_splat(image, found)[1].isinf().all()


def test_warping_a_rendered_world_rebuilds_the_other_view():
    K, poses = camera(), drive(4)
    for tgt, src in ((poses[1], poses[0]), (poses[1], poses[2]), (poses[3], poses[2])):
        (image, depth), (other, other_depth) = render(tgt, K), render(src, K)
        out, found = inverse_warp(other, depth, invert_T(src) @ tgt, K)
        seen = found.valid & ((sample(other_depth, found.pixels) - found.z_src).abs() < 0.05)
        error = (out - image).abs().mean(1, keepdim=True)[seen]
        unwarped = (other - image).abs().mean()
        assert seen.double().mean() > 0.7
        assert error.mean() < 0.03 * unwarped


def test_gradcheck_of_the_warp():
    torch.manual_seed(1)
    K = camera(6.0, (4, 5)).requires_grad_()
    image = torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    depth = (3 + torch.rand(1, 1, 4, 5, dtype=torch.float64)).requires_grad_()
    twist = torch.tensor([[0.02, -0.03, 0.05, 0.11, -0.07, 0.13]]).double().requires_grad_()
    residual = (0.1 * torch.randn(1, 3, 4, 5, dtype=torch.float64)).requires_grad_()

    def places(depth, twist, K, residual):
        T = make_T(exp_so3(twist[:, :3]), twist[:, 3:])
        found = correspond(depth, T, K, residual)
        return found.pixels, found.z_src

    def warp(image, depth, twist, K, residual):
        T = make_T(exp_so3(twist[:, :3]), twist[:, 3:])
        return inverse_warp(image, depth, T, K, residual)[0]

    assert torch.autograd.gradcheck(places, (depth, twist, K, residual))
    assert torch.autograd.gradcheck(warp, (image, depth, twist, K, residual))


# -- forward splat --------------------------------------------------------------------------------


def test_in_a_splat_the_nearest_surface_wins_and_holes_stay_empty():
    """The right half at 2 m moves 6 px to the left over the left half at 12 m, which moves 1 px."""
    depth = plane(12.0)
    depth[..., 12:] = 2.0
    values = depth.clone()
    found = correspond(depth, pose(x=-1.0), camera(12.0, (16, 24)))
    out, z = forward_splat(values, found)
    expected = torch.tensor([12.0] * 6 + [2.0] * 12 + [float("inf")] * 6).double()
    torch.testing.assert_close(z[0, 0], expected.expand(16, 24))
    assert torch.equal(out.isnan(), z.isinf())
    assert torch.equal(out[~z.isinf()], z[~z.isinf()])
    out, _ = forward_splat(values, found, fill=-1.0)
    assert (out[..., 18:] == -1).all()


def test_a_splat_drops_what_is_behind_or_outside():
    values = torch.ones(1, 2, 16, 24, dtype=torch.float64)
    for T in (pose(z=-20.0), pose(x=1e6), pose(x=-1e6), pose(y=1e6)):
        out, z = forward_splat(values, correspond(plane(5.0), T, camera(70.0, (16, 24))))
        assert out.isnan().all() and z.isinf().all()


def test_each_image_of_a_batch_is_splatted_into_itself():
    depth = torch.cat((plane(5.0), plane(7.0)))
    values = torch.cat((plane(1.0), plane(2.0))).expand(2, 3, 16, 24)
    K = camera(70.0, (16, 24), batch=2)
    out, z = forward_splat(values, correspond(depth, EYE.expand(2, 4, 4), K))
    torch.testing.assert_close(out, values)
    torch.testing.assert_close(z, depth)


def test_splatting_forward_and_warping_back_agree():
    """Depth of tgt pushed into src is src's own depth, except where tgt saw nothing."""
    K, (tgt, src) = camera(), drive(2)
    (image, depth), (_, other_depth) = render(tgt, K), render(src, K)
    found = correspond(depth, invert_T(src) @ tgt, K)
    colours, z = forward_splat(image, found)
    hit = ~z.isinf()
    close = ((z - other_depth).abs() < 0.03 * other_depth)[hit]
    assert hit.double().mean() > 0.8 and close.double().mean() > 0.97
    back = sample(torch.nan_to_num(colours), found.pixels, mode="nearest")
    inside = found.valid & (sample(z.nan_to_num(posinf=0), found.pixels) > found.z_src - 0.05)
    assert (back - image).abs().mean(1, keepdim=True)[inside].mean() < 0.02


def test_gradients_of_a_splat_reach_its_values():
    values = torch.rand(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    found = correspond(plane(5.0, (3, 4)), pose(x=-1.0), camera(5.0, (3, 4)))
    assert torch.autograd.gradcheck(lambda v: forward_splat(v, found, fill=0.0)[0], (values,))


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_a_grid_of_nan_gives_nan_and_no_crash(padding):
    """torch's CPU gradient of grid_sample reads beyond its memory there: the process would end."""
    image = torch.rand(1, 3, 64, 96, requires_grad=True)
    pixels = torch.rand(1, 2, 64, 96) * 60
    pixels[..., :32, :] = torch.nan
    pixels.requires_grad_()
    found = sample(image, pixels, padding)
    assert found[..., :32, :].isnan().all() and found[..., 32:, :].isfinite().all()
    found.sum().backward()
    assert pixels.grad[..., 32:, :].isfinite().all()
