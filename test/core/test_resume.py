"""However a training is interrupted, going on gives the very weights of the uninterrupted one."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_helpers import TINY, ToyObjective, make_recording, same_weights, settings, source

from dyndepth_core.config import dump, load
from dyndepth_core.inference.model_file import load_model
from dyndepth_core.training import checkpoint
from dyndepth_core.training.fit import fit
from dyndepth_core.training.folder import resumed_request
from dyndepth_core.training.run import train_run

REAL = (*TINY, "train.steps=80", "train.checkpoint_every=4", "train.validate_every=8")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_recording(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, root):
    """Objective and checkpoint of an uninterrupted toy training."""
    return toy(tmp_path_factory.mktemp("whole"), root)


@pytest.fixture(scope="module")
def whole_real(tmp_path_factory, root):
    """An uninterrupted training of the real method."""
    out = tmp_path_factory.mktemp("real") / "run"
    train_run(load(overrides=REAL), [root], out)
    return out


def toy(folder, root, at_step=lambda step: None):
    objective = ToyObjective()
    objective.at_step = at_step
    result = fit(objective, settings(), source(root), source(root, train=False), folder)
    return objective.state_dict(), checkpoint.load(folder / "last.ckpt"), result


def interrupt(*steps, by=signal.SIGINT):
    def at_step(step):
        for _ in range(steps.count(step)):
            signal.raise_signal(by)

    return at_step


def same_state(a, b):
    """Weights and every tensor of the optimiser."""
    ours, theirs = a["optimizer"]["state"], b["optimizer"]["state"]
    return (
        a["step"] == b["step"]
        and same_weights(a["model"], b["model"])
        and all(same_weights(ours[k], theirs[k]) for k in ours.keys() | theirs.keys())
    )


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_leaves_a_checkpoint_and_going_on_is_exact(tmp_path, root, whole, by):
    _, last, result = toy(tmp_path, root, interrupt(5, by=by))
    assert result.state == "interrupted" and last["step"] == 5
    _, last, result = toy(tmp_path, root, interrupt(2, by=by))
    assert result.state == "interrupted" and last["step"] == 7
    weights, last, result = toy(tmp_path, root)
    assert result.state == "done"
    assert same_weights(weights, whole[0]) and same_state(last, whole[1])
    assert [v["step"] for v in result.validations] == [4, 8, 12]
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    steps = [int(row.split(",")[0]) for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 12


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_old_checkpoint(tmp_path, root, whole):
    with pytest.raises(KeyboardInterrupt):
        toy(tmp_path, root, interrupt(7, 7))
    assert checkpoint.load(tmp_path / "last.ckpt")["step"] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    weights, last, _ = toy(tmp_path, root)
    assert same_weights(weights, whole[0]) and same_state(last, whole[1])


def test_many_ctrl_c_before_the_first_checkpoint_leave_a_run_that_begins_again(
    tmp_path, root, whole
):
    with pytest.raises(KeyboardInterrupt):
        toy(tmp_path, root, interrupt(2, 2, 2, 2))
    assert not (tmp_path / "last.ckpt").exists()
    assert same_weights(toy(tmp_path, root)[0], whole[0])


def test_a_kill_between_writing_and_renaming_leaves_the_old_checkpoint(
    tmp_path, root, whole, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(a, b):
        if str(b).endswith("last.ckpt") and (tmp_path / "last.ckpt").exists():
            raise Killed
        real(a, b)

    real = os.replace
    unlink = type(tmp_path).unlink
    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(
        type(tmp_path), "unlink", lambda *_, **__: None
    )  # the dead clear nothing up
    with pytest.raises(Killed):
        toy(tmp_path, root)
    monkeypatch.setattr(os, "replace", real)
    monkeypatch.setattr(type(tmp_path), "unlink", unlink)
    assert list(tmp_path.glob(".last.ckpt*"))
    weights, last, _ = toy(tmp_path, root)
    assert same_weights(weights, whole[0]) and same_state(last, whole[1])
    assert not list(tmp_path.glob(".last.ckpt*"))


@contextlib.contextmanager
def command(root, out, *more):
    """`dyndepth train` as a process of its own; none of its group is left afterwards."""
    options = [text for item in (*REAL, *more) for text in ("--set", item)]
    arguments = ["train", "--data", str(root), "--out", str(out), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "dyndepth_core.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        process.stdout.close()


def wait_for_checkpoint(process, out):
    deadline = time.monotonic() + 240
    while not (out / "stages" / "train" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint within four minutes"
        time.sleep(0.02)


def test_sigkill_then_resume_gives_the_weights_of_the_uninterrupted_run(tmp_path, root, whole_real):
    with command(root, tmp_path / "run") as process:
        wait_for_checkpoint(process, tmp_path / "run")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    killed_at = checkpoint.load(tmp_path / "run" / "stages" / "train" / "last.ckpt")["step"]
    assert killed_at < 80
    assert not (tmp_path / "run" / "model.safetensors").exists()
    train_run(load(overrides=REAL), [root], tmp_path / "run", resume=True)
    ours, theirs = (
        checkpoint.load(run / "stages" / "train" / "last.ckpt")
        for run in (tmp_path / "run", whole_real)
    )
    assert same_state(ours, theirs)
    graphs = [load_model(run / "model.safetensors")[0] for run in (tmp_path / "run", whole_real)]
    assert same_weights(graphs[0].state_dict(), graphs[1].state_dict())


def test_ctrl_c_twice_ends_the_command_cleanly_and_resumably(tmp_path, root):
    with command(root, tmp_path / "run", "train.steps=4000", "train.workers=1") as process:
        wait_for_checkpoint(process, tmp_path / "run")
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.05)
        output, _ = process.communicate(timeout=120)  # ends when no data worker holds the pipe
        assert process.returncode == 130, output
        assert "Traceback" not in output and "stopped: " in output
    step = checkpoint.load(tmp_path / "run" / "stages" / "train" / "last.ckpt")["step"]
    assert step >= 4
    data, start = resumed_request(tmp_path / "run")
    assert data == [root] and start is None
    assert load(tmp_path / "run" / "config.yaml").train.steps == 4000


@pytest.mark.skipif(sys.platform != "linux", reason="finds the children in /proc")
def test_a_killed_data_worker_is_one_clear_line(tmp_path, root):
    with command(root, tmp_path / "run", "train.steps=4000", "train.workers=1") as process:
        wait_for_checkpoint(process, tmp_path / "run")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, 70) and "internal error" not in output
    assert "loads data was killed" in output and "--resume" in output and "Traceback" not in output


def test_a_finished_run_is_not_run_again(root, whole_real):
    model = (whole_real / "model.safetensors").read_bytes()
    metrics = train_run(load(overrides=REAL), [root], whole_real, resume=True)
    assert metrics["state"] == "done"
    assert (whole_real / "model.safetensors").read_bytes() == model


def test_a_lost_model_file_is_written_again_without_training(root, whole_real):
    weights = load_model(whole_real / "model.safetensors")[0].state_dict()
    (whole_real / "model.safetensors").unlink()
    train_run(load(overrides=REAL), [root], whole_real, resume=True)
    assert same_weights(load_model(whole_real / "model.safetensors")[0].state_dict(), weights)


def test_a_run_is_never_overwritten(root, whole_real):
    with pytest.raises(ValueError, match="exists already: add --resume"):
        train_run(load(overrides=REAL), [root], whole_real)


def test_other_settings_cannot_be_resumed_with_but_runtime_ones_can(root, whole_real):
    message = re.escape("train.lr: 0.0001, 0.5")
    with pytest.raises(ValueError, match=f"begun with other settings .{message}.*another --out"):
        train_run(load(overrides=[*REAL, "train.lr=0.5"]), [root], whole_real, resume=True)
    changed = load(overrides=[*REAL, "train.log_every=3", "train.workers=1"])
    assert train_run(changed, [root], whole_real, resume=True)["state"] == "done"


def test_other_data_cannot_be_resumed_with(tmp_path, root, whole_real):
    other = make_recording(tmp_path / "other", seed=9)
    with pytest.raises(ValueError, match="begun with other data .train, validation changed."):
        train_run(load(overrides=REAL), [other], whole_real, resume=True)


def test_resuming_nothing_says_so(tmp_path):
    with pytest.raises(ValueError, match="no run to resume there"):
        resumed_request(tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, root):
    toy(tmp_path, root, interrupt(5))
    objective = ToyObjective()
    objective.layer = torch.nn.Conv2d(3, 1, 5, padding=2)
    with pytest.raises(ValueError, match="does not fit this configuration.*give a new --out"):
        fit(objective, settings(), source(root), None, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"values": {}}', None])
def test_a_lost_record_costs_no_checkpoint(tmp_path, root, whole_real, content):
    run = tmp_path / "run"
    shutil.copytree(whole_real, run)
    stage = run / "stages" / "train"
    before = (stage / "last.ckpt").read_bytes()
    (stage / "stage.json").unlink()
    if content is not None:
        (stage / "stage.json").write_text(content)
    with pytest.raises(ValueError, match="holds checkpoints, but its stage.json is lost"):
        train_run(load(overrides=REAL), [root], run, resume=True)
    assert (stage / "last.ckpt").read_bytes() == before


def test_an_edited_configuration_is_not_taken_over_silently(tmp_path, root, whole_real):
    run = tmp_path / "run"
    shutil.copytree(whole_real, run)
    edited = load(overrides=[*REAL, "train.lr=0.5"])
    (run / "config.yaml").write_text(dump(edited))
    with pytest.raises(ValueError, match="was changed since.*train.lr: 0.0001, 0.5"):
        train_run(load(run / "config.yaml"), [root], run, resume=True)


@pytest.mark.parametrize("content", ["{}", "no json", "[]"])
def test_damaged_metrics_of_a_stage_are_left_out(tmp_path, root, whole_real, caplog, content):
    run = tmp_path / "run"
    shutil.copytree(whole_real, run)
    (run / "stages" / "train" / "metrics.json").write_text(content)
    metrics = train_run(load(overrides=REAL), [root], run, resume=True)
    assert metrics["warnings"] == [] and "is damaged: its figures are left out" in caplog.text


def test_to_stop_is_asked_for_too_late_for_a_step_and_is_still_heard(tmp_path, root, whole):
    """What would come after the training must not begin; it is all there, though."""
    weights, last, result = toy(tmp_path, root, interrupt(12))
    assert result.state == "interrupted" and last["step"] == 12
    again, last, result = toy(tmp_path, root, lambda step: pytest.fail("trained again"))
    assert result.state == "done"
    assert same_weights(weights, whole[0]) and same_weights(again, whole[0])
