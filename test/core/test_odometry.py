"""Odometry at the stamp of an image: between two messages, never beyond them."""

import numpy as np
import pytest

from dyndepth_core.data.odometry import OdometryPieces, OdometryTrack, slerp


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


def test_a_clock_that_began_anew_gives_each_frame_the_odometry_of_its_own_drive():
    """Two drives with the same stamps, one after the other in the bag."""
    still, second, ms = [float("nan")] * 7, 10**9, 10**6
    stamps = [k * 100 * ms for k in range(21)]
    messages = [(s, s, [*still, 5.0, 0.0]) for s in stamps]
    messages += [(s + 3 * second, s, [*still, 9.0, 0.0]) for s in stamps]
    messages[7], messages[8] = messages[8], messages[7]  # a late message begins nothing
    pieces = OdometryPieces(*zip(*messages, strict=True))
    assert len(pieces) == len(messages) and pieces.moves(8.0) and not pieces.moves(10.0)
    for delay in (-40 * ms, 0, 40 * ms, 900 * ms):  # of the camera, against the odometry
        for stamp in (0, 730 * ms, 2 * second):
            assert pieces.at(stamp, stamp + delay)["speed"] == 5
            assert pieces.at(stamp, stamp + 3 * second + delay)["speed"] == 9
    assert pieces.at(2 * second + 1, 2 * second + 1) is None
    later = OdometryPieces(*zip(*messages[21:], *messages[:21], strict=True))
    assert later.at(second, 4 * second)["speed"] == 9  # files in another order
    assert OdometryPieces([], [], []).at(0, 0) is None and not len(OdometryPieces([], [], []))
