"""The folder of a run: what it was begun with, and whether it may be gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import Config, difference, from_dict, load
from .settings import RUNTIME_FIELDS
from .stages import RECORD, Stage, read_record

MODEL, CONFIG, REQUEST, METRICS = "model.safetensors", "config.yaml", "run.json", "metrics.json"


def resumed_request(out: str | Path) -> tuple[list[Path], Path | None]:
    """What `--data` and `--from` were when the run was begun; ValueError when `out` holds no
    run.
    """
    path = Path(out) / REQUEST
    if not path.is_file():
        raise ValueError(
            f"{out}: no run to resume there (it has no {REQUEST}); leave --resume out to begin one"
        )
    try:
        request = json.loads(path.read_text())
        start = request["from"]
        return [Path(p) for p in request["data"]], Path(start) if start else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}): give --data and --out anew, without "
            "--resume, or restore it"
        ) from error


def check_folder(config: Config, out: Path, resume: bool) -> None:
    """ValueError when `out` is taken, or was begun with other settings."""
    if resume and (out / CONFIG).is_file():
        runtime = tuple(f"train.{name}:" for name in RUNTIME_FIELDS)
        changed = [d for d in difference(load(out / CONFIG), config) if not d.startswith(runtime)]
        if changed:
            raise ValueError(
                f"{out} was begun with other settings ({'; '.join(changed)}): "
                "to resume, leave them as they were; "
                f"for a new training give another --out, with --from {out / MODEL} to go on from "
                "what this one has learned"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} exists already: add --resume to go on with it, or give another --out"
        )


def as_begun(stage: Stage, config: Config, out: Path) -> Stage:
    """The stage with the inputs it was begun with; ValueError when other data or settings would
    make it begin again.
    """
    record = read_record(out, stage.name)
    folder = out / "stages" / stage.name
    begun = record.get("values") if record else None
    if not isinstance(begun, dict) or begun.keys() != stage.inputs.keys():
        if any(folder.glob("*.ckpt")):  # it would begin anew and empty the folder
            raise ValueError(
                f"{folder} holds checkpoints, but its {RECORD} is lost or damaged, so nobody knows "
                "what they were trained on: restore it, or move the run away and begin a new one"
            )
        return stage
    settings = begun["config"]
    if isinstance(settings, dict):
        try:
            faults = difference(
                from_dict({**settings, "train": _with_runtime(settings, config)}), config
            )
        except ValueError:  # of another version of this package, which stage hashes will tell
            faults = []
        if faults:
            raise ValueError(
                f"{out / CONFIG} was changed since the training was begun ({'; '.join(faults)}): "
                "restore it, or begin a new training with another --out"
            )
    changed = [
        name for name in stage.inputs if name != "config" and stage.inputs[name] != begun[name]
    ]
    if changed:
        raise ValueError(
            f"{out} was begun with other data ({', '.join(changed)} changed): restore it, "
            "or give another --out"
        )
    return replace(stage, inputs=begun)  # its config may lack fields that are newer than the run


def _with_runtime(settings: dict[str, Any], config: Config) -> dict[str, Any]:
    """The train section as begun, with the fields of now that change no weight."""
    now = config.train.model_dump(mode="json", include=RUNTIME_FIELDS)
    return {**settings.get("train", {}), **now}
