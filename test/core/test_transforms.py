"""Image transforms: K stays true to the image content; nothing is stretched, all frames alike."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyndepth_core.data.transforms import (
    MAX_SIDE_CROP,
    ColourJitter,
    flip_horizontal,
    plan_fit,
    whole_size,
    zoom_crop,
)

SIZES = [(128, 416), (64, 96), (192, 640), (96, 320)]
CAMERAS = [
    (1080, 1920), (720, 1280), (480, 640), (376, 1241), (375, 1242), (1216, 1936), (64, 96),
    (48, 1000), (1000, 64), (33, 47), (2, 900), (128, 416), (256, 832), (257, 833), (1200, 1920),
]  # fmt: skip


def make_K(rows, cols, cx=0.5, cy=0.5):
    centre = cx * cols - 0.5, cy * rows - 0.5
    return np.array([[0.8 * cols, 0, centre[0]], [0, 0.85 * cols, centre[1]], [0, 0, 1]])


def blob(rows, cols, u, v, sigma):
    y, x = np.mgrid[:rows, :cols].astype(np.float32)
    return np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2))


def centroid(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(image * x).sum(), (image * y).sum()]) / image.sum()


def pixel(K, point):
    return (K @ point)[:2] / point[2]


# -- plan_fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", SIZES)
@pytest.mark.parametrize("camera", CAMERAS)
def test_every_camera_fills_the_input_without_stretching(camera, out):
    fit = plan_fit(camera, out, make_K(*camera))
    (top, left, height, width), (above, before) = fit.crop, fit.pad
    assert 0 <= top <= camera[0] - height and 0 <= left <= camera[1] - width
    assert above >= 0 and before == 0
    image = np.zeros((*camera, 3), np.uint8)
    assert fit.image(image).shape == (*out, 3)
    rows, cols = fit.valid
    assert (rows.stop - rows.start, cols.stop - cols.start) == fit.resized
    assert rows.stop <= out[0] and cols.stop <= out[1]
    # the aspect is kept to the rounding of whole pixels, of pairs where the image is halved first
    scale_x, scale_y = fit.scale
    slack = 2.01 / min(height, width) + 1.01 / min(fit.resized)
    assert abs(scale_x / scale_y - 1) <= slack


@given(
    rows=st.integers(1, 2000), cols=st.integers(1, 2000), out=st.sampled_from(SIZES),
    cx=st.floats(-0.2, 1.2), cy=st.floats(-0.2, 1.2),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_K_of_a_fit_can_be_taken_back_and_follows_every_point(rows, cols, out, cx, cy):
    K = make_K(rows, cols, cx, cy)
    fit = plan_fit((rows, cols), out, K)
    top, left, height, width = fit.crop
    assert 0 <= top <= rows - height and 0 <= left <= cols - width
    np.testing.assert_allclose(fit.inverse_K(fit.K(K)), K, atol=1e-8)
    # the corners of the crop are the corners of what is valid
    valid_rows, valid_cols = fit.valid
    corners = {
        (left - 0.5, top - 0.5): (valid_cols.start - 0.5, valid_rows.start - 0.5),
        (left + width - 0.5, top + height - 0.5): (valid_cols.stop - 0.5, valid_rows.stop - 0.5),
    }
    for before, after in corners.items():
        point = np.linalg.inv(K) @ (*before, 1)
        np.testing.assert_allclose(pixel(fit.K(K), point), after, atol=1e-6)


@given(
    rows=st.integers(150, 700), cols=st.integers(150, 700), out=st.sampled_from(SIZES[1:3]),
    x=st.floats(0.25, 0.75), y=st.floats(0.4, 0.6),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_a_point_is_seen_where_K_says(rows, cols, out, x, y):
    """A blob painted where a 3-D point projects is found where the fitted K projects it."""
    K = make_K(rows, cols)
    fit = plan_fit((rows, cols), out, K)
    point = np.linalg.inv(K) @ (x * cols, y * rows, 1)
    scale = min(fit.scale)
    image = fit.image(blob(rows, cols, *pixel(K, point), sigma=max(2.0, 1.5 / scale)))
    expected = pixel(fit.K(K), point)
    margin = 5 * max(2.0 * scale, 1.5) + 1
    near = (expected > margin - 0.5) & (expected < np.array(out[::-1]) - margin)
    if near.all():
        np.testing.assert_allclose(centroid(image), expected, atol=0.06)


def test_rows_are_cropped_around_the_principal_point():
    """A camera that looks down has its horizon, not its centre, in the middle of what is kept."""
    for cy in (0.3, 0.5, 0.6):
        K = make_K(720, 1280, cy=cy)
        fit = plan_fit((720, 1280), (128, 416), K)
        assert abs(fit.K(K)[1, 2] - (128 - 1) / 2) < 1
    K = make_K(720, 1280, cy=0.95)
    lowest = plan_fit((720, 1280), (128, 416), K).crop
    assert lowest[0] + lowest[2] == 720
    centre = plan_fit((720, 1280), (128, 416)).crop
    assert abs(centre[0] + centre[2] / 2 - 360) <= 1


def test_a_slightly_wider_image_loses_columns_a_much_wider_one_gains_rows():
    slightly = plan_fit((375, 1242), (128, 416), make_K(375, 1242))
    assert slightly.crop[3] >= (1 - MAX_SIDE_CROP) * 1242 and slightly.pad == (0, 0)
    image = np.full((100, 1000, 3), 90, np.uint8)
    image[0], image[-1] = 10, 200
    much = plan_fit((100, 1000), (128, 416), make_K(100, 1000))
    out, (rows, cols) = much.image(image), much.valid
    assert much.crop == (0, 0, 100, 1000) and cols == slice(0, 416)
    assert rows.stop - rows.start == round(100 * 416 / 1000)
    assert abs(rows.start - (128 - rows.stop)) <= 1
    assert (out[: rows.start] == out[rows.start]).all()
    assert (out[rows.stop :] == out[rows.stop - 1]).all()


def test_what_the_network_does_not_see_is_said():
    """960x540 into 128x416: 295 of 540 rows."""
    text = plan_fit((540, 960), (128, 416)).lost
    assert "sees 55% of images of 960x540" in text and "rows 122 to 417" in text
    assert plan_fit((376, 1241), (128, 416)).lost == ""


@pytest.mark.parametrize(
    ("image", "size"),
    [((540, 960), (160, 288)), ((480, 640), (192, 256)), ((1216, 1936), (192, 320))],
)
def test_a_size_that_sees_the_whole_image(image, size):
    assert whole_size(image, (128, 416)) == size and plan_fit(image, size).lost == ""


def test_equal_sizes_change_nothing():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    fit = plan_fit((64, 96), (64, 96), make_K(64, 96, 0.4, 0.7))
    np.testing.assert_array_equal(fit.image(image), image)
    np.testing.assert_array_equal(fit.K(make_K(64, 96)), make_K(64, 96))


def test_small_images_are_enlarged_smoothly_and_large_ones_averaged():
    dots = np.zeros((512, 768), np.float32)
    dots[::8, ::8] = 64.0
    small = plan_fit((512, 768), (64, 96)).image(dots)
    np.testing.assert_allclose(small, 1.0)
    ramp = np.tile(np.arange(48, dtype=np.float32), (32, 1))
    large = plan_fit((32, 48), (64, 96)).image(ramp)
    np.testing.assert_allclose(np.diff(large[0])[1:-1], 0.5)


def test_halving_first_changes_no_more_than_a_grey_level():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (720, 1280, 3), np.uint8), (0, 0), 3)
    fit = plan_fit((720, 1280), (128, 416), make_K(720, 1280))
    top, left, height, width = fit.crop
    crop = image[top : top + height, left : left + width]
    plain = cv2.resize(crop, (416, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(fit.image(image).astype(int) - plain).max() <= 3
    assert np.abs(fit.image(image).astype(float) - plain).mean() < 0.6


def test_a_single_pixel_fills_the_whole_input():
    assert (plan_fit((1, 1), (64, 96)).image(np.full((1, 1, 3), 7, np.uint8)) == 7).all()


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match="zero"):
        plan_fit((0, 640), (64, 96))
    with pytest.raises(ValueError, match="planned for"):
        plan_fit((480, 640), (64, 96)).image(np.zeros((640, 480, 3), np.uint8))


# -- augmentation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zoom", "x", "y"), [(1.0, 0, 0), (1.25, 0, 1), (1.3, 0.5, 0.3), (2.0, 0.6, 0.5)]
)
def test_zooming_moves_the_content_with_K(zoom, x, y):
    K = make_K(128, 192, 0.48, 0.55)
    shown = pixel(K, np.array([0.03, -0.02, 1.0]))
    images = [blob(128, 192, *shown, sigma=4), blob(128, 192, 96, 64, sigma=6)]
    (out, other), zoomed = zoom_crop(images, K, zoom, x, y)
    assert out.shape == other.shape == (128, 192)
    np.testing.assert_allclose(zoomed[0, 0] / K[0, 0], zoom, rtol=0.02)
    np.testing.assert_allclose(centroid(out), pixel(zoomed, np.array([0.03, -0.02, 1.0])), atol=0.1)


def test_flipping_mirrors_the_image_and_its_principal_point():
    K = make_K(64, 96, 0.4, 0.6)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (out,), flipped = flip_horizontal([image], K)
    np.testing.assert_array_equal(out[:, ::-1], image)
    assert out.flags["C_CONTIGUOUS"]
    u, v = pixel(K, np.array([0.2, 0.1, 1]))
    np.testing.assert_allclose(pixel(flipped, np.array([-0.2, 0.1, 1])), (95 - u, v))


def picture():
    return np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)


def test_no_jitter_changes_nothing_but_the_rounding_of_hsv():
    assert np.abs(ColourJitter()(picture()).astype(int) - picture()).max() <= 6


def test_brightness_contrast_and_grey_by_hand():
    image = np.full((2, 2, 3), 100, np.uint8)
    assert (ColourJitter(brightness=1.2)(image) == 120).all()
    assert (ColourJitter(contrast=0.8)(image) == int((100 - 127.5) * 0.8 + 127.5)).all()
    assert (ColourJitter(brightness=4.0)(image) == 255).all()
    luma = cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(ColourJitter(grey=True)(picture()), np.dstack([luma] * 3))


def test_hue_turns_and_saturation_fades():
    red = np.zeros((1, 1, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    assert ColourJitter(hue=1 / 3)(red).ravel().tolist() == [0, 200, 0]
    assert ColourJitter(hue=-1 / 3)(red).ravel().tolist() == [0, 0, 200]
    assert ColourJitter(saturation=0.0)(red).ravel().tolist() == [200, 200, 200]


def test_draws_stay_in_their_range_and_differ():
    rng = np.random.default_rng(0)
    draws = [ColourJitter.draw(rng, 0.2, 0.1, 0.25) for _ in range(400)]
    for name in ("brightness", "contrast", "saturation"):
        values = np.array([getattr(d, name) for d in draws])
        assert values.min() >= 0.8 and values.max() <= 1.2 and values.std() > 0.1
    hues = np.array([d.hue for d in draws])
    assert np.abs(hues).max() <= 0.1 and hues.std() > 0.05
    assert 0.15 < np.mean([d.grey for d in draws]) < 0.35
