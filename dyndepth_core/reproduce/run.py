"""All rows of a reproduction: worlds, trainings, scores, table and plots."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..commands.output import as_json
from ..config import Config, load, parse_method
from ..data.recording import Recording, open_recordings
from ..data.synthetic.dataset import render_dataset
from ..evaluation.protocols import get_protocol
from ..evaluation.report import draw_trajectories, save_pictures
from ..evaluation.runner import ModelArm, true_track
from ..files import write_atomically
from ..inference.predictor import Predictor
from ..methods import get_method
from ..training.run import MODEL
from .blind import without_truth
from .budgets import Budget
from .curve import draw_curves, stage_curve
from .recipes import MASKS, in_order, recipe, trained_once
from .rows import Row, RowResult, flatten, masks_hash, run_baselines, run_row, settings_of
from .table import make_table, markdown
from .together import run_together, threads_each

SAY = Callable[[str], None]
REPEATS_APART = 1000  # between their seeds: those of another world are others


def check_methods(methods: Sequence[str]) -> None:
    """ValueError when a row is no METHOD[+PLUGIN][_VARIANT] or is named twice."""
    for name in methods:
        get_method(*parse_method(recipe(name).method))
    if len(set(methods)) != len(methods) or not methods:
        raise ValueError(f"--methods {','.join(methods)}: name each method once, at least one")


def row_config(
    name: str,
    budget: Budget,
    seed: int,
    minutes: float | None,
    steps: int | None = None,
    miner: Path | None = None,
    repeat: int = 0,
    device: str = "auto",
) -> Config:
    """The configuration of a row: the budget's, the same for every method; minutes, steps: instead
    of the budget's, for rows that begin with nothing, and with the model of another; miner: model
    file that finds what moves; repeat: which of the trainings on this world, each from another
    initialisation.
    """
    how = recipe(name)
    minutes = how.times * (budget.minutes if minutes is None else minutes)
    spent = budget.finetuning(seed, steps) if how.start else budget.overrides(seed, minutes)
    masks = [f"objective.masks.model={miner}"] if miner else []
    start = [
        f"train.seed={seed + repeat * REPEATS_APART}",
        f"train.device={device.partition(':')[0]}",
    ]
    return load(overrides=[*spent, *start, *how.settings, *masks], method=how.method)


def reproduce(
    methods: Sequence[str],
    budget: Budget,
    seeds: Sequence[int],
    out: Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "auto",
    workers: int = 2,
    at_once: int = 1,
    repeats: int = 1,
    command: str = "",
    say: SAY = lambda text: None,
    advance: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Render the worlds, run every row that is not stored yet, and those it needs (recipes.py),
    write results.json, results.md and plots into `out`. at_once: rows trained at the same time;
    repeats: trainings of each row on each world, but for those that others only begin with.

    Returns the content of results.json; `failed` in it: rows that gave no model, and why; the table
    has the others. Raises ValueError on bad names, KeyboardInterrupt when interrupted; the next
    call with the same folder goes on.
    """
    check_methods(methods)
    results: list[RowResult] = []
    tests: dict[int, list[Recording]] = {}
    rows: dict[tuple[str, int, int], Row] = {}
    names, once = in_order(methods), trained_once(methods)
    for seed in seeds:
        data = out / "data" / f"seed_{seed}"
        total = sum(budget.clips.values())
        done = 0

        def rendered(n: int, seed: int = seed, total: int = total) -> None:
            nonlocal done
            done += n
            advance(f"rendering world {seed}", done, total)

        render_dataset(data, seed, budget.clips, budget.frames, budget.size, workers, rendered)
        blind, tests[seed] = without_truth(data), open_recordings(data, "test")
        for repeat, name in itertools.product(range(repeats), names):
            if repeat and name in once:
                continue
            how = recipe(name)
            models = {
                role: rows[needed, seed, 0].run / MODEL
                for role, needed in (("start", how.start), ("miner", how.miner))
                if needed is not None
            }
            miner = models.get("miner")
            config = row_config(name, budget, seed, minutes, steps, miner, repeat, device)
            masks = masks_hash(data) if name.endswith(MASKS) else ""
            folder = row_folder(out, config, name, seed, models, masks)
            reuse = [rows[how.takes, seed, repeat].run] if how.takes else []
            seen = data if name.endswith(MASKS) else blind
            rows[name, seed, repeat] = Row(
                name, seed, config, data, seen, folder, models, repeat, reuse
            )
    failed: dict[str, str] = {}
    if at_once > 1:
        failed = run_together(list(rows.values()), at_once, device, say, advance)
    for row in rows.values():
        name, test = str(row), tests[row.seed]
        say(name)
        why = failed.get(name, row.lacks)
        if not why:
            try:
                results += run_row(row, test, device, _Count(f"scoring {row}", test, advance))
            except ValueError as error:  # hours of other rows must not be lost for it
                why = str(error)
        if why:
            failed[name] = why
            say(f"{name} failed: {why}")
    for seed, test in tests.items():
        count = _Count(f"scoring baselines, seed {seed}", test, advance, 2)
        data = out / "data" / f"seed_{seed}"
        folder = out / "rows" / "baselines" / f"seed_{seed}"
        training = open_recordings(data, "train")
        results += run_baselines(training, data, test, folder, seed, count)
    order = {name: k for k, name in enumerate(flatten(results))}
    results.sort(key=lambda r: (r.method in ("row_prior", "plane"), order[r.method], r.training))
    about = {
        "seed": list(seeds),
        "budget": budget.name,
        "device": _device(device, threads_each(at_once)),
        "says": _says(budget, minutes, steps, methods, at_once, repeats),
        "command": command,
        **({"failed": failed} if failed else {}),
    }
    table = as_json(make_table(results, about))
    write_atomically(out / "results.json", (json.dumps(table, indent=1) + "\n").encode())
    write_atomically(out / "results.md", markdown(table, command).encode())
    _draw(results, table, tests, rows, out, device)
    return table


def row_folder(
    out: Path,
    config: Config,
    method: str,
    seed: int,
    models: Mapping[str, Path] | None = None,
    masks: str = "",
) -> Path:
    """Folder of a row; another configuration has another one, and so has what it is made from, so
    that nothing trained is lost. models: of other rows, by their role; masks: hash of its mask
    files.
    """
    made_from = {role: model.parents[1].name for role, model in (models or {}).items()}
    made_from |= {"masks": masks} if masks else {}
    settings = settings_of(config)
    text = json.dumps([settings, made_from] if made_from else settings, sort_keys=True)
    return out / "rows" / method / f"seed_{seed}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class _Count:
    """Says how far the scoring of a row is."""

    def __init__(self, what: str, test: Sequence[Recording], advance, times: int = 1) -> None:  # noqa: ANN001
        self.what, self.advance = what, advance
        self.done, self.total = 0, times * sum(len(r) for r in test)

    def __call__(self) -> None:
        self.done += 1
        self.advance(self.what, self.done, self.total)


def _device(device: str, threads: int) -> str:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.get_device_name()
    return f"cpu, {threads} threads"


def _says(
    budget: Budget,
    minutes: float | None,
    steps: int | None,
    methods: Sequence[str],
    at_once: int,
    repeats: int,
) -> str:
    height, width = budget.size
    spent = budget.minutes if minutes is None else minutes
    further = budget.finetune_steps if steps is None else steps
    long = {n: recipe(n).times * spent for n in in_order(methods) if recipe(n).times != 1}
    more = f" ({', '.join(f'{name}: {time:g}' for name, time in long.items())})" if long else ""
    beside = f"; {at_once} rows trained at the same time" if at_once > 1 else ""
    again = f"; {repeats} trainings per seed of each row that is compared" if repeats > 1 else ""
    return (
        f"{spent:g} minutes of training per row{more}, {further} steps for one that goes on from "
        f"the model of another, {height}x{width} pixels, "
        f"{budget.clips['train']} training and {budget.clips['test']} test clips of "
        f"{budget.frames} frames per seed{again}{beside}."
    )


def _draw(
    results: Sequence[RowResult],
    table: dict[str, Any],
    tests: dict[int, list[Recording]],
    trained: Mapping[tuple[str, int, int], Row],
    out: Path,
    device: str,
) -> None:
    from .plots import draw

    draw(results, table, out / "plots")
    rows = flatten(results)
    truth = {r.name: true_track(r) for test in tests.values() for r in test}
    tracks = {
        name: {clip: np.array(xyz) for row in of_seed for clip, xyz in row.tracks.items()}
        for name, of_seed in rows.items()
    }
    tracks = {name: of_clip for name, of_clip in tracks.items() if of_clip}
    if tracks:
        draw_trajectories(tracks, truth, out / "plots" / "trajectories.png")
    mined = {
        str(row): stage_curve(row.run, row.folder, row.data)
        for (name, *_), row in trained.items()
        if recipe(name).method == "mined_supervision" and (row.run / MODEL).is_file()
    }
    if mined:
        draw_curves(mined, out / "plots" / "stages.png")
    for result in results:
        row = trained.get((result.method, *result.training))
        if row is not None:
            arm = ModelArm(Predictor(row.run / MODEL, device=device))
            folder = out / "plots" / str(row).replace(", ", "_").replace(" ", "_")
            save_pictures(
                folder, tests[row.seed], arm, result.scores, get_protocol("native"), row.name
            )
