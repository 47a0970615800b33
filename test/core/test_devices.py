"""Several devices: gradients and weights are those of one, each takes a part of the batch."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from training_helpers import TINY, make_recording, source

from dyndepth_core.losses.distillation import silent_pixels
from dyndepth_core.losses.parallel import step_mean
from dyndepth_core.losses.photometric import masked_mean
from dyndepth_core.networks.motion_net import automask_residual
from dyndepth_core.training import parallel
from dyndepth_core.training.parallel import share_batch_norms

STEPS = ("train.batch_size=4", "train.clip_norm=0", "train.device=cpu", "network.width=0.25")


def train(root, out, method, *settings, wait=True, **environment):
    """`dyndepth train` as a process of its own."""
    given = [f"--set={s}" for s in (*TINY, *STEPS, *settings)]
    command = [sys.executable, "-m", "dyndepth_core.cli", "train", "--method", method]
    command += ["--data", str(root), "--out", str(out), *given]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    return finish(process, out) if wait else process


def finish(process, out):
    """Its checkpoint when it has ended well."""
    try:
        text = process.communicate(timeout=280)[0]
    finally:
        process.kill()
    assert process.returncode == 0, text
    return torch.load(out / "stages/train/last.ckpt", weights_only=True)


def gradients(state):
    """Those of a single step: Adam's running mean is a tenth of them."""
    return [10 * s["exp_avg"] for s in state["optimizer"]["state"].values()]


# A minimum or a mask decides by the last bit here and there which of two equal errors has the
# gradient of a pixel; in so small an image one pixel is 1e-4, also between two orders of one batch.
# Without a mask, on the other hand, all pixels count and a mean of means is that over all of them.
ONE_SOURCE, NO_MASK = "data.source_offsets=[1]", "objective.automask=false"
MOVING = ("objective.burn_in=[0,0]",)

# The volume needs an earlier image. What sees it is behind weights that start at 0: in the first
# step these two layers have no gradient.
MANY = (NO_MASK, "data.source_offsets=[-1]", "objective.student_from=0", "network.planes=8")

# Every source lends its depth, and losses are means over what is seen, which spans the processes.
SHARED = (
    "objective.consistent_from=0", "objective.lending=1", "objective.lenders=all",
    "objective.mean_over=valid", "objective.self_discovered=true",
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "own", "silent", "close"),
    [
        ("monodepth", (NO_MASK,), 0, 1e-4),
        ("sc_depth", (NO_MASK, *SHARED), 0, 1e-4),
        ("sc_depth", SHARED, 0, 1e-3),
        ("many_depth", MANY, 2, 1e-4),
        ("residual_motion", MOVING, 0, 1e-3),
    ],
)
def test_two_processes_have_the_gradients_of_one(tmp_path, method, own, silent, close):
    """Batch norms and the means over visible pixels span both."""
    root = make_recording(tmp_path / "data")
    settings = (ONE_SOURCE, "train.steps=1", "objective.pose_first=0", "train.optimizer=adam", *own)
    one, two = (
        gradients(train(root, tmp_path / f"run{n}", method, *settings, f"train.devices={n}"))
        for n in (1, 2)
    )
    whole = torch.cat([g.flatten() for g in one])
    assert len(one) == len(two) and whole.norm() > 1e-3
    assert sum(not g.norm() > 0 for g in one if g.ndim == 4) == silent
    error = torch.cat([g.flatten() for g in two]) - whole
    assert error.norm() < close * whole.norm()


def share(rank, folder):
    """One of two processes: half of a batch through a norm and a masked mean, in float64."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    images, mask, norm = batch_of_four()
    share_batch_norms(norm)
    mine = slice(rank, None, 2)
    loss = masked_mean(norm(images[mine]).square(), mask[mine])
    loss.backward()
    torch.save(
        [loss.detach(), norm[0].weight.grad, *norm.state_dict().values()], folder / f"{rank}.pt"
    )
    dist.destroy_process_group()


def test_shared_norms_of_half_precision_keep_their_sums_in_float32(monkeypatch):
    """As under autocast, which convolutions leave in bf16; two processes with the same share."""
    monkeypatch.setattr(parallel, "process_count", lambda: 2)
    monkeypatch.setattr(parallel, "global_sum", lambda x: 2 * x)
    x = 3 + torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    norm, own = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    share_batch_norms(norm)
    found = norm(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), own(x), atol=0.05, rtol=0.01)
    torch.testing.assert_close(norm.running_mean, own.running_mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(norm.running_var, own.running_var, atol=1e-3, rtol=0)


def decide_half(rank, folder):
    """One of two processes: what is silent and what moves in half of a batch."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    mine = slice(rank, None, 2)
    silent = silent_pixels(*(x[mine] for x in errors_of_four()))
    moving = automask_residual(moves_of_four()[mine], step_mean)
    torch.save([silent, moving], folder / f"{rank}.pt")
    dist.destroy_process_group()


def errors_of_four():
    """Errors of warp and source and where the warp is better, more of both in even images."""
    _, mask, _ = batch_of_four()
    error = torch.linspace(0.1, 0.4, mask[0].numel()).double().view(1, 1, 5, 6).repeat(4, 1, 1, 1)
    error[1::2] *= 0.2
    return error, error.flip(3), mask


def moves_of_four():
    """Residuals, in the second process's images three times as large."""
    return batch_of_four()[0] * torch.tensor([1.0, 3.0, 1.0, 3.0]).view(4, 1, 1, 1)


def test_what_is_silent_and_what_moves_is_decided_over_the_processes(tmp_path):
    torch.multiprocessing.spawn(decide_half, (tmp_path,), nprocs=2)
    silent, field = silent_pixels(*errors_of_four()), moves_of_four()
    moving = automask_residual(field, torch.mean)
    assert 0.1 < silent.mean() < 0.9
    for rank in (0, 1):
        found, mine = torch.load(tmp_path / f"{rank}.pt"), slice(rank, None, 2)
        assert torch.equal(found[0], silent[mine]) and torch.equal(found[1], moving[mine])
        assert not torch.equal(automask_residual(field[mine], torch.mean), moving[mine])


def batch_of_four():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((4, 3, 5, 6), generator=generator, dtype=torch.float64) + 2
    mask = (
        torch.rand((4, 1, 5, 6), generator=generator)
        < torch.tensor([0.9, 0.1, 0.8, 0.0])[:, None, None, None]
    )
    return images, mask.double(), nn.Sequential(nn.BatchNorm2d(3)).double().train()


def test_norms_and_masked_means_span_the_processes(tmp_path):
    """One process sees 0.85 of its pixels, the other 0.05; their mean is that over all pixels."""
    torch.multiprocessing.spawn(share, (tmp_path,), nprocs=2)
    images, mask, norm = batch_of_four()
    loss = masked_mean(norm(images).square(), mask)
    loss.backward()
    (loss_0, grad_0, *state_0), (loss_1, grad_1, *state_1) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)
    )
    assert torch.allclose((loss_0 + loss_1) / 2, loss, rtol=1e-12)
    assert torch.allclose((grad_0 + grad_1) / 2, norm[0].weight.grad, rtol=1e-10)
    for own, other, whole in zip(state_0, state_1, norm.state_dict().values(), strict=True):
        assert torch.equal(own, other) and torch.allclose(own, whole, rtol=1e-12)


@pytest.mark.soak
def test_two_processes_train_what_one_does(tmp_path):
    """Across the change from motion alone to depth and motion, with validation."""
    root = make_recording(tmp_path / "data")
    settings = ("train.steps=8", "objective.pose_first=0.3", "train.validate_every=4")
    states = [
        train(root, tmp_path / f"run{n}", "sc_depth", *settings, f"train.devices={n}")
        for n in (1, 2)
    ]
    one, two = ([v["score"] for v in s["validations"]] for s in states)
    assert one == pytest.approx(two, rel=1e-2)
    begin = source(root, 4).batch(0)
    parts = [source(root, 4).batch(0, rank, 2) for rank in (0, 1)]
    assert torch.equal(begin.tgt[1::2], parts[1].tgt)


@pytest.mark.soak
def test_two_machines_train_together(tmp_path):
    """The two-node command of the README; the machines share the folders."""
    root, out = make_recording(tmp_path / "data"), tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    machines = [
        train(
            root, out, "monodepth", "train.steps=4", "train.nodes=2", wait=False,
            NODE_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert all(finish(m, out)["step"] == 4 for m in machines)
    assert (out / "model.safetensors").is_file()
