"""The scale filter on drives whose scale is known, with everything odometry does to it."""

import math

import numpy as np
import pytest
import torch
from drives import RELATIVE, Drive, K, city_speed, city_yaw_rate, flat_road, ns, run, seen

from dyndepth_core.inference.mount import parse_mount
from dyndepth_core.inference.scale import ScaleState
from dyndepth_core.inference.scale_filter import ScaleFilter
from dyndepth_core.inference.vehicle_odometry import VehicleOdometry

MOUNT = parse_mount("1.5 0.3 1.5 0 0 0")


def city(seconds=25.0, seed=0):
    return Drive(city_speed, city_yaw_rate, seconds, arm=(1.5, 0.3), seed=seed)


def cruise(seconds=25.0, speed=8.0, seed=0):
    return Drive(lambda t: speed + 0 * t, seconds=seconds, seed=seed)


def values(states, scale):
    return np.array([s.value for s in states]) / scale


def noisy(gain=1.02):
    return {
        "message": lambda drive, t: drive.message(t, gain, 0.05), "delay": 0.08, "drop": 0.1,
        "network_noise": 0.1, "odometry": VehicleOdometry(MOUNT),
    }  # fmt: skip


@pytest.mark.parametrize("scale", [3.0, 1 / 3])
def test_within_5_percent_in_10_s_of_a_drive_with_all_faults_at_once(scale):
    """The vehicle speeds up, brakes and turns; 2 % of gain, 80 ms of delay, a tenth lost."""
    state, states = run(city(), scale, **noisy())
    assert states[0] == RELATIVE
    assert states[99].source == "odometry" and states[99].is_metric
    assert abs(values(states, scale)[99:] / 1.02 - 1).max() < 0.05  # the gain nobody can see
    assert abs(values(states, scale)[99:] - 1).max() < 0.07
    assert abs(values(states, scale)[99] - 1) < 0.05
    errors = [math.sqrt(s.variance) / s.value for s in states[99:]]
    assert 0.02 < errors[-1] < errors[0] < 0.2 and sorted(errors, reverse=True)[0] == errors[0]
    assert state.counts["slow"] and state.counts["turning"]


def test_the_delay_is_learned_from_acceleration_or_given():
    drive = Drive(city_speed, seconds=45)
    options = {"delay": 0.08, "network_noise": 0.02}
    state, states = run(drive, 2.0, **options)
    assert float(state.report()["odometry_delay_s"]) == pytest.approx(0.08, abs=0.04)
    assert values(states, 2.0)[-1] == pytest.approx(1, abs=0.02)
    given, _ = run(drive, 2.0, odometry=VehicleOdometry(None, 0.08), **options)
    assert float(given.report()["odometry_delay_s"]) == pytest.approx(0.08, abs=0.03)
    assert abs(given._filter.mean[1]) < abs(state._filter.mean[1])


def test_a_long_stop_changes_nothing_with_all_faults_at_once():
    drive = Drive(lambda t: np.clip(8 - 4 * np.clip(t - 12, 0, None), 0, 8), seconds=80)
    state, states = run(drive, 3.0, camera_height=1.5, shown=flat_road(1.6), **noisy())
    stopped = states[160:]
    assert len(stopped) > 600 and {s.source for s in stopped} == {"odometry"}
    assert len({(s.value, s.variance) for s in stopped}) == 1
    assert values(stopped, 3.0)[0] / 1.02 == pytest.approx(1, abs=0.05)
    assert state.counts["slow"] > 600


def test_wheel_slip_and_jumps_are_refused_and_named():
    """From 10 s on the wheels spin for 4 s at 2.4 times the speed of the vehicle."""

    def message(drive, t):
        jump = 40.0 if 6 < t < 6.3 else 0.0
        return drive.message(t, 2.4 if 10 < t < 14 else 1.0) + np.array([0.0] * 7 + [jump, 0.0])

    state, states = run(cruise(18), 3.0, message=message, network_noise=0.1)
    assert values(states, 3.0)[30:] == pytest.approx(1, abs=0.06)
    assert state.counts["odometry_innovation"] > 30 and state.counts["jump"]
    assert "jump 4" in state.report()["odometry_refused"]


def test_a_wrong_start_is_left_behind():
    prior = ScaleState(1.0, 0.02**2, "checkpoint")
    state, states = run(cruise(12), 3.0, prior, network_noise=0.1)
    assert states[0] == prior and states[30] == prior  # one second of contradiction is not enough
    assert values(states, 3.0)[-30:] == pytest.approx(1, abs=0.05)
    assert states[-1].source == "odometry"


def test_a_swapped_network_is_followed():
    drive, odometry = cruise(22), VehicleOdometry()
    state, _ = run(drive, 3.0, odometry=odometry, end=10.0)
    _, states = run(drive, 7.0, odometry=odometry, state=state, start=10.0)
    assert values(states, 7.0)[70:] == pytest.approx(1, abs=0.03)


def kmh(drive, t):
    return drive.message(t, 3.6)


def test_km_per_hour_against_the_height_of_the_camera():
    state, states = run(cruise(10), 3.0, message=kmh, camera_height=1.5, network_noise=0.1)
    assert "km/h" in state.fault and state.counts["km_per_hour"] > 50
    assert not any(s.source == "odometry" for s in states)
    assert states[-1].source == "ground_plane" and values(states, 3.0)[-1] == pytest.approx(1, 0.05)


def test_km_per_hour_against_a_metric_model_until_it_is_mended():
    prior, drive, odometry = ScaleState(1.0, math.inf, "checkpoint"), cruise(22), VehicleOdometry()
    state, states = run(drive, 1.1, prior, message=kmh, odometry=odometry, end=10.0)
    assert "km/h" in state.fault and states[-1] == prior
    assert not state.used["odometry"]
    _, states = run(drive, 1.1, state=state, odometry=odometry, start=10.0)
    assert not state.fault and states[-1].source == "odometry"
    assert values(states, 1.1)[-1] == pytest.approx(1, abs=0.05)


def test_metres_per_second_three_times_a_model_is_no_wrong_unit():
    """A factor 3 stays tellable from 3.6."""
    prior = ScaleState(1.0, 0.05**2, "checkpoint")
    state, states = run(cruise(10), 3.0, prior, network_noise=0.1)
    assert not state.fault and values(states, 3.0)[-1] == pytest.approx(1, abs=0.05)


def test_the_ground_plane_alone_and_then_with_odometry():
    """A mount that is 12 % wrong is found out once odometry comes."""
    drive, odometry = cruise(25), VehicleOdometry()
    options = {"camera_height": 1.5 * 1.12, "odometry": odometry}
    state, states = run(drive, 3.0, message=lambda d, t: None, end=8.0, **options)
    assert states[-1].source == "ground_plane"
    assert values(states, 3.0)[-1] == pytest.approx(1.12, abs=0.01)
    assert math.sqrt(states[-1].variance) / states[-1].value > 0.09  # no surer than the mount
    state, states = run(drive, 3.0, odometry=odometry, state=state, start=8.0)
    assert states[-1].source == "odometry"
    assert values(states, 3.0)[-1] == pytest.approx(1, abs=0.05)
    assert 0.05 < state._filter.mean[2] < 0.13


def by_height(depth_of, seconds, speed, scale=3.0):
    """The states of a filter that knows the camera's height alone, five a second; speed: m/s of a
    moment, depth_of: of a moment to the depth in metres.
    """
    state, states = ScaleFilter(RELATIVE, None, 1.5), []
    for i in range(1, round(5 * seconds)):
        now = 0.2 * i
        T = torch.eye(4)[None].clone()
        T[0, 2, 3] = 0.2 * speed(now) / scale
        picture = seen(depth_of(now) / scale)
        states.append(
            state.update(ns(now), ns(now - 0.2), T if state.needs_motion else None, picture)
        )
    return state, states


def test_outliers_of_the_ground_plane_over_a_whole_drive_do_not_add_up():
    """One second in five the road looks 40 % too near."""
    roads = [flat_road(1.5), flat_road(1.5 / 1.4)]
    state, states = by_height(lambda t: roads[t % 5 > 4], 60, lambda t: 8.0)
    assert state.counts["ground_plane_innovation"] > 40 and state.used["ground_plane"] > 150
    assert values(states, 3.0)[15:] == pytest.approx(1, abs=0.05)


def test_a_stop_is_known_by_the_ego_motion_where_there_is_no_odometry():
    """Queueing on a hump that shows the road too near, every frame with the same error."""
    roads = [flat_road(1.5), flat_road(1.3)]
    state, states = by_height(lambda t: roads[t > 10], 40, lambda t: 8.0 * (t <= 10))
    assert {s.source for s in states[15:]} == {"ground_plane"}
    assert len({(s.value, s.variance) for s in states[50:]}) == 1
    assert state.used["ground_plane"] < 50


def test_ego_motion_is_asked_for_only_when_the_height_is_measured():
    """Five times a second, at a red light, too."""
    state, picture, asked = ScaleFilter(RELATIVE, None, 1.5), seen(flat_road()), 0
    assert not state.needs_motion  # of the first frame nothing can be said
    for i in range(600):  # 20 s at 30 Hz, half of them standing
        asked += (wanted := state.needs_motion)
        T = torch.eye(4)[None].clone()
        T[0, 2, 3] = 8.0 / 30 * (i < 300)
        before = state._ground_s
        state.update(ns(i / 30), ns((i - 1) / 30), T if wanted else None, picture)
        assert wanted or state._ground_s == before or i == 0
    assert 90 <= asked <= 220


@pytest.mark.parametrize("uneven", [False, True])
def test_nothing_is_learned_at_a_red_light_however_frames_come(uneven):
    """Ego-motion is there only where it was asked for: a late frame may lack it."""
    state, now, random = ScaleFilter(RELATIVE, None, 1.5), 0.0, np.random.default_rng(0)
    roads, states = [seen(flat_road(h) / 3.0) for h in (1.5, 1.3)], []
    while now < 60:
        before, now = now, now + (int(random.integers(1, 4)) if uneven else 1) / 30
        T = torch.eye(4)[None].clone()
        T[0, 2, 3] = 8.0 / 3.0 * (now - before) * (now <= 20)
        wanted = state.needs_motion
        states.append(
            (now, state.update(ns(now), ns(before), T if wanted else None, roads[now > 20]))
        )
    assert states[-1][1].source == "ground_plane"
    assert len({(s.value, s.variance) for t, s in states if t > 20.5}) == 1


def test_slip_longer_than_patience_is_known_by_the_ground():
    message = lambda d, t: d.message(t, 2.4 if t > 10 else 1.0)  # noqa: E731
    state, states = run(cruise(25), 3.0, message=message, camera_height=1.5, network_noise=0.1)
    assert values(states, 3.0)[-1] == pytest.approx(1, abs=0.05)


def test_frames_wait_for_odometry_that_comes_late_but_not_for_ever():
    drive, odometry = cruise(10), VehicleOdometry()
    state = ScaleFilter(RELATIVE, odometry)
    picture, late = seen(flat_road()), 0.35
    for i in range(1, 90):
        now = i * 0.1
        if now > late:
            odometry.observe(ns(now - late), drive.message(now - late))
        latest = state.update(ns(now), ns(now - 0.1), drive.ego_motion(now, 2.0), picture)
    assert latest.source == "odometry" and latest.value == pytest.approx(2.0, rel=0.02)
    for i in range(90, 120):
        now = i * 0.1
        after = state.update(ns(now), ns(now - 0.1), drive.ego_motion(9.0, 2.0), picture)
    assert state.counts["late"] > 10 and after.value == pytest.approx(latest.value, rel=0.02)


def test_a_bag_that_starts_over_keeps_the_scale():
    drive, odometry = cruise(6), VehicleOdometry()
    state, _ = run(drive, 3.0, odometry=odometry)
    _, states = run(drive, 3.0, odometry=odometry, state=state)
    assert {s.source for s in states} == {"odometry"}
    assert values(states, 3.0) == pytest.approx(1, abs=0.03)
    assert "stamp_jumped_back 1" in state.report()["odometry_refused"]


def test_without_stamps_ego_motion_or_agreement_nothing_is_learned(caplog):
    odometry = VehicleOdometry()
    state, picture = ScaleFilter(RELATIVE, odometry), seen(flat_road())
    drive = cruise(10)
    assert state.update(None, None, drive.ego_motion(1.0, 3.0), picture) is RELATIVE
    assert not state.needs_motion
    for i in range(1, 30):
        odometry.observe(ns(i * 0.1), drive.message(i * 0.1))
        assert state.update(ns(i * 0.1), ns(i * 0.1 - 0.1), None, picture) is RELATIVE
    assert state.needs_motion and caplog.text.count("no ego-motion") == 1
    state, states = run(drive, 3.0, network_noise=1.5)
    assert states[-1] is RELATIVE and state.counts["odometry_inconsistent"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"camera_height": -1.0}, "camera_height is -1"),
        ({"min_speed": math.nan}, "min_speed is nan"),
    ],
)
def test_bad_settings_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        ScaleFilter(RELATIVE, VehicleOdometry(), **options)


def test_K_of_the_drives_is_that_of_their_road():
    """The plane these tests are built on: 1.5 m below the camera at the row where it must be."""
    depth = flat_road()
    row = int(K[1, 2]) + 20
    assert depth[row, 0] == pytest.approx(1.5 * K[1, 1] / 20)
