"""What mined_supervision mines: ids, tracks, the segmenter's threshold; how it is judged."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dyndepth_core.evaluation.mined import errors
from dyndepth_core.methods.mined_supervision import mining, segment


def test_ids_beyond_a_byte_do_not_hide_small_ones():
    ids = np.array([[0, 300, 300, 7000], [12, 0, 300, 12]])
    assert mining._compact(ids).tolist() == [[0, 2, 2, 3], [1, 0, 2, 1]]
    many = mining._compact(np.arange(1, 401).reshape(20, 20))
    assert many.max() == mining.MOST and (many < mining.MOST).sum() == mining.MOST - 1


def test_frames_of_a_faster_camera_are_followed_each_in_its_phase(monkeypatch):
    """At a stride of 2 neighbours in time are not neighbours of a track."""
    steps = []

    class Follows:
        def __init__(self, birth):
            self.last = None

        def step(self, velocity, depth, K, T, stamp, before, threshold):
            steps.append((self.last, before))
            self.last = stamp
            return SimpleNamespace(ids=np.zeros((2, 8), int), mask=np.zeros((2, 8), bool))

    frames = range(2, 8)
    said = (np.zeros((2, 8, 3)), np.ones((2, 8)), np.eye(3), np.eye(4)[None], np.zeros(1), 0)
    monkeypatch.setattr(mining, "MotionTracker", Follows)
    monkeypatch.setattr(mining, "walk", lambda *_: [None])
    monkeypatch.setattr(mining, "_said", lambda *_: [[part] * len(frames) for part in said])
    source = SimpleNamespace(
        recordings=[SimpleNamespace(stamps_ns=[10 * k for k in range(10)])],
        targets=[(0, frame, (frame - 2, frame + 2)) for frame in frames],
    )
    block = SimpleNamespace(video=0, targets=range(len(frames)))
    mining.mine_block(None, source, block, ["a"], 1.0)
    assert [last for last, _ in steps] == [None, None, 20, 30, 40, 50]
    assert [before for _, before in steps] == [0, 10, 20, 30, 40, 50]


def test_a_held_out_part_without_mined_regions_does_not_switch_the_segmenter_off(monkeypatch):
    asked = []

    class Segments(torch.nn.Module):
        def calibrate(self, samples):
            asked.append(samples)
            return 0.0 if samples == "held_out" else 0.7

    monkeypatch.setattr(segment, "SegmentObjective", lambda network: Segments())
    monkeypatch.setattr(segment, "mined_source", lambda job, part: part)
    monkeypatch.setattr(segment, "_batches", lambda part: part)
    figures = {}
    job = SimpleNamespace(
        config=SimpleNamespace(network=None), fit=lambda *_: None, keep=lambda _: "kept",
        report=figures.update,
    )  # fmt: skip
    assert segment.train_segment(job) == ["kept"]
    assert asked == ["held_out", "training"] and figures == {"recognised": 0.7}


def test_errors_have_the_ratio_of_what_stands():
    truth = np.full((10, 10), 10.0)
    moves = np.zeros((10, 10), bool)
    moves[:, :6] = True  # most of the image
    scene, label, final = (np.where(moves, d, 5.0) for d in (2.5, 5.0, 10.0))
    stack = SimpleNamespace(of=lambda target, name: (moves.astype(float),))
    mined = SimpleNamespace(
        truth=lambda t: truth, moves=lambda t: moves, instances=lambda t: None,
        caches={"labels": stack},
        depths=lambda t: {"scene": scene, "label": label, "final": final},
        table=lambda: {"target": np.zeros(0, int)},
    )  # fmt: skip
    found = errors(mined, [0])["abs_rel"]
    assert found["scene_static"] == found["label_static"] == found["final_static"] == 0
    assert found["scene_dynamic"] == pytest.approx(0.5) and found["label_dynamic"] == 0
    assert found["final_dynamic"] == pytest.approx(1.0)
