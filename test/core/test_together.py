"""`dyndepth reproduce --at-once`: rows that train at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_reproduce import TINY
from test_synthetic_processes import is_running, wait_until

from dyndepth_core.data.synthetic.dataset import render_dataset
from dyndepth_core.reproduce.recipes import depth_of, in_order
from dyndepth_core.reproduce.rows import Row
from dyndepth_core.reproduce.run import reproduce
from dyndepth_core.reproduce.together import run_together

ARMS = ["monodepth", "sc_depth"]
LONG = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
if __name__ == "__main__":
    from test_together import ARMS, TINY
    from dyndepth_core.reproduce.run import reproduce
    reproduce(ARMS, TINY, [5], Path(sys.argv[2]), minutes=30, workers=1, at_once=2, repeats=2)
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    render_dataset(
        folder / "data" / "seed_5", 5, TINY.clips, TINY.frames, TINY.size, 1, lambda n: None
    )
    return folder


def test_arms_train_at_the_same_time_and_are_scored_as_alone(out):
    shown = {}
    table = reproduce(
        ARMS, TINY, [5], out, workers=1, at_once=2,
        advance=lambda what, done, total: shown.setdefault(what, []).append((done, total)),
    )  # fmt: skip
    assert list(table["methods"]) == [*ARMS, "row_prior", "plane"]
    assert "2 rows trained at the same time" in table["says"]
    times = {}
    for name in ARMS:
        (row,) = out.glob(f"rows/{name}/seed_5_*")
        assert "training targets" in (row / "log.txt").read_text()
        times[name] = [
            (row / file).stat().st_mtime_ns for file in ("run/config.yaml", "run/model.safetensors")
        ]
        assert table["methods"][name]["train_seconds"] > 1
        assert all(0 <= d <= t == 100 for d, t in shown[f"training {name}, seed 5, %"])
    (begun, ended), (other_begun, other_ended) = times.values()
    assert begun < other_ended and other_begun < ended
    again = reproduce(ARMS, TINY, [5], out, workers=1)  # nothing is trained again
    assert again["methods"] == table["methods"]


def test_a_single_row_leaves_the_output_of_the_command_alone(out):
    places, threads = [os.fstat(n).st_ino for n in (1, 2)], torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        reproduce(["monodepth"], TINY, [5], out, workers=1, at_once=2, minutes=0.04)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert [os.fstat(n).st_ino for n in (1, 2)] == places


def test_what_a_training_raises_is_said(out, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "seed_5").symlink_to(out / "data" / "seed_5")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "sc_depth").write_text("in the way")
    with pytest.raises(OSError, match="sc_depth"):
        reproduce(ARMS, TINY, [5], tmp_path, workers=1, at_once=2)


@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sigterm_leaves_every_training_with_a_checkpoint_and_no_process(out, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "seed_5").symlink_to(out / "data" / "seed_5")
    script = tmp_path / "long.py"  # spawned processes import the main module again
    script.write_text(LONG)
    words = [sys.executable, script, Path(__file__).parent, tmp_path]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 180
        while len(list(tmp_path.glob("rows/*/*/run/stages/*/metrics.csv"))) < 2:
            assert time.monotonic() < end and process.poll() is None, "no training has begun"
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=180)[1]
    finally:
        process.kill()  # its trainings end with it
        process.wait()
    assert "every training has a checkpoint" in text
    wait_until(lambda: not any(is_running(int(c)) for c in children))
    assert len(list(tmp_path.glob("rows/*/*/run/stages/*/last.ckpt"))) == 2
    assert len(list(tmp_path.glob("rows/*/*/run"))) == 2  # none of those that waited has begun


def test_rows_wait_for_those_they_are_made_from():
    names = in_order(["many_depth+motion_aware", "monodepth"])
    depths = {name: depth_of(name) for name in names}
    assert depths == {
        "many_depth": 0, "residual_motion": 0, "monodepth": 0, "many_depth_finetuned": 1,
        "many_depth+motion_aware": 1,
    }  # fmt: skip
    # arms of one budget in minutes, which are only compared
    assert depth_of("mined_supervision") == depth_of("residual_motion_long") == 0


def test_rows_whose_start_failed_are_named_and_not_begun(tmp_path):
    models = {"start": tmp_path / "none.safetensors"}
    row = Row("many_depth_finetuned", 5, None, tmp_path, tmp_path, tmp_path / "row", models)
    failed = run_together([row], 2, "cpu", lambda text: None, lambda *_: None)
    assert failed == {str(row): "the row whose model it needs (start) failed"}
    assert not row.folder.exists()
