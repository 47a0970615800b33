"""Rows trained at the same time: on a machine that is now fast, now slow, equal minutes one after
the other are not equal training.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..data.processes import run_in_processes, sigterm_as_ctrl_c
from ..data.recording import open_recordings
from .recipes import depth_of
from .rows import Row, run_row

LOG = "log.txt"
PATIENCE_S = 60.0  # a training ends after its step, with a checkpoint
KILLED = (
    "a training was killed (is the memory full?): give a smaller --at-once; the same command goes "
    "on from the last checkpoint"
)


def run_together(
    rows: Sequence[Row],
    at_once: int,
    device: str,
    say: Callable[[str], None],
    advance: Callable[[str, int, int], None],
) -> dict[str, str]:
    """Train and score `rows` in their order, `at_once` of them at a time in processes that share
    the cores, those that need a row's model after it. What each says goes into its log.txt.

    Returns the rows whose training raised a ValueError (nothing to learn from) and why; the others
    are not held up by it. Raises what else a training raises, KeyboardInterrupt when interrupted,
    each training with a checkpoint; the next call goes on.
    """
    threads, failed = threads_each(at_once), {}
    with sigterm_as_ctrl_c("every training has a checkpoint, the same command goes on"):
        for depth in sorted({depth_of(row.name) for row in rows}):
            wave = [row for row in rows if depth_of(row.name) == depth]
            failed |= {str(row): row.lacks for row in wave if row.lacks}
            wave = [row for row in wave if not row.lacks]
            if not wave:
                continue

            def show(wave: Sequence[Row] = wave) -> None:
                for row in wave:
                    if (done := _progress(row.run)) is not None:
                        advance(f"training {row}, %", done, 100)

            for row in wave:
                say(f"{row}: see {row.folder / LOG}")
            jobs = [(row, device, threads) for row in wave]
            for reasons in run_in_processes(
                _train, jobs, at_once, poll=show, killed=KILLED, patience=PATIENCE_S, alone=True
            ):
                failed |= reasons
    return failed


def threads_each(at_once: int) -> int:
    """Threads of torch that each of so many trainings has: its share, never more than were wanted
    (OMP_NUM_THREADS).
    """
    return max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) // at_once))


def _train(job: tuple[Row, str, int]) -> dict[str, str]:
    row, device, threads = job
    torch.set_num_threads(threads)
    row.folder.mkdir(parents=True, exist_ok=True)
    with (row.folder / LOG).open("a") as log:  # several progress bars would write over each other
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    logging.basicConfig(level=os.environ.get("DYNDEPTH_LOG", "INFO").upper(), force=True)
    try:
        run_row(row, open_recordings(row.data, "test"), device, lambda: None)
    except ValueError as error:
        logging.getLogger(__name__).exception("%s failed", row)
        return {str(row): str(error)}
    except KeyboardInterrupt:
        logging.getLogger(__name__).warning("interrupted")
        os._exit(130)  # a process that lives on would begin the next row
    return {}


def _progress(run: Path) -> int | None:
    """Per cent of the stage that was written last; None before the first line of its metrics."""
    written = sorted(run.glob("stages/*/metrics.csv"), key=lambda p: p.stat().st_mtime)
    if not written:
        return None
    with written[-1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return round(100 * float(rows[-1]["progress"]))
    except (IndexError, KeyError, TypeError, ValueError):  # it is being written
        return None
