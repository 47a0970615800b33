"""Odometry that went silent, jumps or contradicts: what it costs, and how it is named."""

import math

import numpy as np
import pytest
from drives import RELATIVE, Drive, flat_road, ns, seen

from dyndepth_core.inference.odometry_faults import LATELY, Lately
from dyndepth_core.inference.scale_filter import ScaleFilter
from dyndepth_core.inference.vehicle_odometry import VehicleOdometry

SCALE = 2.0


def watch(message, seconds, **options):
    """Drive at 8 m/s; (time, whether ego-motion was wanted, fault, state) of every frame, which has
    ego-motion only where it was wanted. message: of (drive, moment) to values, None = not sent.
    """
    drive, odometry = Drive(lambda t: 8 + 0 * t, seconds=seconds), VehicleOdometry()
    state, picture, found = (
        ScaleFilter(RELATIVE, odometry, **options),
        seen(flat_road() / SCALE),
        [],
    )
    for i in range(1, 10 * seconds):
        for k in range(4 * i - 3, 4 * i + 1):  # at 40 Hz
            values = message(drive, k / 40)
            if values is not None:
                odometry.observe(ns(k / 40), values)
        wanted, now = state.needs_motion, i / 10
        T = drive.ego_motion(now, SCALE) if wanted else None
        scale = state.update(ns(now), ns(now - 0.1), T, picture)
        found.append((now, wanted, state.fault, scale))
    return state, found


def test_a_driver_that_died_costs_no_ego_motion_is_named_and_may_come_back(caplog):
    state, found = watch(lambda d, t: None if 8.03 < t < 14 else d.message(t), 20)
    for now, wanted, fault, scale in found:
        assert wanted == (not 10.15 < now < 13.95), now
        assert bool(fault) == (10.05 < now < 13.95), (now, fault)
        assert now < 2 or (scale.source == "odometry" and abs(scale.value / SCALE - 1) < 0.02)
    assert found[129][2].startswith("no odometry for 5 s")
    assert state.used["odometry"] > 110
    assert "no ego-motion" not in caplog.text  # of the model: nobody asked for it


def jumping(drive, t):
    return drive.message(t, 1.0 + 0.7 * (round(40 * t) // 4 % 2))


def disagreeing(drive, t):
    return drive.message(t, 1.6, pose=True)


def slipping(drive, t):
    return drive.message(t, 2.4 if t > 5 else 1.0)


@pytest.mark.parametrize(
    ("message", "words", "options"),
    [
        (jumping, "odometry jumps", {}),
        (disagreeing, "contradicts itself", {}),
        (slipping, "contradicts the scale", {"camera_height": 1.5}),
        (lambda d, t: d.message(t) if t % 1 < 0.01 else None, "odometry has gaps", {}),
        (lambda d, t: [math.nan] * 9, "no speed and no pose", {}),
        (lambda d, t: np.array(d.message(t)) + 400, "speeds that no vehicle has", {}),
    ],
)
def test_odometry_that_is_mostly_refused_is_named(message, words, options):
    state, found = watch(message, 14, **options)
    assert words in state.fault
    assert not any(fault for now, _, fault, _ in found if now < 1)


def test_what_is_wrong_for_a_few_seconds_is_no_fault():
    """Wheels that slip, and a driver that pauses."""

    def message(drive, t):
        return None if 4 < t < 5.5 else drive.message(t, 2.4 if 10 < t < 12.5 else 1.0)

    state, found = watch(message, 18)
    assert state.counts["odometry_innovation"] > 15 and state.counts["gap"] > 5
    assert not any(fault for _, _, fault, _ in found)


def test_the_most_frequent_fault_of_the_latest_rules():
    lately = Lately({"jump", "gap"})
    for reason in ("", "jump", "gap", "slow", "gap"):
        for _ in range(LATELY // 4):
            lately.add(reason)
    assert lately.reason == "gap"
    for _ in range(LATELY // 4):
        lately.add("slow")
    assert not lately.reason
