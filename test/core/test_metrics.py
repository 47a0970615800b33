"""Metrics with known answers, computed by hand on images of a few pixels."""

import math

import numpy as np
import pytest

from dyndepth_core.evaluation.ego import ego_errors
from dyndepth_core.evaluation.metrics import (
    METRICS,
    depth_errors,
    median_ratio,
    scale_std,
    score_image,
    summarise,
    valid_depth,
)
from dyndepth_core.evaluation.protocols import get_protocol, with_crop


def test_seven_metrics_by_hand():
    found = depth_errors(np.array([1.0, 2.0, 4.0, 10.0]), np.array([1.0, 1.0, 5.0, 20.0]))
    assert found["abs_rel"] == pytest.approx((0 + 0.5 + 0.25 + 1.0) / 4)
    assert found["sq_rel"] == pytest.approx((0 + 0.5 + 0.25 + 10.0) / 4)
    assert found["rmse"] == pytest.approx(math.sqrt((0 + 1 + 1 + 100) / 4))
    logs = math.log(2) ** 2 + math.log(5 / 4) ** 2 + math.log(2) ** 2
    assert found["rmse_log"] == pytest.approx(math.sqrt(logs / 4))
    # 5 / 4 is not below 1.25, and 2 exceeds 1.25^3 = 1.953.
    assert (found["d1"], found["d2"], found["d3"]) == (0.25, 0.5, 0.5)
    assert set(found) == set(METRICS)


def test_empty_or_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="equal and not empty"):
        depth_errors(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="equal and not empty"):
        depth_errors(np.ones(2), np.ones(3))


def test_valid_depth_is_open_at_both_ends():
    depth = np.array([0.0, 1e-3, 2e-3, 79.9, 80.0, np.nan, np.inf])
    assert valid_depth(depth).tolist() == [False, False, True, True, False, False, False]


def score(gt, guess, strata=None, valid=None, **kwargs):
    gt, guess = np.array(gt, float), np.array(guess, float)
    valid = valid_depth(gt) if valid is None else np.array(valid)
    return score_image(gt, guess, valid, strata or {}, **kwargs)


def test_a_factor_on_depth_changes_only_the_ratio():
    gt = [[2.0, 4.0], [6.0, 0.0]]
    one, three = score(gt, [[1, 3], [5, 7]]), score(gt, [[3, 9], [15, 21]])
    assert one.ratio == pytest.approx(4 / 3)
    assert three.ratio == pytest.approx(4 / 9)
    assert one.scaled["all"] == pytest.approx(three.scaled["all"])


def test_the_ratio_comes_from_all_valid_pixels_also_for_a_stratum():
    dynamic = np.array([[False, False], [False, True]])
    found = score([[2, 2], [2, 8]], [[1, 1], [1, 1]], {"dynamic": dynamic})
    assert found.ratio == 2.0  # median of 2 2 2 8 over median of ones; its own median would give 8
    assert found.scaled["dynamic"]["abs_rel"] == pytest.approx(6 / 8)
    assert found.pixels == {"all": 4, "dynamic": 1}


def test_invalid_pixels_and_unpredicted_pixels_count_nowhere():
    clean = score([[2, 4], [0, 0]], [[1, 3], [100, 100]])
    other = score([[2, 4], [0, 0]], [[1, 3], [np.nan, -5]])
    assert clean.scaled == other.scaled and clean.pixels == {"all": 2}
    assert score([[0.0, 0.0]], [[1.0, 1.0]]) is None


def test_scaled_depth_is_clamped_to_the_range_of_the_protocol():
    found = score([[40, 40], [40, 79]], [[1, 1], [1, 10]])
    assert found.scaled["all"]["rmse"] == pytest.approx(
        0.5
    )  # 400 m are held at 80: error 1 of 4 pixels


def test_unscaled_figures_stand_beside_for_metric_models():
    found = score([[2.0, 4.0]], [[1.0, 2.0]], unscaled=True)
    assert found.scaled["all"]["abs_rel"] == 0.0
    assert found.unscaled["all"]["abs_rel"] == 0.5
    table = summarise([found], min_pixels=1)
    assert table["unscaled"]["all"]["abs_rel"] == 0.5
    assert "unscaled" not in summarise([score([[2.0]], [[1.0]])], min_pixels=1)


def test_a_stratum_is_the_mean_over_images_with_enough_pixels():
    few = np.zeros((10, 20), bool)
    few[0, : 99 % 20] = True
    many = np.ones((10, 20), bool)
    gt = np.full((10, 20), 2.0)
    exact = score(gt, gt, {"dynamic": few})
    wrong = score(
        gt, np.where(np.arange(20) < 5, 1.0, 2.0)[None] * np.ones((10, 1)), {"dynamic": many}
    )
    table = summarise([exact, wrong])
    assert table["all"]["images"] == 2 and table["all"]["abs_rel"] == pytest.approx(0.125 / 2)
    assert table["dynamic"]["images"] == 1 and table["dynamic"]["abs_rel"] == pytest.approx(0.125)
    assert "raised" not in table


def test_scale_std_is_per_clip():
    ratios = {"a": [1.0, 3.0], "b": [10.0, 10.0], "single": [7.0]}
    scores = [score([[r]], [[1.0]], clip=c) for c, values in ratios.items() for r in values]
    assert [s.ratio for s in scores[:2]] == [1.0, 3.0]
    assert scale_std(scores) == pytest.approx((1.0 / 2.0 + 0.0) / 2)
    assert scale_std(scores[-1:]) is None


def test_median_ratio_is_a_ratio_of_medians():
    assert median_ratio(np.array([1.0, 2.0, 9.0]), np.array([1.0, 4.0, 4.5])) == 0.5


def test_garg_crop_truncates_to_whole_pixels():
    mask = get_protocol("kitti-eigen").mask(375, 1242)
    rows, cols = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    assert (rows[0], rows[-1], cols[0], cols[-1]) == (153, 370, 44, 1196)
    assert mask.sum() == (371 - 153) * (1197 - 44)


def test_protocols_say_what_is_wrong():
    with pytest.raises(ValueError, match="one of native, kitti-eigen"):
        get_protocol("eigen")
    with pytest.raises(ValueError, match="3.3 times as wide"):
        get_protocol("kitti-eigen").mask(480, 640)
    assert get_protocol("cityscapes").mask(1024, 2048).sum() == 512 * (1856 - 192)
    assert get_protocol("waymo").depth_range[1] == 75.0
    assert with_crop(get_protocol("native"), "0.5,1,0,0.25").mask(4, 8).sum() == 4
    for bad in ("0.5,1", "a,b,c,d", "0.5,0.4,0,1", "0,2,0,1"):
        with pytest.raises(ValueError, match="top,bottom,left,right"):
            with_crop(get_protocol("native"), bad)


def rotation_y(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    T = np.eye(4)
    T[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    return T


def trajectory(steps, turn_deg, length):
    """Poses T_world_cam that go straight along z, turning every step."""
    poses = [rotation_y(30.0)]
    for _ in range(steps):
        step = rotation_y(turn_deg)
        step[2, 3] = length
        poses.append(poses[-1] @ step)
    return poses


def motions(poses):
    return [np.linalg.inv(a) @ b for a, b in zip(poses, poses[1:], strict=False)]


def test_a_scaled_copy_of_the_trajectory_has_no_error():
    poses = trajectory(6, 5.0, 2.0)
    guess = motions(poses)
    for T in guess:
        T[:3, 3] /= 4.0
    found = ego_errors(guess, poses)
    assert found["scale"] == pytest.approx(4.0)
    assert found["ate_m"] == pytest.approx(0.0, abs=1e-9)
    assert found["rpe_deg"] == pytest.approx(0.0, abs=1e-6)


def test_rotation_error_is_the_angle_of_a_single_step():
    poses = trajectory(4, 0.0, 1.0)
    turning = motions(trajectory(4, 3.0, 1.0))
    found = ego_errors(turning, poses)
    assert found["rpe_deg"] == pytest.approx(3.0)
    assert found["ate_m"] > 0.01
    with pytest.raises(ValueError, match="N and N \\+ 1"):
        ego_errors(turning, poses[:-1])


def test_ate_by_hand():
    # Truth goes 1 m along z twice; the guess goes 1 m along z, then 1 m along x.
    truth = trajectory(2, 0.0, 1.0)
    forward, sideways = np.eye(4), np.eye(4)
    forward[2, 3], sideways[0, 3] = 1.0, 1.0
    found = ego_errors([forward, sideways], truth)
    # positions (0,1), (1,1) in (x, z) against (0,1), (0,2): s = (1 + 2) / (1 + 2) = 1
    assert found["scale"] == pytest.approx(1.0)
    assert found["ate_m"] == pytest.approx(math.sqrt(2 / 3))
