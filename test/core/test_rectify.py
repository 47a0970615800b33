"""A CameraInfo becomes the pinhole camera of the image that was sent; lens distortion goes away."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.rectify import Rectifier, calibration_from_info
from dyndepth_core.geometry.camera import distort

K = [500.0, 0.0, 322.0, 0.0, 505.0, 238.0, 0.0, 0.0, 1.0]


def info(**changes):
    roi = SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    fields = {
        "width": 640, "height": 480, "k": K, "d": [0.0] * 5, "p": [0.0] * 12,
        "distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0, "roi": roi,
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


def region(x, y, width, height):
    return SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height, do_rectify=False)


@pytest.mark.parametrize(
    ("message", "size", "expected"),
    [
        (info(), (480, 640), (500, 505, 322, 238)),
        (info(binning_x=2, binning_y=2), (240, 320), (250, 252.5, 160.75, 118.75)),
        (info(), (240, 320), (250, 252.5, 160.75, 118.75)),  # shrunk without saying so
        (info(roi=region(20, 30, 600, 400)), (400, 600), (500, 505, 302, 208)),
        (info(roi=region(20, 30, 600, 400)), (480, 640), (500, 505, 322, 238)),  # a mere hint
        (
            info(roi=region(20, 30, 600, 400), binning_x=2, binning_y=2),
            (200, 300),
            (250, 252.5, 150.75, 103.75),
        ),
    ],
)
def test_K_is_that_of_the_image_as_sent(message, size, expected):
    calib = calibration_from_info(message, size)
    assert (calib.fx, calib.fy, calib.cx, calib.cy) == pytest.approx(expected)
    assert (calib.height, calib.width) == size and calib.rectified and calib.distortion is None


def test_ros1_capitals_uncalibrated_and_rectified():
    message = info()
    ros1 = SimpleNamespace(**{k.upper() if k in "kdp" else k: v for k, v in vars(message).items()})
    assert calibration_from_info(ros1, (480, 640)).fx == 500
    assert calibration_from_info(info(k=[0.0] * 9), (480, 640)).K is None
    p = [400.0, 0, 319, 0, 0, 410.0, 239, 0, 0, 0, 1, 0]
    bent = info(d=[-0.3, 0.1, 0, 0, 0], p=p)
    assert calibration_from_info(bent, (480, 640), rectified=True).fx == 400
    raw = calibration_from_info(bent, (480, 640))
    assert raw.fx == 500 and not raw.rectified and raw.distortion["coeffs"][0] == -0.3


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (info(k=[float("nan")] * 9), "NaN"),
        (info(k=[-500.0, *K[1:]]), "positive"),
        (info(d=[0.1], distortion_model="magic"), "'magic' is unknown.*rectified image topic"),
        (info(d=[float("inf")] * 5), "distortion holds NaN or infinity"),
        (info(width=640, height=640), "640x640.*640x480"),
    ],
)
def test_camera_infos_that_cannot_be_used(message, reason):
    with pytest.raises(ValueError, match=reason):
        calibration_from_info(message, (480, 640))


LENSES = {
    "plumb_bob": [-0.28, 0.07, 0.0002, 0.0001, 0.0],
    "rational_polynomial": [-0.2, 0.05, 0.0, 0.0, 0.001, 0.05, -0.01, 0.0],
    "equidistant": [0.02, -0.005, 0.001, 0.0],
    "pincushion": [0.12, 0.01, 0.0, 0.0, 0.0],
}


def lens(name: str) -> Calibration:
    model = "plumb_bob" if name == "pincushion" else name
    distortion = {"model": model, "coeffs": LENSES[name]}
    return Calibration(160, 120, 125, 126, 80.5, 59.0, distortion, False, "test")


@pytest.mark.parametrize("name", LENSES)
def test_straight_lines_become_straight_and_no_border_shows(name):
    """Draw the image of a plane's stripes through the lens; rectified it is that of a pinhole."""
    calib = lens(name)
    rectifier = Rectifier(calib)
    pinhole = rectifier.calib
    assert pinhole.distortion is None and (pinhole.cx, pinhole.cy) == (calib.cx, calib.cy)

    def world(x, y):  # smooth stripes on the plane z = 1, never black
        return 130 + 60 * np.sin(9 * x) + 50 * np.cos(7 * y)

    v, u = np.mgrid[:120, :160].astype(np.float64)
    flat = world((u - pinhole.cx) / pinhole.fx, (v - pinhole.cy) / pinhole.fy)
    bent = world(*undistort(calib, (u - calib.cx) / calib.fx, (v - calib.cy) / calib.fy))
    out = rectifier.image(np.repeat(np.clip(bent, 0, 255).astype(np.uint8)[..., None], 3, -1))
    assert np.abs(out[..., 0].astype(float) - flat)[1:-1, 1:-1].max() < 6
    assert np.abs(rectifier.image(bent.astype(np.uint8)).astype(float) - flat).max() < 9
    assert out.min() > 5


def undistort(calib, xd, yd):
    """Inverse of `distort` by fixed-point iteration, as in the textbooks."""
    x, y = torch.from_numpy(xd), torch.from_numpy(yd)
    goal = (x.clone(), y.clone())
    for _ in range(200):
        bx, by = distort(x, y, calib.distortion["model"], calib.distortion["coeffs"])
        x, y = x + 0.7 * (goal[0] - bx), y + 0.7 * (goal[1] - by)
    return x.numpy(), y.numpy()


def test_the_map_agrees_with_opencv():
    calib = lens("plumb_bob")
    rectifier = Rectifier(calib)
    coeffs = np.array(calib.distortion["coeffs"])
    maps = cv2.initUndistortRectifyMap(
        calib.K, coeffs, np.eye(3), rectifier.K, (160, 120), cv2.CV_32FC1
    )
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    image = cv2.GaussianBlur(image, (5, 5), 2)
    expected = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(rectifier.image(image).astype(int) - expected).max() <= 3


def test_nonsense_is_refused():
    wrong = Calibration(64, 48, 50, 50, 31, 23, {"model": "plumb_bob", "coeffs": [-40.0]}, False)
    with pytest.raises(ValueError, match="calibrate again"):
        Rectifier(wrong)
    with pytest.raises(ValueError, match="one is missing"):
        Rectifier(Calibration(64, 48))
    with pytest.raises(ValueError, match="rectification of"):
        Rectifier(lens("plumb_bob")).image(np.zeros((10, 10, 3), np.uint8))
