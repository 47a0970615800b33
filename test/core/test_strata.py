"""Strata on scenes whose geometry is known exactly."""

import numpy as np
import pytest

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.evaluation.strata import (
    camera_velocity,
    depth_intrinsics,
    fit_ground,
    height_above,
    strata_of,
)

H, W = 64, 96
K = np.array([[80.0, 0, 47.5], [0, 80.0, 24.0], [0, 0, 1]])


def street(height=1.5, pitch_deg=0.0, roll_deg=0.0, noise=0.0, seed=0):
    """Depth of a ground plane, a box 10 m ahead that stands on it and is 1 m high, and a wall at
    30 m."""
    p, r = np.radians(pitch_deg), np.radians(roll_deg)
    down = np.array([np.sin(r), np.cos(r) * np.cos(p), np.sin(p)])
    down /= np.linalg.norm(down)
    v, u = np.mgrid[:H, :W]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u, float)], -1)
    slope = rays @ down
    depth = np.minimum(np.where(slope > 1e-6, height / np.maximum(slope, 1e-6), np.inf), 30.0)
    box = (np.abs(rays[..., 0] * 10) < 2) & (height - 10 * slope > 0) & (height - 10 * slope < 1)
    depth[box] = 10.0
    if noise:
        depth *= 1 + noise * np.random.default_rng(seed).standard_normal(depth.shape)
    return depth.astype(np.float32), box, down


@pytest.mark.parametrize("pitch,roll", [(0, 0), (3, 0), (-3, 2)])
def test_the_ground_is_found_to_two_centimetres(pitch, roll):
    depth, _, down = street(1.7, pitch, roll)
    plane = fit_ground(depth, K)
    assert plane.height == pytest.approx(1.7, abs=0.02)  # the feet of box and wall join in
    assert plane.normal == pytest.approx(down, abs=2e-3)


def test_the_ground_survives_noise_and_obstacles_and_is_deterministic():
    depth, _, down = street(1.5, 2.0, noise=0.02)
    plane, again = fit_ground(depth, K), fit_ground(depth.copy(), K)
    assert plane.height == pytest.approx(1.5, abs=0.05)
    assert plane.normal == pytest.approx(down, abs=0.02)
    assert plane.height == again.height and np.array_equal(plane.normal, again.normal)


def test_no_ground_no_plane():
    wall = np.full((H, W), 8.0, np.float32)
    assert fit_ground(wall, K) is None
    assert fit_ground(np.zeros((H, W), np.float32), K) is None


def test_heights_by_hand():
    depth, box, _ = street(1.5)
    heights = height_above(depth, K, fit_ground(depth, K))
    row = 36  # (36 - 24) / 80 * 10 = 1.5 m below the camera at z = 10: the box's foot
    assert heights[row, 48] == pytest.approx(0.0, abs=0.03)
    assert heights[row - 4, 48] == pytest.approx(0.5, abs=0.03)


def write(path, depth, *, dynamic=None, velocity=None, speed=5.0, frames=3, step_s=0.1, calib=None):
    """A recording of a camera that drives along its z axis, turned by 90 degrees in the world."""
    image = np.zeros((H, W, 3), np.uint8)
    calib = calib or Calibration.from_K(K, W, H)
    turned = np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    with RecordingWriter(path, calib) as writer:
        for k in range(frames):
            pose = turned.copy()
            pose[:3, 3] = turned[:3, 2] * speed * step_s * k
            writer.add(
                image,
                int(k * step_s * 1e9),
                depth=depth,
                dynamic=dynamic,
                velocity=velocity,
                T_world_cam=pose,
            )
    return Recording(path)


def test_camera_velocity_is_in_optical_axes_and_real_time(tmp_path):
    recording = write(tmp_path / "a", street()[0], speed=7.0, step_s=0.2)
    for i in range(3):
        assert camera_velocity(recording, i) == pytest.approx([0, 0, 7.0], abs=1e-6)


def test_strata_of_a_frame(tmp_path):
    depth, box, _ = street(1.5)
    dynamic = np.zeros((H, W), bool)
    dynamic[:, :48] = box[:, :48]
    dynamic[0, :3] = True
    velocity = np.zeros((H, W, 3), np.float32)
    velocity[dynamic] = (0, 0, 5.5)  # 0.5 m/s faster than the camera
    velocity[0, 0] = (0, 0, 6.5)  # 1.5 m/s faster
    velocity[0, 1] = np.nan
    found = strata_of(write(tmp_path / "a", depth, dynamic=dynamic, velocity=velocity), 1, depth)
    assert np.array_equal(found["dynamic"], dynamic)
    assert np.array_equal(found["static"], ~dynamic)
    expected = dynamic.copy()
    expected[0, :2] = False
    assert np.array_equal(found["same_speed"], expected)
    raised = found["raised"]
    assert raised[30, 48] and not raised[36, 48]  # 0.75 m and 0 m up the box
    assert raised[5, 5]  # the wall above the horizon
    assert not raised[60].any()  # road


def test_what_the_data_cannot_tell_is_absent(tmp_path):
    depth, _, _ = street()
    only_depth = write(tmp_path / "a", depth)
    assert set(strata_of(only_depth, 0, depth)) == {"raised"}
    no_camera = write(tmp_path / "b", depth, calib=Calibration(W, H))
    assert strata_of(no_camera, 0, depth) == {}
    masks = write(tmp_path / "c", depth, dynamic=np.zeros((H, W), bool))
    assert set(strata_of(masks, 0, depth)) == {"static", "dynamic", "raised"}


def test_truth_of_another_size_carries_its_intrinsics(tmp_path):
    recording = write(tmp_path / "a", street()[0])
    half = depth_intrinsics(recording, np.zeros((H // 2, W // 2)))
    assert half[0, 0] == 40.0 and half[0, 2] == 48.0 / 2 - 0.5
    with pytest.raises(ValueError, match="must have one size"):
        masked = write(tmp_path / "b", street()[0], dynamic=np.zeros((H, W), bool))
        strata_of(masked, 0, np.ones((H // 2, W // 2), np.float32))


def test_a_wide_embankment_is_not_the_ground():
    """A side camera sees a strip of road and, beyond 6 m, a lawn that rises at 30 % and fills
    most of the image."""
    depth, _, _ = street(1.5)
    v = np.arange(H)[:, None] * np.ones((1, W))
    slope = (v - K[1, 2]) / K[1, 1]
    lawn = (1.5 + 0.3 * 6) / np.maximum(slope + 0.3, 0.1)  # y = 1.5 - 0.3 (z - 6) and y = slope z
    road = np.where(slope > 0, 1.5 / np.maximum(slope, 1e-6), np.inf)
    depth = np.where(road < 6, road, np.where(slope > -0.1, lawn, 0)).astype(np.float32)
    assert (depth >= 6).sum() > 0.25 * depth.size
    plane = fit_ground(depth, K)
    assert plane.height == pytest.approx(1.5, abs=0.05)
    assert plane.normal[1] > 0.995
