"""What a running stage gets: the StageJob of methods/stage.py."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import Config
from ..data.sample import SampleSource
from ..inference.model_file import save_model
from ..methods import get_method
from ..methods.base import Objective
from ..methods.metric import metric_source
from ..methods.stage import StageInfo
from ..networks.pose_net import VideoIntrinsics
from . import checkpoint
from .cameras import report_cameras
from .checkpoint import BEST, LAST, write_json
from .folder import METRICS, MODEL
from .model import trained_model
from .objective import make_objective
from .parallel import is_first_process
from .settings import TrainConfig
from .stages import StageContext
from .track_cameras import begin_at, track_cameras
from .units import start_units

log = logging.getLogger(__name__)
Item = TypeVar("Item")
KEPT = "kept.ckpt"
LINE_EVERY = 30.0  # seconds between log lines where there is no terminal for a bar


@dataclass(frozen=True)
class Given:
    """What all stages of a run share; first: name of the first one."""

    config: Config
    source: SampleSource
    held_out: SampleSource | None
    data: Sequence[str | Path]
    start: str | Path | None
    stages: Sequence[StageInfo]


def stages_of(config: Config) -> Sequence[StageInfo]:
    """The stages of the method of a configuration."""
    stages = get_method(config.method, config.plugin).stages
    return (StageInfo("train"),) if stages is None else stages(config)


def runner(info: StageInfo, given: Given) -> Callable[[StageContext], list[Path]]:
    """What runs a stage of a method as a Stage."""

    def run(context: StageContext) -> list[Path]:
        # whatever ran before in this process: a resumed run has the weights of one that was not
        torch.manual_seed(given.config.train.seed)
        job = Job(info, given, context)
        return list((info.run or train_and_save)(job))

    return run


def train_and_save(job: Job) -> list[Path]:
    """The one stage of most methods."""
    objective = job.objective()
    job.fit(objective)
    return [job.save(objective)]


class Job:
    """See StageJob."""

    def __init__(self, info: StageInfo, given: Given, context: StageContext) -> None:
        self.info, self.given, self.context = info, given, context
        self.config = shared_out(given.config, info.share, info.minutes)
        self.source, self.held_out = given.source, given.held_out
        self.folder, self.earlier = context.folder, context.earlier
        self.data = [Path(p) for p in given.data]
        self.start = None if given.start is None else Path(given.start)
        self._step: int | None = None  # of the weights that `fit` left in the objective
        self._began, self._figures = time.monotonic(), {}
        place = 1 + [s.name for s in given.stages].index(info.name)
        several = len(given.stages) > 1
        self.label = self.config.method + (
            f", {info.name} ({place} of {len(given.stages)})" if several else ""
        )

    def objective(self) -> Objective:
        """See StageJob."""
        config, source = self.config, self.source
        objective = make_objective(config, source, self.start)
        if metric := metric_source(config):
            objective.units.fill_(start_units(config, objective, source, self.start))
            log.info(
                "metric by %s; the training begins at %.4g metres per unit of its own",
                metric.replace("_", " "), objective.units,
            )  # fmt: skip
        self.begin_cameras(objective)
        return objective

    def begin_cameras(self, objective: Objective) -> None:
        """See StageJob."""
        if self.config.data.intrinsics == "video":
            begin_at(objective.intrinsics, self.source, self._cameras())

    def fit(
        self,
        objective: Objective,
        source: SampleSource | None = None,
        held_out: SampleSource | None = None,
    ) -> Path:
        """See StageJob."""
        from .fit import (
            fit,
        )  # here: Lightning takes seconds to import, and a finished stage needs none of it

        if source is None:
            source, held_out = self.source, self.held_out
        settings, (height, width) = self.config.train, self.config.data.size
        log.info(
            "%d training targets in %d recordings, %d held out",
            len(source), len(self.source.names), len(held_out or ()),
        )  # fmt: skip
        log.info(
            "%s at %dx%d pixels, batches of %d, %s, into %s",
            self.label, height, width, settings.batch_size, _in_words(settings), self.context.run,
        )  # fmt: skip
        result = fit(objective, settings, source, held_out, self.folder, label=self.label)
        if result.state == "interrupted":
            raise KeyboardInterrupt(
                f"interrupted at step {result.step}, with a checkpoint; go on with --resume"
            )
        self._step = result.best["step"] if result.best["step"] is not None else result.step
        best = self.folder / BEST
        return best if best.exists() else self.folder / LAST

    def weights(self, path: Path) -> dict[str, Tensor]:
        """See StageJob."""
        return checkpoint.load(path)["model"]

    def keep(self, objective: Objective) -> Path:
        """See StageJob."""
        path = self.folder / KEPT
        checkpoint.save(path, {"model": objective.state_dict()})
        return path

    def save(self, objective: Objective) -> Path:
        """See StageJob."""
        path = self.context.run / MODEL
        if not is_first_process():
            return path
        frames = self.held_out or self.source
        graph, meta = trained_model(
            self.given.config, objective, frames, self.given.data, self._step, self.start,
            self.source.names,
        )  # fmt: skip
        save_model(path, graph, meta)
        if isinstance(getattr(objective, "intrinsics", None), VideoIntrinsics):
            cameras = self._cameras()
            report_cameras(objective.intrinsics.eval(), self.source, cameras, self.context.run)
        return path

    def track(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """See StageJob."""
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        if console.is_terminal:
            yield from track(items, f"{self.label}: {what}", console=console, transient=True)
            return
        last = time.monotonic()
        for k, item in enumerate(items):
            yield item
            if time.monotonic() - last > LINE_EVERY:
                last = time.monotonic()
                log.info("%s: %s, %d of %d", self.label, what, k + 1, len(items))

    def report(self, figures: Mapping[str, Any]) -> None:
        """See StageJob."""
        path = self.folder / METRICS
        seconds = round(time.monotonic() - self._began, 3)
        found = {"seconds": seconds, "warnings": []}
        if self._step is not None:  # the training has written its own, without what was before it
            found = json.loads(path.read_text())
            found["seconds"] = max(found["seconds"], seconds)
        self._figures.update(figures)
        write_json(path, {**found, **self._figures})

    def _cameras(self) -> list:
        """Those of the tracks, looked for once per run."""
        folder = self.context.run / "stages" / self.given.stages[0].name
        return track_cameras(self.source, folder, write=is_first_process())


def shared_out(config: Config, share: float, of_minutes: float | None = None) -> Config:
    """The configuration with this share of its steps and minutes; 0: all. of_minutes: another share
    of the minutes.
    """
    of_minutes = share if of_minutes is None else of_minutes
    train = config.train
    steps = None if train.steps is None else max(1, round((share or 1.0) * train.steps))
    minutes = None if train.minutes is None else (of_minutes or 1.0) * train.minutes
    update = {"steps": steps, "minutes": minutes}
    return config.model_copy(update={"train": train.model_copy(update=update)})


def budget(info: StageInfo, config: Config) -> dict[str, Any]:
    """What a stage trains for, where it does not follow from all the settings of the run."""
    if not info.unread:
        return {}
    train = shared_out(config, info.share, info.minutes).train
    minutes = None if train.minutes is None else round(train.minutes, 6)  # shares may be thirds
    return {"budget": [train.steps, minutes] if info.share else None}


def _in_words(settings: TrainConfig) -> str:
    parts = [f"{settings.steps} steps"] if settings.steps else []
    parts += [f"{settings.minutes:g} minutes"] if settings.minutes else []
    return " or ".join(parts)
