"""What a finished training leaves: the inference graph and what its file says of it."""

from __future__ import annotations

import datetime
import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..config import Config
from ..data.chain import data_record, hash_file
from ..data.sample import SampleSource
from ..data.writer import world_seeds
from ..inference.lineage import parent_record
from ..inference.model_file import ModelMeta, Provenance, read_meta
from ..inference.model_meta import ModelScale
from ..methods.base import InferenceGraph, Objective
from ..methods.metric import metric_source
from .cameras import paired_focal
from .source import split_recordings, validation_batches
from .units import UNIT_BATCHES, measured_units, typical_units


def trained_model(
    config: Config,
    objective: Objective,
    frames: SampleSource,
    data: Sequence[str | Path],
    step: int,
    start: str | Path | None,
    videos: Sequence[str] | None = None,
) -> tuple[InferenceGraph, ModelMeta]:
    """The graph that runs on the vehicle, with units, and its metadata. videos: names of the
    recordings of the training, whose cameras may have been learned; None: those of `frames`.

    The unit of depth learned from plain video is arbitrary. It is chosen here so that the median
    pixel of `frames` lies at TYPICAL_DEPTH: ranges and colours meant for metres then fit, though
    the scale stays `relative`. A model trained on from `start` keeps the units of that one. Metric
    trainings measure it on `frames` (units.py).
    """
    objective.eval()
    videos = frames.names if videos is None else videos
    if config.data.intrinsics == "pair":
        objective.canonical_focal = paired_focal(objective, frames, videos)
    graph = objective.inference_graph()
    parent = read_meta(start) if start else None
    scale = ModelScale()
    if metric_source(config):
        units, scale = measured_units(config, objective, frames, videos)
    elif parent:
        units = parent.architecture.get("units", 1.0)
    else:
        units = typical_units(objective, graph, frames, videos)
    graph.architecture["units"] = units
    batches = validation_batches(frames, UNIT_BATCHES, videos)
    thresholds = objective.thresholds(batches)
    network = config.network
    meta = ModelMeta(
        method=config.method,
        architecture=graph.architecture,
        input_size=config.data.size,
        canonical_focal=graph.canonical_focal,
        depth_range=(network.min_depth * units, network.max_depth * units),
        scale=scale,
        thresholds={name: units * value for name, value in thresholds.items()},
        license=config.train.license,
        provenance=_provenance(config, data, step, start, parent),
    )
    return graph, meta


def _provenance(
    config: Config,
    data: Sequence[str | Path],
    step: int,
    start: str | Path | None,
    parent: ModelMeta | None,
) -> Provenance:
    extra: dict[str, object] = {}
    if start and parent:
        extra["from"] = hash_file(Path(start))
        extra["parent"] = parent_record(start, extra["from"], parent)
    parts = [split_recordings([path], config.data) for path in data]
    sources = [data_record(path, *part) for path, part in zip(data, parts, strict=True)]
    inherited = getattr(parent.provenance, "world_seeds", ()) if parent else ()
    if seeds := sorted({*world_seeds(data), *inherited}):
        extra["world_seeds"] = seeds  # the demo and the reports take other worlds
    return Provenance(
        dataset_manifest=" ".join(source["sha256"] for source in sources),
        git_revision=git_revision(),
        config=config.model_dump(mode="json"),
        seed=config.train.seed,
        steps=step,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        data=[Path(p).resolve().name for p in data],
        sources=sources,
        **extra,
    )


@functools.cache
def git_revision() -> str:
    """Revision of the source tree this package runs from, with `-dirty` when it was changed;
    empty when installed. Asked first when a training begins: the tree may change meanwhile.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return revision + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
