"""Baselines with known answers, on images of four pixels."""

import numpy as np
import pytest

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.evaluation.baselines import PlanePrior, RowPrior, fit_baselines


def write(path, depths, K=None):
    h, w = np.shape(depths[0])
    calib = Calibration(w, h) if K is None else Calibration.from_K(np.array(K, float), w, h)
    with RecordingWriter(path, calib, image_format="png") as writer:
        for k, depth in enumerate(depths):
            truth = None if depth is None else np.array(depth, np.float32)
            writer.add(np.zeros((h, w, 3), np.uint8), k * 10**8, depth=truth)
    return Recording(path)


FOUR = [[2.0, 4.0], [1.0, 0.0]]  # 0 = no truth


def test_row_prior_of_four_pixels_is_the_median_of_each_row(tmp_path):
    recording = write(tmp_path / "a", [FOUR, [[8.0, 100.0], [3.0, 2.0]]])
    prior = fit_baselines([recording])["row_prior"]
    # row 0: 2, 4, 8 (100 m is beyond 80 and does not count); row 1: 1, 2, 3
    assert prior.predict(2, 2, None) == pytest.approx(np.array([[4.0, 4.0], [2.0, 2.0]]))
    assert "plane" not in fit_baselines([recording])  # no intrinsics, no plane


def test_rows_go_to_another_camera_by_angle():
    # Rows at tangents -0.1, 0, 0.1; twice the focal length sees the middle row and halfway.
    prior = RowPrior(np.array([-0.1, 0.0, 0.1]), np.array([40.0, 20.0, 10.0]), by_angle=True)
    K = np.array([[20.0, 0, 0], [0, 20.0, 1.0], [0, 0, 1]])
    found = prior.predict(3, 1, K)[:, 0]  # tangents -0.05, 0, 0.05
    assert found == pytest.approx([2 / (1 / 40 + 1 / 20), 20.0, 2 / (1 / 20 + 1 / 10)])
    K[1, 1] = 2.0  # a wide lens looks beyond the rows of training: held, not extrapolated
    assert prior.predict(3, 1, K)[:, 0] == pytest.approx([40.0, 20.0, 10.0])
    with pytest.raises(ValueError, match="no intrinsics"):
        prior.predict(3, 1, None)


def test_a_finer_image_of_the_same_camera_gets_the_same_rows(tmp_path):
    K = [[4.0, 0, 1.5], [0, 4.0, 0.5], [0, 0, 1]]
    prior = fit_baselines([write(tmp_path / "a", [[[8.0, 8.0], [2.0, 2.0]]], K)])["row_prior"]
    twice = np.array([[8.0, 0, 3.5], [0, 8.0, 1.5], [0, 0, 1]])  # c' = (c + 0.5) 2 - 0.5
    found = prior.predict(4, 1, twice)[:, 0]
    assert found[0] == pytest.approx(8.0) and found[3] == pytest.approx(2.0)
    assert found[1] == pytest.approx(1 / (0.75 / 8 + 0.25 / 2))


def test_without_intrinsics_the_relative_row_is_used(tmp_path):
    prior = fit_baselines([write(tmp_path / "a", [FOUR])])["row_prior"]
    assert not prior.by_angle
    assert prior.predict(4, 3, None)[[0, 3], 0] == pytest.approx([3.0, 1.0])
    assert prior.predict(4, 3, None).shape == (4, 3)


def test_two_cameras_vote_in_the_same_rows(tmp_path):
    low = write(tmp_path / "a", [[[10.0], [5.0]]], [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1]])
    high = write(tmp_path / "b", [[[20.0], [1.0]]], [[1.0, 0, 0], [0, 1.0, 1.0], [0, 0, 1]])
    prior = fit_baselines([low, high])["row_prior"]
    assert prior.rows == pytest.approx([-1.0, 0.0, 1.0])
    assert prior.depth == pytest.approx([20.0, np.median([10.0, 1.0]), 5.0])


def test_plane_by_hand():
    plane = PlanePrior(height=1.5, far=50.0)
    K = np.array([[10.0, 0, 0], [0, 10.0, 1.0], [0, 0, 1]])
    found = plane.predict(4, 1, K)[:, 0]
    assert found == pytest.approx([50.0, 50.0, 15.0, 7.5])  # z = 1.5 * 10 / (v - 1)
    with pytest.raises(ValueError, match="intrinsics"):
        plane.predict(4, 1, None)


def test_plane_is_fitted_to_the_ground_of_the_training_set(tmp_path):
    h, w, f, cy = 48, 40, 40.0, 20.0
    slope = (np.arange(h) - cy) / f
    ground = np.where(slope > 0, 1.8 / np.maximum(slope, 1e-6), 60.0)
    depth = np.repeat(np.minimum(ground, 60.0)[:, None], w, axis=1)
    K = [[f, 0, 19.5], [0, f, cy], [0, 0, 1]]
    plane = fit_baselines([write(tmp_path / "a", [depth])])  # K unknown
    assert "plane" not in plane
    plane = fit_baselines([write(tmp_path / "b", [depth], K)])["plane"]
    assert plane.height == pytest.approx(1.8, rel=0.01)  # depth on disk is rounded to 1 / 256 m
    assert plane.far == pytest.approx(60.0)


def test_no_truth_is_said(tmp_path):
    w, h = 2, 2
    with RecordingWriter(tmp_path / "a", Calibration(w, h)) as writer:
        writer.add(np.zeros((h, w, 3), np.uint8), 0)
    with pytest.raises(ValueError, match="no ground-truth depth in a"):
        fit_baselines([Recording(tmp_path / "a")])
    with pytest.raises(ValueError, match="empty"):
        fit_baselines([write(tmp_path / "b", [np.zeros((2, 2))])])
