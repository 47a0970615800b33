"""`dyndepth inspect`: pictures and tables of what the stages of a run made."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dyndepth_core.commands.output import as_json, check_json, write_json

if TYPE_CHECKING:
    from dyndepth_core.evaluation.mined import Mined

MEASURED = 200  # images that errors are measured on, where there is truth
STYLE = (
    "body{font:14px sans-serif;margin:2em}td,th{padding:.15em .8em;text-align:right}"
    "img{max-width:100%}"
)


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of mined_supervision.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page [default: RUN/inspect].")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images with all intermediates.")] = 6,
    round_: Annotated[
        int | None, typer.Option("--round", min=1, help="Which round's labels [default: last].")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Show images that were not trained on.")
    ] = False,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="The recordings it was trained on, where they lie elsewhere now or with their "
            "ground truth; may be repeated [default: those of the training]."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all figures there.")
    ] = None,
) -> None:
    """Show static depth, motion, masks with ids, moving or standing, depth of objects before and
    after its alignment, label and final depth of a run beside each other, with tables.

    Errors stand beside where the recordings have ground truth, which no training reads: rows of
    reproduce have none, so give --data OUT/data/seed_N.
    """
    check_json(json_file)
    from rich.console import Console

    from dyndepth_core.evaluation.mined import Mined, busiest, errors, save_sheet
    from dyndepth_core.training.run import finished_job

    job = finished_job(run, data or ())
    if job.config.method != "mined_supervision":
        raise ValueError(
            f"{run}: a run of {job.config.method}, which leaves no intermediates; see it with "
            f"tensorboard --logdir {run}, or dyndepth predict --model {run}"
        )
    rounds = job.config.objective.rounds
    number = rounds if round_ is None else round_
    if number > rounds:
        raise ValueError(f"--round {number}: this run has {rounds}")
    mined = Mined(job, "held_out" if held_out else "training", "" if number == 1 else f"_{number}")
    out = run / "inspect" if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    targets = busiest(mined.table(), images)
    for target in targets:
        save_sheet(out / f"target_{target:06d}.png", mined.panels(target))
    content = {
        "run": str(run), "round": number, "stages": _stages(run),
        "objects": _objects(mined, targets),
        "errors": errors(mined, busiest(mined.table(), MEASURED)),
    }  # fmt: skip
    page = _page(content, targets)
    (out / "index.html").write_text(page)
    write_json(json_file, as_json(content))
    _show(Console(), content, out)


def _stages(run: Path) -> dict[str, dict[str, Any]]:
    """Figures of every stage without its curve."""
    metrics = json.loads((run / "metrics.json").read_text())
    hidden = ("validations", "warnings", "step_ms", "state")
    return {
        name: {k: v for k, v in found.items() if k not in hidden}
        for name, found in metrics["stages"].items()
    }


def _objects(mined: Mined, targets: list[int]) -> list[dict[str, Any]]:
    """Rows of the objects of the pictures."""
    table = mined.table()
    names = (
        "target", "id", "dynamic", "area", "ratio", "apart", "centre", "scene", "learned",
        "contact", "chosen", "weight",
    )  # fmt: skip
    rows = [k for t in targets for k in range(len(table["target"])) if table["target"][k] == t]
    return [{name: table[name][k].item() for name in names} for k in rows]


def _page(content: dict[str, Any], targets: list[int]) -> str:
    parts = [f"<h1>{html.escape(content['run'])}, round {content['round']}</h1>"]
    figures = content["stages"].items()
    rows = [{"stage": name, "figures": json.dumps(as_json(f))} for name, f in figures]
    parts += ["<h2>stages</h2>", _html(rows)]
    found = content["errors"]
    if found["abs_rel"]:
        parts += ["<h2>abs_rel against the truth</h2>", _html([found["abs_rel"]])]
    if found["scales"]:
        rows = [{"scale": name, **f} for name, f in found["scales"].items()]
        parts += ["<h2>|log| error of the scales of objects</h2>", _html(rows)]
    if found["recall"]:
        rows = [{"true objects": name, **f} for name, f in found["recall"].items()]
        parts += ["<h2>true objects that were found</h2>", _html(rows)]
    for target in targets:
        own = [row for row in content["objects"] if row["target"] == target]
        picture = f'<img src="target_{target:06d}.png">'
        parts += [f"<h2>target {target}</h2>", picture, _html(own)]
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>" + "\n".join(parts) + "\n"


def _html(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
    cells = ("".join(f"<td>{html.escape(_text(v))}</td>" for v in row.values()) for row in rows)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{c}</tr>" for c in cells) + "</table>"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show(console: Any, content: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    table = Table("stage", "steps", "minutes", "best score", "figures", title=content["run"])
    for name, found in content["stages"].items():
        best = (found.get("best") or {}).get("score")
        rest = {k: v for k, v in found.items() if k not in ("best", "step", "seconds")}
        table.add_row(
            name, str(found.get("step", "")), f"{found['seconds'] / 60:.1f}",
            "" if best is None else f"{best:.4f}",
            ", ".join(f"{k} {_text(v)}" for k, v in rest.items()),
        )  # fmt: skip
    console.print(table)
    if content["errors"]["scales"]:
        table = Table("scale of objects", "median |log| error", "p90", "objects")
        for name, found in content["errors"]["scales"].items():
            table.add_row(name, *(_text(v) for v in found.values()))
        console.print(table)
    for name, found in content["errors"]["recall"].items():
        console.print(f"{name} objects found: {found['recall']:.2f} of {found['objects']}")
    console.print(f"look at {out / 'index.html'}", soft_wrap=True)
