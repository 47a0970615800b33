"""Flow implied by geometry."""

import pytest
import torch
from scenes import camera, pose, render

from dyndepth_core.geometry.flow import (
    mean_parallax,
    residual_flow,
    residual_velocity,
    rigid_flow,
)

SIZE = (16, 24)
K = camera(20.0, SIZE)


def random_depth(seed):
    generator = torch.Generator().manual_seed(seed)
    return 1 + 50 * torch.rand(1, 1, *SIZE, dtype=torch.float64, generator=generator)


def test_a_camera_at_rest_sees_no_flow():
    flow = rigid_flow(random_depth(0), pose(), K)
    assert flow.abs().max() < 1e-9


def test_flow_of_a_pure_rotation_does_not_depend_on_depth():
    T = pose(pitch=0.02, yaw=-0.05, roll=0.03)
    a, b = rigid_flow(random_depth(0), T, K), rigid_flow(random_depth(1), T, K)
    torch.testing.assert_close(a, b)
    assert a.norm(dim=1).min() > 0.1


def test_flow_of_a_translation_falls_with_depth_and_points_away_from_the_epipole():
    depth = random_depth(0)
    flow = rigid_flow(depth, pose(z=-0.5), K)  # src is half a metre further on
    torch.testing.assert_close(rigid_flow(2 * depth, pose(z=-1.0), K), flow)
    v, u = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing="ij")
    outward = torch.stack((u - K[0, 0, 2], v - K[0, 1, 2])).double()
    torch.testing.assert_close(flow[0], outward * 0.5 / (depth[0] - 0.5))


def test_residual_flow_is_what_object_motion_adds():
    _, depth = render(pose(), camera())
    T, moved = pose(x=0.1, yaw=0.02), torch.zeros(1, 3, 64, 96, dtype=torch.float64)
    moved[:, :, 20:40, 30:60] = torch.tensor([0.4, 0.0, -0.2]).double().view(1, 3, 1, 1)
    flow = residual_flow(depth, T, camera(), moved)
    still = moved.abs().sum(1, keepdim=True) == 0
    assert (flow * still).abs().max() == 0
    assert (flow.norm(dim=1, keepdim=True)[~still] > 0.5).all()
    # a world that moves along with the camera stands still in the image
    along = torch.tensor([-0.1, 0, 0]).double().view(1, 3, 1, 1).expand_as(moved)
    rigid = rigid_flow(depth, pose(x=0.1), camera())
    torch.testing.assert_close(residual_flow(depth, pose(x=0.1), camera(), along), -rigid)


def test_a_car_receding_at_5_mps_reads_plus_5_with_an_older_and_with_a_newer_src():
    """Its point moves by 5 m/s dt in the world; the residual is what ego-motion leaves of that, in
    the axes of src, whichever way the camera turns.
    """
    velocity = torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)
    T_world_tgt = pose(x=1.0, yaw=0.2, pitch=0.1)
    for dt in (-0.1, 0.1):
        T_world_src = pose(x=1.0 + 10 * dt, z=3 * dt, yaw=0.2 + dt)
        T_src_tgt = torch.linalg.inv(T_world_src) @ T_world_tgt
        world_velocity = T_world_tgt[0, :3, :3] @ velocity
        residual = (T_world_src[0, :3, :3].T @ (world_velocity * dt)).view(1, 3, 1, 1)
        found = residual_velocity(residual, T_src_tgt, torch.tensor([dt], dtype=torch.float64))
        torch.testing.assert_close(found.flatten(), velocity)


def test_turning_on_the_spot_leaves_no_velocity():
    """Residual zero is velocity zero, whatever the rotation: ego-motion does not leak into it."""
    found = residual_velocity(torch.zeros(1, 3, 4, 5), pose(yaw=0.3).float(), torch.tensor([0.1]))
    assert (found == 0).all()


def test_parallax_is_that_of_the_translation_alone_also_in_half_precision():
    """A wall in 4 units, a step of 0.8 aside: f x / z pixels, however the camera turns."""
    wall, T, focal = torch.full((1, 1, *SIZE), 4.0), pose(x=0.8).float(), K.float()
    assert mean_parallax(wall, T, focal).item() == pytest.approx(20.0 * 0.8 / 4)
    assert mean_parallax(wall, pose(yaw=0.1), focal).item() == 0
    far = camera(900.0, (16, 900)).float()
    with torch.autocast("cpu", dtype=torch.float16):
        found = mean_parallax(torch.full((1, 1, 16, 900), 100.0), pose(x=1.0).float(), far)
    assert found.item() == pytest.approx(9.0, rel=1e-4)
