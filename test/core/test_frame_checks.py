"""Blurred, black, white and repeated frames go, good ones stay; a standing camera is told from a
moving one, whatever moves before it.
"""

import json

import cv2
import numpy as np
import pytest
from camera_bags import START, STEP, drive

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.collect_options import CollectOptions, CollectReport
from dyndepth_core.data.frame_checks import FrameJudge, look, median_shift
from dyndepth_core.data.intake import CameraFrame, Intake
from dyndepth_core.data.odometry import OdometryTrack
from dyndepth_core.data.preparation import Preparation
from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.sequence_writer import SequenceWriter

SIZE = (96, 160)


def verdicts(images, odometry=None, **options):
    judge = FrameJudge(CollectOptions(**options))
    rows = odometry or [None] * len(images)
    return [
        judge.judge(look(im), START + i * STEP, row)
        for i, (im, row) in enumerate(zip(images, rows, strict=True))
    ]


def motion_blur(image, pixels, axis):
    kernel = np.zeros((pixels, pixels), np.float32)
    if axis:
        kernel[pixels // 2] = 1 / pixels
    else:
        kernel[:, pixels // 2] = 1 / pixels
    return cv2.filter2D(image, -1, kernel)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_smeared_frame_is_left_out_and_its_neighbours_stay(axis):
    images = drive(20, SIZE)
    images[12] = motion_blur(images[12], 9, axis)
    found = verdicts(images)
    assert [i for i, (drop, _) in enumerate(found) if drop] == [12] and found[12][0] == "blur"
    assert not any(drop for drop, _ in verdicts(images, blur=0))


def test_contrast_and_brightness_are_no_blur():
    images = drive(20, SIZE)
    images[12] = cv2.convertScaleAbs(images[12], alpha=0.3, beta=20)  # into a tunnel
    assert not any(drop for drop, _ in verdicts(images))


def test_a_lens_that_became_dull_is_not_rejected_for_ever():
    images = drive(60, SIZE)
    dull = [im if i < 20 else cv2.GaussianBlur(im, (0, 0), 4) for i, im in enumerate(images)]
    dropped = [i for i, (drop, _) in enumerate(verdicts(dull)) if drop]
    assert dropped[0] == 20 and dropped[-1] < 40


def test_black_and_white_frames_are_left_out_a_night_stays():
    images = drive(12, SIZE)
    images[8], images[9] = np.full((*SIZE, 3), 3, np.uint8), np.full((*SIZE, 3), 254, np.uint8)
    night = np.full((*SIZE, 3), 2, np.uint8)
    night[60:90, 40:120] = images[10][60:90, 40:120] // 4 + 8  # what the headlights show
    images[10] = night
    found = verdicts(images, blur=0)
    assert [drop for drop, _ in found[7:12]] == ["", "exposure", "exposure", "", ""]
    assert not any(drop for drop, _ in verdicts(images, blur=0, exposure=0))


def test_a_standing_camera_is_tagged_though_something_passes_by():
    still = cv2.resize(drive(1, SIZE)[0], SIZE[::-1])
    rng = np.random.default_rng(0)
    images, passing = [], drive(30, (60, 50), seed=5, step=4)
    for i in range(30):
        image = still.astype(int) + rng.normal(0, 2, still.shape)  # a sensor's noise
        if i >= 10:
            left = min(2 * i, 110)
            image[20:80, left : left + 50] = passing[i]
        images.append(np.clip(image * (1 + 0.002 * i), 0, 255).astype(np.uint8))
    tags = [tag for _, tag in verdicts(images, blur=0)]
    assert tags == [""] + ["standing"] * 29  # the first has nothing to be compared with
    moving = [tag for _, tag in verdicts(drive(30, SIZE, step=0.5))]
    assert moving == [""] * 30
    assert {tag for _, tag in verdicts(images, blur=0, standing_mps=0)} == {""}


def test_the_shift_is_measured():
    a, b = drive(2, SIZE, step=0.4)
    assert 0.1 < median_shift(a[..., 0], b[..., 0]) < 0.6
    assert median_shift(a[..., 0], a[..., 0]) == 0
    flat = np.full(SIZE, 90, np.uint8)
    assert np.isnan(median_shift(flat, flat))


def test_odometry_decides_where_it_is_known():
    images = [drive(1, SIZE)[0]] * 4
    speeds = [{"speed": 5.0}, {"speed": -0.1}, {"speed": 0.0}, {"speed": -2.0}]
    assert [t for _, t in verdicts(images, speeds)] == ["", "standing", "standing", ""]
    poses = [{"tx": x, "ty": 0.0, "tz": 0.0} for x in (0.0, 0.0, 0.5, 0.51)]
    assert [t for _, t in verdicts(drive(4, SIZE), poses)] == ["", "standing", "", "standing"]


def test_odometry_that_never_moves_is_known():
    none = [np.nan] * 7
    still = OdometryTrack([0, STEP, 2 * STEP], [[*none, 0, 0], [*none, 0.01, 0], [*none, 0, 0]])
    assert not still.moves(0.3) and still.moves(0.005)
    poses = [[x, 0, 0, 0, 0, 0, 1, np.nan, np.nan] for x in (0.0, 0.0, 0.2)]
    assert OdometryTrack([0, STEP, 2 * STEP], poses).moves(0.3)
    assert not OdometryTrack([], []).moves(0.3)


def test_what_a_judge_remembers_goes_through_json():
    images = drive(24, SIZE)
    images[15] = motion_blur(images[15], 9, 1)
    rows = [{"tx": 0.02 * i * (i > 12), "ty": 0.0, "tz": 0.0} for i in range(24)]
    expected = verdicts(images, rows)
    for cut in (3, 13, 16):
        first, second = FrameJudge(CollectOptions()), FrameJudge(CollectOptions())
        seen = [(look(im), START + i * STEP, rows[i]) for i, im in enumerate(images)]
        found = [first.judge(*s) for s in seen[:cut]]
        second.restore(json.loads(json.dumps(first.state())))
        assert found + [second.judge(*s) for s in seen[cut:]] == expected


def push_all(root, images, stamps, threads=0, **options):
    options = CollectOptions(**{"rate_hz": 0.0, **options})
    report = CollectReport()
    prepare = Preparation(Calibration(SIZE[1], SIZE[0]), None)
    writer = SequenceWriter(root, "drive", prepare.calib, report)
    intake = Intake(prepare, options, writer, report, threads)
    for image, stamp in zip(images, stamps, strict=True):
        data = None if image is None else image.reshape(-1)

        def read(image=image):
            if image is None:
                raise ValueError("damaged")
            return image

        intake.push(CameraFrame(START + round(stamp * 1e9), read, data))
    intake.end()
    assert report.frames_in == report.kept + sum(report.dropped.values())
    return report


def test_repeated_frames_go_before_the_rate_is_kept(tmp_path):
    """A 15 Hz camera published at 30 Hz: 10 Hz of true images at their true stamps."""
    images = [im for im in drive(30, SIZE) for _ in (0, 1)]
    report = push_all(tmp_path, images, [k / 30 for k in range(60)], rate_hz=10.0)
    assert report.dropped["duplicate"] == 30 and 18 <= report.kept <= 20
    (found,) = open_recordings(tmp_path)
    steps = ((found.stamps_ns - START) / 1e9 * 15).round(3)
    assert (steps == steps.round()).all()
    report = push_all(tmp_path / "all", images, [k / 30 for k in range(60)], duplicates=True)
    assert report.kept == 60


@pytest.mark.parametrize("threads", [0, 3])
def test_frames_left_out_for_long_end_the_sequence(tmp_path, threads):
    images = drive(40, SIZE)
    images[10:25] = [np.zeros((*SIZE, 3), np.uint8) + k % 2 for k in range(15)]
    images[30] = None
    stamps = [k / 10 for k in range(40)]
    report = push_all(tmp_path, images, stamps, threads)
    assert [s["frames"] for s in report.sequences] == [10, 14]
    assert report.dropped == {"exposure": 15, "undecodable": 1}
    again = push_all(tmp_path / "again", images, stamps, 2 - threads // 2)
    assert again.as_dict() == report.as_dict()


def test_a_dry_run_counts_the_same_and_writes_nothing(tmp_path):
    images, stamps = drive(20, SIZE), [k / 10 for k in range(20)]
    assert push_all(None, images, stamps).as_dict() == push_all(tmp_path, images, stamps).as_dict()
