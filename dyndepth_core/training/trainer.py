"""Lightning's Trainer as this package wants it: devices, precision, no cost per step."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch

from ..inference.device import resolve_device
from .settings import TrainConfig


def make_trainer(config: TrainConfig, folder: Path, partial_gradients: bool) -> pl.Trainer:
    """A Trainer for one pass over the steps; ValueError when device or precision are not there.

    partial_gradients: a step may leave parameters without a gradient, which costs several devices
    a search through the graph.
    """
    cuda = resolve_device(config.device).type == "cuda"
    # hints that do not apply: one data worker is on purpose, validation is not Lightning's
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    strategy = "auto"
    if config.devices * config.nodes > 1:
        strategy = "ddp_find_unused_parameters_true" if partial_gradients else "ddp"
    return pl.Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=strategy,
        precision=_precision(config.precision, cuda),
        max_epochs=1,
        benchmark=cuda,
        sync_batchnorm=cuda and config.devices * config.nodes > 1,  # CPU: parallel.py
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


def _precision(wanted: str, cuda: bool) -> str:
    if wanted == "auto":
        wanted = "fp32"  # bf16 autocast is slower on CPUs
        if cuda:
            wanted = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    if wanted == "fp16" and not cuda:
        raise ValueError("train.precision=fp16 gains nothing on the CPU: use auto or fp32")
    return {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[wanted]
