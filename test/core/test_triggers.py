"""What flow cannot explain, what is unusual, what moves."""

import numpy as np

from dyndepth_core.data.triggers import ENOUGH, FLOOR, FlowResidual, InARow, Unusual, moving_share

START, STEP = 10**18, 10**8


def street(shift=0.0, light=1.0):
    rows, cols = np.mgrid[:96, :320].astype(np.float64)
    x = cols + shift
    value = 128 + 50 * np.sin(x / 9) * np.cos(rows / 11) + 40 * np.sin((x + rows) / 17)
    return np.repeat(np.clip(light * value, 0, 255)[..., None], 3, 2).astype(np.uint8)


def test_flow_explains_a_turn_but_not_a_flash():
    residual = FlowResidual()
    assert residual(street()) is None
    moved = residual(street(6.0))
    plain = np.abs(street(6.0).astype(float) - street()).mean() / 255
    assert moved < 0.015 < 0.05 < plain
    assert residual(street(6.0)) < 1e-3
    assert residual(street(6.0, light=1.4)) > 0.1
    assert residual(street()[:60]) is None  # another size has nothing before it
    residual.restart()
    assert residual(street()[:60]) is None


def test_unusual_is_far_above_the_last_minute():
    unusual = Unusual()
    for index in range(ENOUGH):
        assert not unusual(START + index * STEP, 0.01 if index else 0.5, 2.0)
    later = START + ENOUGH * STEP
    assert not unusual(later, 0.019, 1.5)  # below FLOOR
    assert unusual(later + STEP, max(0.021, FLOOR), 2.0) and unusual.median == 0.01
    assert not unusual(later + 700 * STEP, 0.5, 2.0)  # nothing of the last minute is known
    assert not unusual(START, 0.5, 2.0)  # stamps that went back


def test_moving_needs_three_masks_in_a_row():
    mask = np.zeros((10, 10), np.uint8)
    mask[:2, :5] = 255
    assert moving_share(mask) == 0.1
    judge = InARow()
    assert [judge(v, 0.05) for v in (0.1, 0.1, 0.0, 0.1, 0.1, 0.1, 0.2)] == [False] * 5 + [True] * 2
