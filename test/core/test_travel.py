"""How far the camera travelled, by poses and by speed; and the pairs that cannot tell."""

import numpy as np
import pytest
from scenes import SIZE, camera, drive, write_recording

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.data.travel import Travel, rotate, travel_table

NS = 100_000_000  # between two frames
LEVER = (2.0, 0.5, 1.6, 0.0, 0.1, 0.0)


class Driven:
    """A recording of which only odometry and stamps matter."""

    path = "drive"

    def __init__(self, rows, stamps_ns=None):
        self.rows = rows
        self.stamps_ns = np.arange(len(rows)) * NS if stamps_ns is None else np.array(stamps_ns)

    def __len__(self):
        return len(self.rows)

    def odometry(self, i):
        return self.rows[i]


def at(x=0.0, y=0.0, yaw=0.0, **more):
    half = yaw / 2
    pose = {"tx": x, "ty": y, "tz": 0.0, "qx": 0.0, "qy": 0.0, "qz": np.sin(half)}
    return {**pose, "qw": np.cos(half), **more}


def circle(speed, yaw_rate, count=4, poses=True, speeds=True):
    """A base that drives round a centre on its left."""
    radius, rows = speed / yaw_rate, []
    for i in range(count):
        yaw = yaw_rate * i * NS / 1e9
        row = at(radius * np.sin(yaw), radius * (1 - np.cos(yaw)), yaw) if poses else {}
        rows.append(row | ({"speed": speed, "yaw_rate": yaw_rate} if speeds else {}))
    return Driven(rows)


def table(recordings, **options):
    targets = [(v, 1, (0, 2)) for v in range(len(recordings))]
    return travel_table(recordings, targets, DataConfig(**options))


def test_poses_tell_the_distance_between_the_cameras_in_every_direction():
    straight = Driven([at(3.0 * i, 4.0 * i) for i in range(4)])
    assert Travel(straight).length(1, 2) == pytest.approx(5.0)
    assert Travel(straight).length(2, 0) == pytest.approx(10.0)
    unwatched = Driven([at(0.0), {"tx": 3.0}, at(6.0)])  # half a pose is none
    assert Travel(unwatched).length(0, 1) == "without odometry"


def test_speed_is_averaged_over_both_stamps_and_its_sign_counts_before_that():
    speeds = Driven([{"speed": v} for v in (4.0, 6.0, -5.5, -14.5)])
    assert Travel(speeds).length(0, 1) == pytest.approx(0.5)
    assert Travel(speeds).length(1, 2) == "slower than 1 m/s"
    assert Travel(speeds).length(3, 2) == pytest.approx(1.0)  # backwards


@pytest.mark.parametrize("known", [{"speeds": False}, {"poses": False}, {}])
def test_a_turning_vehicle_swings_the_camera_on_its_lever(known):
    """Round the centre the camera describes a circle of its own: chord 2 rho sin(w dt / 2)."""
    speed, yaw_rate = 6.0, 0.8
    rho = np.hypot(speed / yaw_rate - LEVER[1], LEVER[0])
    chord = 2 * rho * np.sin(yaw_rate * NS / 1e9 / 2)
    found = Travel(circle(speed, yaw_rate, **known), LEVER).length(1, 2)
    assert found == pytest.approx(chord, rel=5e-4)
    assert abs(found / (speed * NS / 1e9) - 1) > 0.02  # which the base alone would get wrong


@pytest.mark.parametrize("known", [{"speeds": False}, {"poses": False}])
def test_turns_tell_nothing_while_nobody_knows_where_the_camera_sits(known):
    assert "turn faster" in Travel(circle(6.0, 0.8, **known)).length(0, 1)
    assert Travel(circle(6.0, 0.05, **known)).length(0, 1) == pytest.approx(0.6, rel=1e-3)


def test_a_standing_vehicle_and_poses_that_jump_tell_nothing():
    creeping = Driven([{"speed": 0.9}] * 2)
    assert Travel(creeping).length(0, 1) == "slower than 1 m/s"
    # fixes once in four frames: the base seems to stand, then to fly
    fixes = Driven([at(0.0, speed=5.0)] * 4 + [at(2.0, speed=5.0)])
    assert isinstance(Travel(fixes).length(0, 1), str)
    assert "disagree" in Travel(fixes).length(3, 4)
    assert Travel(fixes).length(0, 4) == pytest.approx(2.0)
    assert Travel(Driven([at(0.0), at(5.0)], [0, 0])).length(0, 1) == "without odometry"


def test_odometry_that_lags_is_read_later():
    """Speed 10 t: the images of 0.1 s and 0.2 s belong to what is written at 0.25 s and 0.35 s."""
    ramp = Driven([{"speed": 10.0 * i * NS / 1e9} for i in range(5)])
    assert Travel(ramp, offset=0.15).length(1, 2) == pytest.approx(0.3)
    assert Travel(ramp).length(1, 2) == pytest.approx(0.15)
    assert Travel(ramp, offset=0.15).length(2, 3) == "without odometry"  # beyond the last one


def test_rotations_turn_vectors():
    half = np.sqrt(0.5)
    left = rotate(np.array([0, 0, half, half]), np.array([2.0, 0.0, 1.0]))
    assert left == pytest.approx([0, 2, 1], abs=1e-12)
    up = rotate(np.array([0, -half, 0, half]), np.array([2.0, 3.0, 0.0]))
    assert up == pytest.approx([0, 3, 2], abs=1e-12)


def test_pairs_that_cannot_tell_are_nan():
    found = table([Driven([{"speed": v} for v in (3.0, 5.0, 0.0)]), Driven([{}] * 3)])
    assert found[0] == pytest.approx([0.4, 0.25])
    slow = table([Driven([{"speed": v} for v in (3.0, 5.0, -4.0)])])[0]
    assert slow[0] == pytest.approx(0.4) and np.isnan(slow[1])
    assert np.isnan(found[1]).all()


def test_nothing_to_learn_metres_from_is_said_before_a_training():
    with pytest.raises(ValueError, match=r"no recording has odometry.*objective.camera_height"):
        table([Driven([{}] * 3)])
    with pytest.raises(ValueError, match=r"2 slower than 1 m/s\); record a drive"):
        table([Driven([{"speed": 0.2}] * 3)])
    targets = [(0, 1, (0, 2))]
    assert np.isnan(travel_table([Driven([{}] * 3)], targets, DataConfig(), needed=False)).all()


def test_kilometres_per_hour_are_not_taken_for_metres_per_second():
    def moving(factor):
        return Driven([at(0.5 * i, speed=5.0 * factor) for i in range(6)])

    with pytest.raises(ValueError, match=r"3.6 times that of its poses.*km/h.*divide it by 3.6"):
        table([moving(1.0), moving(3.6)])
    assert table([moving(1.1)])[0] == pytest.approx([0.5, 0.5])


def test_samples_know_their_travel_only_when_asked(tmp_path):
    write_recording(tmp_path, drive(6), camera(), odometry={"speed": 5.0})
    config = DataConfig(size=SIZE)

    def batch(**options):
        return SampleSource([Recording(tmp_path)], config, 3, 0, **options).batch(0)

    assert batch().travel is None and batch().to("cpu").travel is None
    found = batch(odometry=True).to("cpu").channels_last().travel
    assert found.shape == (3, 2) and found.flatten().tolist() == pytest.approx([0.5] * 6)


def test_the_camera_is_given_as_at_launch():
    text = DataConfig(base_to_camera="2 0.5 1.6 0 0.1 0")
    assert text.base_to_camera == LEVER == DataConfig(base_to_camera=LEVER).base_to_camera
    for wrong in ("1 2 3", "a b c d e f", "0 0 0 0 0 nan"):
        with pytest.raises(ValueError, match="base_to_camera"):
            DataConfig(base_to_camera=wrong)
