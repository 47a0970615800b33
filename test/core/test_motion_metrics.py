"""Motion metrics by hand."""

import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from rich.console import Console

from dyndepth_core.evaluation.motion import MIN_OBJECT_PIXELS, MotionErrors
from dyndepth_core.evaluation.report import motion_table


def image(rows=20, cols=10):
    """A car over the upper half that goes away at 5 m/s, 12 m ahead."""
    dynamic = np.zeros((rows, cols), bool)
    dynamic[: rows // 2] = True
    velocity = np.zeros((rows, cols, 3), np.float32)
    velocity[dynamic] = (0, 0, 5)
    return {
        "dynamic": dynamic, "true_velocity": velocity, "depth": np.full((rows, cols), 12.0),
        "valid": np.ones((rows, cols), bool), "instances": dynamic.astype(np.uint16), "seconds": 0.1
    }  # fmt: skip


def test_the_truth_is_perfect():
    errors, frame = MotionErrors(), image()
    errors.add(frame["dynamic"], frame["true_velocity"], **frame)
    table = errors.table()
    assert (table["f1"], table["precision"], table["recall"], table["iou"]) == (1, 1, 1, 1)
    assert table["false_share"] == 0 and table["epe_m"] == 0
    assert table["epe_zero_m"] == pytest.approx(0.5)  # 5 m/s for 0.1 s
    assert table["speed_error_mps"] == 0 and table["speed_mps"] == 5 and table["objects"] == 1


def test_it_survives_storage():
    errors, frame = MotionErrors(), image()
    errors.add(frame["dynamic"], frame["true_velocity"], **frame)
    again = MotionErrors.of(json.loads(json.dumps(asdict(errors))))
    assert again == errors and again.table() == errors.table()


def test_half_found_and_a_tenth_false():
    errors, frame = MotionErrors(), image()
    found = np.zeros((20, 10), bool)
    found[:5] = True  # 50 of 100 moving pixels
    found[19] = True  # 10 of 100 static ones
    errors.add(found, 0.8 * frame["true_velocity"], **frame)
    table = errors.table()
    assert table["precision"] == pytest.approx(50 / 60)
    assert table["recall"] == pytest.approx(0.5)
    assert table["f1"] == pytest.approx(100 / 160) and table["iou"] == pytest.approx(50 / 110)
    assert table["false_share"] == pytest.approx(0.1)
    assert table["epe_m"] == pytest.approx(0.1) and table["speed_error_mps"] == pytest.approx(1.0)


def test_no_answer_is_no_motion_and_no_truth_does_not_count():
    errors, frame = MotionErrors(), image()
    frame["valid"][:, 5:] = False
    frame["true_velocity"][15:, :5] = np.nan
    nothing = np.full_like(frame["true_velocity"], np.nan)
    errors.add(np.ones((20, 10), bool), nothing, **frame)
    table = errors.table()
    assert errors.true_positive == 50 and errors.false_positive == 25
    assert table["epe_m"] == pytest.approx(table["epe_zero_m"])
    assert table["speed_error_mps"] == pytest.approx(5)


def test_clips_without_movers_only_add_false_alarms():
    errors, frame = MotionErrors(), image()
    frame["dynamic"][:] = False
    assert errors.table()["f1"] is None and errors.table()["false_share"] is None
    found = np.zeros((20, 10), bool)
    found[0] = True
    errors.add(found, frame["true_velocity"], **frame)
    table = errors.table()
    assert table["false_share"] == pytest.approx(0.05) and table["f1"] == 0
    assert table["recall"] is None and table["epe_m"] is None and table["speed_error_mps"] is None


def test_speed_over_distance_and_small_objects():
    errors = MotionErrors()
    for distance, wrong in ((8.0, 1.0), (30.0, 3.0), (35.0, 1.0)):
        frame = image()
        frame["depth"][:] = distance
        velocity = frame["true_velocity"] * (1 + wrong / 5)
        errors.add(frame["dynamic"], velocity, **frame)
    small = image()
    small["instances"][:] = 0
    small["instances"].flat[: MIN_OBJECT_PIXELS - 1] = 7
    errors.add(small["dynamic"], small["true_velocity"], **small)
    bands = errors.speed_over_distance()
    assert list(bands) == ["0 to 10 m", "10 to 20 m", "20 to 40 m", "40 to 80 m"]
    rows = list(bands.values())
    assert [r["objects"] for r in rows] == [1, 0, 2, 0]
    assert rows[0]["speed_error_mps"] == pytest.approx(1)
    assert rows[2]["speed_error_mps"] == pytest.approx(2) and rows[1]["speed_error_mps"] is None


def test_people_see_them_for_the_methods_that_say_what_moves():
    errors, frame, empty = MotionErrors(), image(), MotionErrors()
    errors.add(np.ones((20, 10), bool), 0.8 * frame["true_velocity"], **frame)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(motion_table({"a": {"motion": errors.table()}, "b": {"motion": empty.table()}}))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["a", "0.667", "1.0000", "0.100", "0.500", "1.00", "5.00", "1"] in rows
    assert ["b", "-", "-", "-", "-", "-", "-", "0"] in rows
    assert motion_table({"a": {}, "row_prior": {}}) is None
