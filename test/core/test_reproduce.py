"""`dyndepth reproduce`: rows are stored and resumed, the table is right, names are checked."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest

from dyndepth_core.commands.reproduce import parse_seeds
from dyndepth_core.evaluation.metrics import ImageScore
from dyndepth_core.reproduce import rows as rows_module
from dyndepth_core.reproduce.budgets import BUDGETS, Budget, get_budget
from dyndepth_core.reproduce.plots import _shown
from dyndepth_core.reproduce.recipes import in_order
from dyndepth_core.reproduce.rows import RowResult
from dyndepth_core.reproduce.run import check_methods, reproduce, row_config, row_folder
from dyndepth_core.reproduce.table import make_table, markdown

MASKS = ("files", "oracle")
TINY = Budget(
    "tiny", (64, 96), 0.05, {"train": 2, "val": 1, "test": 2}, 4,
    (
        "network.encoder=resnet18", "network.pose_encoder=resnet18", "network.width=0.125",
        "network.decoder_channels=4,4,8,8,8", "network.pretrained=false", "train.batch_size=2",
        "train.threads=1", "train.validate_every=5", "train.checkpoint_every=5",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("reproduce") / "out"


@pytest.fixture(scope="module")
def table(out):
    return reproduce(["monodepth", "sc_depth"], TINY, [5], out, workers=1, command="dyndepth x")


def test_every_method_and_baseline_stands_in_the_table(table, out):
    assert list(table["methods"]) == ["monodepth", "sc_depth", "row_prior", "plane"]
    stored = json.loads((out / "results.json").read_text())
    assert stored == table and table["seed"] == [5] and table["budget"] == "tiny"
    for name in ("monodepth", "sc_depth"):
        row = table["methods"][name]
        assert 0 < row["all"]["abs_rel"] and row["scale_std"] > 0 and row["temporal_change"] > 0
        assert row["ego"]["clips"] == 2 and row["train_seconds"] > 1 and row["parameters"] > 1000
    assert "ego" not in table["methods"]["row_prior"]
    pairs = {(p["first"], p["second"]) for p in table["paired"]}
    assert ("sc_depth", "monodepth") in pairs and ("monodepth", "row_prior") in pairs
    metrics = {p["metric"] for p in table["paired"] if p["second"] == "monodepth"}
    assert metrics == {"abs_rel", "scale_std", "temporal_change", "ate_m"}


def test_results_can_be_read_and_looked_at(table, out):
    text = (out / "results.md").read_text()
    assert "dyndepth x" in text and re.search(r"\| sc_depth \| 0\.\d{3}", text)
    plots = {str(p.relative_to(out / "plots")) for p in (out / "plots").rglob("*.png")}
    assert {
        "abs_rel.png", "paired.png", "over_distance.png", "over_time.png", "trajectories.png",
        "sc_depth_seed_5/worst.png", "monodepth_seed_5/best.png",
    } <= plots  # fmt: skip


def test_stored_rows_are_not_trained_again_and_one_can_be_run_alone(table, out, monkeypatch):
    monkeypatch.setattr(rows_module, "train_run", lambda *a, **k: pytest.fail("trained again"))
    again = reproduce(["sc_depth"], TINY, [5], out, workers=1)
    assert again["methods"]["sc_depth"] == table["methods"]["sc_depth"]
    assert list(again["methods"]) == ["sc_depth", "row_prior", "plane"]


def test_arms_of_a_model_are_rows_that_cost_no_training(table, out, monkeypatch):
    found = reproduce(["many_depth"], TINY, [5], out, workers=1)
    arms = ["many_depth", "many_depth_teacher", "many_depth_empty"]
    assert list(found["methods"])[:3] == arms
    many, teacher, empty = (found["methods"][name] for name in arms)
    assert many["train_seconds"] > 1 and "train_seconds" not in teacher and "steps" not in empty
    assert teacher["parameters"] < many["parameters"] == empty["parameters"]
    assert all(m["all"]["abs_rel"] > 0 and m["temporal_change"] > 0 for m in (many, teacher, empty))
    assert {("many_depth_teacher", "many_depth"), ("many_depth_empty", "many_depth")} <= {
        (p["first"], p["second"]) for p in found["paired"]
    }
    assert len(list(out.glob("rows/many_depth/seed_5_*/*/result.json"))) == 2
    monkeypatch.setattr(rows_module, "score", lambda *a, **k: pytest.fail("scored again"))
    assert reproduce(["many_depth"], TINY, [5], out, workers=1)["methods"] == found["methods"]


def test_another_configuration_has_a_folder_of_its_own(out):
    one, two = (row_folder(out, row_config("sc_depth", TINY, 5, m), "sc_depth", 5) for m in (1, 2))
    assert one != two and one.parent == two.parent == out / "rows" / "sc_depth"


def test_repeats_start_elsewhere_and_keep_what_is_there(table, out):
    found = reproduce(["monodepth"], TINY, [5], out, workers=1, repeats=2)
    first, second = found["methods"]["monodepth"]["all"]["per_seed"]["abs_rel"]
    assert first == table["methods"]["monodepth"]["all"]["abs_rel"] != second
    assert "2 trainings per seed of each row" in found["says"]
    assert (out / "plots" / "monodepth_seed_5_repeat_1" / "worst.png").is_file()


def test_a_row_made_from_another_model_has_another_folder(out):
    name, config = "many_depth_finetuned", row_config("many_depth_finetuned", TINY, 5, None)
    bases = [row_folder(out, row_config("many_depth", TINY, 5, m), "many_depth", 5) for m in (1, 2)]
    models = [{"start": base / "run" / "model.safetensors"} for base in bases]
    one, two = (row_folder(out, config, name, 5, m) for m in models)
    assert one != two and row_folder(out, config, name, 5, models[0]) == one
    assert row_folder(out, config, name, 5, models[0], "a hash of masks") != one
    settings = json.dumps(rows_module.settings_of(config), sort_keys=True)  # as ever
    assert row_folder(out, config, name, 5).name.endswith(
        hashlib.sha256(settings.encode()).hexdigest()[:8]
    )


def test_a_damaged_or_foreign_row_is_made_anew(table, out, tmp_path):
    (row,) = out.glob("rows/sc_depth/seed_5_*/result.json")
    key = json.loads(row.read_text())["key"]
    assert RowResult.read(row, key).method == "sc_depth"
    assert RowResult.read(row, "other") is None
    (tmp_path / "cut.json").write_text(row.read_text()[:100])
    assert RowResult.read(tmp_path / "cut.json", key) is None


def test_all_arms_get_the_same_budget():
    one, two = (row_config(m, BUDGETS["quick"], 3, None) for m in ("monodepth", "sc_depth"))
    assert (one.data, one.network, one.train) == (two.data, two.network, two.train)
    assert one.train.minutes == 20 and one.data.size == (96, 320) and one.train.seed == 3
    assert BUDGETS["quick"].clips["test"] >= 20
    assert row_config("monodepth", BUDGETS["smoke"], 1, 0.5).train.minutes == 0.5


def test_mined_rows_take_three_times_the_budget_and_bring_their_control():
    control = "residual_motion_long"
    found = in_order(["monodepth", "mined_supervision", "mined_supervision_files"])
    assert found == ["monodepth", control, "mined_supervision", "mined_supervision_files"]
    assert in_order(["mined_supervision", control]) == [control, "mined_supervision"]
    mined, long, files, oracle = (
        row_config(n, BUDGETS["quick"], 3, None)
        for n in ("mined_supervision", control, *(f"mined_supervision_{k}" for k in MASKS))
    )
    assert long.train.minutes == 60 and mined.train.minutes == 45  # mining takes the rest
    assert (mined.method, long.method) == ("mined_supervision", "residual_motion")
    assert [c.objective.masks for c in (mined, files, oracle)] == ["mined", *MASKS]
    check_methods([control, "mined_supervision_oracle"])


def test_the_variant_for_a_vehicle_stands_beside_the_faithful_one():
    assert in_order(["many_depth_fast"]) == ["many_depth", "many_depth_fast"]
    fast, faithful = (
        row_config(n, BUDGETS["quick"], 3, None) for n in ("many_depth_fast", "many_depth")
    )
    assert (fast.network.planes, fast.network.variant) == (16, "fast")
    assert faithful.network.planes > 16 and fast.train == faithful.train


def fake(method, seed, errors, ratios, repeat=0):
    """A row of two clips with the given abs_rel and median ratio per image."""
    scores = [
        ImageScore(
            f"synth_{seed:03d}_{k // 2:03d}", k % 2, k, ratio, {"all": 200},
            {"all": dict.fromkeys(("abs_rel", "sq_rel", "rmse", "rmse_log", "d1", "d2", "d3"), e)},
        )
        for k, (e, ratio) in enumerate(zip(errors, ratios, strict=True))
    ]  # fmt: skip
    return RowResult(
        method, seed, scores, temporal={"c": 0.1}, train_seconds=60.0 * seed, repeat=repeat
    )


def test_seeds_are_averaged_and_stay_beside():
    rows = [
        fake("a", 1, [0.1, 0.1, 0.3, 0.3], [1, 1, 1, 1]),
        fake("a", 2, [0.4, 0.4, 0.4, 0.4], [1, 3, 1, 3]),
        fake("b", 1, [0.2, 0.2, 0.6, 0.6], [1, 1, 1, 1]),
        fake("b", 2, [0.8, 0.8, 0.8, 0.8], [1, 3, 1, 3]),
    ]
    about = {"seed": [1, 2], "budget": "x", "device": "cpu", "says": "", "command": ""}
    found = make_table(rows, about)
    a = found["methods"]["a"]
    assert a["all"]["abs_rel"] == pytest.approx(0.3)
    assert a["all"]["per_seed"]["abs_rel"] == pytest.approx([0.2, 0.4])
    assert a["scale_std"] == pytest.approx(0.25) and a["per_seed"]["scale_std"] == [0, 0.5]
    assert a["train_seconds"] == 90
    (pair,) = (p for p in found["paired"] if (p["metric"], p["stratum"]) == ("abs_rel", "all"))
    assert (pair["first"], pair["second"]) == ("b", "a")
    assert pair["ratio"] == pytest.approx(2) and pair["blocks"] == 4
    assert "| b | a | abs_rel | all | 2.000 |" in markdown(found, "")
    assert "What moves" not in markdown(found, "")
    found["methods"]["b"]["motion"] = {"f1": 0.5, "epe_m": 0.25, "speed_mps": None}
    assert "| b | 0.500 | - | - | - | 0.250 | - | - | - |" in markdown(found, "")
    near = {"objects": 3.0, "speed_mps": 5.0, "speed_error_mps": None}
    found["methods"]["b"]["motion"]["over_distance"] = {"0 to 10 m": near}
    assert "| b | 0 to 10 m | 3 | 5.00 | - |" in markdown(found, "")


def test_a_stratum_that_one_world_lacks_is_the_mean_of_the_others():
    one, two, three = (fake("a", seed, [e] * 4, [1] * 4) for seed, e in ((1, 1), (2, 2), (3, 4)))
    for row in (two, three):
        for score in row.scores:
            score.pixels["same_speed"] = 200
            score.scaled["same_speed"] = dict(score.scaled["all"])
    about = {"seed": [1, 2, 3], "budget": "x", "device": "cpu", "says": "", "command": ""}
    found = make_table([one, two, three], about)["methods"]["a"]
    assert found["same_speed"]["abs_rel"] == 3
    assert found["same_speed"]["per_seed"]["abs_rel"] == [None, 2, 4]
    assert found["all"]["per_seed"]["abs_rel"] == [1, 2, 4]


def test_trainings_of_one_world_are_compared_one_with_one():
    flat = [1, 1, 1, 1]
    rows = [
        fake("a", 1, [0.1] * 4, flat), fake("a", 1, [0.2] * 4, flat, 1),
        fake("b", 1, [0.2] * 4, flat), fake("b", 1, [0.1] * 4, flat, 1),
        fake("row_prior", 1, [0.4] * 4, flat),
    ]  # fmt: skip
    about = {"seed": [1], "budget": "x", "device": "cpu", "says": "", "command": ""}
    found = make_table(rows, about)
    assert found["methods"]["a"]["repeats"] == [0, 1]
    assert found["methods"]["a"]["all"]["per_seed"]["abs_rel"] == pytest.approx([0.1, 0.2])
    pairs = {
        (p["first"], p["second"]): p
        for p in found["paired"]
        if (p["metric"], p["stratum"]) == ("abs_rel", "all")
    }
    pair = pairs["b", "a"]
    assert pair["ratio"] == pytest.approx(1) and pair["each"] == pytest.approx([2, 0.5])
    assert pair["low"] < 0.02 and pair["high"] > 50  # two trainings that disagree say nothing
    assert pair["verdict"] != "better"
    assert pairs["a", "row_prior"]["each"] == pytest.approx([0.25, 0.5])
    assert "2.000, 0.500 |" in markdown(found, "")


@pytest.mark.parametrize("text", ["", "a", "1,1", "-1", "1.5"])
def test_bad_seeds_are_named(text):
    with pytest.raises(ValueError, match="e.g. 1,2"):
        parse_seeds(text)


def test_bad_names_are_named():
    assert parse_seeds("3,1") == [3, 1]
    with pytest.raises(ValueError, match="smoke, quick, full"):
        get_budget("huge")
    with pytest.raises(
        ValueError, match="many_depth, mined_supervision, monodepth, residual_motion, sc_depth"
    ):
        check_methods(["magic"])
    with pytest.raises(ValueError, match="once"):
        check_methods(["monodepth", "monodepth"])
    with pytest.raises(ValueError, match="plug-in|METHOD"):
        check_methods(["motion_aware"])
    assert np.isfinite(BUDGETS["full"].minutes)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_row_that_fails_is_named_and_the_others_stand_in_the_table(table, out, tmp_path, at_once):
    """Nothing moves in a world of one image, so mined supervision has nothing to mine."""
    shutil.copytree(out / "data", tmp_path / "data")
    (one, *others) = sorted((tmp_path / "data").glob("*/*/images/*"))
    for image in others:
        shutil.copy(one, image)
    names = ["mined_supervision", "monodepth"]
    found = reproduce(names, TINY, [5], tmp_path, minutes=0.05, workers=1, at_once=at_once)
    assert list(found["failed"]) == ["mined_supervision, seed 5"]
    assert "nothing moves" in found["failed"]["mined_supervision, seed 5"]
    assert {"monodepth", "residual_motion_long"} <= set(found["methods"])
    assert "mined_supervision" not in found["methods"]
    assert "**mined_supervision, seed 5 failed:**" in (tmp_path / "results.md").read_text()


def test_a_row_without_the_model_it_begins_with_is_named(table, out, tmp_path, monkeypatch):
    (tmp_path / "data").symlink_to(out / "data")

    def broken(row, *_):
        raise ValueError("no depth")

    monkeypatch.setattr("dyndepth_core.reproduce.run.run_row", broken)
    found = reproduce(["many_depth_finetuned"], TINY, [5], tmp_path, workers=1)
    assert found["failed"] == {
        "many_depth, seed 5": "no depth",
        "many_depth_finetuned, seed 5": "the row whose model it needs (start) failed",
    }
    assert list(found["methods"]) == ["row_prior", "plane"]


def test_of_many_pairs_those_are_drawn_that_were_to_be_compared():
    names = [
        "monodepth", "many_depth", "many_depth_teacher", "many_depth_finetuned",
        "many_depth+motion_aware",
    ]  # fmt: skip
    pairs = [
        {"first": b, "second": a, "stratum": s}
        for i, b in enumerate(names) for a in names[:i] for s in range(20)
    ]  # fmt: skip
    found = {(p["first"], p["second"]) for p in _shown(pairs)}
    assert found == {
        ("many_depth", "monodepth"), ("many_depth_teacher", "many_depth"),
        ("many_depth_finetuned", "monodepth"), ("many_depth+motion_aware", "many_depth_finetuned"),
    }  # fmt: skip
    assert _shown(pairs[:100]) == pairs[:100]
