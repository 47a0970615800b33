"""Metres per unit of a training: chosen where nothing tells, measured where something does."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import Config
from ..data.sample import SampleSource
from ..inference.model_file import load_model, read_meta
from ..inference.model_meta import ModelScale
from ..methods.base import InferenceGraph, Objective
from ..methods.metric import log_metres_per_unit, metric_source
from .source import validation_batches

log = logging.getLogger(__name__)
TYPICAL_DEPTH = 15.0  # m; half of what a camera sees in a street is nearer
UNIT_BATCHES = 32
MIN_MEASURED = 10  # pairs or images; fewer measure nothing
STD_PER_MAD = 1.4826  # of a normal distribution


@torch.no_grad()
def typical_units(
    objective: Objective, graph: InferenceGraph, frames: SampleSource, videos: Sequence[str]
) -> float:
    """TYPICAL_DEPTH over the median, over images, of the median predicted depth. videos: names of
    the recordings of the training.
    """
    medians = []
    for batch in validation_batches(frames, UNIT_BATCHES, videos):
        K = objective.predict(batch, 1.0).K  # learned ones, too
        medians.append(graph(batch.tgt, None, K)[0].flatten(1).median(1).values)
    return TYPICAL_DEPTH / float(torch.cat(medians).median())


@torch.no_grad()
def log_units(
    config: Config, objective: Objective, frames: SampleSource, videos: Sequence[str]
) -> Tensor:
    """Log of the metres per unit of the training by every pair (odometry) or image (camera height)
    of at most UNIT_BATCHES batches that can tell, (N,). By the motion and depth that the model
    will say, not by the pose network's alone, whose scale need not be that of the depth.
    """
    source = metric_source(config)
    graph, found = objective.inference_graph(), []  # of a training: its units are 1
    for batch in validation_batches(frames, UNIT_BATCHES, videos):
        said = objective.predict(batch, 1.0)
        if source == "odometry":
            said = objective.with_refined_motion(batch, said)
        depth = graph(batch.tgt, None, said.K)[0]
        found.append(
            log_metres_per_unit(
                source, batch, said.T_src_tgt, depth, said.K, config.data.camera_height
            )
        )
    return torch.cat(found)


def start_units(
    config: Config, objective: Objective, frames: SampleSource, start: str | Path | None
) -> float:
    """Metres per unit in which a metric training begins, so that its losses meet depths and
    translations that are about right: nothing they have learned must be stretched.

    Measured where the model file `start` brings depth and motion; else the units of that file;
    without one such that the median pixel of the untrained network lies at TYPICAL_DEPTH.
    """
    training = objective.training
    objective.eval()
    try:
        graph = objective.inference_graph()
        if start is None:
            return typical_units(objective, graph, frames, frames.names)
        known = load_model(start)[0].state_dict()
        if graph.state_dict().keys() <= known.keys():
            found = log_units(config, objective, frames, frames.names)
            if len(found) >= MIN_MEASURED:
                return math.exp(found.median())
        return read_meta(start).architecture.get("units", 1.0)
    finally:
        objective.train(training)


def measured_units(
    config: Config,
    objective: Objective,
    frames: SampleSource,
    videos: Sequence[str] | None = None,
) -> tuple[float, ModelScale]:
    """Metres per unit of a metric training that has ended, and the scale of its model.

    The median over held-out pairs (images) takes out what the losses have left; variance is the
    square of their spread, 1.4826 times the median absolute deviation of the log. Where `frames`
    cannot tell, the units are those the losses worked in, and nobody knows the variance.
    """
    source, worked_in = metric_source(config), float(objective.units)
    found = log_units(config, objective, frames, frames.names if videos is None else videos)
    if len(found) < MIN_MEASURED:
        log.warning(
            "metric scale: %d held-out %s can tell it, %d are needed: it rests on the training "
            "alone and its variance is unknown",
            len(found), "pairs" if source == "odometry" else "images", MIN_MEASURED,
        )  # fmt: skip
        return worked_in, ModelScale(state="metric", source=source)
    centre = found.median()
    spread = STD_PER_MAD * float((found - centre).abs().median())
    units = math.exp(centre)
    log.info(
        "metric scale by %s: %d held-out %s agree within %.1f %%; their median moves the scale of "
        "the training by %+.1f %%",
        source.replace("_", " "), len(found), "pairs" if source == "odometry" else "images",
        100 * spread, 100 * (units / worked_in - 1),
    )  # fmt: skip
    return units, ModelScale(state="metric", source=source, variance=spread**2)
