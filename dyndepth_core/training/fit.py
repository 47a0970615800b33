"""The training loop of one stage, on Lightning; the only module that imports it (the import alone takes seconds)."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ..data.sample import Sample, SampleSource
from ..methods.base import LossTerms, Objective
from .checkpoint import Checkpoints, finite, write_json
from .health import Health
from .interrupt import Abort, StopSignals
from .monitor import Means, Monitor
from .schedule import Budget, learning_rate, make_optimizer
from .settings import TrainConfig
from .source import step_loader, validation_batches

log = logging.getLogger(__name__)


@dataclass
class FitResult:
    """How a training ended; written to metrics.json of its folder however it ended."""

    state: str  # done, interrupted or failed
    step: int
    seconds: float
    step_ms: float
    best: dict[str, Any]  # step and score
    validations: list[dict[str, float]]
    warnings: list[dict[str, Any]]


def fit(
    objective: Objective, config: TrainConfig, train: SampleSource, val: SampleSource | None, folder: Path,
    label: str = "train",
) -> FitResult:  # fmt: skip
    """Train `objective` on `train`, keeping last.ckpt and best.ckpt in `folder`; goes on from last.ckpt if it is there.

    Afterwards the objective holds the weights with the best validation score (the last ones without `val`). On the CPU
    they are bit-equal however often the training was interrupted. Ctrl-C and SIGTERM end it after the current step with
    a checkpoint (state "interrupted"), a second Ctrl-C at once (KeyboardInterrupt). Raises NotFiniteError (a ValueError)
    on NaN or infinity, OSError when the last checkpoint cannot be written.
    """
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise ValueError("train.device=cuda, but torch sees no CUDA device; use cpu or auto, or install torch for CUDA")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    _quiet_lightning()
    trainer = pl.Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp_find_unused_parameters_true" if config.devices * config.nodes > 1 else "auto",
        precision=_precision(config.precision, cuda),
        max_epochs=1,
        benchmark=cuda,
        default_root_dir=folder,
        # what follows is done in this package, without its cost per step
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    objective.to(memory_format=torch.channels_last)
    loop = _Loop(objective, config, train, val, folder, label)
    try:
        with loop.stop:
            trainer.fit(loop)
        loop.finish()
    except Abort:
        loop.state = "interrupted"
        raise KeyboardInterrupt from None
    finally:
        result = loop.close()
    return result


class _Loop(pl.LightningModule):
    """One objective in Lightning's hooks. Step k uses batch k, the random numbers of k and the learning rate of k."""

    def __init__(
        self, objective: Objective, config: TrainConfig, train: SampleSource, val: SampleSource | None, folder: Path,
        label: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.objective, self.config, self.folder, self.label = objective, config, folder, label
        self.train_source, self.val_source = train, val
        self.budget, self.stop = Budget.of(config), StopSignals()
        self.checkpoints, self.means = Checkpoints(folder), Means()
        self.monitor: Monitor | None = None  # of the first process only
        self.health = Health(lambda *warning: self.monitor.text(*warning) if self.monitor else None)
        self.state, self.done, self.progress, self.step_ms = "failed", 0, 0.0, 0.0
        self.started, self.seconds_before = time.monotonic(), 0.0
        self.row_time, self.row_step = self.started, 0
        self.validations: list[dict[str, float]] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.norm: Tensor | None = None
        self.terms: LossTerms | None = None

    # -- start ---------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.optimizer = make_optimizer(self.objective, self.config)
        return self.optimizer

    def on_fit_start(self) -> None:
        self.stop.install()
        state = self.checkpoints.read_last()
        if state is not None:
            self._restore(state)
        if self.trainer.is_global_zero:
            self.monitor = Monitor(self.folder, self.done, self.label)
        self.started = self.row_time = time.monotonic()
        self.row_step = self.done
        self._tick()

    def train_dataloader(self) -> Any:
        # Lightning asks after on_fit_start, which knows where to begin
        end = self.done if self.progress >= 1.0 else self.config.steps
        return step_loader(
            self.train_source, self.done, end, workers=self.config.workers, rank=self.global_rank,
            world=self.trainer.world_size, pin=self.device.type == "cuda",
        )  # fmt: skip

    def transfer_batch_to_device(self, batch: Sample, device: torch.device, dataloader_idx: int) -> Sample:
        return batch.to(device) if device.type != "cpu" else batch

    # -- one step ------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        self._tick()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.progress)
        # Noise is a function of (seed, step, rank) too: nothing of the generators has to survive a restart.
        torch.manual_seed(((self.config.seed * 1_000_003 + self.done) * 4096 + self.global_rank) % (1 << 63))

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        predictions = self.objective.predict(batch, self.progress)
        self.terms = self.objective.losses(batch, predictions, self.progress)
        return self.terms.total

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or float("inf"))
        if self.device.type == "cpu":  # to ask costs nothing here, and the weights stay good; a GPU would have to wait
            self._check_finite()

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        self.done += 1
        self.means.add({"loss": self.terms.total, "grad_norm": self.norm, **self.terms.terms})
        self._tick()
        end = self.progress >= 1.0
        stop = end or self._any_process(self.stop.requested)
        if end or self.done % self.config.health_every == 0:
            self._check_finite()
            self.health.observe(self.done, self.progress, batch, self.terms.maps)
        if self.monitor and (self.done == 1 or end or self.done % self.config.picture_every == 0):
            self.monitor.pictures(self.done, batch, self.terms.maps)
        validated = self.val_source is not None and (end or self.done % self.config.validate_every == 0)
        if validated:
            self._validate()
        if stop or validated or self.done % self.config.log_every == 0:
            self._log(validated)
        if stop or self.done % self.config.checkpoint_every == 0:
            self._save(final=stop)
        if stop:
            self.state = "done" if end else "interrupted"
            self.trainer.should_stop = True

    # -- parts ---------------------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _tick(self) -> None:
        self.progress = self.budget.progress(self.done, self._seconds())
        if self.budget.seconds is not None and self.trainer.world_size > 1:  # clocks differ, schedules must not
            self.progress = self.trainer.strategy.broadcast(self.progress)

    def _any_process(self, flag: bool) -> bool:
        return flag if self.trainer.world_size == 1 else self.trainer.strategy.reduce_boolean_decision(flag, all=False)

    def _check_finite(self) -> None:
        values = {"the loss": self.terms.total, **{f"the loss term {k}": v for k, v in self.terms.terms.items()}}
        if self.trainer.precision != "16-mixed":  # fp16 leaves such steps out and goes on
            values["the gradients"] = self.norm
        self.health.check_finite(self.done, values)

    def _validate(self) -> None:
        """Mean score of the validation batches, with the same random numbers each time; keeps the best weights."""
        torch.manual_seed(self.config.seed)
        self.objective.eval()
        sums = torch.zeros(2, device=self.device)  # scores, batches
        batches = validation_batches(self.val_source, self.config.validation_batches, self.train_source.names)
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for k, batch in enumerate(batches):
                if k % self.trainer.world_size == self.global_rank:
                    sums[0] += self.objective.validation(self.transfer_batch_to_device(batch, self.device, 0)).float()
                    sums[1] += 1
        self.objective.train()
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        score = float(sums[0] / sums[1])
        self.validations.append({"step": self.done, "score": score})
        self.checkpoints.offer_best(self.done, score, self.objective.state_dict(), write=self.trainer.is_global_zero)

    def _log(self, validated: bool) -> None:
        now = time.monotonic()
        self.step_ms = 1000 * (now - self.row_time) / max(1, self.done - self.row_step)
        self.row_time, self.row_step = now, self.done
        means = self.means.take()
        if self.monitor is None:
            return
        row = {"seconds": self._seconds(), "progress": self.progress, "step_ms": self.step_ms, **means}
        row["lr"] = self.optimizer.param_groups[0]["lr"]
        if validated:
            row["validation"] = self.validations[-1]["score"]
        self.monitor.row(self.done, row)
        eta = self.budget.remaining(self.done, self._seconds(), self.step_ms / 1000)
        self.monitor.show(self.done, self.progress, eta, means["loss"], self.step_ms)

    def _save(self, final: bool) -> None:
        self._check_finite()
        weights = self.objective.state_dict()
        if not finite(weights):
            self.health.check_finite(self.done, {"the weights": torch.tensor(float("nan"))})
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if self.trainer.is_global_zero:
            state = {
                "step": self.done, "seconds": self._seconds(), "model": weights, "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else {}, "validations": self.validations,
                "warnings": self.health.state(),
            }  # fmt: skip
            self.checkpoints.write_last(state, final=final)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.objective.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.folder}: its checkpoint does not fit this configuration ({reason}); use a new --out") from error
        if state["scaler"]:
            self.trainer.precision_plugin.scaler.load_state_dict(state["scaler"])
        self.done, self.seconds_before, self.validations = state["step"], state["seconds"], state["validations"]
        self.health.restore(state["warnings"])
        log.info("resumed at step %d", self.done)

    # -- end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """After a complete training: put the best weights into the objective."""
        if self.progress >= 1.0:
            self.state = "done"
        weights = self.checkpoints.best_weights() if self.state == "done" else None
        if weights is not None:
            self.objective.load_state_dict(weights)

    def close(self) -> FitResult:
        """Leave metrics.json behind, however the training ended."""
        result = FitResult(
            self.state, self.done, self._seconds(), self.step_ms, self.checkpoints.best, self.validations,
            self.health.state(),
        )  # fmt: skip
        if self.monitor is not None:
            try:
                self.monitor.close()
                write_json(self.folder / "metrics.json", asdict(result))
            except OSError as error:
                log.warning("metrics of %s cannot be written (%s)", self.folder, error)
        return result


def _precision(wanted: str, cuda: bool) -> str:
    if wanted == "auto":
        wanted = ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16") if cuda else "fp32"
    if wanted == "fp16" and not cuda:
        raise ValueError("train.precision=fp16 gains nothing on the CPU; use auto or fp32")
    return {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[wanted]


def _quiet_lightning() -> None:
    """Silence hints that do not apply: batches are made by one worker on purpose, there is no validation loop."""
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
