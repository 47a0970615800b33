"""Stages: done ones are skipped, changed ones run anew, killed ones go on."""

import json
import os
import shutil

import numpy as np
import pytest

from dyndepth_core.training.stages import Stage, hash_inputs, read_record, run_stages

CLEARS = os.access("/proc/self/clear_refs", os.W_OK)


class Kitchen:
    """Two stages, the second made from the first; counts what runs."""

    def __init__(self, run):
        self.run, self.ran, self.resumed = run, [], {}
        self.crash_in = None
        self.inputs = {"first": {"a": 1}, "second": {"b": 2}}

    def stage(self, name):
        def run(context):
            self.ran.append(name)
            self.resumed[name] = context.resumed
            (context.folder / "half").write_text("work") if not context.resumed else None
            if self.crash_in == name:
                raise KeyboardInterrupt
            before = "".join(p.read_text() for ps in context.earlier.values() for p in ps)
            made = context.run / f"{name}.txt"
            made.write_text(f"{before}{name} {dict(self.inputs[name])}")
            return [made]

        return Stage(name, self.inputs[name], run)

    def cook(self):
        self.ran = []
        return run_stages([self.stage("first"), self.stage("second")], self.run)


@pytest.fixture
def kitchen(tmp_path):
    kitchen = Kitchen(tmp_path)
    kitchen.cook()
    return kitchen


def test_done_stages_are_skipped_and_their_outputs_returned(kitchen):
    made = kitchen.cook()
    assert kitchen.ran == []
    assert made["second"] == [kitchen.run / "second.txt"]


def test_a_changed_input_reruns_its_stage_with_an_empty_folder(kitchen):
    kitchen.inputs["second"] = {"b": 3}
    kitchen.cook()
    assert kitchen.ran == ["second"]
    assert not kitchen.resumed["second"]


def test_what_an_earlier_stage_made_is_an_input_of_the_later_ones(kitchen):
    kitchen.inputs["first"] = {"a": 2}
    kitchen.cook()
    assert kitchen.ran == ["first", "second"]


def test_a_killed_stage_goes_on_with_what_it_had(tmp_path):
    kitchen = Kitchen(tmp_path)
    kitchen.crash_in = "second"
    with pytest.raises(KeyboardInterrupt):
        kitchen.cook()
    assert read_record(tmp_path, "second")["state"] == "running"
    kitchen.crash_in = None
    kitchen.cook()
    assert kitchen.ran == ["second"]
    assert kitchen.resumed["second"]
    assert (tmp_path / "stages" / "second" / "half").exists()


def test_a_killed_stage_with_other_inputs_begins_again(tmp_path):
    kitchen = Kitchen(tmp_path)
    kitchen.crash_in = "first"
    with pytest.raises(KeyboardInterrupt):
        kitchen.cook()
    (tmp_path / "stages" / "first" / "old").write_text("of other inputs")
    kitchen.crash_in, kitchen.inputs["first"] = None, {"a": 7}
    kitchen.cook()
    assert not kitchen.resumed["first"]
    assert not (tmp_path / "stages" / "first" / "old").exists()


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_text("tampered")])
def test_a_lost_or_changed_output_reruns_its_stage(kitchen, damage):
    damage(kitchen.run / "first.txt")
    kitchen.cook()
    assert kitchen.ran == ["first"]  # it makes the same again, so the second need not run


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_record_reruns_its_stage(kitchen, content):
    (kitchen.run / "stages" / "second" / "stage.json").write_text(content)
    kitchen.cook()
    assert kitchen.ran == ["second"]


def test_the_record_names_inputs_and_outputs_by_sha256(kitchen):
    record = json.loads((kitchen.run / "stages" / "first" / "stage.json").read_text())
    assert record["state"] == "done"
    assert record["values"] == {"a": 1}
    assert list(record["outputs"]) == ["first.txt"]
    assert {len(h) for h in (record["inputs"], *record["outputs"].values())} == {64}


def test_the_hash_does_not_depend_on_the_order_of_keys_but_on_every_value():
    assert hash_inputs({"a": 1, "b": [1, 2]}) == hash_inputs({"b": [1, 2], "a": 1})
    assert hash_inputs({"a": 1, "b": [1, 2]}) != hash_inputs({"a": 1, "b": [2, 1]})
    with pytest.raises(ValueError, match="plain JSON"):
        hash_inputs({"a": object()})
    with pytest.raises(ValueError, match="plain JSON"):
        hash_inputs({"a": float("nan")})


def test_a_damaged_output_is_made_anew_by_a_stage_that_keeps_what_it_has(tmp_path, caplog):
    def work(context):
        made = {context.folder / "masks.npz": "good", context.folder / "best.ckpt": "weights"}
        for path, text in made.items():
            if not path.exists():
                path.write_text(text)
        return list(made)

    stages = [Stage("mine", {"a": 1}, work)]
    masks, weights = run_stages(stages, tmp_path)["mine"]
    masks.write_text("cut")
    weights.write_text("other")
    assert run_stages(stages, tmp_path)["mine"] == [masks, weights]
    assert masks.read_text() == "good" and weights.read_text() == "other"
    assert f"{masks} is damaged" in caplog.text


@pytest.fixture
def finished(tmp_path):
    """A run with one stage that left its file in its own folder, with settings a and b."""
    ran = []

    def stage(a=1, b=2, place=lambda c: c.folder):
        def run(context):
            ran.append(context.run.name)
            made = place(context) / "made.txt"
            made.write_text(f"{a}")
            (context.folder / "metrics.json").write_text("{}")
            return [made]

        return Stage("only", {"config": {"x": {"a": a, "b": b}}}, run, frozenset({"x.b"}))

    run_stages([stage()], tmp_path / "old")
    return tmp_path, stage, ran


def test_a_stage_is_taken_over_from_a_run_that_differs_in_what_it_does_not_read(finished):
    root, stage, ran = finished
    made = run_stages([stage(b=3)], root / "new", [root / "none", root / "old"])
    assert ran == ["old"]
    assert made["only"] == [root / "new" / "stages" / "only" / "made.txt"]
    assert made["only"][0].read_text() == "1"
    record = read_record(root / "new", "only")
    assert record["values"]["config"]["x"] == {"a": 1, "b": 3}
    assert record["taken_over_from"] == str(root / "old")
    shutil.rmtree(root / "old")
    run_stages([stage(b=3)], root / "new")  # it is its own by now
    assert ran == ["old"] and made["only"][0].read_text() == "1"


def test_what_differs_or_is_damaged_or_lies_elsewhere_is_made_anew(finished):
    root, stage, ran = finished
    run_stages([stage(a=4)], root / "other", [root / "old"])
    (root / "old" / "stages" / "only" / "made.txt").write_text("damaged")
    run_stages([stage()], root / "intact", [root / "old"])
    run_stages([stage(place=lambda c: c.run)], root / "outside")  # a model of the run, say
    run_stages([stage()], root / "inside", [root / "outside"])
    assert ran == ["old", "other", "intact", "outside", "inside"]


def test_without_links_a_stage_is_copied(finished, monkeypatch):
    root, stage, ran = finished

    def refuse(*args):
        raise OSError

    monkeypatch.setattr("os.link", refuse)
    made = run_stages([stage()], root / "new", [root / "old"])["only"][0]
    assert ran == ["old"] and made.read_text() == "1"
    assert made.stat().st_ino != (root / "old" / "stages" / "only" / "made.txt").stat().st_ino


@pytest.mark.skipif(not CLEARS, reason="this system cannot forget the peak of a process")
def test_the_record_says_how_much_memory_its_stage_took_and_not_the_one_before(tmp_path):
    """300 MB that the first stage lets go are no part of the second."""

    def cook(context):
        if context.folder.name == "roast":
            assert np.ones(300_000_000 // 8).sum() > 0
        made = context.folder / "dish"
        made.write_text("")
        return [made]

    run_stages([Stage(name, {}, cook) for name in ("roast", "salad")], tmp_path)
    roast, salad = (read_record(tmp_path, name)["peak_mb"] for name in ("roast", "salad"))
    assert 280 < roast - salad < 320
