"""A method of several stages: one budget, one resumable run, figures of each."""

from types import SimpleNamespace

import pytest
from training_helpers import TINY, ToyObjective, make_recording, same_weights

from dyndepth_core.config import load
from dyndepth_core.inference.model_file import load_model
from dyndepth_core.methods import get_method
from dyndepth_core.methods.stage import StageInfo
from dyndepth_core.training import job as jobs
from dyndepth_core.training.run import train_run

SETTINGS = (*TINY, "train.steps=8", "train.validate_every=4", "train.checkpoint_every=2")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_recording(tmp_path_factory.mktemp("recordings"))


@pytest.fixture
def method(monkeypatch):
    """monodepth in three stages: a toy training, a table made from it, the training proper."""
    seen = SimpleNamespace(ran=[], crash=None, files="one", steps={})

    def toy(job):
        seen.ran.append("toy")
        seen.steps["toy"] = job.config.train.steps
        return [job.fit(ToyObjective())]

    def table(job):
        seen.ran.append("table")
        weights = job.weights(job.earlier["toy"][0])
        for k in job.track(range(3), "counting"):
            if seen.crash == k:
                raise KeyboardInterrupt
        path = job.folder / "table.txt"
        path.write_text(str(sorted(weights)))
        job.report({"rows": 3})
        return [path]

    def final(job):
        seen.ran.append("final")
        assert "layer.weight" in job.earlier["table"][0].read_text()
        seen.steps["final"] = job.config.train.steps
        objective = job.objective()
        job.fit(objective)
        job.report({"labels": 2})
        return [job.save(objective)]

    def stages(config):
        assert config.train.steps == 8
        reads = lambda source, held_out: {"files": seen.files}  # noqa: E731
        yield from (StageInfo("toy", 0.25, toy), StageInfo("table", 0.0, table, reads))
        yield StageInfo("final", 0.75, final)

    info = get_method("monodepth")
    fields = {**info.__dict__, "stages": lambda config: tuple(stages(config))}
    monkeypatch.setattr(jobs, "get_method", lambda *name: type(info)(**fields))
    return seen


def test_stages_share_the_budget_and_each_has_its_figures(tmp_path, root, method):
    metrics = train_run(load(overrides=SETTINGS), [root], tmp_path / "run")
    assert method.ran == ["toy", "table", "final"]
    assert method.steps == {"toy": 2, "final": 6}
    assert metrics["step"] == 8 and metrics["labels"] == 2 and metrics["rows"] == 3
    single = metrics["stages"]
    assert list(single) == ["toy", "table", "final"]
    assert (single["toy"]["step"], single["final"]["step"]) == (2, 6) and single["table"][
        "rows"
    ] == 3
    assert metrics["seconds"] == pytest.approx(sum(s["seconds"] for s in single.values()))
    _, meta = load_model(tmp_path / "run" / "model.safetensors")
    assert meta.provenance.config["train"]["steps"] == 8


def test_an_interrupted_stage_goes_on_and_done_ones_are_not_done_again(tmp_path, root, method):
    method.crash = 1
    settings = load(overrides=SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        train_run(settings, [root], tmp_path / "run")
    method.crash, method.ran = None, []
    train_run(settings, [root], tmp_path / "run", resume=True)
    assert method.ran == ["table", "final"]
    train_run(settings, [root], tmp_path / "whole")
    graphs = [load_model(tmp_path / name / "model.safetensors")[0] for name in ("run", "whole")]
    assert same_weights(graphs[0].state_dict(), graphs[1].state_dict())


def test_what_a_stage_reads_beside_the_images_must_stay_as_it_was(tmp_path, root, method):
    settings = load(overrides=SETTINGS)
    train_run(settings, [root], tmp_path / "run")
    method.files = "two"
    with pytest.raises(ValueError, match="begun with other data .files changed."):
        train_run(settings, [root], tmp_path / "run", resume=True)


def test_several_stages_refuse_several_devices(tmp_path, root, method):
    settings = load(overrides=[*SETTINGS, "train.devices=2"])
    with pytest.raises(ValueError, match="in 3 stages, which share one device; set both to 1$"):
        train_run(settings, [root], tmp_path / "run")


def test_several_devices_and_hints_that_from_switches_on_name_the_switch(tmp_path, root):
    settings = load(
        overrides=[*TINY, "train.devices=2", "objective.hints=1"], method="residual_motion"
    )
    with pytest.raises(ValueError, match="set objective.hints=0 to do without hints, or both to 1"):
        train_run(settings, [root], tmp_path / "run")
