"""Cameras: intrinsics follow the image, projection inverts back-projection, lenses are OpenCV's."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import camera

from dyndepth_core.geometry.camera import (
    backproject,
    check_K,
    crop_K,
    distort,
    flip_K,
    inverse_K,
    pixel_grid,
    project,
    rays,
    resize_K,
)

K = np.array([[500.0, 0, 300.5], [0, 480.0, 200.25], [0, 0, 1]])
COEFFS = {
    "plumb_bob": [-0.31, 0.11, 0.0013, -0.0021, -0.02],
    "rational_polynomial": [0.42, -0.11, 0.0011, -0.0007, 0.004, 0.79, -0.05, 0.012],
    "equidistant": [-0.013, 0.021, -0.007, 0.0012],
}


def pixel(K, point):
    return (K @ point)[:2] / point[2]


# -- K follows the image -------------------------------------------------------------------------


SCALE = st.floats(0.1, 4)


@given(sx=SCALE, sy=SCALE, u=st.floats(0, 599), v=st.floats(0, 399), z=st.floats(0.1, 80))
@settings(max_examples=50, deadline=None)
def test_a_point_moves_with_a_resized_image(sx, sy, u, v, z):
    """Image edges at -0.5 stay edges: the pixel (u, v) is found at ((u + 0.5) s - 0.5)."""
    point = z * np.linalg.inv(K) @ (u, v, 1)
    expected = (u + 0.5) * sx - 0.5, (v + 0.5) * sy - 0.5
    np.testing.assert_allclose(pixel(resize_K(K, sx, sy), point), expected, atol=1e-8)


def test_a_point_moves_with_a_cropped_and_a_flipped_image():
    point = 7 * np.linalg.inv(K) @ (123.0, 45.0, 1)
    np.testing.assert_allclose(pixel(crop_K(K, 20, 10), point), (103, 35))
    mirrored = point * (-1, 1, 1)
    np.testing.assert_allclose(pixel(flip_K(K, 600), mirrored), (599 - 123, 45))
    np.testing.assert_allclose(flip_K(flip_K(K, 600), 600), K)


def test_resize_puts_image_content_where_K_says():
    """cv2's own resize as the judge: the centroid of a blob lands where the rule of K puts it."""
    v, u = np.mgrid[:120, :180].astype(np.float64)
    blob = np.exp(-((u - 61.3) ** 2 + (v - 47.8) ** 2) / 50)
    small = cv2.resize(blob, (90, 40), interpolation=cv2.INTER_AREA)
    rows, cols = np.mgrid[:40, :90]
    found = (small * cols).sum() / small.sum(), (small * rows).sum() / small.sum()
    np.testing.assert_allclose(found, ((61.3 + 0.5) / 2 - 0.5, (47.8 + 0.5) / 3 - 0.5), atol=0.02)


def test_K_functions_leave_their_input_alone_and_take_tensors():
    before = K.copy()
    for change, *arguments in ((resize_K, 0.5, 0.25), (crop_K, 3, 4), (flip_K, 9)):
        batch = torch.from_numpy(K).repeat(2, 1, 1)
        np.testing.assert_array_equal(change(batch, *arguments)[1], change(K, *arguments))
        np.testing.assert_array_equal(batch[0], K)
    np.testing.assert_array_equal(K, before)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (np.eye(4), "3x3"),
        (np.diag([np.nan, 1, 1]), "NaN"),
        (np.diag([0.0, 1, 1]), "positive"),
        (np.diag([5.0, -5, 1]), "positive"),
        (np.diag([5.0, 5, 2]), "last row"),
    ],
)
def test_bad_intrinsics_are_refused_by_name(bad, word):
    with pytest.raises(ValueError, match=f"camera 7.*{word}"):
        check_K(bad, "camera 7")


# -- projection ----------------------------------------------------------------------------------


def test_inverse_K_is_the_inverse_also_with_skew():
    skewed = camera(batch=2)
    skewed[1, 0, 1] = 3.5
    eye = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    torch.testing.assert_close(inverse_K(skewed) @ skewed, eye)


def test_rays_have_unit_depth_and_the_principal_ray_is_the_axis():
    whole = camera()
    whole[0, :2, 2] = torch.tensor([40.0, 20.0], dtype=torch.float64)
    found = rays(whole, 64, 96)
    assert (found[:, 2] == 1).all()
    torch.testing.assert_close(found[0, :, 20, 40], torch.tensor([0.0, 0, 1], dtype=torch.float64))


def test_projection_inverts_backprojection():
    depth = torch.rand(2, 1, 6, 9, dtype=torch.float64) * 50 + 0.1
    pixels, z = project(backproject(depth, camera(batch=2)), camera(batch=2))
    torch.testing.assert_close(z, depth)
    torch.testing.assert_close(pixels, pixel_grid(6, 9, dtype=torch.float64)[:2].expand(2, 2, 6, 9))


def test_points_behind_the_camera_stay_finite_and_unmirrored():
    points = torch.tensor([1.0, 1.0, -5.0, 0.5, 0.5, 0.0]).view(2, 3, 1, 1).requires_grad_()
    pixels, z = project(points, camera(batch=2).float())
    assert torch.isfinite(pixels).all() and z.flatten().tolist() == [-5, 0]
    assert pixels[1, 0, 0, 0] > 1000  # to the right of the axis, not mirrored to the left
    pixels.sum().backward()
    assert torch.isfinite(points.grad).all()


def test_gradients_of_projection():
    torch.manual_seed(0)
    depth = (torch.rand(1, 1, 2, 3, dtype=torch.float64) + 1).requires_grad_()
    matrix = camera(focal=5.0, size=(2, 3)).requires_grad_()
    assert torch.autograd.gradcheck(backproject, (depth, matrix))
    points = (torch.rand(1, 3, 2, 3, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(project, (points, matrix))


# -- lenses --------------------------------------------------------------------------------------


def normalised(limit, count=40):
    return np.random.default_rng(0).uniform(-limit, limit, (2, count))


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial"])
@pytest.mark.parametrize("coeffs", ["plumb_bob", "rational_polynomial"])
def test_brown_conrady_is_that_of_opencv(model, coeffs):
    """ROS hands D to OpenCV whatever the model is called; drivers call eight numbers plumb_bob."""
    x, y = normalised(0.5)
    points = np.stack((x, y, np.ones_like(x)), -1)
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(COEFFS[coeffs]))
    xd, yd = distort(torch.from_numpy(x), torch.from_numpy(y), model, COEFFS[coeffs])
    found = np.stack((xd * 500 + 300.5, yd * 480 + 200.25), -1)
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-8)


def test_equidistant_is_that_of_opencv():
    x, y = normalised(2.5)  # up to 68 degrees off the axis
    coeffs = np.array(COEFFS["equidistant"])
    expected = cv2.fisheye.distortPoints(np.stack((x, y), -1)[None], K, coeffs)
    xd, yd = distort(torch.from_numpy(x), torch.from_numpy(y), "equidistant", COEFFS["equidistant"])
    found = np.stack((xd * 500 + 300.5, yd * 480 + 200.25), -1)
    np.testing.assert_allclose(found, expected[0], atol=1e-8)


@pytest.mark.parametrize("model", COEFFS)
def test_a_lens_without_coefficients_bends_nothing(model):
    x = torch.zeros(1)
    assert [float(v) for v in distort(x, x, model, [])] == [0, 0]
    if model != "equidistant":  # an ideal equidistant lens is no pinhole
        x, y = torch.from_numpy(normalised(1.0))
        for found, expected in zip(distort(x, y, model, [0.0] * 5), (x, y), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("model", COEFFS)
def test_gradients_of_the_lens_also_on_the_axis(model):
    x = torch.tensor([0.0, 0.2, -0.4], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.0, -0.1, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: distort(a, b, model, COEFFS[model]), (x, y))


def test_unknown_lenses_and_superfluous_coefficients_are_refused():
    x = torch.zeros(1)
    with pytest.raises(ValueError, match="pillow.*plumb_bob"):
        distort(x, x, "pillow", [])
    with pytest.raises(ValueError, match="equidistant.*at most 4"):
        distort(x, x, "equidistant", [0.1] * 5)
    with pytest.raises(ValueError, match="rational_polynomial.*at most 8"):
        distort(x, x, "rational_polynomial", [0.1] * 12)
    distort(x, x, "rational_polynomial", [0.1] * 8 + [0.0] * 6)  # OpenCV's 14 with the tail unused
