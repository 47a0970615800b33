"""The stages in their order, and those of further rounds, which replace the scene's depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dyndepth_core.methods.mined_supervision.alignment import train_alignment
from dyndepth_core.methods.mined_supervision.config import MinedSupervisionConfig, Shares
from dyndepth_core.methods.mined_supervision.labels import make_labels
from dyndepth_core.methods.mined_supervision.masks import find_masks, reads_masks
from dyndepth_core.methods.mined_supervision.mining import mine
from dyndepth_core.methods.mined_supervision.objective import labelled
from dyndepth_core.methods.mined_supervision.objects import train_objects
from dyndepth_core.methods.mined_supervision.scene import train_scene
from dyndepth_core.methods.mined_supervision.segment import train_segment
from dyndepth_core.methods.mined_supervision.slots import train_slots
from dyndepth_core.methods.residual_motion.config import ResidualMotionConfig
from dyndepth_core.methods.stage import StageInfo, StageJob

# What each stage reads of the settings that residual_motion does not have; all read those it has.
OWN = frozenset(MinedSupervisionConfig.model_fields) - set(ResidualMotionConfig.model_fields)
READS = {
    "scene": {"lateral_only"},
    "mining": {"lateral_only", "grouping"},
    "slots": {"lateral_only", "slot_size", "slot_width"},
    "segment": {"lateral_only"},
    "masks": {"lateral_only", "masks", "min_area", "moving_share", "centre"},
    "objects": {"lateral_only", "object_smoothness"},
    "alignment": {"lateral_only", "alignment"},
    "labels": {"lateral_only", "alignment"},
    "final": {"lateral_only", "label", "final_lr_factor", "rounds"},
}
BUDGET = {"train.steps", "train.minutes"}  # of which each stage has a share


def stages(config: Any) -> Sequence[StageInfo]:
    """scene, mining, slots where they part what is mined, of masks that are mined segment, masks,
    and per round objects, alignment, labels and final; from the second round on with its number
    behind the name.
    """
    own = config.objective
    found = [("scene", train_scene), ("mining", mine)]
    if own.grouping == "slots":
        found.append(("slots", train_slots))
    if own.masks == "mined":
        found.append(("segment", train_segment))
    found.append(("masks", find_masks))
    infos = [_info(name, run, config) for name, run in found]
    infos[-1] = replace(infos[-1], reads=reads_masks(config))
    for number in range(1, own.rounds + 1):
        infos += _round(number, config)
    return infos


def _info(
    name: str, run: Callable[[StageJob], list[Path]], config: Any, end: str = ""
) -> StageInfo:
    own = config.objective
    share = own.shares.of(name, own.rounds, own.unused) if name in Shares.model_fields else 0.0
    unread = {f"objective.{field}" for field in OWN - READS[name]} | BUDGET
    return StageInfo(name + end, share, run, unread=frozenset(unread))


def _round(number: int, config: Any) -> list[StageInfo]:
    last = number == config.objective.rounds
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

    stages = [objects, alignment, labels, final]
    return [_info(run.__name__, run, config, end) for run in stages]
