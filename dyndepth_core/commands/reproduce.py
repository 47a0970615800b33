"""`dyndepth reproduce`: the published methods side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dyndepth_core.commands.output import check_json, write_json


def command(
    methods: Annotated[
        str,
        typer.Option(
            help="Rows, e.g. monodepth,many_depth+motion_aware: METHOD[+PLUGIN][_VARIANT ...], "
            "variants _files and _oracle (whose masks), _temporal, _distillation, _published; "
            "METHOD_finetuned: as long as a plug-in, without it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of worlds, rows, results and plots.")],
    budget: Annotated[
        str,
        typer.Option(
            help="smoke (1.5 minutes a row), quick (20 minutes a row at 96x320), full (for a GPU)."
        ),
    ] = "quick",
    seed: Annotated[
        str, typer.Option(help="Seeds of worlds and initialisation, e.g. 1,2: means over them.")
    ] = "1",
    minutes: Annotated[
        float | None, typer.Option(help="Training minutes per row instead of the budget's.")
    ] = None,
    finetune_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of rows that go on from the model of another row."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Rendering processes.")] = 2,
    at_once: Annotated[
        int,
        typer.Option(
            min=1,
            help="Rows trained at the same time, sharing the cores: so that arms compared by "
            "minutes meet the same machine.",
        ),
    ] = 1,
    repeats: Annotated[
        int,
        typer.Option(
            min=1,
            help="Trainings of each row on each world, from different initialisations: intervals "
            "then say what another training would give, too. Rows that go on from the model of "
            "another all begin with the same one.",
        ),
    ] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write results.json there.")
    ] = None,
) -> None:
    """Train and score methods side by side: same worlds, same pixels, same minutes.

    Every method, baselines that never look at the image beside them, paired intervals over clips.
    Rows are stored: give the same command again to go on, or more methods to add rows; one row
    alone is --methods METHOD --seed S. A plug-in and dynamic_depth go on from the model of another
    row of the same seed; that row, the one that finds what moves and the same training without the
    plug-in are run as well. Tune on seeds 0 to 19, report on 20 to 29, once.

    mined_supervision trains three times as long as the others, and residual_motion_long, its
    control, stands beside it; with _contact, _rounds, _files or _oracle behind its name: scales
    by where objects stand, two rounds, masks from files, from ground truth, with the scene (and
    whatever else is the same) of the row without, which stands beside them.

    many_depth_fast has the networks for a vehicle, and many_depth beside it.

    residual_motion_published has the paper's losses; with _l1, _no_depth, _no_cycle or _files
    behind its name: plain L1, a motion network that sees no depth, no cycle losses, residuals
    only near masks. sc_depth_published has the paper's losses and weights, and sc_depth beside
    it. residual_motion_metric learns metres from the recordings' odometry.
    """
    check_json(json_file)
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from dyndepth_core.reproduce.budgets import get_budget
    from dyndepth_core.reproduce.run import check_methods, reproduce

    names = [name.strip() for name in methods.split(",") if name.strip()]
    seeds = parse_seeds(seed)
    plan = get_budget(budget)
    check_methods(names)
    if minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes {minutes}: give a positive number")
    console = Console()
    line = "dyndepth " + " ".join(shlex.quote(a) for a in sys.argv[1:])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        tasks: dict[str, int] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        table = reproduce(
            names, plan, seeds, out, minutes=minutes, steps=finetune_steps, device=device,
            workers=workers, at_once=at_once, repeats=repeats,
            command=line, advance=advance,
            say=lambda text: console.print(f"[bold]{text}[/bold]"),
        )  # fmt: skip
    write_json(json_file, table)
    _show(console, table, out)
    if failed := table.get("failed"):
        rows = "\n".join(f"  {name}: {why}" for name, why in failed.items())
        raise ValueError(f"these rows gave no model, the table has the others:\n{rows}")


def parse_seeds(text: str) -> list[int]:
    """Seeds from `1,2,3`; ValueError that shows the form."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise ValueError(f"--seed {text!r}: give different whole numbers from 0 on, e.g. 1,2")
    return seeds


def _show(console, table: dict, out: Path) -> None:  # noqa: ANN001
    from dyndepth_core.evaluation.report import metrics_table, paired_table, scale_table

    console.print(metrics_table(table["methods"], table["says"]))
    console.print(scale_table(table["methods"]))
    console.print(paired_table([p for p in table["paired"] if p["metric"] == "abs_rel"]))
    console.print(f"look at {out / 'results.md'} and {out / 'plots'}", soft_wrap=True)
