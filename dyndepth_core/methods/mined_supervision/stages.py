"""The stages in their order, and those of further rounds, which replace the scene's depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dyndepth_core.methods.mined_supervision.alignment import train_alignment
from dyndepth_core.methods.mined_supervision.labels import make_labels
from dyndepth_core.methods.mined_supervision.masks import find_masks, reads_masks
from dyndepth_core.methods.mined_supervision.mining import mine
from dyndepth_core.methods.mined_supervision.objective import labelled
from dyndepth_core.methods.mined_supervision.objects import train_objects
from dyndepth_core.methods.mined_supervision.scene import train_scene
from dyndepth_core.methods.mined_supervision.segment import train_segment
from dyndepth_core.methods.mined_supervision.slots import train_slots
from dyndepth_core.methods.stage import StageInfo, StageJob


def stages(config: Any) -> Sequence[StageInfo]:
    """scene, mining, slots where they part what is mined, of masks that are mined segment, masks,
    and per round objects, alignment, labels and final; from the second round on with its number
    behind the name.
    """
    own = config.objective

    def share(stage: str) -> float:
        return own.shares.of(stage, own.rounds, own.unused)

    found = [StageInfo("scene", share("scene"), train_scene), StageInfo("mining", 0.0, mine)]
    if own.grouping == "slots":
        found.append(StageInfo("slots", share("slots"), train_slots))
    if own.masks == "mined":
        found.append(StageInfo("segment", share("segment"), train_segment))
    found.append(StageInfo("masks", 0.0, find_masks, reads_masks(config)))
    for round_ in range(1, own.rounds + 1):
        found += _round(round_, round_ == own.rounds, share)
    return found


def _round(number: int, last: bool, share: Any) -> list[StageInfo]:
    end = "" if number == 1 else f"_{number}"
    before = "scene" if number == 1 else "final" + ("" if number == 2 else f"_{number - 1}")

    def objects(job: StageJob) -> list[Path]:
        return train_objects(job, job.earlier[before][0])

    def alignment(job: StageJob) -> list[Path]:
        return train_alignment(job, job.earlier[before][0], job.earlier["objects" + end][0])

    def labels(job: StageJob) -> list[Path]:
        paths = job.earlier[before][0], job.earlier["objects" + end][0]
        return make_labels(job, *paths, "alignment" + end)

    def final(job: StageJob) -> list[Path]:
        objective = job.objective()
        objective.load_state_dict(job.weights(job.earlier[before][0]))
        objective.slow_down(job.config.objective.final_lr_factor)
        files = job.earlier["labels" + end], job.earlier["mining"]
        parts = (job.source, "training"), (job.held_out, "held_out")
        sources = [labelled(source, *files, part) for source, part in parts]
        weights = job.fit(objective, *sources)
        return [weights, job.save(objective)] if last else [weights]

    return [
        StageInfo("objects" + end, share("objects"), objects),
        StageInfo("alignment" + end, share("alignment"), alignment),
        StageInfo("labels" + end, 0.0, labels),
        StageInfo("final" + end, share("final"), final),
    ]
