"""One training from recordings to RUN/model.safetensors: folders, stages, provenance."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..config import Config, dump
from ..data.chain import hash_file
from ..data.sample import SampleSource
from ..inference.model_file import load_model, save_model
from ..methods import get_method
from ..methods.base import Objective
from ..methods.metric import MetricScale, metric_source
from .cameras import report_cameras
from .checkpoint import write_atomic, write_json
from .folder import CONFIG, METRICS, MODEL, REQUEST, as_begun, check_folder
from .model import git_revision, trained_model
from .settings import RUNTIME_FIELDS, TrainConfig
from .source import fingerprint, split_recordings
from .stages import Stage, StageContext, run_stages
from .track_cameras import begin_at, track_cameras
from .units import start_units

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
    first = _is_first_process()
    if first:
        check_folder(config, out, resume)
    stages = [_stage(name, config, data, start) for name in get_method(config.method).stages]
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


def _stage(
    name: str, config: Config, data: Sequence[str | Path], start: str | Path | None
) -> Stage:
    if name != "train":
        raise ValueError(
            f"stage {name!r} of method {config.method} is not known here; update dyndepth"
        )
    settings = config.train
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
        log.warning(text)
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

    def run(context: StageContext) -> list[Path]:
        from .fit import (
            fit,
        )  # here: Lightning takes seconds to import, and a finished stage needs none of it

        objective = make_objective(config, source, start)
        if metric:
            objective.units.fill_(start_units(config, objective, source, start))
            log.info(
                "metric by %s; the training begins at %.4g metres per unit of its own",
                metric.replace("_", " "), objective.units,
            )  # fmt: skip
        log.info(
            "%d training targets in %d recordings, %d held out",
            len(source),
            len(train),
            len(held_out or ()),
        )
        height, width = config.data.size
        log.info(
            "%s at %dx%d pixels, batches of %d, %s, into %s",
            config.method, height, width, settings.batch_size, _budget(settings), context.run,
        )  # fmt: skip
        cameras = []
        if config.data.intrinsics == "video":
            cameras = track_cameras(source, context.folder, write=_is_first_process())
            begin_at(objective.intrinsics, source, cameras)
        result = fit(objective, settings, source, held_out, context.folder, label=config.method)
        if result.state == "interrupted":
            raise KeyboardInterrupt(
                f"interrupted at step {result.step}, with a checkpoint; go on with --resume"
            )
        if _is_first_process():
            weights_of = result.best["step"] if result.best["step"] is not None else result.step
            graph, meta = trained_model(
                config, objective, held_out or source, data, weights_of, start
            )
            save_model(context.run / MODEL, graph, meta)
            if config.data.intrinsics == "video":
                report_cameras(objective.intrinsics.eval(), source, cameras, context.run)
        return [context.run / MODEL]

    return Stage(name, inputs, run)


def _budget(settings: TrainConfig) -> str:
    parts = [f"{settings.steps} steps"] if settings.steps else []
    parts += [f"{settings.minutes:g} minutes"] if settings.minutes else []
    return " or ".join(parts)


def make_objective(
    config: Config, source: SampleSource, start: str | Path | None = None
) -> Objective:
    """The method's objective with seeded initial weights, or with those of the model file
    `start`.
    """
    if start is None:
        return _initial(config, source, config.network.canonical_focal or source.mean_focal())
    graph, meta = load_model(start)
    # its weights predict depth at its own focal length
    focal = config.network.canonical_focal or meta.canonical_focal
    objective = _initial(config, source, focal, pretrained=False)
    given = objective.adopt(graph.state_dict())
    if config.network.pretrained and any(
        ".encoder." in k and k not in given for k in objective.state_dict()
    ):  # a depth-only model: ImageNet is the better start of its pose network
        objective = _initial(config, source, focal)
    own = objective.state_dict()
    wrong = [k for k, v in given.items() if k not in own or own[k].shape != v.shape]
    if wrong:  # another method with the same networks is a start as good as any
        raise ValueError(
            f"--from {start}: its {meta.method} network does not fit this {config.method} "
            f"configuration ({len(wrong)} of {len(given)} weights differ, e.g. {wrong[:2]}); "
            f"give it the same network section: {meta.architecture}"
        )
    objective.load_state_dict({**own, **given})
    return objective


def _initial(
    config: Config, source: SampleSource, focal: float, pretrained: bool = True
) -> Objective:
    if not pretrained:
        network = config.network.model_copy(update={"pretrained": False})
        config = config.model_copy(update={"network": network})
    torch.manual_seed(config.train.seed)
    return get_method(config.method).objective_class(config, source.names, focal)


def _write_metrics(config: Config, out: Path, stages: Sequence[str]) -> dict[str, Any]:
    """RUN/metrics.json from those of the stages: the last one's figures, everyone's warnings."""
    metrics: dict[str, Any] = {
        "method": config.method,
        "plugin": config.plugin,
        "seed": config.train.seed,
    }
    warnings: list[dict[str, Any]] = []
    for name in stages:
        path = out / "stages" / name / METRICS
        if path.is_file():
            try:
                found = json.loads(path.read_text())
                warnings += [{"stage": name, **w} for w in found["warnings"]]
                metrics.update(found)
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("%s is damaged: its figures are left out", path)
    metrics["warnings"] = warnings
    metrics["model"] = hash_file(out / MODEL) if (out / MODEL).is_file() else None
    try:
        write_json(out / METRICS, metrics)
    except OSError as error:
        log.warning("%s cannot be written (%s)", out / METRICS, error)
    return metrics


def _is_first_process() -> bool:
    """False in the processes that Lightning (or a cluster) starts beside the first one."""
    return all(
        os.environ.get(name, "0") == "0"
        for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK")
    )
