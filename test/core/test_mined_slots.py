"""mined_supervision with slots in place of connected components: the whole of it, on what a perfect
scene says.
"""

import numpy as np
import pytest
from perfect_scene import PerfectScene
from street import drive, write_street
from test_mined_supervision import BOARDS, STAGES, TINY, settings

from dyndepth_core.methods.mined_supervision import segment, slots
from dyndepth_core.methods.mined_supervision.cache import read_column
from dyndepth_core.methods.mined_supervision.stages import stages
from dyndepth_core.training.run import train_run

SLOTS = (
    *TINY, "objective.grouping=slots", "objective.slot_size=32", "objective.slot_width=8",
    "objective.alignment=contact",
)  # fmt: skip
WITH_SLOTS = (*STAGES[:2], "slots", *STAGES[2:])


def test_without_slots_every_stage_is_what_it_was():
    found = stages(settings())
    assert [s.name for s in found] == list(STAGES)
    shares = {s.name: s.share for s in found if s.share}
    expected = {"scene": 0.4, "segment": 0.1, "objects": 0.07, "alignment": 0.02, "final": 0.41}
    assert shares == pytest.approx(expected, rel=1e-12)
    parted = {s.name: s.share for s in stages(settings("objective.grouping=slots"))}
    assert list(parted) == list(WITH_SLOTS) and sum(parted.values()) == pytest.approx(1)
    assert parted["slots"] == pytest.approx(0.05 / 1.05)
    for name, share in shares.items():
        assert parted[name] == pytest.approx(share / 1.05)
    with pytest.raises(ValueError, match="set masks to mined"):
        settings("objective.grouping=slots", "objective.masks=files")


def test_objects_come_from_slots_and_a_run_that_was_stopped_there_goes_on(tmp_path, monkeypatch):
    write_street(tmp_path / "data" / "street", BOARDS, drive(14))
    PerfectScene(BOARDS, drive(14)).put_in(monkeypatch)
    regroup, learned_from = slots.regroup, []

    def stopped(*args):
        raise KeyboardInterrupt

    def halves(objective, source, block, mined):
        """As a trained network would part what moves: in two by the middle column; by names that
        mining never gives.
        """
        for target, _ in zip(block.targets, regroup(objective, source, block, mined), strict=True):
            ids = mined.of(target, "ids")[0]
            yield np.where(ids > 0, 7 + (np.arange(ids.shape[1]) >= 48), 0).astype(np.uint8)

    def maps(mined, parted, size, target):
        learned_from.append(parted.of(target, "ids")[0])
        return read(mined, parted, size, target)

    read = segment._maps
    monkeypatch.setattr(segment, "_maps", maps)
    monkeypatch.setattr(slots, "regroup", stopped)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(settings(*SLOTS), [tmp_path / "data"], out)
    before = (out / "stages" / "slots" / "best.ckpt").read_bytes()
    monkeypatch.setattr(slots, "regroup", halves)
    found = train_run(settings(*SLOTS), [tmp_path / "data"], out, resume=True)
    assert found["state"] == "done" and (out / "model.safetensors").is_file()
    assert list(found["stages"]) == list(WITH_SLOTS)
    figures = found["stages"]["slots"]
    assert figures["step"] == 2 and figures["best"]["score"] > 0 and figures["kept"] == 1.0
    assert (out / "stages" / "slots" / "best.ckpt").read_bytes() == before  # not trained again
    (path,) = (out / "stages" / "slots").glob("training_*.npz")
    (mined,) = (out / "stages" / "mining").glob("training_*.npz")
    parted, mined = (read_column(p, "ids") for p in (path, mined))
    assert ((parted > 0) == (mined > 0)).all() and mined.max() < 7
    assert set(np.unique(np.stack(learned_from))) == {0, 7, 8}
