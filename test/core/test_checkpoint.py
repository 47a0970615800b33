"""Checkpoints on a full disk, cut off by the kernel, damaged, or not ours."""

import errno
import os
import resource
import signal

import pytest
import torch
from training_helpers import ToyObjective, make_recording, settings, source

from dyndepth_core.training import checkpoint
from dyndepth_core.training.fit import fit
from dyndepth_core.training.source import step_loader


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_recording(tmp_path_factory.mktemp("recordings"))


def test_a_full_disk_leaves_the_old_checkpoint_and_the_training_goes_on(
    tmp_path, root, monkeypatch, caplog
):
    objective, full = ToyObjective(), []
    real = os.fsync

    def fsync(handle):
        if full and not os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    seen = {}

    def at_step(step):
        if step == 5:  # last.ckpt of step 4 is there
            full.append(True)
        if step == 9:
            seen["step"] = checkpoint.load(tmp_path / "last.ckpt")["step"]
            full.clear()

    objective.at_step = at_step
    result = fit(objective, settings(), source(root), None, tmp_path)
    assert seen["step"] == 4
    assert "No space left" in caplog.text and "the training goes on" in caplog.text
    assert result.state == "done"
    assert checkpoint.load(tmp_path / "last.ckpt")["step"] == 12
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_stays_full_is_an_error_that_keeps_the_old_checkpoint(
    tmp_path, root, monkeypatch
):
    fit(ToyObjective(), settings(steps=4), source(root), None, tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()

    def replace(a, b):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(
        OSError, match="the one before it is untouched. Make room, then go on with --resume"
    ):
        fit(ToyObjective(), settings(), source(root), None, tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_write_the_kernel_cuts_off_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, {"x": torch.zeros(1000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OSError):
            checkpoint.save(path, {"x": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert checkpoint.load(path)["x"].shape == (1000,)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match="last.ckpt: not a readable checkpoint"):
        checkpoint.load(tmp_path / "last.ckpt")


def test_a_pickle_is_not_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"format": checkpoint.FORMAT, "x": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "last.ckpt")
    assert not (tmp_path / "ran").exists()


def test_of_weights_that_score_alike_the_last_are_kept_across_a_resumption(tmp_path):
    """0.2 % above the lowest is alike, but no staircase leads away from it; 2 % below is better."""
    kept, nan = [], float("nan")
    for step, score in enumerate((nan, 0.5, 0.501, 0.502, nan, 0.49, 0.4905, 0.6)):
        checkpoints = checkpoint.Checkpoints(tmp_path)  # each time as after a kill
        checkpoints.write_last({"step": step}, final=True)
        checkpoints.read_last()
        checkpoints.offer_best(step, score, {"weight": torch.tensor(float(step))}, write=True)
        kept.append(checkpoints.best["step"])
    assert kept == [None, 1, 2, 2, 2, 5, 6, 6] and checkpoints.best["score"] == 0.4905
    assert checkpoints.best_weights() == {"weight": torch.tensor(6.0)}


def test_sigterm_while_lightning_starts_ends_the_training_after_a_step(tmp_path, root, monkeypatch):
    """Its own handler has the signal then, too, and would end with it what comes after."""

    def loader(*args, **options):
        signal.raise_signal(signal.SIGTERM)
        return step_loader(*args, **options)

    monkeypatch.setattr("dyndepth_core.training.fit.step_loader", loader)
    result = fit(ToyObjective(), settings(), source(root), None, tmp_path)
    assert result.state == "interrupted" and result.step == 1
    assert checkpoint.load(tmp_path / "last.ckpt")["step"] == 1
    monkeypatch.undo()
    assert fit(ToyObjective(), settings(), source(root), None, tmp_path).state == "done"
