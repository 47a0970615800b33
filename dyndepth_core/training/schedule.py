"""How far a training is, the learning rate that belongs there, and the optimiser; no state but
the optimiser's.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from ..methods.base import Objective
from .settings import TrainConfig

LEAST_MOMENTUM = 0.1  # share of the momentum of batch statistics that a training ends with


@dataclass(frozen=True)
class Budget:
    """A training's length in steps, in seconds of wall clock, or both (whichever is used up
    first).
    """

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, config: TrainConfig) -> Budget:
        """The budget that a TrainConfig states."""
        return cls(config.steps, None if config.minutes is None else 60.0 * config.minutes)

    def progress(self, step: int, seconds: float) -> float:
        """Fraction of the training that is done, in [0, 1]: the larger of the step and the time
        fraction.
        """
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / self.seconds if self.seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    def remaining(self, step: int, seconds: float, seconds_per_step: float) -> float:
        """Expected seconds until the end, from the present speed."""
        rest = []
        if self.steps is not None:
            rest.append((self.steps - step) * seconds_per_step)
        if self.seconds is not None:
            rest.append(self.seconds - seconds)
        return max(0.0, min(rest))


class Clock:
    """Steps and seconds used over all the starts of a training, and how far that is."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.step, self.progress = 0, 0.0
        self.start(0, 0.0)

    def start(self, step: int, seconds: float) -> None:
        """Go on from what was done before."""
        self.step, self._before, self._started = step, seconds, time.monotonic()
        self._lap = (step, self._started)
        self._laps: list[float] = []
        self.tick()

    def step_ms(self) -> float:
        """Median milliseconds per step over the laps of this start; validations weigh nothing."""
        return statistics.median(self._laps) if self._laps else 0.0

    def seconds(self) -> float:
        """Wall clock used so far."""
        return self._before + time.monotonic() - self._started

    def tick(self) -> float:
        """Bring `progress` up to date and return it."""
        self.progress = self.budget.progress(self.step, self.seconds())
        return self.progress

    def lap(self) -> tuple[float, float]:
        """(milliseconds per step since the last call, expected seconds until the end)."""
        now = time.monotonic()
        each = (now - self._lap[1]) / max(1, self.step - self._lap[0])
        self._laps.append(1000 * each)
        self._lap = (self.step, now)
        return 1000 * each, self.budget.remaining(self.step, self.seconds(), each)


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Learning rate at `progress`: linear warm-up, then cosine, step or constant.

    cosine: lr (f + (1 - f) (1 + cos(pi x)) / 2), x in [0, 1] over what follows the warm-up, f =
    final_lr (Loshchilov and Hutter, SGDR, 2017, without restarts).
    """
    if progress < config.warmup:
        # never exactly 0, or the first step of a training would be lost
        return config.lr * max(progress / config.warmup, 1e-2)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        return config.lr * (config.step_factor if progress >= config.step_at else 1.0)
    x = (progress - config.warmup) / (1.0 - config.warmup)
    return config.lr * (
        config.final_lr + (1.0 - config.final_lr) * 0.5 * (1.0 + math.cos(math.pi * x))
    )


class BatchStatistics:
    """The running batch statistics of a module: m = m_0 max(lr / lr_0, LEAST_MOMENTUM), m_0 and
    lr_0 the whole momentum and learning rate.

    With a momentum of 0.1 they are those of the last ten batches or so, and small batches differ:
    from one step to the next a model gets better or worse while its weights hardly change any more.
    Over weights that rest one may average for longer; over those that still change it would lag.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [
            (m, m.momentum)
            for m in module.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.momentum
        ]

    def follow(self, config: TrainConfig, progress: float) -> None:
        """For the step at `progress`; the warm-up, whose weights are not at rest, counts as full
        rate.
        """
        rate = learning_rate(config, max(progress, config.warmup)) / config.lr
        for norm, momentum in self._norms:
            norm.momentum = momentum * max(rate, LEAST_MOMENTUM)

    def restore(self) -> None:
        """The momentum it came with."""
        for norm, momentum in self._norms:
            norm.momentum = momentum


def make_optimizer(
    objective: Objective, config: TrainConfig, fused: bool = True
) -> torch.optim.Optimizer:
    """Adam or AdamW over the trainable parameters; AdamW decays those with two or more dimensions.

    A group's `factor` scales its learning rate: the objective's `lr_factors`, by name of submodule,
    the innermost one that has any.
    """
    # Adam would add the decay to the gradients, which of a photometric loss are far smaller.
    decay = config.weight_decay if config.optimizer == "adamw" else 0.0
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            owners = [n for n in objective.lr_factors if name.startswith(n + ".")]
            factor = objective.lr_factors[max(owners, key=len)] if owners else 1.0
            key = (factor, decay if parameter.ndim > 1 else 0.0)
            found.setdefault(key, []).append(parameter)
    groups = [{"params": p, "factor": f, "weight_decay": d} for (f, d), p in found.items()]
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # fused: one pass over the weights instead of a dozen small operations per tensor. Under fp16 it
    # would undo the loss scale itself, after the clipping of gradients that needs it undone.
    return kind(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=fused,
    )
