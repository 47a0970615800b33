"""Odometry at the stamp of an image: between two messages, never beyond them."""

import numpy as np
import pytest

from dyndepth_core.data.odometry import OdometryTrack, slerp


def test_odometry_between_messages():
    turn = [0.0, 0.0, np.sin(0.4), np.cos(0.4)]  # 0.8 rad about z
    rows = [[0, 0, 0, 0, 0, 0, 1, 10, 0], [1, 2, 0, *turn, 20, 0.5]]
    track = OdometryTrack([0, 10**8], rows)
    middle = track.at(25 * 10**6)
    assert middle["tx"] == 0.25 and middle["ty"] == 0.5 and middle["speed"] == 12.5
    assert middle["qz"] == pytest.approx(np.sin(0.1)) and middle["qw"] == pytest.approx(np.cos(0.1))
    assert track.at(-1) is None and track.at(10**8 + 1) is None
    assert OdometryTrack([0, 10**9], rows).at(5 * 10**8) is None  # nothing is invented in a gap
    nan = [float("nan")] * 7
    assert OdometryTrack([0], [[*nan, 3, 0]]).at(0) == {"speed": 3.0, "yaw_rate": 0.0}
    a, b = np.array([0, 0, 0, 1.0]), -np.array(turn)  # the same rotation with the other sign
    assert slerp(a, b, 0.5) == pytest.approx([0, 0, np.sin(0.2), np.cos(0.2)])
