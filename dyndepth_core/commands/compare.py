"""The half of `dyndepth evaluate --compare` that needs no ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyndepth_core.commands.output import literal, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from dyndepth_core.data.recording import Recording

RULE = (
    "triangulated decides where its 95 % interval excludes 1 (photometric, where nothing can be "
    "triangulated); temporal and scale never decide: a flat world is steady, too"
)


def compare(
    data: Path,
    recordings: Sequence[Recording],
    models: Sequence[Path | None],
    device: str,
    json_file: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Compare every pair of models on blocks of time none was trained on; print and return the
    report, with `agreement` where the recordings hold ground truth.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from dyndepth_core.evaluation.blocks import unseen_blocks
    from dyndepth_core.evaluation.truth_free import judge_block, verdict
    from dyndepth_core.inference.predictor import Predictor

    loaded = [Predictor(model, device=device) for model in models]
    predictors = dict(zip(short_names([p.path for p in loaded]), loaded, strict=True))
    metas = {name: predictor.meta for name, predictor in predictors.items()}
    blocks, notes = unseen_blocks(data, recordings, metas)
    pairs: dict[tuple[str, str], dict] = {}
    scores: dict[str, list] = {name: [] for name in predictors}
    columns = (TextColumn("compare"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for block in progress.track(blocks):
            found, truth = judge_block(block, predictors)
            for pair, rows in found.items():
                into = pairs.setdefault(pair, {measure: [] for measure in rows})
                for measure, values in rows.items():
                    into[measure] += values
            for name, values in truth.items():
                scores[name] += values
    report = {
        "data": str(data),
        "models": {name: str(p.path) for name, p in predictors.items()},
        "rule": RULE,
        "notes": notes,
        "blocks": [
            {"name": b.name, "first": b.frames[0], "last": b.frames[-1], "frames": len(b.frames)}
            for b in blocks
        ],
        "pairs": [
            {"first": a, "second": b, **verdict(rows), "truth": _truth(scores[a], scores[b])}
            for (a, b), rows in pairs.items()
        ],
    }
    if any(pair["truth"] for pair in report["pairs"]):
        dates = {name: meta.provenance.date for name, meta in metas.items()}
        report["agreement"] = agreement(report["pairs"], dates)
    _show(console, report)
    write_json(json_file, report)
    return report


def short_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each model file, of a run that of its folder; each once."""
    places = [p.resolve() for p in paths]
    parts = [
        (p.parent if p.name == "model.safetensors" else p.with_suffix("")).parts for p in places
    ]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(set(places)):
            break
    again = [names[:k].count(name) for k, name in enumerate(names)]
    return [f"{n}#{k + 1}" if k else n for n, k in zip(names, again, strict=True)]


def _truth(a: list, b: list) -> dict | None:
    """The paired interval of abs_rel, as with ground truth; None without."""
    from dyndepth_core.evaluation.statistics import compare_scores

    return compare_scores(a, b).get("all")


def agreement(pairs: Sequence[Mapping], dates: Mapping[str, str]) -> dict[str, Any]:
    """How often what was told without ground truth is what abs_rel against it says.

    Of all pairs whose abs_rel differs (`all`) and of those whose interval of abs_rel excludes a tie
    (`truth_decided`): pairs, and how many of them the rule leans rightly for (`leans`), picks
    (`picked`), picks rightly (`picks`), how many every measure alone is right about, and `newer`,
    the model of the later date; a coin is right about half.
    """
    from dyndepth_core.evaluation.truth_free import MEASURES

    known = [p for p in pairs if p["truth"] and p["truth"]["ratio"] != 1]
    decided = [p for p in known if p["truth"]["verdict"] in ("better", "worse")]
    result = {}
    for name, some in (("all", known), ("truth_decided", decided)):
        count = dict.fromkeys(("pairs", "leans", "picked", "picks", *MEASURES, "newer"), 0)
        for pair in some:
            right = "first" if pair["truth"]["ratio"] < 1 else "second"
            newer = "first" if dates[pair["first"]] > dates[pair["second"]] else "second"
            count["pairs"] += 1
            count["leans"] += pair["leans"] == right
            count["picked"] += pair["pick"] != "undecided"
            count["picks"] += pair["pick"] == right
            count["newer"] += newer == right
            for measure, found in pair["measures"].items():
                count[measure] += (found["ratio"] < 1) == (right == "first")
        result[name] = count
    return result


def _show(console: Console, report: Mapping) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    for note in report["notes"]:
        console.print(literal(note), style="yellow", soft_wrap=True)
    frames = sum(block["frames"] for block in report["blocks"])
    table = Table(
        title=f"first over second without ground truth, below 1 the first is better; {frames} "
        f"frames in {len(report['blocks'])} blocks",
        caption=RULE, box=SIMPLE_HEAD, padding=0, pad_edge=False,
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for column in ("first", "second", "measure", "ratio", "95 % interval", "values", "first is"):
        table.add_column(column, overflow="fold")
    for pair in report["pairs"]:
        rows = dict(pair["measures"])
        if pair["truth"]:
            rows["abs_rel (truth)"] = pair["truth"]
        for k, (name, row) in enumerate(rows.items()):
            between = "-" if row["low"] is None else f"{row['low']:.3f}-{row['high']:.3f}"
            who = (pair["first"], pair["second"]) if k == 0 else ("", "")
            cells = (f"{row['ratio']:.3f}", between, str(row["images"]), row["verdict"])
            table.add_row(*map(literal, who), name, *cells)
        table.add_section()
    console.print(table)
    for pair in report["pairs"]:
        console.print(_says(pair), soft_wrap=True)
    if "agreement" in report:
        for name, count in report["agreement"].items():
            console.print(_agrees(name, count), soft_wrap=True)


def _says(pair: Mapping) -> str:
    first, second = literal(pair["first"]), literal(pair["second"])
    named = {"first": first, "second": second}
    if pair["pick"] == "undecided":
        ahead = f" ({named[pair['leans']]} is ahead, within chance)" if pair["leans"] else ""
        few = "" if pair["by"] else ": too few blocks"
        return f"{first} or {second}: undecided{few}{ahead}"
    other = second if pair["pick"] == "first" else first
    return f"[bold]{named[pair['pick']]}[/bold] is better than {other}, by the {pair['by']} measure"


def _agrees(name: str, count: Mapping[str, int]) -> str:
    total = count["pairs"]
    what = "whose true difference is beyond chance" if name == "truth_decided" else "in all"
    alone = ", ".join(f"{k} {count[k]}" for k in list(count)[4:])
    return (
        f"{total} pairs {what}: the rule picks {count['picked']}, {count['picks']} of them rightly,"
        f" and leans rightly for {count['leans']}; alone: {alone}, a coin {total / 2:g}"
    )
