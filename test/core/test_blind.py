"""Rows are trained on recordings without ground truth, but for those whose names say otherwise."""

import shutil

import numpy as np
import pytest
from street import Board, drive, write_street
from test_reproduce import TINY

from dyndepth_core.data.recording import open_recordings
from dyndepth_core.reproduce import run as run_module
from dyndepth_core.reproduce.blind import without_truth
from dyndepth_core.reproduce.rows import RowResult


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data" / "seed_5"
    write_street(root / "street", [Board(-1.3, 5.0, step=(0.02, 0.3))], drive(3))
    (root / "street" / "poses.csv").write_text("index\n0,1,0,0,0,0,1,0,0,0,0,1,0\n")
    (root / "manifest.json").write_text("{}")
    return root


def test_images_calibration_and_stamps_are_all_there_is(data):
    blind = without_truth(data)
    (whole,), (seen,) = open_recordings(data), open_recordings(blind)
    assert seen.calib == whole.calib and (seen.stamps_ns == whole.stamps_ns).all()
    for i in range(3):
        assert np.array_equal(seen.image(i), whole.image(i))
        assert whole.depth(i) is not None and whole.instances(i) is not None
        for truth in (seen.depth, seen.instances, seen.dynamic, seen.velocity, seen.pose):
            assert truth(i) is None
    assert whole.pose(0) is not None
    shutil.move(data.parent, data.parents[1] / "moved")
    (moved,) = open_recordings(data.parents[1] / "moved" / blind.name)
    assert len(moved) == 3


def test_it_is_kept_where_it_is_whole_and_made_anew_where_it_is_not(data):
    blind = without_truth(data)
    before = blind.stat().st_ino
    assert without_truth(data).stat().st_ino == before  # under a training that runs
    shutil.copytree(data / "street" / "depth", blind / "street" / "depth")
    without_truth(data)
    assert not (blind / "street" / "depth").exists()
    write_street(data / "other", [Board(1.8, 6.5)], drive(2))
    without_truth(data)
    assert [r.name for r in open_recordings(blind)] == ["other", "street"]
    assert open_recordings(data)[0].depth(0) is not None  # the world itself is left alone


def test_only_rows_of_such_names_see_more(tmp_path, monkeypatch):
    seen = {}

    def run_row(row, test, device, advance):
        seen[row.name] = row.seen
        row.run.mkdir(parents=True)
        (row.run / "model.safetensors").touch()  # others may need it
        return [RowResult(row.name, row.seed, [])]

    monkeypatch.setattr(run_module, "run_row", run_row)
    for name in ("run_baselines", "make_table", "_draw"):
        monkeypatch.setattr(run_module, name, lambda *a: [])
    monkeypatch.setattr(run_module, "markdown", lambda *a: "")
    ends = ("", "_contact", "_rounds", "_files", "_oracle")
    names = [f"mined_supervision{end}" for end in ends]
    names += [
        "residual_motion_metric",
        "many_depth+motion_aware",
        "residual_motion_published_files",
    ]
    run_module.reproduce(names, TINY, [5], tmp_path, workers=1)
    world = tmp_path / "data" / "seed_5"
    told = {name for name, path in seen.items() if path == world}
    assert told == {"mined_supervision_files", "mined_supervision_oracle", names[-1]}
    assert {seen[n] for n in seen.keys() - told} == {world.with_name("seed_5_without_truth")}
    assert seen.keys() > {*names} and not list(tmp_path.glob("data/*truth/*/depth"))
