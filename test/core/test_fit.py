"""Training: what it leaves behind, what it depends on, what it does when the disk is full."""

import csv
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from training_helpers import (
    TINY,
    ToyObjective,
    make_recording,
    same_weights,
    settings,
    source,
)

from dyndepth_core.config import load
from dyndepth_core.inference.export import export_model
from dyndepth_core.inference.model_file import load_model, read_meta, save_model
from dyndepth_core.networks.encoders import Encoder
from dyndepth_core.training.fit import fit
from dyndepth_core.training.objective import make_objective
from dyndepth_core.training.run import train_run
from dyndepth_core.training.schedule import Budget, learning_rate

OPTIONS = ("train.steps=30", "train.validate_every=10", "train.checkpoint_every=10")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    ids = np.eye(64, 96, dtype=np.uint16)
    return make_recording(tmp_path_factory.mktemp("recordings"), instances=ids, dynamic=ids > 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory, root):
    """A finished training of the real method."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train_run(load(overrides=[*TINY, *OPTIONS]), [root], out)
    return out


# -- what a training leaves behind -----------------------------------------------------------------


def test_a_run_leaves_a_model_that_loads_and_says_where_it_comes_from(run, root):
    graph, meta = load_model(run / "model.safetensors")
    image = torch.rand(1, 3, 64, 96)
    depth = graph(image, None, torch.eye(3)[None] * 70, None)[0]
    assert depth.shape == (1, 1, 64, 96) and bool((depth > 0).all())
    assert meta.method == "monodepth" and meta.input_size == (64, 96)
    assert meta.scale.state == "relative"
    provenance = meta.provenance
    assert provenance.seed == 0 and provenance.steps in (10, 20, 30)
    assert provenance.config["train"]["steps"] == 30
    assert len(provenance.dataset_manifest) == 64 and provenance.date


def test_a_run_leaves_its_configuration_and_metrics(run):
    tree = load(run / "config.yaml")
    assert tree.train.steps == 30 and tree.network.width == 0.125
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["state"] == "done" and metrics["step"] == 30
    assert [v["step"] for v in metrics["validations"]] == [10, 20, 30]
    lowest = min(v["score"] for v in metrics["validations"])
    alike = [v for v in metrics["validations"] if v["score"] <= 1.003 * lowest]
    assert metrics["best"] == alike[-1]
    with (run / "stages" / "train" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [5, 10, 15, 20, 25, 30]
    assert all(float(r["photometric"]) > 0 and float(r["lr"]) > 0 for r in rows)
    assert [bool(r["validation"]) for r in rows] == [False, True] * 3


def test_tensorboard_gets_scalars_and_pictures_of_depth_and_warp(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(run.rglob("events.out.tfevents.*"))), {"images": 0})
    events.Reload()
    (pictures,) = events.Tags()["images"]
    assert "depth" in pictures and "warped" in pictures and "automask" in pictures
    assert [p.step for p in events.Images(pictures)] == [1, 30]
    assert {"loss", "lr", "validation", "terms/photometric"} <= set(events.Tags()["scalars"])


def test_checkpoints_hold_only_tensors_and_plain_data(run):
    for name in ("last.ckpt", "best.ckpt"):
        state = torch.load(run / "stages" / "train" / name, weights_only=True)
        assert only_plain(state)


def only_plain(value):
    if isinstance(value, dict):
        return all(only_plain(k) and only_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(only_plain(v) for v in value)
    return value is None or isinstance(value, (torch.Tensor, int, float, str, bool))


# -- what the weights depend on -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "steps"), [("monodepth", 30), ("sc_depth", 30), ("residual_motion", 8)]
)
def test_deleting_every_ground_truth_file_changes_no_weight(tmp_path, root, run, method, steps):
    settings = load(overrides=[*TINY, *OPTIONS, f"train.steps={steps}"], method=method)
    if method != "monodepth":
        run = tmp_path / "seeing"
        train_run(settings, [root], run)
    blind = tmp_path / "blind" / "drive"
    shutil.copytree(root / "drive", blind)
    removed = [p for p in blind.iterdir() if p.name not in ("images", "calib.json", "frames.csv")]
    assert {"depth", "poses.csv", "instances", "dynamic"} <= {p.name for p in removed}
    for path in removed:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    train_run(settings, [blind.parent], tmp_path / "run")
    assert same_weights(last_weights(run), last_weights(tmp_path / "run"))
    (graph, meta), (other, other_meta) = (
        load_model(folder / "model.safetensors") for folder in (run, tmp_path / "run")
    )
    assert same_weights(graph.state_dict(), other.state_dict())
    assert meta.provenance.dataset_manifest == other_meta.provenance.dataset_manifest
    begin = make_objective(settings, source(root)).state_dict()
    assert not same_weights(begin, last_weights(run))


def last_weights(run):
    return torch.load(run / "stages" / "train" / "last.ckpt", weights_only=True)["model"]


# -- length and choice ----------------------------------------------------------------------------


def test_the_best_weights_are_chosen_by_the_validation_score(tmp_path, root):
    objective = ToyObjective()
    scores, kept = iter([0.5, 0.2, 0.9]), {}
    states = {}

    def validation(sample):
        if objective.steps_seen not in states:
            states[objective.steps_seen] = {k: v.clone() for k, v in objective.state_dict().items()}
            kept["score"] = torch.tensor(next(scores))
        return kept["score"]

    objective.validation = validation
    result = fit(objective, settings(), source(root), source(root, train=False), tmp_path)
    assert [round(v["score"], 3) for v in result.validations] == [0.5, 0.2, 0.9]
    assert result.best["step"] == 8
    assert same_weights(objective.state_dict(), states[8])


def test_a_budget_in_minutes_ends_the_training(tmp_path, root):
    config = settings(steps=None, minutes=2 / 60, log_every=1)
    result = fit(ToyObjective(), config, source(root), None, tmp_path)
    assert result.state == "done" and result.step > 1 and result.seconds >= 2
    with (tmp_path / "metrics.csv").open() as file:
        progress = [float(r["progress"]) for r in csv.DictReader(file)]
    assert progress == sorted(progress) and progress[-1] == 1


def test_progress_is_the_larger_of_both_budgets():
    both = Budget(100, 60)
    assert both.progress(50, 6) == 0.5 and both.progress(5, 30) == 0.5
    assert both.progress(100, 0) == both.progress(0, 61) == 1
    assert Budget(100, None).progress(25, 1e9) == 0.25
    assert Budget(None, 60).progress(10**9, 15) == 0.25
    assert both.remaining(50, 6, 2.0) == 54  # the clock ends it before the steps do
    assert both.remaining(50, 6, 0.1) == 5


@pytest.mark.parametrize(
    "schedule, middle, end", [("cosine", 0.55, 0.1), ("constant", 1, 1), ("step", 1, 0.2)]
)
def test_learning_rate_rises_then_follows_its_schedule(schedule, middle, end):
    config = settings(
        schedule=schedule, warmup=0.1, final_lr=0.1, step_at=0.75, step_factor=0.2, lr=2.0
    )
    rates = [learning_rate(config, p) for p in (0, 0.05, 0.1, 0.55, 1)]
    assert 0 < rates[0] < 0.1
    assert rates[1:] == pytest.approx([1, 2, 2 * middle, 2 * end])
    assert learning_rate(settings(warmup=0, lr=2.0), 0) == 2


@pytest.mark.parametrize("intrinsics", ["pair", "video"])
def test_intrinsics_can_be_learned(tmp_path, intrinsics):
    make_recording(tmp_path / "data", "a", 12)
    config = load(overrides=[*TINY, "train.steps=2", f"data.intrinsics={intrinsics}"])
    train_run(config, [tmp_path / "data"], tmp_path / "run")
    assert read_meta(tmp_path / "run" / "model.safetensors").canonical_focal > 0


def test_bf16_autocast_keeps_float32_weights(tmp_path, root):
    objective = ToyObjective()
    fit(objective, settings(precision="bf16", steps=4), source(root), source(root), tmp_path)
    assert {v.dtype for v in objective.state_dict().values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"precision": "fp16"}, "use (auto|cpu)"), ({"device": "cuda"}, "0 CUDA.*Choose auto or cpu")],
)
def test_what_this_machine_cannot_do_is_refused(tmp_path, root, fields, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=says):
        fit(ToyObjective(), settings(**fields), source(root), None, tmp_path)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16", "fp32"])
def test_a_gpu_trains_and_resumes(tmp_path, root, precision):
    config = settings(device="cuda", precision=precision, steps=8, workers=1)
    before = ToyObjective().state_dict()
    first = ToyObjective()
    first.at_step = lambda step: signal.raise_signal(signal.SIGTERM) if step == 3 else None
    assert fit(first, config, source(root), source(root), tmp_path).state == "interrupted"
    objective = ToyObjective()
    result = fit(objective, config, source(root), source(root), tmp_path)
    assert result.state == "done" and result.step == 8
    weights = objective.state_dict()
    assert all(torch.isfinite(v).all() for v in weights.values())
    moved = (weights["layer.weight"].cpu() - before["layer.weight"]).abs().max()
    assert 0.005 < moved < 0.2  # lr 0.01: a few steps of Adam, neither none nor wild ones


# -- fine-tuning
# ------------------------------------------------------------------------------------


def test_a_model_file_can_be_the_start(run, root):
    graph, meta = load_model(run / "model.safetensors")
    config = load(overrides=[*TINY, "train.seed=5"])
    objective = make_objective(config, source(root), run / "model.safetensors")
    assert same_weights(objective.inference_graph().state_dict(), graph.state_dict())
    assert objective.inference_graph().canonical_focal == meta.canonical_focal


def test_a_depth_only_start_leaves_the_rest_at_its_own_start(run, root, tmp_path):
    """Its pose network begins as without --from: with pretrained, at ImageNet."""
    config = load(overrides=[*TINY, "train.seed=5"])
    small = tmp_path / "small.safetensors"
    export_model(run / "model.safetensors", small, "float32", depth_only=True)
    given = load_model(small)[0].state_dict()
    fresh = make_objective(config, source(root))
    weights = tmp_path / "imagenet.pth"
    torch.save(Encoder("resnet18", width=0.125).backbone.state_dict(), weights)
    pretrained = load(
        overrides=[*TINY, "train.seed=5", "network.pretrained=true", f"network.weights={weights}"]
    )
    for settings_, start in (
        (config, fresh),
        (pretrained, make_objective(pretrained, source(root))),
    ):
        tuned = make_objective(settings_, source(root), small).state_dict()
        start = start.state_dict()
        assert same_weights({k: tuned[k] for k in given}, given)
        rest = [k for k in tuned if k not in given and "num_batches" not in k]
        assert any("pose_net.encoder" in k for k in rest)
        assert same_weights({k: tuned[k] for k in rest}, {k: start[k] for k in rest})


def test_what_a_model_has_seen_is_handed_on(run, root, tmp_path):
    graph, meta = load_model(run / "model.safetensors")
    graph.architecture["units"] = 3.5
    meta.provenance.world_seeds = [4]
    meta.architecture = graph.architecture
    save_model(tmp_path / "parent.safetensors", graph, meta)
    config = load(overrides=[*TINY, "train.steps=2"])
    train_run(config, [root], tmp_path / "child", start=tmp_path / "parent.safetensors")
    child = read_meta(tmp_path / "child" / "model.safetensors")
    assert child.provenance.world_seeds == [4]
    assert child.architecture["units"] == 3.5


def test_a_model_that_does_not_fit_is_refused(run, root):
    config = load(overrides=[*TINY, "network.width=0.25"])
    with pytest.raises(ValueError, match="--from .*does not fit.*same network section"):
        make_objective(config, source(root), run / "model.safetensors")


def test_another_method_with_the_same_networks_is_a_start(root, run):
    config = load(overrides=[*TINY, "objective.rectify=true"], method="sc_depth")
    start = run / "model.safetensors"
    begun = make_objective(config, source(root), start).state_dict()
    given = load_model(start)[0].state_dict()
    assert given and all(torch.equal(begun[k], v) for k, v in given.items())
    assert any(k.startswith("rectify_net.") for k in begun.keys() - given.keys())


def test_a_training_begins_in_training_mode_however_its_networks_come(tmp_path, root):
    """Those of a frozen network are in evaluation mode; a validation would only mend it late."""
    modes, objective = [], ToyObjective().eval()
    objective.at_step = lambda step: modes.append(objective.norm.training)
    config = settings(steps=2, validate_every=10)
    fit(objective, config, source(root), source(root), tmp_path)
    assert modes == [True, True]
