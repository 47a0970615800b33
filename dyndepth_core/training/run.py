"""One training from recordings to RUN/model.safetensors: folders, stages, provenance."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import Config, dump
from ..data.chain import hash_file
from ..data.sample import SampleSource
from ..methods.metric import MetricScale, metric_source
from .checkpoint import write_atomic, write_json
from .folder import CONFIG, METRICS, MODEL, REQUEST, as_begun, check_folder
from .job import Given, runner, stages_of
from .model import git_revision
from .parallel import is_first_process
from .settings import RUNTIME_FIELDS
from .source import fingerprint, split_recordings
from .stages import Stage, StageContext, run_stages

log = logging.getLogger(__name__)


def train_run(
    config: Config,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    resume: bool = False,
    start: str | Path | None = None,
) -> dict[str, Any]:
    """Train the method of `config` on the recordings `data`; leaves model.safetensors and more in
    `out`.

    start: a model file whose weights the training begins with. Returns the content of metrics.json.
    Raises ValueError or OSError with a remedy, KeyboardInterrupt when it was interrupted (then
    `resume` goes on where it stopped).
    """
    out = Path(out)
    git_revision()
    first = is_first_process()
    if first:
        check_folder(config, out, resume)
    stages = _stages(config, data, start)
    if resume:
        stages = [as_begun(stage, config, out) for stage in stages]
    if first:
        _begin(config, data, out, start)
    try:
        if first:
            run_stages(stages, out)
        else:  # a helper of the first process: the same work, nothing on the disk
            for stage in stages:
                stage.run(StageContext(out, out / "stages" / stage.name, resumed=resume))
    finally:
        metrics = _write_metrics(config, out, [s.name for s in stages]) if first else {}
    return metrics


def _begin(config: Config, data: Sequence[str | Path], out: Path, start: str | Path | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    request = {
        "data": [str(Path(p).resolve()) for p in data],
        "from": str(Path(start).resolve()) if start else None,
    }
    write_json(out / REQUEST, request)
    write_atomic(out / CONFIG, dump(config).encode())


def _stages(config: Config, data: Sequence[str | Path], start: str | Path | None) -> list[Stage]:
    """The stages of the method, all of the same inputs and one budget."""
    settings = config.train
    infos = stages_of(config)
    if len(infos) > 1 and settings.devices * settings.nodes > 1:
        raise ValueError(
            f"train.devices, train.nodes: {config.method} trains in {len(infos)} stages, which "
            "share one device; set both to 1"
        )
    train, val = split_recordings(data, config.data)
    # before anything is written: these refuse what cannot be trained on
    metric = metric_source(config)
    if metric:
        MetricScale(config)
    odometry = metric == "odometry"
    source, held_out = (
        SampleSource(part, config.data, settings.batch_size, settings.seed, part is train, odometry)
        if part or part is train
        else None
        for part in (train, val)
    )
    for text in source.lost():
        log.warning("%s; choose another data.size to have it", text)
    if not val:
        log.warning(
            "the recordings are too short to hold any frame out: no validation, "
            "the last weights are taken"
        )
    inputs = {
        "config": config.model_dump(mode="json", exclude={"train": RUNTIME_FIELDS}),
        "train": fingerprint(train, odometry),
        "validation": fingerprint(val, odometry),
        "from": hash_file(Path(start)) if start else None,
    }
    given = Given(config, source, held_out, data, start, infos)
    return [
        Stage(info.name, inputs | info.reads(source, held_out), runner(info, given))
        for info in infos
    ]


def _write_metrics(config: Config, out: Path, stages: Sequence[str]) -> dict[str, Any]:
    """RUN/metrics.json from those of the stages: the last one's figures, everyone's warnings; of
    several stages the time of all, and each one's own under `stages`.
    """
    metrics: dict[str, Any] = {
        "method": config.method,
        "plugin": config.plugin,
        "seed": config.train.seed,
    }
    warnings: list[dict[str, Any]] = []
    single: dict[str, dict[str, Any]] = {}
    for name in stages:
        path = out / "stages" / name / METRICS
        if path.is_file():
            try:
                found = json.loads(path.read_text())
                warnings += [{"stage": name, **w} for w in found["warnings"]]
                metrics.update(found)
                single[name] = {k: v for k, v in found.items() if k != "warnings"}
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("%s is damaged: its figures are left out", path)
    if len(stages) > 1:
        metrics["seconds"] = sum(found.get("seconds", 0.0) for found in single.values())
        metrics["stages"] = single
    metrics["warnings"] = warnings
    metrics["model"] = hash_file(out / MODEL) if (out / MODEL).is_file() else None
    try:
        write_json(out / METRICS, metrics)
    except OSError as error:
        log.warning("%s cannot be written (%s)", out / METRICS, error)
    return metrics
