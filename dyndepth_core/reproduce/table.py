"""results.json and results.md: rows of several seeds to one table with paired intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation.metrics import METRICS, STRATA, scale_std_per_clip
from ..evaluation.statistics import Training, compare_clips, compare_trainings
from .rows import BASELINES, RowResult, flatten

COSTS = ("train_seconds", "steps", "parameters")


def make_table(results: Sequence[RowResult], about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results.json: `about` (seed, budget, device), methods, paired."""
    rows = flatten(results)
    methods = {name: _over_seeds([_one(r) for r in of_seed]) for name, of_seed in rows.items()}
    for name, of_seed in rows.items():
        methods[name]["seeds"] = [r.seed for r in of_seed]
        methods[name]["repeats"] = [r.repeat for r in of_seed]
        if warnings := sorted({w for r in of_seed for w in r.warnings}):
            methods[name]["warnings"] = warnings
    return {**about, "methods": methods, "paired": _paired(rows)}


def _one(row: RowResult) -> dict[str, Any]:
    """Figures of one row of one seed, as results.json has them."""
    figures = row.evaluation().table()[row.method]
    if row.motion:
        figures["motion"]["over_distance"] = row.motion.speed_over_distance()
    if row.temporal:
        figures["temporal_change"] = float(np.mean(list(row.temporal.values())))
    for name in COSTS:
        if getattr(row, name) is not None:
            figures[name] = getattr(row, name)
    return figures


def _over_seeds(tables: Sequence[Any]) -> Any:
    """Numbers become means; dictionaries of several seeds keep the single values in `per_seed`."""
    if len(tables) == 1:
        return dict(tables[0])
    result: dict[str, Any] = {}
    lists: dict[str, list] = {}
    for key in dict.fromkeys(k for t in tables for k in t):
        values = [t[key] for t in tables if t.get(key) is not None]
        if values and isinstance(values[0], dict):
            result[key] = _over_seeds([t.get(key) or {} for t in tables])
        elif values:
            result[key] = float(np.mean(values))
            lists[key] = [t.get(key) for t in tables]
    if lists:
        result["per_seed"] = lists
    return result


def _paired(rows: Mapping[str, list[RowResult]]) -> list[dict[str, Any]]:
    """Every method against every one before it, baselines last to be compared with."""
    trained = [name for name in rows if name not in BASELINES]
    pairs = [(b, a) for i, b in enumerate(trained) for a in trained[:i]]
    pairs += [(name, base) for name in trained for base in BASELINES if base in rows]
    found = []
    for first, second in pairs:
        for metric, stratum, interval in _compare(rows[first], rows[second]):
            found.append(
                {"first": first, "second": second, "metric": metric, "stratum": stratum, **interval}
            )
    return found


def _compare(
    a: Sequence[RowResult], b: Sequence[RowResult]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Metric, stratum and interval, with the ratio of each training on its own in `each`."""
    sides = {r.training: r for r in a}, {r.training: r for r in b}
    if {r.method for r in b} <= {*BASELINES}:  # nothing in them is drawn
        of_seed = {r.seed: r for r in b}
        sides = sides[0], {t: of_seed[t[0]] for t in sides[0] if t[0] in of_seed}
    single = [
        {(m, s): interval["ratio"] for m, s, interval in _intervals({t: r}, {t: sides[1][t]})}
        for t, r in sides[0].items()
        if t in sides[1]
    ]
    for metric, stratum, interval in _intervals(*sides):
        each = [ratios[metric, stratum] for ratios in single if (metric, stratum) in ratios]
        yield metric, stratum, {**interval, "each": each}


def _intervals(
    *sides: Mapping[Training, RowResult],
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    scores = [{t: r.scores for t, r in side.items()} for side in sides]
    for stratum, interval in compare_trainings(*scores).items():
        yield "abs_rel", stratum, interval
    clips = {
        "scale_std": [{t: scale_std_per_clip(s) for t, s in side.items()} for side in scores],
        "temporal_change": [{t: r.temporal for t, r in side.items()} for side in sides],
        "ate_m": [
            {t: {k: v["ate_m"] for k, v in r.ego.items()} for t, r in side.items()}
            for side in sides
        ],
    }
    for metric, (left, right) in clips.items():
        interval = compare_clips(left, right)
        if interval is not None:
            yield metric, "all", interval


def markdown(table: Mapping[str, Any], command: str) -> str:
    """results.md: the command, the table and the comparisons."""
    methods = table["methods"]
    seeds = ", ".join(str(s) for s in table["seed"])
    lines = [
        f"# {table['budget']} budget, seed {seeds}, {table['device']}",
        "",
        f"    {command}",
        "",
        f"{table['says']} One median ratio per image; every stratum is the mean over images with at"
        " least 100 of its pixels. Numbers are means over the trainings.",
        "",
        *_grid(
            ["method", *(f"abs_rel {s}" for s in STRATA), "d1", "scale_std", "change", "ate_m",
             "rpe_deg", "steps", "minutes", "parameters"],
            [_row(name, m) for name, m in methods.items()],
        ),
        "",
        "`change`: mean relative change of static depth after ego-motion warping. Ratios below are"
        " the first over the second, paired; below 1 the first is better.",
        "",
        *_in_metres(methods),
        *_moving(methods),
        *_grid(
            ["first", "second", "metric", "stratum", "ratio", "95 %", "blocks", "first is",
             "each training"],
            [
                [
                    p["first"], p["second"], p["metric"], p["stratum"], f"{p['ratio']:.3f}",
                    "-" if p["low"] is None else f"{p['low']:.3f} to {p['high']:.3f}",
                    str(p["blocks"]), p["verdict"], ", ".join(f"{x:.3f}" for x in p["each"]),
                ]
                for p in table["paired"]
            ],
        ),
    ]  # fmt: skip
    for name, row in methods.items():
        lines += [f"\n{name} warned: {w}" for w in row.get("warnings", ())]
    lines += [f"\n**{name} failed:** {why}" for name, why in table.get("failed", {}).items()]
    return "\n".join(lines) + "\n"


def _in_metres(methods: Mapping[str, Any]) -> list[str]:
    """Errors without the median ratio; nothing where no method learned metres."""
    found = {name: m["unscaled"] for name, m in methods.items() if m.get("unscaled")}
    if not set(found) - {*BASELINES}:
        return []
    rows = [
        [name, *(f"{m[s][METRICS[0]]:.3f}" if s in m else "-" for s in STRATA)]
        for name, m in found.items()
    ]
    says = "abs_rel of depth in metres as it is, without the median ratio."
    return [says, "", *_grid(["method", *STRATA], rows), ""]


MOTION = {  # of MotionErrors: its heading
    "f1": "F1", "precision": "precision", "recall": "recall", "false_share": "false share",
    "epe_m": "epe m", "epe_zero_m": "epe of none m", "speed_error_mps": "speed error m/s",
    "speed_mps": "speed m/s",
}  # fmt: skip

OBJECTS = (("objects", 0), ("speed_mps", 2), ("speed_error_mps", 2))  # and their digits


def _moving(methods: Mapping[str, Any]) -> list[str]:
    """How well moving things are found; nothing where no method says."""
    found = {name: m["motion"] for name, m in methods.items() if m.get("motion")}
    if not found:
        return []
    rows = [
        [name, *("-" if m.get(k) is None else f"{m[k]:.3f}" for k in MOTION)]
        for name, m in found.items()
    ]
    says = "What moves, over all pixels of all test images; `none`: saying that nothing moves."
    lines = [says, "", *_grid(["method", *MOTION.values()], rows), ""]
    far = [
        [name, band, *("-" if o.get(k) is None else f"{o[k]:.{n}f}" for k, n in OBJECTS)]
        for name, m in found.items()
        for band, o in m.get("over_distance", {}).items()
    ]
    if not far:
        return lines
    head = ["method", "distance", "objects", "speed m/s", "speed error m/s"]
    return [*lines, "Speeds of moving objects by their distance.", "", *_grid(head, far), ""]


def _row(name: str, m: Mapping[str, Any]) -> list[str]:
    def show(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    ego = m.get("ego", {})
    seconds, count = m.get("train_seconds"), m.get("parameters")
    return [
        name,
        *(show(m.get(s, {}).get(METRICS[0])) for s in STRATA),
        show(m.get("all", {}).get("d1")),
        show(m.get("scale_std")),
        show(m.get("temporal_change")),
        show(ego.get("ate_m")),
        show(ego.get("rpe_deg")),
        show(m.get("steps"), 0),
        show(None if seconds is None else seconds / 60, 1),
        "-" if count is None else f"{count / 1e6:.1f} M",
    ]


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
