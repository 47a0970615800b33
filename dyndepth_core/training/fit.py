"""The training loop of one stage, on Lightning (whose import alone takes seconds)."""

from __future__ import annotations

import logging
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
from .parallel import share_batch_norms
from .schedule import BatchStatistics, Budget, Clock, learning_rate, make_optimizer
from .settings import TrainConfig
from .source import of_worker, step_loader, validation_batches
from .trainer import make_trainer

log = logging.getLogger(__name__)


@dataclass
class FitResult:
    """How a training ended; written to metrics.json of its folder however it ended."""

    state: str  # done, interrupted or failed
    step: int
    seconds: float
    step_ms: float  # median
    best: dict[str, Any]  # step and score
    validations: list[dict[str, float]]
    warnings: list[dict[str, Any]]


def fit(
    objective: Objective,
    config: TrainConfig,
    train: SampleSource,
    val: SampleSource | None,
    folder: Path,
    label: str = "train",
) -> FitResult:
    """Train `objective`, keeping last.ckpt and best.ckpt in `folder`; goes on from last.ckpt.

    Afterwards the objective holds the weights that Checkpoints.offer_best chose (the last ones
    without `val`). On the CPU they are bit-equal however often the training was interrupted.
    Ctrl-C and SIGTERM end it after the current step with a checkpoint (state "interrupted"), a
    second Ctrl-C at once (KeyboardInterrupt). Raises NotFiniteError (a ValueError) on NaN or
    infinity, OSError when the final checkpoint cannot be written.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = make_trainer(config, folder, objective.partial_gradients)
    # Lightning leaves the mode alone, and a part may come from a frozen network
    objective.train().to(memory_format=torch.channels_last)
    if trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        share_batch_norms(objective)
    loop = _Loop(objective, config, train, val, folder, label)
    try:
        with loop.stop:
            trainer.fit(loop)
        loop.finish()
    except (ValueError, RuntimeError, ConnectionError, EOFError) as error:
        raise of_worker(error) from None
    except Abort:
        loop.state = "interrupted"
        raise KeyboardInterrupt(loop.checkpoints.in_words()) from None
    finally:
        result = loop.close()
    return result


class _Loop(pl.LightningModule):
    """An objective in Lightning's hooks: step k has batch k, the random numbers and the lr of k."""

    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        train: SampleSource,
        val: SampleSource | None,
        folder: Path,
        label: str,
    ) -> None:
        super().__init__()
        self.objective, self.config, self.folder, self.label = objective, config, folder, label
        self.train_source, self.val_source = train, val
        self.clock, self.stop = Clock(Budget.of(config)), StopSignals()
        self.checkpoints, self.means = Checkpoints(folder), Means()
        self.monitor: Monitor | None = None  # of the first process only
        self.health = Health(lambda *warning: self.monitor.text(*warning) if self.monitor else None)
        self.state = "failed"
        self.validations: list[dict[str, float]] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.statistics: BatchStatistics | None = None
        self.norm: Tensor | None = None
        self.terms: LossTerms | None = None

    # -- start ---------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fp16 = self.trainer.precision == "16-mixed"
        self.optimizer = make_optimizer(self.objective, self.config, fused=not fp16)
        return self.optimizer

    def on_fit_start(self) -> None:
        state = self.checkpoints.read_last()
        if state is not None:
            self._restore(state)
        if self.trainer.is_global_zero:
            self.monitor = Monitor(self.folder, self.clock.step, self.label)
        self.clock.start(self.clock.step, state["seconds"] if state else 0.0)
        self._tick()

    def train_dataloader(self) -> Any:
        # Lightning asks after on_fit_start, which knows where to begin
        end = self.clock.step if self.clock.progress >= 1.0 else self.config.steps
        return step_loader(
            self.train_source, self.clock.step, end, workers=self.config.workers,
            rank=self.global_rank, world=self.trainer.world_size, pin=self.device.type == "cuda",
        )  # fmt: skip

    def on_train_start(self) -> None:
        self.statistics = BatchStatistics(self.objective)  # Lightning may have replaced its norms
        self.stop.install()

    def transfer_batch_to_device(self, batch: Sample, device: torch.device, _: int) -> Sample:
        return batch.to(device) if device.type != "cpu" else batch

    # -- one step ------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        self._tick()
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.config, self.clock.progress)
        self.statistics.follow(self.config, self.clock.progress)
        # Noise is a function of (seed, step), in every process the same: nothing to restore.
        torch.manual_seed((self.config.seed * 1_000_003 + self.clock.step) * 4096 % (1 << 63))

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        progress = self.clock.progress
        predictions = self.objective.predict(batch, progress)
        self.terms = self.objective.losses(batch, predictions, progress)
        return self.terms.total

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        groups = optimizer.param_groups
        parameters = [p for g in groups for p in g["params"] if p.grad is not None]
        limit = self.config.clip_norm or float("inf")
        self.norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        if self.device.type == "cpu":  # free of charge here; a GPU would have to wait
            self._check_finite()

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        self.clock.step += 1
        step, config = self.clock.step, self.config
        self.means.add({"loss": self.terms.total, "grad_norm": self.norm, **self.terms.terms})
        self._tick()
        end = self.clock.progress >= 1.0
        stop = end or self._any_process(self.stop.requested)
        if end or step % config.health_every == 0:
            self._check_finite()
            if self.monitor:
                self.health.observe(step, self.clock.progress, batch, self.terms.maps)
        if self.monitor and (step == 1 or end or step % config.picture_every == 0):
            self.monitor.pictures(step, batch, self.terms.maps)
        validated = self.val_source is not None and (end or step % config.validate_every == 0)
        if validated:
            self._validate()
        if stop or validated or step % config.log_every == 0:
            self._log(validated)
        if stop or step % config.checkpoint_every == 0:
            self._save(final=stop)
        if stop:
            self.state = "done" if end else "interrupted"
            self.trainer.should_stop = True

    # -- parts ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        progress = self.clock.tick()
        if self.clock.budget.seconds is not None and self.trainer.world_size > 1:
            # clocks differ, schedules must not
            self.clock.progress = self.trainer.strategy.broadcast(progress)

    def _any_process(self, flag: bool) -> bool:
        if self.trainer.world_size == 1:
            return flag
        return self.trainer.strategy.reduce_boolean_decision(flag, all=False)

    def _check_finite(self) -> None:
        terms = {f"the loss term {name}": value for name, value in self.terms.terms.items()}
        values = {**terms, "the loss": self.terms.total}
        if self.trainer.precision != "16-mixed":  # fp16 leaves such steps out and goes on
            values["the gradients"] = self.norm
        self.health.check_finite(self.clock.step, values)

    def _validate(self) -> None:
        """Mean score of the validation batches, always with the same noise; keeps the best."""
        torch.manual_seed(self.config.seed)
        self.objective.eval()
        limit, videos = self.config.validation_batches, self.train_source.names
        sums = torch.zeros(2, device=self.device)  # scores, batches
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for k, batch in enumerate(validation_batches(self.val_source, limit, videos)):
                if k % self.trainer.world_size == self.global_rank:
                    batch = self.transfer_batch_to_device(batch, self.device, 0)
                    sums[0] += self.objective.validation(batch).float()
                    sums[1] += 1
        self.objective.train()
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        score = float(sums[0] / sums[1])
        self.validations.append({"step": self.clock.step, "score": score})
        weights, write = self.objective.state_dict(), self.trainer.is_global_zero
        self.checkpoints.offer_best(self.clock.step, score, weights, write=write)

    def _log(self, validated: bool) -> None:
        step_ms, eta = self.clock.lap()
        means = self.means.take()
        if self.monitor is None:
            return
        progress = self.clock.progress
        row = {"seconds": self.clock.seconds(), "progress": progress, "step_ms": step_ms}
        group = self.optimizer.param_groups[0]
        row.update(means, lr=group["lr"] / group["factor"])
        if validated:
            row["validation"] = self.validations[-1]["score"]
        self.monitor.row(self.clock.step, row)
        self.monitor.show(self.clock.step, progress, eta, means["loss"], step_ms)

    def _save(self, final: bool) -> None:
        self._check_finite()
        weights = self.objective.state_dict()
        if not finite(weights):
            nan = torch.tensor(float("nan"))
            self.health.check_finite(self.clock.step, {"the weights": nan})
        if not self.trainer.is_global_zero:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        state = {
            "step": self.clock.step,
            "seconds": self.clock.seconds(),
            "model": weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "validations": self.validations,
            "warnings": self.health.state(),
        }
        self.checkpoints.write_last(state, final=final)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.objective.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.folder}: its checkpoint does not fit this configuration ({reason}); "
                "give a new --out"
            ) from error
        if state["scaler"]:
            self.trainer.precision_plugin.scaler.load_state_dict(state["scaler"])
        self.clock.step, self.validations = state["step"], state["validations"]
        self.health.restore(state["warnings"])
        log.info("resumed at step %d", self.clock.step)

    # -- end -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """After a complete training: put the best weights into the objective."""
        if self.clock.progress >= 1.0:
            self.state = "interrupted" if self.stop.requested else "done"  # too late for a step
            if (weights := self.checkpoints.best_weights()) is not None:
                self.objective.load_state_dict(weights)

    def close(self) -> FitResult:
        """Leave metrics.json behind, however the training ended."""
        if self.statistics is not None:
            self.statistics.restore()
        clock = self.clock
        result = FitResult(
            self.state, clock.step, clock.seconds(), clock.step_ms(), self.checkpoints.best,
            self.validations, self.health.state(),
        )  # fmt: skip
        if self.monitor is not None:
            try:
                self.monitor.close()
                write_json(self.folder / "metrics.json", asdict(result))
            except OSError as error:
                log.warning("metrics of %s cannot be written (%s)", self.folder, error)
        return result
