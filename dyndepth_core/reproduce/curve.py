"""Rows of mined_supervision stage by stage: what labels and networks of each round are worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_atomically

CURVE = "curve.json"


def stage_curve(run: Path, folder: Path, data: Path) -> dict[str, Any]:
    """abs_rel of scene, and label and final of every round, over what moves and over the rest, and
    errors of the scales, see evaluation/mined.py; on the held-out clips, whose truth is in `data`.
    Kept in folder/curve.json with the model it was measured on.
    """
    from ..evaluation.mined import Mined, errors
    from ..training.folder import METRICS
    from ..training.run import finished_job

    model = json.loads((run / METRICS).read_text())["model"]
    path = folder / CURVE
    try:
        stored = json.loads(path.read_text())
        if stored["model"] == model:
            return stored
    except (OSError, ValueError, KeyError, TypeError):
        pass
    job = finished_job(run, [data])
    rounds = []
    for number in range(1, job.config.objective.rounds + 1):
        mined = Mined(job, "held_out", "" if number == 1 else f"_{number}")
        rounds.append(errors(mined, list(range(len(mined.source)))))
    found = {"model": model, "rounds": rounds}
    write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
    return found


def points(curve: Mapping[str, Any], stratum: str) -> tuple[list[str], list[float]]:
    """Names of the stages and their abs_rel in a stratum: scene, label, final, label 2, ..."""
    names, values = [], []
    for number, found in enumerate(curve["rounds"], 1):
        stages = ("scene", "label", "final") if number == 1 else ("label", "final")
        for stage in stages:
            value = found["abs_rel"].get(f"{stage}_{stratum}")
            if value is not None:
                names.append(stage if number == 1 else f"{stage} {number}")
                values.append(value)
    return names, values


def draw_curves(curves: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """One line per row and stratum over the stages."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, stratum in zip(axes, ("dynamic", "static"), strict=True):
        for name, curve in curves.items():
            axis.plot(*points(curve, stratum), "o-", label=name)
        axis.set_title(f"{stratum} pixels of the held-out clips", fontsize=9)
        axis.set_ylabel("abs_rel")
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
