"""Learned cameras: what a rotation tells of them, and what a training says about its own."""

import json
import math

import pytest
import torch
from training_helpers import TINY, make_recording

from dyndepth_core.config import load
from dyndepth_core.data.calibration import Calibration
from dyndepth_core.geometry.se3 import exp_so3, rotation_vector
from dyndepth_core.training.cameras import RESOLVED, Tolerance
from dyndepth_core.training.run import train_run

SIZE, F = (96, 320), 200.0


def K_of(f, cx=159.5, cy=47.5):
    return torch.tensor([[f, 0, cx], [0, f, cy], [0, 0, 1]], dtype=torch.float64)


def turned(pixel, K, angles):
    """Where a rotation (pitch, yaw, roll in radians) moves a pixel."""
    ray = torch.linalg.inv(K) @ torch.tensor([*pixel, 1.0], dtype=torch.float64)
    moved = K @ exp_so3(torch.tensor([angles], dtype=torch.float64))[0] @ ray
    return moved[:2] / moved[2]


def test_a_focal_length_off_by_its_tolerance_bends_the_border_by_what_is_resolved():
    """After what hides it: rotation times f stays the same, the image's centre does not move."""
    yaw = 0.02
    d = Tolerance.of(K_of(F), SIZE, 0.0, yaw).focal
    wrong = turned((319.0, 47.5), K_of(F * (1 + d)), [0, yaw / (1 + d), 0])
    error = wrong - turned((319.0, 47.5), K_of(F), [0, yaw, 0])
    assert error.norm().item() == pytest.approx(RESOLVED, rel=0.2)
    assert Tolerance.of(K_of(F), (320, 96), yaw, 0.0).focal == pytest.approx(d)


def test_a_centre_off_by_its_tolerance_bends_the_border_by_what_is_resolved():
    yaw = 0.03
    c = Tolerance.of(K_of(F), SIZE, 0.0, yaw).centre_x
    wrong, right = K_of(F, cx=159.5 + c * 320), K_of(F)
    ends = [turned((x, 47.5), wrong, [0, yaw, 0]) - turned((x, 47.5), right, [0, yaw, 0])
            for x in (0.0, 159.5, 319.0)]  # fmt: skip
    hidden = ends[1]  # a constant shift is a rotation
    assert (ends[2] - hidden)[0].abs().item() == pytest.approx(RESOLVED, rel=0.2)


def test_without_rotation_nothing_is_determined_and_with_much_of_it_everything():
    assert Tolerance.of(K_of(F), SIZE, 0.0, 0.0).open() == ["focal length", "cx", "cy"]
    assert Tolerance.of(K_of(F), SIZE, 0.1, 0.1).open() == []
    assert Tolerance.of(K_of(F), SIZE, 0.0, 0.03).open() == ["cy"]


def test_axes_of_rotations():
    angles = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.0, 0.0], [1e-6, 0, 0], [0, 2.0, 0]])
    torch.testing.assert_close(rotation_vector(exp_so3(angles)), angles, atol=1e-6, rtol=1e-4)


def test_a_training_leaves_the_cameras_it_learned(tmp_path, caplog):
    caplog.set_level("INFO")
    root = make_recording(tmp_path / "data")
    path = root / "drive" / "calib.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in fields.items() if k[0] not in "fc"}))
    given = [*TINY, "train.steps=2", "data.intrinsics=video", "train.device=cpu"]
    train_run(load(None, given, "monodepth"), [root], tmp_path / "run")
    written = tmp_path / "run" / "cameras" / "drive.json"
    calib = Calibration.load(written)
    assert (calib.width, calib.height) == (fields["width"], fields["height"])
    guess = (64 + 96) / 2 * fields["width"] / 96
    assert math.isclose(calib.fx, guess, rel_tol=0.1) and math.isclose(calib.fy, guess, rel_tol=0.1)
    content = json.loads(written.read_text())
    assert "focal length" in content["not_determined"] and content["tolerance"]["focal"] > 0.1
    assert "camera of drive" in caplog.text and "turns too little" in caplog.text
