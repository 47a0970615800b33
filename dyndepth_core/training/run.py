"""One training from recordings to RUN/model.safetensors: folders, stages, provenance."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from ..config import Config, dump, load
from ..data.chain import hash_file
from ..data.sample import SampleSource
from ..inference.device import resolve_device
from ..methods.metric import MetricScale, metric_source
from .checkpoint import write_atomic, write_json
from .folder import (
    CONFIG,
    METRICS,
    MODEL,
    REQUEST,
    as_begun,
    check_folder,
    resumed_request,
)
from .job import Given, Job, budget, runner, stages_of
from .memory import PEAKS
from .model import git_revision
from .parallel import is_first_process
from .settings import RUNTIME_FIELDS
from .source import check_splits, fingerprint, split_recordings
from .stages import Stage, StageContext, read_record, run_stages

log = logging.getLogger(__name__)


def train_run(
    config: Config,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    resume: bool = False,
    start: str | Path | None = None,
    reuse: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Train the method of `config` on the recordings `data`; leaves model.safetensors and more in
    `out`.

    start: a model file whose weights the training begins with; reuse: other runs, whose finished
    stages are taken over where nothing they follow from differs.

    Returns the content of metrics.json. Raises ValueError or OSError with a remedy,
    KeyboardInterrupt when it was interrupted (then `resume` goes on where it stopped).
    """
    cv2.setNumThreads(1)  # images are spread over threads: its own would only wait for each other
    out = Path(out)
    git_revision()
    first = is_first_process()
    if first:
        check_folder(config, out, resume)
        if not resume:
            check_splits(data)
    stages = _stages(config, data, start)
    if resume:
        stages = [as_begun(stage, config, out) for stage in stages]
    if first:
        _begin(config, data, out, start)
    try:
        if first:
            run_stages(stages, out, [Path(other) for other in reuse])
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
    given = _given(config, data, start)
    if len(given.stages) > 1 and settings.devices * settings.nodes > 1:
        extra = [stage for stage in given.stages if stage.off]
        remedy = "set both to 1"
        if len(given.stages) - len(extra) == 1:  # as --from switches one on that nobody asked for
            remedy = (
                "; ".join(f"set {s.off} to do without {s.name}" for s in extra) + ", or both to 1"
            )
        raise ValueError(
            f"train.devices, train.nodes: {config.method} trains in {len(given.stages)} stages, "
            f"which share one device; {remedy}"
        )
    # before anything is written: this refuses what cannot be trained on
    resolve_device(settings.device)
    if metric_source(config):
        MetricScale(config)
    source, held_out = given.source, given.held_out
    for text in source.lost():
        log.warning(text)
    if held_out is None:
        log.warning(
            "the recordings are too short to hold any frame out: no validation, "
            "the last weights are taken"
        )
    odometry = metric_source(config) == "odometry"
    inputs = {
        "config": config.model_dump(mode="json", exclude={"train": RUNTIME_FIELDS}),
        "train": fingerprint(source.recordings, odometry),
        "validation": fingerprint(held_out.recordings if held_out else [], odometry),
        "from": hash_file(Path(start)) if start else None,
    }
    return [
        Stage(
            info.name,
            {**inputs, **info.reads(source, held_out), **budget(info, config)},
            runner(info, given),
            info.unread,
        )
        for info in given.stages
    ]


def _given(config: Config, data: Sequence[str | Path], start: str | Path | None) -> Given:
    settings, odometry = config.train, metric_source(config) == "odometry"
    train, val = split_recordings(data, config.data)
    source, held_out = (
        SampleSource(part, config.data, settings.batch_size, settings.seed, part is train, odometry)
        if part or part is train
        else None
        for part in (train, val)
    )
    return Given(config, source, held_out, data, start, stages_of(config))


def finished_job(out: str | Path, data: Sequence[str | Path] = ()) -> Job:
    """The last stage of a finished run, to look at what the stages made; data: where the recordings
    it was trained on are now, or lie with their ground truth. ValueError when it is not finished,
    its files are lost or these are other recordings.
    """
    out = Path(out)
    before, start = resumed_request(out)
    data = data or before
    config = load(out / CONFIG)
    given = _given(config, data, start)
    now = fingerprint(given.source.recordings, metric_source(config) == "odometry")
    earlier = {}
    for info in given.stages:
        record = read_record(out, info.name) or {}
        files = [out / name for name in record.get("outputs", ())]
        if record.get("state") != "done" or not all(f.is_file() for f in files):
            raise ValueError(
                f"{out}: stage {info.name} is not finished; "
                f"dyndepth train --out {out} --resume goes on with it"
            )
        earlier[info.name] = files
        if record.get("values", {}).get("train") != now:
            raise ValueError(
                f"{', '.join(map(str, data))}: not the recordings that {out} was trained on "
                f"({', '.join(map(str, before))})"
            )
    info = given.stages[-1]
    context = StageContext(out, out / "stages" / info.name, resumed=True, earlier=earlier)
    return Job(info, given, context)


def _write_metrics(config: Config, out: Path, stages: Sequence[str]) -> dict[str, Any]:
    """RUN/metrics.json from those of the stages: the last one's figures, everyone's warnings; of
    several stages the time and the steps of all and the highest memory, and each one's own under
    `stages`.
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
                record = read_record(out, name) or {}
                found |= {k: record[k] for k in PEAKS if k in record}
                metrics.update(found)
                single[name] = {k: v for k, v in found.items() if k != "warnings"}
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("%s is damaged: its figures are left out", path)
    if len(stages) > 1:
        for name in ("seconds", "step"):
            metrics[name] = sum(found.get(name) or 0 for found in single.values())
        for name in PEAKS:
            if each := [found[name] for found in single.values() if name in found]:
                metrics[name] = max(each)
        metrics["stages"] = single
    metrics["warnings"] = warnings
    metrics["model"] = hash_file(out / MODEL) if (out / MODEL).is_file() else None
    try:
        write_json(out / METRICS, metrics)
    except OSError as error:
        log.warning("%s cannot be written (%s)", out / METRICS, error)
    return metrics
