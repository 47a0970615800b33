"""Pictures of a run show what is there, where it is."""

import cv2
import numpy as np
import pytest

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.evaluation import film
from dyndepth_core.evaluation.film import Shot, block, contact_sheet, error_colors, top_view
from dyndepth_core.evaluation.protocols import get_protocol
from dyndepth_core.evaluation.received import ReceivedArm, load_shot
from dyndepth_core.evaluation.runner import evaluate


def shot(**changes) -> Shot:
    rng = np.random.default_rng(0)
    truth = rng.uniform(2, 60, (48, 160)).astype(np.float32)
    fields = {
        "image": rng.integers(0, 255, (48, 160, 3), np.uint8),
        "depth": truth * 1.1,
        "truth": truth,
        "points": rng.uniform(-5, 20, (500, 3)).astype(np.float32),
        "colors": rng.integers(0, 255, (500, 3), np.uint8),
        "title": "frame 0",
    }
    return Shot(**{**fields, **changes})


def test_points_from_above_stand_where_they_are():
    points = np.array(
        [[0, 0, 30], [10, 1, 20], [0, -9, 10], [np.nan, 0, 5], [0, 0, -4]], np.float32
    )
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9], [9, 9, 9]], np.uint8)
    picture = top_view(np.array(points, np.float32), colors, (600, 440)).astype(int)
    scale = min(600 * 0.96 / 60, 440 / 44)

    def found(channel):
        others = [c for c in range(3) if c != channel]
        pure = (picture[..., channel] == 255) & (picture[..., others] < 100).all(-1)
        rows, cols = np.nonzero(pure)
        return (rows.mean(), cols.mean()) if rows.size else None

    assert found(0) == pytest.approx((600 - 30 * scale, 220), abs=2)
    assert found(1) == pytest.approx((600 - 20 * scale, 220 + 10 * scale), abs=2)
    assert found(2) is None  # a tree top 9 m above the camera hides no street


def test_error_colors_are_grey_where_nothing_can_be_compared():
    truth = np.array([[10.0, 10.0, 0.0, 100.0, 10.0]])
    depth = np.array([[10.0, 30.0, 10.0, 100.0, np.nan]])
    colors = error_colors(depth, truth)[0]
    table = cv2.applyColorMap(np.array([[0, 255]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, :, ::-1]
    assert (colors[0] == table[0]).all() and (colors[1] == table[1]).all()
    assert len({tuple(c) for c in colors[2:]}) == 1


@pytest.mark.parametrize("size", [(48, 160), (90, 120), (31, 33)])
def test_blocks_of_any_image_size_stack_to_a_sheet(size):
    rng = np.random.default_rng(1)
    truth = rng.uniform(2, 60, size).astype(np.float32)
    image = rng.integers(0, 255, (*size, 3), np.uint8)
    given = shot(image=image, truth=truth, depth=truth, points=np.zeros((0, 3), np.float32),
                 colors=np.zeros((0, 3), np.uint8))  # fmt: skip
    one = block(given)
    assert one.dtype == np.uint8 and one.shape[1] == 2 * 640 + 2 * film.MARGIN + film.TOP_WIDTH
    sheet = contact_sheet([given, given], "title", ["note"])
    assert sheet.shape[1] == one.shape[1] and sheet.shape[0] > 2 * one.shape[0]


def test_received_depth_scores_as_the_depth_that_was_sent(tmp_path):
    """Depth of a smaller, cropped network image, in other units, is put back where it belongs."""
    calib = Calibration(160, 60, 120, 120, 79.5, 29.5)
    v, u = np.mgrid[:60, :160].astype(np.float64)

    def world(x, y):  # inverse depth of a plane: linear in the ray
        return 1 / (0.05 + 0.02 * x + 0.03 * y)

    truth = world((u - 79.5) / 120, (v - 29.5) / 120)
    K = np.array([[60.0, 0, 39.5], [0, 60.0, 9.5], [0, 0, 1]])  # half size, rows 10 to 49
    rows, cols = np.mgrid[:20, :80].astype(np.float64)
    depth = world((cols - 39.5) / 60, (rows - 9.5) / 60) / 7
    depth[:2] = np.inf
    (tmp_path / "received").mkdir()
    with RecordingWriter(tmp_path / "recording", calib, "png") as writer:
        for i in range(2):
            writer.add(np.zeros((60, 160, 3), np.uint8), i * 10**8, depth=truth)
            np.savez(
                tmp_path / "received" / f"{i:06d}.npz", depth=depth.astype(np.float32), K=K,
                points=np.ones((3, 3), np.float16), colors=np.zeros((3, 3), np.uint8),
            )  # fmt: skip
    recording, arm = Recording(tmp_path / "recording"), ReceivedArm(tmp_path / "received")
    found = arm.depth(recording, 0, (60, 160))
    assert np.isnan(found[:13]).all() and np.isnan(found[51:]).all()
    assert np.isfinite(found[16:48]).all()
    table = evaluate([recording], {"model": arm}, get_protocol("native")).table()["model"]
    assert table["all"]["abs_rel"] < 1e-3 and table["median_ratio"] == pytest.approx(7, rel=1e-3)
    drawn = load_shot(recording, tmp_path / "received", 1)
    assert drawn.points == pytest.approx(7 * np.ones((3, 3)), rel=1e-2)
    assert np.nanmax(np.abs(drawn.depth / truth - 1)) < 1e-2 and drawn.title == "frame 1, 0.1 s"


K = np.array([[120.0, 0, 79.5], [0, 120.0, 29.5], [0, 0, 1]])
CAR = (slice(20, 40), slice(60, 90))  # where a car is seen in images of 60 x 160


@pytest.fixture
def moving_run(tmp_path):
    """Two frames of a still plane and a car at 10 m that moves by (3, 0, 0) m/s; the node saw half
    of all lengths, and said nothing of the first frame.
    """
    truth, ids = np.full((60, 160), 20.0, np.float32), np.zeros((60, 160), np.int32)
    truth[CAR], ids[CAR] = 10, 7
    velocity = np.zeros((60, 160, 3), np.float32)
    velocity[CAR] = (3, 0, 0)
    (tmp_path / "received").mkdir()
    with RecordingWriter(tmp_path / "recording", Calibration(160, 60, 120, 120, 79.5, 29.5)) as out:
        for i in range(2):
            image = np.full((60, 160, 3), 80, np.uint8)
            out.add(
                image, i * 10**8, depth=truth, instances=ids, dynamic=ids > 0, velocity=velocity
            )
            motion = {"mask": ids > 0, "velocity": velocity / 2} if i else {}
            np.savez(
                tmp_path / "received" / f"{i:06d}.npz", depth=truth / 2, K=K, **motion,
                points=np.ones((3, 3), np.float16), colors=np.zeros((3, 3), np.uint8),
            )  # fmt: skip
    middle = 5 * np.array([(74.5 - 79.5) / 120, 0, 1])
    rows = [(4, *middle, 1.5, 0, 0, 0), (5, 0, 0, 5, 1, 0, 0, 1)]
    np.savez(tmp_path / "received" / "objects.npz", stamps_ns=[10**8, 10**8], objects=rows)
    return Recording(tmp_path / "recording"), tmp_path / "received"


def test_received_motion_is_scored_at_the_scale_of_the_depth(moving_run):
    recording, folder = moving_run
    arm = ReceivedArm(folder)
    motion = evaluate([recording], {"model": arm}, get_protocol("native")).table()["model"][
        "motion"
    ]
    assert motion["f1"] == motion["recall"] == 1 and motion["objects"] == 1
    assert motion["epe_m"] == pytest.approx(0, abs=1e-3)
    assert motion["epe_zero_m"] == pytest.approx(0.3, rel=1e-3)
    arm.depth(recording, 0, (60, 160))
    assert arm.moving() is None
    arm.depth(recording, 1, (30, 80))
    mask, velocity = arm.moving()
    assert mask.shape == (30, 80) and mask.sum() == pytest.approx(150, abs=15)
    assert np.isfinite(velocity).all() and (velocity[mask] == (1.5, 0, 0)).all()


def test_found_and_true_motion_are_drawn_beside_each_other(moving_run):
    recording, folder = moving_run
    first, second = (load_shot(recording, folder, i) for i in range(2))
    assert first.found is None and first.true is not None
    seen, lost = second.found.objects
    (true,) = second.true.objects
    assert (seen.id, lost.id, true.id) == (4, 5, 7) and (seen.missed, lost.missed) == (0, 1)
    np.testing.assert_allclose(seen.position, 10 * np.array([(74.5 - 79.5) / 120, 0, 1]), rtol=1e-6)
    np.testing.assert_allclose(true.position, seen.position, atol=0.05)
    assert seen.speed == pytest.approx(3) and true.speed == pytest.approx(3, rel=1e-3)
    assert seen.box == true.box == (60, 20, 89, 39)
    assert (second.found.ids[CAR] == 4).all() and (second.found.ids > 0).sum() == 600
    blocks = [block(s) for s in (first, second)]
    assert blocks[0].shape == blocks[1].shape  # a film needs one size
    panel = round(640 * 60 / 160)
    row = blocks[1][-panel:, : 2 * 640 + film.MARGIN].astype(int)
    tinted = np.abs(row - 80).max(-1) > 20
    inside = (slice(100, 150), slice(250, 280))  # of the car, left of its arrow
    assert tinted[:, :640][inside].all() and tinted[:, -640:][inside].all()
    assert not tinted[-60:, :640].any()
    untouched = np.abs(blocks[0][-panel:, :640].astype(int) - 80).max(-1) > 20
    assert not untouched[40:].any()


def test_without_motion_a_block_is_as_it_was(moving_run):
    recording, folder = moving_run
    (folder / "objects.npz").unlink()
    drawn = load_shot(recording, folder, 1)
    assert drawn.true is None and drawn.found is None
    panel = round(640 * 60 / 160)
    assert block(drawn).shape[0] == 30 + 2 * panel + film.MARGIN
