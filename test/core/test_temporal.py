"""Temporal change of static depth, and error over distance, on cases with a known answer."""

import numpy as np
import pytest
from scenes import camera, drive, write_recording

from dyndepth_core.data.recording import Recording
from dyndepth_core.evaluation.distance import EDGES, DistanceErrors
from dyndepth_core.evaluation.ego import fit_scale, track
from dyndepth_core.evaluation.temporal import static_flow, temporal_change


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, drive(4), camera())
    return Recording(path)


def test_the_truth_does_not_change_and_a_flicker_is_what_it_is(recording):
    now, before = recording.depth(2), recording.depth(1)
    assert temporal_change(recording, 2, now, before) == pytest.approx(0, abs=1e-6)
    assert temporal_change(recording, 2, 7 * now, 7 * before) == pytest.approx(0, abs=1e-6)
    assert temporal_change(recording, 2, 1.1 * now, before) == pytest.approx(0.1, abs=1e-6)
    half = before.copy()
    half[np.isfinite(half)] *= 2
    assert temporal_change(recording, 2, now, half) == pytest.approx(0.5, abs=1e-6)


def test_points_are_followed_to_the_same_surface(recording):
    rows, cols, v, u = static_flow(recording, 2)
    assert len(rows) > 0.6 * recording.depth(2).size
    step = np.hypot(rows - v, cols - u)
    assert 0.5 < step.mean() < 15
    assert static_flow(recording, 0) is None
    assert temporal_change(recording, 0, recording.depth(0), recording.depth(0)) is None


def test_what_says_nothing_is_left_out(recording):
    depth = recording.depth(2).copy()
    depth[:, :48] = np.nan
    assert temporal_change(recording, 2, 1.2 * depth, recording.depth(1)) == pytest.approx(0.2)
    depth[:] = np.nan
    assert temporal_change(recording, 2, depth, recording.depth(1)) is None


def test_errors_fall_into_their_bins():
    gt = np.array([[3.0, 3.0, 12.0, 50.0, 0.0, 90.0]])
    guess = np.array([[3.3, 3.3, 12.0, 25.0, 1.0, 1.0]])
    # the median ratio of 3, 3, 12, 50 over 3.3, 3.3, 12, 25 is 7.5 / 7.65
    ratio = 7.5 / 7.65
    errors = DistanceErrors()
    dynamic = np.array([[False, True, False, False, False, False]])
    errors.add(gt, guess, dynamic)
    errors.add(gt, np.full_like(gt, np.nan), dynamic)
    found = errors.table()
    assert found["edges_m"] == list(EDGES) and sum(found["static_pixels"]) == 3
    assert found["static"][0] == pytest.approx(abs(3 - 3.3 * ratio) / 3)
    assert found["dynamic"][0] == pytest.approx(found["static"][0])
    assert found["static"][2] == pytest.approx(abs(12 - 12 * ratio) / 12)
    assert found["static"][6] == pytest.approx(abs(50 - 25 * ratio) / 50)
    assert found["static"][1] is None and found["dynamic_pixels"] == [1] + [0] * 7


def test_tracks_start_at_the_first_camera_and_fit_by_one_scale():
    poses = [T[0].numpy() for T in drive(5)]
    path = track(poses)
    assert np.allclose(path[0], 0) and path.shape == (5, 3)
    assert fit_scale(path, 3 * path) == pytest.approx(3) and fit_scale(0 * path, path) == 0
