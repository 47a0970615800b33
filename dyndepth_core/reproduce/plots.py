"""Plots of a reproduction: intervals, error over distance, over time, trajectories, frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # pictures go to files; no display is needed or touched
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from ..evaluation.metrics import STRATA  # noqa: E402
from .recipes import recipe  # noqa: E402
from .rows import RowResult, flatten  # noqa: E402

MOST = 150  # pairs in one picture


def draw(results: Sequence[RowResult], table: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the plots of all rows together; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = flatten(results)
    return [
        _errors(table["methods"], folder / "abs_rel.png"),
        _intervals(table["paired"], folder / "paired.png"),
        _distance(rows, folder / "over_distance.png"),
        _time(rows, folder / "over_time.png"),
    ]


def _errors(methods: Mapping[str, Any], path: Path) -> Path:
    figure, axis = plt.subplots(figsize=(10, 4.5), layout="constrained")
    width = 0.8 / len(methods)
    for k, (name, m) in enumerate(methods.items()):
        heights = [m.get(s, {}).get("abs_rel", np.nan) for s in STRATA]
        at = np.arange(len(STRATA)) + (k - (len(methods) - 1) / 2) * width
        bars = axis.bar(at, heights, 0.92 * width, label=name)
        axis.bar_label(bars, fmt="%.3f", fontsize=7)
        for x, stratum in zip(at, STRATA, strict=True):
            single = m.get(stratum, {}).get("per_seed", {}).get("abs_rel", ())
            axis.plot([x] * len(single), single, "k.", markersize=4)
    axis.set_xticks(range(len(STRATA)), STRATA)
    axis.set_ylabel("abs_rel (dots: single seeds)")
    axis.legend(fontsize=8)
    return _save(figure, path)


def _intervals(paired: Sequence[Mapping[str, Any]], path: Path) -> Path:
    known = _shown([p for p in paired if p["low"] is not None])
    figure, axis = plt.subplots(figsize=(9, 0.9 + 0.22 * len(known)), layout="constrained")
    colors = {
        "better": "tab:green",
        "worse": "tab:red",
        "undecided": "tab:gray",
        "too few blocks": "tab:gray",
    }
    for k, p in enumerate(known):
        color = colors[p["verdict"]]
        axis.plot([p["low"], p["high"]], [k, k], color=color)
        axis.plot(p["ratio"], k, "o", color=color, markersize=4)
    names = [f"{p['first']} / {p['second']}  {p['metric']} {p['stratum']}" for p in known]
    axis.set_yticks(range(len(known)), names, fontsize=7)
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.invert_yaxis()
    axis.set_xlabel("ratio of errors, 95 % interval; left of 1 the first is better")
    return _save(figure, path)


def _shown(paired: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """All pairs, of more than MOST those of each row and what it is to be compared with: its
    control, that of a part of a model the whole model, or else the first row.
    """
    if len(paired) <= MOST:
        return paired
    first = paired[0]["second"]

    def against(name: str) -> str:
        try:
            return recipe(name).control or first
        except ValueError:  # no row of its own, see InferenceGraph.arms
            return name.rpartition("_")[0]

    return [p for p in paired if p["second"] == against(p["first"])]


def _distance(rows: Mapping[str, list[RowResult]], path: Path) -> Path:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, kind in zip(axes, ("static", "dynamic"), strict=True):
        for name, of_seed in rows.items():
            edges = np.array(of_seed[0].distance["edges_m"])
            values = np.array([r.distance[kind] for r in of_seed], dtype=np.float64)
            with np.errstate(all="ignore"):
                known = np.isfinite(values).any(0)
                mean = np.full(len(known), np.nan)
                mean[known] = np.nanmean(values[:, known], axis=0)
            axis.stairs(mean, edges, label=name, baseline=None, linewidth=1.5)
        axis.set_title(f"{kind} pixels", fontsize=9)
        axis.set_xlabel("true depth (m)")
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("abs_rel")
    axes[0].legend(fontsize=8)
    return _save(figure, path)


def _time(rows: Mapping[str, list[RowResult]], path: Path) -> Path:
    figure, axes = plt.subplots(2, 1, figsize=(12, 6), sharex=True, layout="constrained")
    for name, of_seed in rows.items():
        scores = [s for r in of_seed for s in r.scores]
        axes[0].plot([s.scaled["all"]["abs_rel"] for s in scores], linewidth=0.8, label=name)
        ratios = np.array([s.ratio for s in scores])
        axes[1].plot(ratios / np.median(ratios), linewidth=0.8)
    axes[0].set_ylabel("abs_rel")
    axes[0].legend(fontsize=8)
    axes[1].set_ylabel("median ratio over its median")
    axes[1].set_xlabel("test image, clip by clip")
    return _save(figure, path)


def _save(figure, path: Path) -> Path:  # noqa: ANN001
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
