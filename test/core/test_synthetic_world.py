"""Laws of whole frames: truth explains the pictures, seeds decide everything, ranges are kept."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from dyndepth_core.data.synthetic import Frame, World
from dyndepth_core.data.synthetic.faces import ALPHA
from dyndepth_core.data.synthetic.ground import visible
from dyndepth_core.data.synthetic.layout import Layout
from dyndepth_core.data.synthetic.paint import PERIOD
from dyndepth_core.data.synthetic.raster import View
from dyndepth_core.data.synthetic.streets import Network, kerb_distance
from dyndepth_core.data.synthetic.terrain import KERB

SIZE = (64, 208)
DT = 0.1


@pytest.fixture(scope="module")
def pairs() -> list[tuple[World, Frame, Frame]]:
    """Consecutive frames of a few clips."""
    worlds = [World(0, clip, SIZE) for clip in (0, 1, 3, 7)]
    return [(world, world.render(10), world.render(11)) for world in worlds]


def warp(world: World, a: Frame, b: Frame, velocity: bool) -> tuple[np.ndarray, ...]:
    """Frame b seen from a by a's depth, the poses and maybe velocity: image, ok, z error."""
    K, (h, w) = world.calib.K, world.size
    v, u = np.mgrid[:h, :w].astype(float)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones((h, w))], -1)
    points = rays * a.depth[..., None].astype(float)
    if velocity:
        points = points + a.velocity * DT
    T = np.linalg.inv(b.T_world_cam) @ a.T_world_cam
    moved = points @ T[:3, :3].T + T[:3, 3]
    z = np.maximum(moved[..., 2], 1e-3)
    x = (moved[..., 0] / z * K[0, 0] + K[0, 2]).astype(np.float32)
    y = (moved[..., 1] / z * K[1, 1] + K[1, 2]).astype(np.float32)
    image = cv2.remap(b.image, x, y, cv2.INTER_LINEAR)
    seen = cv2.remap(b.depth, x, y, cv2.INTER_NEAREST)
    inside = (a.depth > 0) & (x > 1) & (x < w - 2) & (y > 1) & (y < h - 2) & (moved[..., 2] > 0.5)
    return image, inside, np.abs(seen - moved[..., 2]) / z


def error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(float) - b.astype(float)).mean(-1)


def test_a_frame_keeps_its_contract(pairs):
    for world, frame, _ in pairs:
        h, w = SIZE
        assert frame.image.shape == (h, w, 3) and frame.image.dtype == np.uint8
        assert frame.image.std() > 20 and frame.depth.dtype == np.float32
        assert frame.depth.min() >= 0 and 0.5 < frame.depth[frame.depth > 0].min()
        assert frame.depth.max() <= 250.0
        assert frame.instances.dtype == np.int32 and frame.instances.max() < 65536
        assert frame.velocity.shape == (h, w, 3) and frame.dynamic.dtype == bool
        assert (frame.instances[frame.dynamic] > 0).all()
        assert (frame.velocity[frame.instances == 0] == 0).all()
        assert (frame.depth[frame.instances > 0] > 0).all()
        assert 0.05 < frame.road.mean() < 0.7 and not (frame.road & (frame.instances > 0)).any()
        assert frame.stamp_ns == 1_000_000_000
        T = frame.T_world_cam
        np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)
        assert set(frame.odometry) == set("tx ty tz qx qy qz qw speed yaw_rate".split())
        assert world.calib.width == w and world.calib.height == h


def test_true_depth_and_pose_explain_what_is_static(pairs):
    for world, a, b in pairs:
        image, inside, dz = warp(world, a, b, velocity=False)
        static = inside & ~a.dynamic & (dz < 0.05)
        assert static.sum() > 0.6 * (a.depth > 0).sum()
        ours, still = error(image, a.image)[static], error(b.image, a.image)[static]
        assert ours.mean() < 0.55 * still.mean()
        assert np.median(ours) < 4.0  # of 255, and noise is some 2 of it


def test_true_velocity_explains_what_moves(pairs):
    with_velocity, without, count = 0.0, 0.0, 0
    for world, a, b in pairs:
        image, inside, dz = warp(world, a, b, velocity=True)
        moving = inside & a.dynamic
        if moving.sum() < 30:
            continue
        assert np.mean(dz[moving] < 0.04) > 0.75  # its surface is where the velocity says
        still, _, _ = warp(world, a, b, velocity=False)
        with_velocity += error(image, a.image)[moving].sum()
        without += error(still, a.image)[moving].sum()
        count += int(moving.sum())
    assert count > 300
    assert with_velocity < 0.55 * without


def test_velocity_is_the_motion_of_the_object_relative_to_the_ground(pairs):
    checked = 0
    for world, a, _ in pairs:
        before, now, after = world.traffic.at(10)
        position = {k.ident: np.array(world.actors.pose(k)[:2]) for k in after.agents[1:]}
        past = {k.ident: np.array(world.actors.pose(k)[:2]) for k in before.agents[1:]}
        for agent in now.agents[1:]:
            mask = a.instances == agent.ident
            if agent.kind == "pedestrian" or mask.sum() < 8 or agent.ident not in past:
                continue
            want = (position[agent.ident] - past[agent.ident]) / (2 * DT)
            got = a.velocity[mask].mean(0) @ a.T_world_cam[:3, :3].T
            np.testing.assert_allclose(got[:2], want, atol=0.8)
            assert a.dynamic[mask].all() == (np.linalg.norm(got) >= 1.0)
            checked += 1
    assert checked >= 3


def test_seed_and_clip_decide_every_bit_and_the_order_of_frames_nothing(pairs):
    _, frame, _ = pairs[1]
    again = World(0, 1, SIZE)
    again.render(40)
    other = again.render(10)
    for name in ("image", "depth", "instances", "dynamic", "velocity", "T_world_cam", "road"):
        np.testing.assert_array_equal(getattr(frame, name), getattr(other, name))
    assert frame.odometry == other.odometry
    assert (World(1, 1, SIZE).camera_pose(10) != frame.T_world_cam).any()
    assert (pairs[0][0].camera_pose(10) != frame.T_world_cam).any()


def driven(world: World, far: float) -> list[tuple]:
    """What is planned and how high the ground is within 280 m, every 60 m up to route s = far."""
    net, layout, side, seen = world.network, world.layout, np.arange(-250.0, 251.0, 25.0), []
    for s in np.arange(0.0, far, 60.0):
        net.extend(s + 450.0)  # as the traffic does
        x, y, _, _ = net.place(s, 0.0)
        layout.visible(x, y)
        near = {
            (item.kind, item.x, item.y)
            for row in layout.items.values()
            for item in row
            if max(abs(item.x - x), abs(item.y - y)) < 280.0
        }
        seen.append((near, net.profiles[0](x + side).tolist(), net.profiles[1](y + side).tolist()))
    return seen


def test_nothing_in_sight_depends_on_how_far_one_has_driven_and_no_house_stands_on_a_road():
    world = World(3, 2, (32, 64))
    assert driven(world, 1000.0) == driven(world, 1000.0)  # nothing appears, no ground moves
    other = World(3, 2, (32, 64))
    other.network.extend(1390.0)
    x, y, _, _ = other.network.place(960.0, 0.0)
    for (a, ours), (b, theirs) in zip(
        world.layout.visible(x, y), other.layout.visible(x, y), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(ours.verts, theirs.verts)
    houses = [i for row in world.layout.items.values() for i in row if i.kind == "house"]
    assert len(houses) > 300
    x, y, yaw = np.array([(i.x, i.y, i.yaw) for i in houses]).T[..., None]
    size = np.array([i.size for i in houses])
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 7)] * 2), -1).reshape(-1, 2)
    a, b = (size[:, k, None] * grid[:, k] for k in (0, 1))
    c, s = np.cos(yaw), np.sin(yaw)
    dist = kerb_distance(world.network.streets, x + c * a - s * b, y + s * a + c * b)
    assert (dist > 0).all()


def test_who_carries_the_camera_stands_on_the_pavement_and_crosses_on_the_road():
    world = World(4, 1, (32, 64), camera="hand")
    lifts = []
    for i in range(0, 1200, 4):
        x, y, up = world.camera_pose(i)[:3, 3]
        lifts.append(up - world.mount.height - float(world.network.height(x, y)))
    assert np.median(lifts) == pytest.approx(KERB, abs=0.03)  # the hand goes up and down, too
    assert min(lifts) == pytest.approx(0.0, abs=0.06)


def test_ground_is_where_it_should_be_and_beyond_crests_no_kerb_stands_in_the_air():
    sides = 0
    for seed, clip in ((1, 0), (0, 2), (1, 2)):  # with crests in sight
        world = World(seed, clip, (128, 416))
        T, net, grid = world.camera_pose(60), world.network, world.grid
        nothing = np.zeros((grid.height, grid.width), np.float32)
        streets = net.near(T[0, 3], T[1, 3])
        ground = visible(net, streets, View(grid, T[:3, :3], T[:3, 3]), nothing)
        up = ground.z - net.height(ground.x.astype(float), ground.y.astype(float))
        side, near = ground.side, 1.0 / ground.inv_z < 240.0
        assert (ground.dist[side] == 0).all()
        np.testing.assert_allclose(up[side], KERB / 2, atol=KERB / 2 + 0.01)
        want = np.where(ground.dist < 0, 0.0, KERB)[near & ~side]
        np.testing.assert_allclose(up[near & ~side], want, atol=0.03)
        sides += side.sum()
    assert sides > 1000


def test_a_camera_may_run_for_ever():
    world = World(2, 3, (32, 64))
    frame = world.render(1500)
    assert np.linalg.norm(frame.T_world_cam[:3, 3] - world.camera_pose(0)[:3, 3]) > 300
    assert frame.road.any() and (frame.depth > 0).mean() > 0.3


def test_after_days_of_driving_the_picture_is_as_sharp_as_at_the_start(monkeypatch):
    monkeypatch.setattr(Layout, "plan", lambda *_: None)  # rounding would plan other houses there
    world = World(0, 0, SIZE)
    assert world.grade == 0.0  # grades are those of a place, and there would be others
    frame, add, far = world.render(0), Network._add_leg, 320 * PERIOD

    def add_far(net: Network) -> None:
        if not net.legs:
            net._corner = np.array([far, far])
        add(net)

    monkeypatch.setattr(Network, "_add_leg", add_far)
    other = World(0, 0, SIZE)
    assert other.camera_pose(0)[0, 3] > 8e5
    there = other.render(0)
    same = np.isclose(there.depth, frame.depth, rtol=1e-4)
    assert same.mean() > 0.999
    assert error(there.image, frame.image)[same].max() < 3.0
    assert (there.road == frame.road).mean() > 0.999


def test_what_lies_behind_is_forgotten_and_changes_nothing_ahead():
    world, other = (World(3, 0, (32, 104)) for _ in range(2))
    for i in (0, 5, 10):
        frame = world.render(i)
    world.forget(10)
    assert not world.layout.built
    assert sum(s is not None for s in world.traffic.history) == 3
    again, later = world.render(10), world.render(11)
    for found, wanted in ((again, frame), (later, other.render(11))):
        assert np.array_equal(found.image, wanted.image)
        assert np.array_equal(found.depth, wanted.depth)
    with pytest.raises(ValueError, match="frame 9 was forgotten"):
        world.render(9)


def test_any_size_shows_the_same_scene():
    small, large = World(1, 2, (48, 156)).render(3), World(1, 2, (96, 312)).render(3)
    np.testing.assert_allclose(small.T_world_cam, large.T_world_cam)
    both = (small.depth > 0) & (large.depth[1::2, 1::2] > 0)
    ratio = large.depth[1::2, 1::2][both] / small.depth[both]
    assert abs(np.median(ratio) - 1) < 0.03


def test_cameras_and_streets_vary_within_their_ranges():
    worlds = [World(seed, clip, SIZE) for seed in range(4) for clip in range(6)]
    pitch = np.degrees([world.mount.pitch for world in worlds])
    height = np.array([world.mount.height for world in worlds])
    focal = np.array([world.calib.fx / SIZE[1] for world in worlds])
    assert np.abs(pitch).max() <= 2.0 and np.ptp(pitch) > 2.0
    assert height.min() >= 1.2 and height.max() <= 2.2 and np.ptp(height) > 0.6
    assert focal.min() >= 0.5 and focal.max() <= 1.0 and np.ptp(focal) > 0.25
    assert len({world.style.name for world in worlds}) >= 5
    scenarios = [world.scenario for world in worlds]
    assert {"drive", "turn"} <= set(scenarios) and len(set(scenarios)) >= 3
    for world in worlds[::3]:  # the camera is where it should be, above and along the road
        T = world.camera_pose(5)
        above = T[2, 3] - float(world.network.height(T[0, 3], T[1, 3]))
        assert above == pytest.approx(world.mount.height, abs=0.12)
        car = world.odometry(5)
        heading = math.atan2(
            2 * (car["qw"] * car["qz"] + car["qx"] * car["qy"]),
            1 - 2 * (car["qy"] ** 2 + car["qz"] ** 2),
        )
        forward = T[:3, 2]
        assert math.cos(math.atan2(forward[1], forward[0]) - heading) > 0.995
        assert T[2, 1] < -0.9  # down in the image is down in the world


def test_tyres_touch_the_road_and_moving_cars_wear_all_colours():
    paints = set()
    for clip in range(10):
        world = World(6, clip, SIZE)
        _, now, _ = world.traffic.at(0)
        moving = world.actors.at(0)
        for agent in now.agents[1:]:
            faces = moving.faces.take(np.flatnonzero(moving.faces.instance == agent.ident))
            if agent.kind == "pedestrian" or len(faces) == 0:
                continue
            solid = faces.verts[(faces.flags & ALPHA) == 0].reshape(-1, 3)
            ground = world.network.height(solid[:, 0], solid[:, 1])
            assert np.min(solid[:, 2] - ground) == pytest.approx(0.0, abs=0.06)
            paints.add(tuple(faces.tint[0].round(3).tolist()))
    assert len(paints) >= 5
