"""Stages: named steps of a method that are hashed by their inputs, resumed when killed and
skipped when done.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.chain import hash_file
from .checkpoint import write_json
from .memory import peaks, restart_peaks
from .settings import without

log = logging.getLogger(__name__)
RECORD = "stage.json"


@dataclass
class StageContext:
    """What a running stage gets: its own folder, whether it goes on after a kill, and what
    earlier stages left.
    """

    run: Path  # the folder of the whole run
    folder: Path  # this stage's own folder
    resumed: bool  # the same inputs were begun before; `folder` may hold checkpoints
    earlier: Mapping[str, list[Path]] = field(
        default_factory=dict
    )  # outputs of the stages before, by name


@dataclass(frozen=True)
class Stage:
    """One step of a method. `run(context)` returns the files it made; `inputs` (JSON-able), but for
    the settings `unread` (dotted) in their "config", decide whether it must run.
    """

    name: str
    inputs: Mapping[str, Any]
    run: Callable[[StageContext], Sequence[Path]]
    unread: frozenset[str] = frozenset()

    def follows_from(self) -> dict[str, Any]:
        """Of the inputs what decides."""
        return {
            name: without(value, self.unread) if name == "config" else value
            for name, value in self.inputs.items()
        }


def hash_inputs(inputs: Any) -> str:
    """SHA-256 of JSON-able inputs, independent of the order of keys; ValueError when they are
    not JSON-able.
    """
    try:
        text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"stage inputs must be plain JSON values ({error})") from error
    return hashlib.sha256(text.encode()).hexdigest()


def read_record(run: Path, name: str) -> dict[str, Any] | None:
    """The `stage.json` of a stage, None when it never began or the record is damaged (then it
    runs anew).
    """
    path = run / "stages" / name / RECORD
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s): stage %s runs anew", path, error, name)
        return None
    return record if isinstance(record, dict) else None


def run_stages(
    stages: Sequence[Stage], run: Path, reuse: Sequence[Path] = ()
) -> dict[str, list[Path]]:
    """Run the stages in order and return their outputs by name.

    A stage is skipped when its inputs (and the outputs of the stages before it) are those of its
    record and its outputs are still on the disk, unchanged; it is resumed when it was begun with
    the same inputs; else it is taken over from a run in `reuse` that finished it with the same
    inputs, or its folder is emptied and it runs anew. The record is written atomically, before and
    after.
    """
    done: dict[str, list[Path]] = {}
    chain: list[
        str
    ] = []  # hashes of earlier outputs: a changed teacher makes its students run again
    for stage in stages:
        inputs = hash_inputs({"stage": stage.name, "inputs": stage.follows_from(), "before": chain})
        folder = run / "stages" / stage.name
        record = read_record(run, stage.name) or {}
        same = record.get("inputs") == inputs
        if not same and (other := _finished(reuse, stage.name, inputs)):
            log.info("stage %s: taken over from %s", stage.name, other)
            record, same = _take_over(other, run, stage), True
        if same and record.get("state") == "done" and _intact(run, record["outputs"]):
            log.info("stage %s: already done, skipped", stage.name)
            outputs = record["outputs"]
        else:
            if not same and folder.exists():
                log.info("stage %s: its inputs changed, it runs anew", stage.name)
                shutil.rmtree(folder)
            elif same:
                _drop_damaged(run, record.get("outputs", {}))
            folder.mkdir(parents=True, exist_ok=True)
            begun = record.get("begun") if same else None
            entry = {
                "stage": stage.name,
                "inputs": inputs,
                "values": dict(stage.inputs),
                "begun": begun or _now(),
            }
            write_json(folder / RECORD, {**entry, "state": "running"})
            restart_peaks()
            made = stage.run(StageContext(run, folder, resumed=same, earlier=dict(done)))
            memory = peaks()
            outputs = {path.relative_to(run).as_posix(): hash_file(path) for path in made}
            write_json(
                folder / RECORD,
                {**entry, "state": "done", "ended": _now(), **memory, "outputs": outputs},
            )
        done[stage.name] = [run / name for name in outputs]
        chain.append(hash_inputs(outputs))
    return done


def _finished(runs: Sequence[Path], name: str, inputs: str) -> Path | None:
    """The first of the runs that finished the stage with these inputs and has all it made."""
    for run in runs:
        record = read_record(run, name) or {}
        outputs, own = record.get("outputs"), f"stages/{name}/"
        if record.get("inputs") != inputs or not isinstance(outputs, dict):
            continue
        if _intact(run, outputs) and all(path.startswith(own) for path in outputs):
            return run
    return None


def _take_over(other: Path, run: Path, stage: Stage) -> dict[str, Any]:
    """Copy the folder of a stage, by links where the disk has them: what is done is never written
    to, only replaced. Returns its record, which says where it is from and has the inputs of here.
    """
    folder = run / "stages" / stage.name
    copy = folder.with_name(f".{stage.name}")  # a copy that was interrupted is not begun
    for old in (folder, copy):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(other / "stages" / stage.name, copy, copy_function=_link)
    record = read_record(other, stage.name) or {}
    record |= {"values": dict(stage.inputs), "taken_over_from": str(other.resolve())}
    write_json(copy / RECORD, record)
    copy.rename(folder)
    return record


def _link(source: str, copy: str) -> None:
    try:
        os.link(source, copy)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, copy)


def _intact(run: Path, outputs: Mapping[str, str]) -> bool:
    return all(
        (run / name).is_file() and hash_file(run / name) == digest
        for name, digest in outputs.items()
    )


def _drop_damaged(run: Path, outputs: Mapping[str, str]) -> None:
    """A stage that finds a file there does not make it again. Checkpoints stay: reading a damaged
    one says so, and without best.ckpt the last weights would be taken in silence.
    """
    for name, digest in outputs.items():
        path = run / name
        if path.suffix != ".ckpt" and path.is_file() and hash_file(path) != digest:
            log.warning("%s is damaged: it is made anew", path)
            path.unlink()


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
