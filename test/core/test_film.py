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
