"""Which model is better without ground truth: the better depth wins, the steady flat world not."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
import typer  # noqa: E402
from scenes import camera, drive, write_recording  # noqa: E402
from small_model import save_small_model, small_meta  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from dyndepth_core.commands import compare as compare_command  # noqa: E402
from dyndepth_core.commands import evaluate as evaluate_command  # noqa: E402
from dyndepth_core.data.calibration import Calibration  # noqa: E402
from dyndepth_core.data.chain import recording_hash  # noqa: E402
from dyndepth_core.data.recording import Recording  # noqa: E402
from dyndepth_core.data.writer import RecordingWriter, manifest_hash, write_manifest  # noqa: E402
from dyndepth_core.evaluation import blocks  # noqa: E402
from dyndepth_core.evaluation.blocks import Block, unseen_blocks  # noqa: E402
from dyndepth_core.evaluation.truth_free import MEASURES, judge_block, verdict  # noqa: E402
from dyndepth_core.geometry.se3 import invert_T  # noqa: E402
from dyndepth_core.inference.model_file import save_model  # noqa: E402

SIZE, FRAMES = (96, 144), 25
POSES = drive(FRAMES)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "drive"
    write_recording(path, POSES, camera(105.0, SIZE), SIZE)
    return Recording(path)


class Eye:
    """Stands in for a Predictor: true depth and ego-motion, changed, in a unit of its own."""

    def __init__(self, recording, change=lambda depth, i: depth, stands=False, unit=1.0):
        self.recording, self.change, self.stands, self.unit = recording, change, stands, unit

    def reset(self):
        self.last = None

    def __call__(self, image, K, stamp_ns, motion):
        i = int(np.flatnonzero(self.recording.stamps_ns == stamp_ns)[0])
        T = None
        if self.last is not None:
            T = (invert_T(POSES[self.last]) @ POSES[i])[0].numpy()
            T[:3, 3] *= self.unit
            T = np.eye(4) if self.stands else T
        self.last = i
        depth = self.unit * self.change(self.recording.depth(i), i).astype(np.float32)
        return SimpleNamespace(depth=depth, K=K, T_src_tgt=T)


def bent(depth, i):
    """A world that is 40 % too deep at one side and as much too flat at the other."""
    return depth * np.linspace(0.7, 1.4, depth.shape[1])[None]


def test_the_truth_wins_over_a_bent_and_over_a_flat_world(recording):
    models = {
        "true": Eye(recording, unit=0.1),
        "bent": Eye(recording, bent),
        "flat": Eye(recording, lambda d, i: np.full_like(d, 7.0), stands=True),
    }
    block = Block("drive", recording, tuple(range(FRAMES)))
    pairs, scores = judge_block(block, models)
    for other in ("bent", "flat"):
        found = verdict(pairs["true", other])["measures"]
        assert found["triangulated"]["ratio"] < 0.4, found
        assert found["triangulated"]["images"] >= 3 and found["photometric"]["ratio"] < 0.9
    steady = verdict(pairs["true", "flat"])
    assert steady["measures"]["temporal"]["ratio"] > 10  # a flat world is perfectly steady
    assert steady["leans"] == "first"
    errors = [np.mean([s.scaled["all"]["abs_rel"] for s in scores[n]]) for n in models]
    assert errors[0] < 0.01 < errors[1] and len(scores["true"]) == FRAMES


def rows(logs, measure="triangulated", clips=12):
    """Two values per block; the first model's is exp(log) times the second's."""
    place = lambda c, n: SimpleNamespace(clip=f"c{c}", index=n, stamp_ns=n * 10**8)  # noqa: E731
    values = [(place(k % clips, k), float(np.exp(x)), 1.0) for k, x in enumerate(logs)]
    return {m: values if m == measure else [] for m in MEASURES}


def test_the_rule():
    noise = np.random.default_rng(0).normal(0, 0.05, 36)
    better = verdict(rows(noise - 0.3))
    assert (better["pick"], better["by"], better["leans"]) == ("first", "triangulated", "first")
    assert verdict(rows(noise + 0.3))["pick"] == "second"
    tie = verdict(rows(noise - noise.mean() + 0.001))
    assert (tie["pick"], tie["leans"]) == ("undecided", "second")
    contrary = {**rows(noise - 0.3), **{m: rows(noise + 2, m)[m] for m in MEASURES[1:]}}
    assert verdict(contrary)["pick"] == "first"  # the others do not outvote it
    assert verdict(rows(noise - 0.3, "photometric"))["by"] == "photometric"
    for measure in ("temporal", "scale"):
        alone = verdict(rows(noise - 0.3, measure))
        assert (alone["pick"], alone["by"], alone["leans"]) == ("undecided", None, None)
    few = rows(noise[:3] - 0.3)  # three blocks
    few["photometric"] = rows(noise + 1, "photometric")["photometric"]
    few = verdict(few)
    assert few["by"] == "photometric" and few["pick"] == "second"


def test_how_often_it_agrees_is_counted():
    def pair(first, ratio, decided, pick, leans, **measures):
        truth = {"ratio": ratio, "verdict": decided}
        found = {m: {"ratio": r} for m, r in measures.items()}
        return {"first": first, "second": "b", "truth": truth, "pick": pick, "leans": leans,
                "measures": found}  # fmt: skip

    pairs = [
        pair("a", 0.8, "better", "first", "first", triangulated=0.7, temporal=1.5),
        pair("c", 1.1, "undecided", "first", "first", triangulated=0.9, temporal=2.0),
        pair("d", 1.2, "worse", "undecided", "second", triangulated=1.1),
        {**pair("e", 1, "too few blocks", "first", "first"), "truth": None},
    ]
    found = compare_command.agreement(pairs, {"a": "2026", "b": "2025", "c": "2024", "d": "2026"})
    assert found["all"] == {
        "pairs": 3, "leans": 2, "picked": 2, "picks": 1, "triangulated": 2, "photometric": 0,
        "temporal": 1, "scale": 0, "newer": 2,
    }  # fmt: skip
    assert found["truth_decided"]["pairs"] == 2 and found["truth_decided"]["leans"] == 2


def test_names_are_short_and_differ(tmp_path):
    runs = [tmp_path / run / "run" / "model.safetensors" for run in "ab"]
    paths = [*runs, tmp_path / "x.safetensors"]
    assert compare_command.short_names(paths[1:]) == ["run", "x"]
    assert compare_command.short_names([paths[0], paths[1]]) == ["a/run", "b/run"]
    assert compare_command.short_names([paths[2], paths[2]]) == ["x", "x#2"]


# -- frames that no model was trained on -----------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """Two collected recordings of 200 frames at 20 Hz."""
    for k, name in enumerate(("one", "two")):
        with RecordingWriter(tmp_path / name, Calibration(40, 32, 30, 30, 20, 16), "png") as writer:
            for i in range(200):
                image = np.full((32, 40, 3), k, np.uint8)
                writer.add(image, 10**18 + k * 10**12 + i * 50_000_000)
    bags = [
        {"name": n, "bag_files": {"x": 4 * n}, "sequences": [{"name": n}]} for n in ("one", "two")
    ]
    write_manifest(tmp_path, {"tool": "dyndepth collect", "bags": bags})
    return tmp_path


def meta(*records, bags=(), **provenance):
    source = {"name": "data", "sha256": "0", "recordings": list(records), "bags": list(bags)}
    return small_meta(provenance={"sources": [source], **provenance})


def record(recording, first, last, sha256=None):
    span = [int(recording.stamps_ns[first]), int(recording.stamps_ns[last])]
    return {"name": recording.name, "sha256": sha256 or recording_hash(recording),
            "trained": [span], "held_out": []}  # fmt: skip


def frames(found, name):
    return [i for b in found if b.recording.name == name for i in b.frames]


def test_what_any_model_was_trained_on_is_left_out(root):
    recordings = [Recording(root / n) for n in ("one", "two")]
    one = recordings[0]
    metas = {"a": meta(record(one, 0, 149)), "b": meta(record(one, 0, 99))}
    found, notes = unseen_blocks(root, recordings, metas)
    assert frames(found, "one") == list(range(150, 200, 2))  # at 10 of its 20 Hz
    assert frames(found, "two") == list(range(0, 200, 2))
    assert all(len(b.frames) <= blocks.FRAMES for b in found) and len(found) == 3
    assert "a was trained on 150 of these frames, which are left out" in notes


def test_the_same_drive_collected_anew_is_known_by_its_bag_and_by_forebears(root):
    recordings = [Recording(root / "one")]
    bag = {"name": "one", "files": {"x": 4 * "one"}, "recordings": ["one"]}
    parent = meta(record(recordings[0], 0, 179, "another size"), bags=[bag]).provenance
    child = small_meta(provenance={"parent": {"sha256": "1", **parent.model_dump()}})
    found, _ = unseen_blocks(root, recordings, {"child": child})
    assert frames(found, "one") == list(range(180, 200, 2))
    other = meta(record(recordings[0], 0, 179, "other content"))
    found, notes = unseen_blocks(root, recordings, {"other": other})
    assert len(frames(found, "one")) == 100 and "no model was trained on any" in notes[0]


def test_a_model_of_an_older_version_held_out_the_end(root):
    old = small_meta(provenance={"dataset_manifest": manifest_hash(root), "config": {"data": {}}})
    found, _ = unseen_blocks(root, [Recording(root / n) for n in ("one", "two")], {"old": old})
    assert frames(found, "one") == frames(found, "two") == list(range(180, 200, 2))
    other = small_meta(provenance={"dataset_manifest": 16 * "dead"})
    found, notes = unseen_blocks(root, [Recording(root / "one")], {"other": other})
    assert len(frames(found, "one")) == 100 and "other: of an older version" in notes[0]


def test_nothing_left_is_refused(root):
    recordings = [Recording(root / "one")]
    with pytest.raises(ValueError, match="trained on all of it"):
        unseen_blocks(root, recordings, {"a": meta(record(recordings[0], 0, 199))})


def test_the_command_compares_without_and_beside_the_truth(tmp_path):
    from dyndepth_core.methods.depth_pose_graph import DepthPoseGraph

    write_recording(tmp_path / "drive", drive(12), camera())
    save_small_model(tmp_path / "one.safetensors")
    torch.manual_seed(1)
    graph = DepthPoseGraph(**{k: v for k, v in small_meta().architecture.items() if k != "method"})
    save_model(tmp_path / "two.safetensors", graph, small_meta())
    app = typer.Typer()
    app.command()(evaluate_command.command)

    def run(*words):
        one, two = (tmp_path / f"{name}.safetensors" for name in ("one", "two"))
        words = ("--model", one, "--compare", two, *words)
        return CliRunner().invoke(app, [str(w) for w in words])

    out = tmp_path / "out.json"
    done = run("--data", tmp_path / "drive", "--without-truth", "--json", out)
    assert done.exit_code == 0, (done.output, done.exception)
    (pair,) = json.loads(out.read_text())["pairs"]
    assert (pair["first"], pair["second"]) == ("one", "two") and pair["truth"]["images"] == 12
    assert {"photometric", "temporal"} <= set(pair["measures"]) and pair["pick"] == "undecided"
    assert "agreement" in json.loads(out.read_text())
    shutil.rmtree(tmp_path / "drive" / "depth")
    done = run("--data", tmp_path / "drive", "--json", out)
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads(out.read_text())
    assert report["pairs"][0]["truth"] is None and "agreement" not in report
    assert "one or two: undecided: too few blocks" in done.output.replace("\n", " ")
    Calibration(96, 64).save(tmp_path / "drive" / "calib.json")
    assert "intrinsics unknown" in str(run("--data", tmp_path / "drive").exception)


def test_two_ranges_of_one_drive_are_two_recordings(root):
    one = Recording(root / "one")
    half = len(one) // 2
    parts = [one.part(0, half - 1), one.part(half, len(one) - 1)]
    blocks, _ = unseen_blocks(root, parts, {})
    assert len(blocks) >= 2 and len({block.name for block in blocks}) == len(blocks)
