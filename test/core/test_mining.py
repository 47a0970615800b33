"""What mined_supervision mines: ids, tracks, the segmenter's threshold; how it is judged."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dyndepth_core.data.recording import DamagedImage
from dyndepth_core.evaluation.mined import errors
from dyndepth_core.methods.mined_supervision import cache, cues, mining, segment


def test_regions_are_closed_and_those_beyond_a_byte_share_the_last_id():
    moving = np.zeros((96, 320), bool)
    moving[10:30, 20:60] = True
    moving[10:30, 38:41] = False  # a gap of three pixels
    moving[50, 50] = moving[60:62, 80:90] = True  # too small
    found = cues.regions(moving)
    assert found.max() == 1 and found[15, 39] == 1 and found[:, 70:].max() == 0
    many = np.zeros((700, 700), bool)
    for top in range(0, 660, 34):
        for left in range(0, 660, 34):
            many[top : top + 26, left : left + 26] = True
    found = cues.regions(many)
    assert found.dtype == np.uint8 and found.max() == 255
    assert ((found > 0) == many).all() and (found == 254).sum() == 26 * 26


def test_frames_of_a_faster_camera_are_chained_each_in_its_phase():
    """At a stride of 2 neighbours in time are not neighbours of a chain."""

    def step(z):
        T = np.eye(4)
        T[2, 3] = z
        return T

    links = {f: {f - 2: step(0.1 * f), f + 2: step(-0.1 * (f + 2))} for f in range(2, 9)}
    before, after = (list(mining._chain(links, 6, later)) for later in (False, True))
    assert [f for f, _ in before] == [4, 2, 0] and [f for f, _ in after] == [8, 10]
    assert [T[2, 3] for _, T in before] == pytest.approx([0.6, 1.0, 1.2])
    assert [T[2, 3] for _, T in after] == pytest.approx([-0.8, -1.8])


def mine_frames(monkeypatch, targets, block, damaged=None):
    """mine_block of grey frames; and which frames each was compared with."""

    def frame(video, k):
        if k == damaged:
            raise DamagedImage("damaged.png")
        return np.full((8, 12, 3), 10 * k, np.uint8)

    asked = {}

    def find(tgt, others, T, K, depth, speed):
        asked[round(255 * float(tgt[0, 0])) // 10] = [round(25.5 * float(o[0, 0])) for o in others]
        one = np.ones((8, 12), np.uint8)
        return cues.Cues(one, np.zeros((8, 12)), np.ones(4), one.astype(np.float32), one > 0)

    one = np.zeros((8, 12, 3)), np.ones((8, 12)), np.eye(3), np.stack([np.eye(4)] * 2), np.zeros(1)
    monkeypatch.setattr(mining, "walk", lambda _, beside, __: [len(beside)])
    monkeypatch.setattr(mining, "_said", lambda _, count: [[part] * count for part in one])
    monkeypatch.setattr(mining, "track_motions", lambda *_: None)
    monkeypatch.setattr(mining, "find_cues", find)
    source = SimpleNamespace(frame=frame, targets=targets)
    block = SimpleNamespace(video=0, targets=block)
    return mining.mine_block(None, source, block, ["a"], 1.0), asked


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_an_image_at_the_border_of_a_block_has_as_many_beside_it(monkeypatch, stride):
    targets = [(0, k, (k - stride, k + stride)) for k in range(3, 22)]
    _, asked = mine_frames(monkeypatch, targets, range(7, 11))
    for k in range(10, 14):
        assert asked[k] == [k + way * n * stride for way in (-1, 1) for n in (1, 2, 3)]


def test_what_cannot_be_read_has_no_cues(monkeypatch):
    """Frame 3 is damaged; frame 2 has nothing else beside it than frame 1."""
    targets = [(0, k, (k - 1, k + 1)) for k in range(2, 6)]
    found, asked = mine_frames(monkeypatch, targets, range(4), damaged=3)
    assert asked == {2: [1], 4: [5, 6], 5: [4, 6]}
    assert found["ids"].any((1, 2)).tolist() == [True, False, True, True]
    assert np.isnan(found["apparent"][1].astype(float)).all() and not found["road"][1].any()
    assert found["still"].any((1, 2)).tolist() == [True, False, True, True]
    known = [[True, False], [False, False], [False, True], [True, True]]
    assert (found["motion"][..., 3, 3] == 1).tolist() == known


def test_a_held_out_part_without_mined_regions_does_not_switch_the_segmenter_off(monkeypatch):
    asked = []

    class Segments(torch.nn.Module):
        def calibrate(self, samples):
            asked.append(samples)
            return 0.0 if samples == "held_out" else 0.7

    monkeypatch.setattr(segment, "SegmentObjective", lambda network: Segments())
    monkeypatch.setattr(segment, "mined_source", lambda job, part: part)
    monkeypatch.setattr(segment, "_batches", lambda part: part)
    monkeypatch.setattr(segment, "check_mined", lambda paths: None)
    figures = {}
    job = SimpleNamespace(
        config=SimpleNamespace(network=None), fit=lambda *_: None, keep=lambda _: "kept",
        report=figures.update, earlier={"mining": []},
    )  # fmt: skip
    assert segment.train_segment(job) == ["kept"]
    assert asked == ["held_out", "training"] and figures == {"recognised": 0.7}


def test_nothing_mined_is_an_error_of_those_who_need_it(tmp_path):
    paths = [tmp_path / f"{k}.npz" for k in range(2)]
    for k, path in enumerate(paths):
        np.savez(path, **{f"ids.{t}": np.full((4, 4), k * t, np.uint8) for t in range(2)})
    segment.check_mined(paths)
    with pytest.raises(ValueError, match="nothing moves in these recordings"):
        segment.check_mined(paths[:1])


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


def test_a_target_is_read_alone_and_memory_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 4)
    monkeypatch.setattr(cache, "KEPT_MB", 1e-6 * 3 * 64)
    source = SimpleNamespace(targets=[(0, k, (k - 1, k + 1)) for k in range(6)])
    source.plain = lambda: source
    figures = {}
    job = SimpleNamespace(
        source=source, held_out=None, folder=tmp_path, track=lambda todo, what: todo,
        report=figures.update,
    )  # fmt: skip

    def work(_, block):
        ids = np.stack([np.full((4, 4), t, np.float32) for t in block.targets])
        return {"ids": ids, "K": -ids, "o_row": np.arange(len(ids)), "o_x": 2.0 * ids[:, 0, 0]}

    paths = cache.make_blocks(job, "testing", work)
    assert [p.name for p in paths] == ["training_0000_000.npz", "training_0000_001.npz"]
    assert cache.read_column(paths[1], "ids")[:, 0, 0].tolist() == [4, 5]
    assert cache.read_column(paths[0], "o_x").tolist() == [0, 2, 4, 6]
    made = cache.Cache(paths, source, "training")
    assert made.table()["target"].tolist() == list(range(6))
    assert made.table()["x"].tolist() == [0, 2, 4, 6, 8, 10]
    for target in (5, 0, 5, 3):
        ids, K = made.of(target, "ids", "K")
        assert (ids == target).all() and (K == -target).all() and ids.shape == (4, 4)
    assert list(made._kept) == [("training_0000_001", "K.1"), *(
        ("training_0000_000", f"{key}.3") for key in ("ids", "K")
    )]  # fmt: skip
    with pytest.raises(ValueError, match="another version"):
        made.of(0, "label")
