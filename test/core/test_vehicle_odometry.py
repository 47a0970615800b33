"""Odometry between two images: arcs, lever arm, poses against speeds, and what is refused."""

import math

import numpy as np
import pytest
from drives import Drive, ns

from dyndepth_core.inference.mount import down_in_camera, parse_mount
from dyndepth_core.inference.vehicle_odometry import VehicleOdometry

NAN = math.nan
NO_POSE = [NAN] * 7


def track(drive, mount="", until=5.0, rate=20, change=lambda t, v: v, **message):
    odometry = VehicleOdometry(parse_mount(mount))
    for i in range(int(until * rate) + 1):
        odometry.observe(ns(i / rate), change(i / rate, drive.message(i / rate, **message)))
    return odometry


@pytest.mark.parametrize("kind", [{}, {"pose": True, "speed": False}])
@pytest.mark.parametrize(
    ("arm", "radius"), [((0, 0), 10.0), ((2, 0), math.hypot(10, 2)), ((2, 1), math.hypot(9, 2))]
)
def test_on_a_circle_the_camera_moves_by_its_own_radius(kind, arm, radius):
    """The base turns left on 10 m at 0.5 rad/s; the camera sits ahead, and to the left."""
    drive = Drive(lambda t: 5 + 0 * t, lambda t: 0.5 + 0 * t, 6)
    travel = track(drive, f"{arm[0]} {arm[1]} 1.5 0 0 0", **kind).travel(ns(2.02), ns(2.32))
    assert travel.distance == pytest.approx(2 * radius * math.sin(0.5 * 0.3 / 2), rel=2e-3)
    assert travel.speed == pytest.approx(5, rel=2e-3)
    assert travel.yaw_rate == pytest.approx(0.5, rel=1e-3)
    assert travel.acceleration == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("kind", [{}, {"pose": True, "speed": False}])
def test_acceleration_and_driving_backwards(kind):
    drive = Drive(lambda t: -2 - 1.5 * t, seconds=6)
    travel = track(drive, **kind).travel(ns(3.0), ns(3.1))
    assert travel.distance == pytest.approx(0.1 * (2 + 1.5 * 3.05), rel=1e-3)
    assert travel.speed == pytest.approx(-(2 + 1.5 * 3.05), rel=1e-3)
    assert abs(travel.acceleration) == pytest.approx(1.5, rel=0.05)


def test_a_delay_that_is_given_moves_the_clock():
    drive = Drive(lambda t: 2 * t, seconds=6)
    odometry = VehicleOdometry(None, 0.2)
    for i in range(101):
        odometry.observe(ns(i / 20), drive.message(max(i / 20 - 0.2, 0)))
    assert odometry.travel(ns(3), ns(3.1)).distance == pytest.approx(0.1 * 2 * 3.05, rel=1e-3)
    assert odometry.covers(ns(4.8)) and not odometry.covers(ns(4.81))


def test_gaps_and_what_lies_outside():
    odometry = track(Drive(lambda t: 5 + 0 * t, seconds=6))
    odometry.observe(ns(5.7), [*NO_POSE, 5.0, 0.0])
    assert odometry.travel(ns(5.1), ns(5.2)) == "gap"  # nothing for 0.7 s
    assert odometry.travel(ns(-0.1), ns(0.1)) == "gap"
    assert odometry.travel(ns(4.8), ns(4.9)).distance == pytest.approx(0.5)
    assert VehicleOdometry().travel(ns(1), ns(2)) == "gap"


@pytest.mark.parametrize(
    ("time", "values", "reason"),
    [
        (5.05, [*NO_POSE, NAN, 0.1], "not_finite"),
        (5.05, [*NO_POSE, math.inf, 0.1], "not_finite"),
        (5.05, [*NO_POSE, 400.0, 0.0], "absurd_speed"),
        (5.05, [*NO_POSE, 12.0, 0.0], "jump"),
        (5.0, [*NO_POSE, 5.0, 0.0], "stamp_not_newer"),
        (4.9, [*NO_POSE, 5.0, 0.0], "stamp_not_newer"),
        (1.0, [*NO_POSE, 5.0, 0.0], "stamp_jumped_back"),
    ],
)
def test_messages_that_cannot_be_right_are_counted(time, values, reason):
    odometry = track(Drive(lambda t: 5 + 0 * t, seconds=6))
    odometry.observe(ns(time), values)
    assert dict(odometry.counts) == {reason: 1}
    before = {"jump": "jump", "stamp_jumped_back": "gap"}.get(reason)  # which begin a new track
    travel = odometry.travel(ns(4.8), ns(4.9))
    assert travel == before if before else travel.distance == pytest.approx(0.5)


def travels(odometry):
    return [odometry.travel(ns(i / 10), ns(i / 10 + 0.1)) for i in range(20, 45)]


def test_km_per_hour_in_one_half_of_the_message(caplog):
    """The other half is right, whichever it is."""
    drive = Drive(lambda t: 5 + 0 * t, seconds=6)
    found = travels(odometry := track(drive, pose=True, gain=3.6))
    assert found[0] == "comparing" and found[-1].distance == pytest.approx(0.5, rel=1e-3)
    assert "twist is in km/h" in odometry.fault and caplog.text.count("km/h") == 1

    def far(t, values):
        return [*(3.6 * v for v in values[:3]), *values[3:]]

    found = travels(odometry := track(drive, pose=True, change=far))
    assert found[-1].distance == pytest.approx(0.5, rel=1e-3) and "pose is in" in odometry.fault


@pytest.mark.parametrize(
    "change", [lambda t, v: [*v[:7], 0.0, 0.0], lambda t, v: [0, 0, 0, 0, 0, 0, 1, *v[7:]]]
)
def test_a_half_that_nobody_fills_in_is_left_out(change):
    odometry = track(Drive(lambda t: 5 + 0 * t, seconds=6), pose=True, change=change)
    assert travels(odometry)[-1].distance == pytest.approx(0.5, rel=1e-3) and not odometry.fault


def test_halves_that_disagree_and_a_pose_that_jumps():
    drive = Drive(lambda t: 5 + 0 * t, seconds=6)
    assert travels(track(drive, pose=True, gain=1.6))[-1] == "pose_disagrees"

    def jump(t, values):  # a relocalisation by 0.9 m
        return [values[0] + 0.9 * (t > 4), *values[1:]]

    found = travels(track(drive, pose=True, change=jump))
    assert found.count("pose_jump") == 1 and found[-1].distance == pytest.approx(0.5, rel=1e-3)


def test_only_the_last_seconds_are_kept():
    odometry = track(Drive(lambda t: 5 + 0 * t, seconds=61), until=60.0, rate=50)
    assert len(odometry._stamps) < 900
    assert odometry.travel(ns(59), ns(59.1)).distance == pytest.approx(0.5)


def test_mount():
    assert parse_mount(" ") is None and (down_in_camera(None) == (0, 1, 0)).all()
    T = parse_mount("1 0 1.5 0 0.1 0")  # the camera looks down
    assert np.allclose(T[:3, 2], (math.cos(0.1), 0, -math.sin(0.1)))
    assert np.allclose(T[:3, 0], (0, -1, 0)) and np.allclose(T[:3, 3], (1, 0, 1.5))
    assert np.allclose(down_in_camera(T), (0, math.cos(0.1), math.sin(0.1)))
    left = parse_mount("0,0,0,0,0,1.5707963")
    assert np.allclose(left[:3, 2], (0, 1, 0), atol=1e-6)
    for bad in ("1 2 3", "1 2 3 4 5 x", "1 2 3 4 5 nan"):
        with pytest.raises(ValueError, match="base_to_camera.*six numbers"):
            parse_mount(bad)
