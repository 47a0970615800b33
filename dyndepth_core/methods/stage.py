"""The stages of a method: what it says of them, and what a running one gets from the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.methods.base import Objective

Item = TypeVar("Item")
BATCH = 8
VALIDATION_BATCHES = 32


def _nothing(source: SampleSource, held_out: SampleSource | None) -> Mapping[str, Any]:
    return {}


class StageJob(Protocol):
    """What a running stage can use.

    config: the whole tree; source: the training samples, held_out: those that choose the weights,
    None where the recordings are too short; folder: the stage's own, where what a killed one had
    left still lies; earlier: outputs of the stages before, by name; data: what `--data` named;
    start: the model file of `--from`.
    """

    config: Any
    source: SampleSource
    held_out: SampleSource | None
    folder: Path
    earlier: Mapping[str, list[Path]]
    data: Sequence[Path]
    start: Path | None

    def objective(self) -> Objective:
        """The method's own objective: seeded weights or those of `start`, its units and, where
        they are learned, its cameras as a training begins with them.
        """

    def begin_cameras(self, objective: Objective) -> None:
        """Have an objective made otherwise begin with the cameras that tracks say, where these are
        learned per video.
        """

    def fit(
        self,
        objective: Objective,
        source: SampleSource | None = None,
        held_out: SampleSource | None = None,
    ) -> Path:
        """Train for the stage's share of the budget (once per stage), by default on the samples of
        the run. Returns the checkpoint of the best weights, which the objective then holds; raises
        KeyboardInterrupt when it was interrupted.
        """

    def keep(self, objective: Objective) -> Path:
        """Write a checkpoint of an objective that was not fitted here; returns its path."""

    def weights(self, path: Path) -> dict[str, Tensor]:
        """The weights in what `fit` or `keep` returned, of this stage or an earlier one."""

    def save(self, objective: Objective) -> Path:
        """Write the model file of the run from an objective that was fitted here."""

    def track(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """The items one by one, with progress shown."""

    def report(self, figures: Mapping[str, Any]) -> None:
        """Add figures (JSON-able) to the metrics of the stage and so of the run."""


@dataclass(frozen=True)
class StageInfo:
    """One stage of a method: run(job) returns the files it made, which the following stages find in
    `job.earlier`; None: train the method's objective and save its model.

    share: of train.steps and train.minutes that `job.fit` may use; stages without training have 0.
    minutes: share of the minutes where it is another than that of the steps.
    off: the setting that leaves this stage out, where there is one.
    unread: settings (dotted) that change nothing of what it makes, so that it is not made anew for
    them, and another run that differs in nothing else may take it over; where there are any, what
    it may use of the budget counts by itself.
    reads(source, held_out): what the stage follows from beside images, calibration and settings
    (JSON-able), for example hashes of files; when that changes, a resumed run refuses to go on.
    """

    name: str
    share: float = 1.0
    run: Callable[[StageJob], Sequence[Path]] | None = None
    reads: Callable[[SampleSource, SampleSource | None], Mapping[str, Any]] = _nothing
    minutes: float | None = None
    off: str = ""
    unread: frozenset[str] = frozenset()


def walk(
    source: SampleSource, targets: Sequence[int], names: Sequence[str], batch: int = BATCH
) -> Iterator[Sample]:
    """Batches of the targets in order; names: recordings of the training, in whose list `video`
    counts (as in validation: one that the training does not know is the first).
    """
    index = torch.tensor([names.index(n) if n in names else 0 for n in source.names])
    for k in range(0, len(targets), batch):
        sample = source.take(list(enumerate(targets[k : k + batch])))
        sample.video = index[sample.video]
        yield sample


def validation_samples(job: StageJob) -> Iterator[Sample]:
    """Batches that thresholds are found on: held out ones where there are any."""
    source = (job.held_out or job.source).plain()
    count = min(len(source), VALIDATION_BATCHES * BATCH)
    targets = [k * len(source) // count for k in range(count)]
    return walk(source, targets, job.source.names)
