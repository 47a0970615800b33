"""Stages: named steps of a method that are hashed by their inputs, resumed when killed and
skipped when done.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.chain import hash_file
from .checkpoint import write_json

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
    """One step of a method. `run(context)` returns the files it made; `inputs` (JSON-able)
    decide whether it must run.
    """

    name: str
    inputs: Mapping[str, Any]
    run: Callable[[StageContext], Sequence[Path]]


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


def run_stages(stages: Sequence[Stage], run: Path) -> dict[str, list[Path]]:
    """Run the stages in order and return their outputs by name.

    A stage is skipped when its inputs (and the outputs of the stages before it) are those of its
    record and its outputs are still on the disk, unchanged; it is resumed when it was begun with
    the same inputs; else its folder is emptied and it runs anew. The record is written atomically,
    before and after.
    """
    done: dict[str, list[Path]] = {}
    chain: list[
        str
    ] = []  # hashes of earlier outputs: a changed teacher makes its students run again
    for stage in stages:
        inputs = hash_inputs({"stage": stage.name, "inputs": dict(stage.inputs), "before": chain})
        folder = run / "stages" / stage.name
        record = read_record(run, stage.name) or {}
        same = record.get("inputs") == inputs
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
            made = stage.run(StageContext(run, folder, resumed=same, earlier=dict(done)))
            outputs = {path.relative_to(run).as_posix(): hash_file(path) for path in made}
            write_json(
                folder / RECORD, {**entry, "state": "done", "ended": _now(), "outputs": outputs}
            )
        done[stage.name] = [run / name for name in outputs]
        chain.append(hash_inputs(outputs))
    return done


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
