"""TrainConfig: everything about how long, how fast and with which optimiser a training runs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Fields that change how a run is carried out or watched but not one bit of its weights;
# a run may be resumed with other values of these.
RUNTIME_FIELDS = frozenset(
    {
        "workers",
        "threads",
        "device",
        "devices",
        "nodes",
        "log_every",
        "picture_every",
        "health_every",
        "checkpoint_every",
        "license",
    }
)


def without(settings: dict[str, Any], names: Collection[str], prefix: str = "") -> dict[str, Any]:
    """A tree of settings without those named, dotted, e.g. train.steps."""
    return {
        key: without(value, names, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in settings.items()
        if prefix + key not in names
    }


class TrainConfig(BaseModel):
    """How long, how fast, with which optimiser; the schedule is in fractions of the whole
    training.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    seed: int = Field(
        0, ge=0, lt=2**63, description="seed of initialisation, sample order and augmentation"
    )
    steps: int | None = Field(
        20_000,
        ge=1,
        le=10**9,
        description="budget in optimiser steps; null = only `minutes` counts",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="budget in minutes of wall clock; with `steps` too, whichever is used up first",
    )
    batch_size: int = Field(
        4, ge=1, le=65536, description="targets per step over all devices together"
    )
    optimizer: Literal["adam", "adamw"] = Field(
        "adamw", description="adam, or adamw (decoupled weight decay)"
    )
    lr: float = Field(1e-4, gt=0, le=10, description="highest learning rate")
    weight_decay: float = Field(
        0.01, ge=0, le=10, description="decay of weights with 2 or more dimensions"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the gradient's running mean")
    beta2: float = Field(
        0.999, ge=0, lt=1, description="decay of the squared gradient's running mean"
    )
    warmup: float = Field(
        0.02, ge=0, lt=1, description="fraction of the training in which lr rises from 0"
    )
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="what lr does after the warm-up"
    )
    final_lr: float = Field(0.01, ge=0, le=1, description="cosine: last lr as a fraction of lr")
    step_at: float = Field(
        0.75, gt=0, le=1, description="step: fraction of the training at which lr drops"
    )
    step_factor: float = Field(
        0.1, gt=0, le=1, description="step: what lr is multiplied with there"
    )
    clip_norm: float = Field(
        10.0, ge=0, description="largest gradient norm, longer gradients are shortened; 0 = off"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: bf16 (else fp16) autocast on cuda, fp32 on the CPU",
    )
    validate_every: int = Field(
        500, ge=1,
        description="steps between two validations, which choose the best weights; of scores "
        "within 0.3 % the later",
    )  # fmt: skip
    validation_batches: int = Field(
        32, ge=1, description="batches of the validation split per validation, at most"
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints")
    log_every: int = Field(20, ge=1, description="steps between two log rows")
    picture_every: int = Field(
        500, ge=1, description="steps between two sets of pictures in TensorBoard"
    )
    health_every: int = Field(
        10, ge=1, description="steps between two looks at the health of the training"
    )
    workers: int = Field(
        1, ge=0, le=1024, description="processes that load data; 0 = in the training process itself"
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="threads of torch; null = torch decides"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: cuda where there is one"
    )
    devices: int = Field(1, ge=1, le=1024, description="devices on each machine")
    nodes: int = Field(1, ge=1, le=4096, description="machines")
    license: str = Field(
        "", description="licence of the weights, as it shall stand in the model file"
    )

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.steps is None and self.minutes is None:
            raise ValueError("a training needs a budget: set steps, minutes or both")
        if self.batch_size % (self.devices * self.nodes):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared evenly by "
                f"{self.devices * self.nodes} devices; make it a multiple"
            )
        return self
