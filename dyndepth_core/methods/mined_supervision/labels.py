"""Stage 5: depth of what moves, pasted into the depth of the scene (section E20 of MSDR)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.methods.base import Objective
from dyndepth_core.methods.mined_supervision.alignment import (
    LEAST,
    AlignmentObjective,
    CropSource,
    judge,
    scales,
    table_of,
)
from dyndepth_core.methods.mined_supervision.cache import Block, Cache, make_blocks, read_column
from dyndepth_core.methods.mined_supervision.crops import object_shapes
from dyndepth_core.methods.mined_supervision.objects import ObjectObjective
from dyndepth_core.methods.mined_supervision.scene import (
    frozen,
    scene_depth,
    scene_of,
    static_depth,
)
from dyndepth_core.methods.stage import StageJob, walk

log = logging.getLogger(__name__)
DOUBT = 0.15  # error of the log of a scale at which an object counts e^-1/2 as much
LEAST_SURE = 0.1  # confidence below which an object keeps the scene's depth
NEXT = 5  # side of the square around a pixel of a dynamic object that is next to it
FASTEST = 4.0  # times the own speed
UNKNOWN_OFF, LEAST_OFF = 0.3, 0.01  # that error where nothing says it, and at least


def make_labels(job: StageJob, scene_path: Path, objects_path: Path, alignment: str) -> list[Path]:
    """Per target: label (h, w) fp16, static depth with the dynamic objects at their own where
    anything is sure of that (LEAST_SURE), at the scene's elsewhere; weight
    (h, w), uint8, 255 times the confidence of an object's label, 0 elsewhere; drift (h, w) fp16,
    see `drifts`, 0 where it is unknown; moves (h, w) bool, dynamic objects, with a label or none,
    and what is next to them. A label of zeros where nothing dynamic is seen. Table: see
    `choose_scales`.
    """
    scene = scene_of(job, scene_path)
    objects = ObjectObjective(scene)
    objects.load_state_dict(job.weights(objects_path))
    network = None
    crops = [p for p in job.earlier[alignment] if p.suffix == ".npz"]
    frozen(objects)
    parts = {"training": job.source, "held_out": job.held_out}
    caches = {
        part: [
            Cache(files, s, part) for files in (job.earlier["masks"], job.earlier["mining"], crops)
        ]
        for part, s in parts.items()
        if s is not None
    }
    if len(crops) < len(job.earlier[alignment]):  # there was something to learn scales from
        network = AlignmentObjective(job.config.network)
        network.load_state_dict(job.weights(job.earlier[alignment][-1]))
        network = frozen(network)
    sources = [
        CropSource(s, table_of(job.earlier["masks"], crops, s, part))
        for part, s in parts.items()
        if s is not None
    ]
    trust = trusts(network, sources)

    def work(source: SampleSource, block: Block) -> dict[str, np.ndarray]:
        masks, mined, table = caches[block.part]
        of_block = choose_scales(table.columns(block.name), network, trust)
        return label_block(scene, objects, source, block, masks, mined, of_block, job.source.names)

    paths = make_blocks(job, "labelling", work)
    summary = _summary(paths)
    if not summary["labelled_objects"]:
        log.warning(
            "no object that moves got a label: the last network learns what moves from the scene's "
            "depth alone; lower objective.min_area, or give recordings with more traffic"
        )
    job.report(summary)
    return paths


def choose_scales(
    table: dict[str, np.ndarray], network: AlignmentObjective | None,
    trust: tuple[float, float],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Columns of the label table: id, row, dynamic, area, scales by scene, learned and contact,
    chosen: of learned and contact that with the higher `trust` (see `trusts`), or the one there is
    (not their mean: learned ones are far off where they are off); and weight, the confidence
    exp(-(off / DOUBT)^2 / 2), off^2 = 1 / the trust in it, 0 where nothing is known.
    """
    plain = {k[2:]: v for k, v in table.items() if k.startswith("o_")}
    contact = plain["contact"]
    learned = np.full_like(contact, np.nan) if network is None else scales(network, plain)
    both = np.stack((learned, contact))
    sure = np.isfinite(both) * np.array(trust, np.float32)[:, None]
    best = sure.argmax(0)[None]
    chosen, sure = (np.take_along_axis(x, best, 0)[0] for x in (both, sure))
    found = {k: plain[k] for k in ("id", "row", "dynamic", "area", "scene", "contact")}
    weight = np.exp(-0.5 / (sure.clip(1e-9) * DOUBT**2)).astype(np.float32)
    return found | {"learned": learned, "chosen": chosen, "weight": weight}


def trusts(
    network: AlignmentObjective | None, sources: Sequence[CropSource]
) -> tuple[float, float]:
    """Trust in learned scales and in contact: 1 / the square of the median error in log scale of
    standing objects, those of the last source that has LEAST (held out ones before those that were
    learned from).
    """
    off = [UNKNOWN_OFF, UNKNOWN_OFF]
    for source in sources:
        found = judge(network, source.standing) if len(source) >= LEAST else {}
        known = (found.get("learned_off_static"), found.get("contact_off_static"))
        off = [
            before if new is None else max(new, LEAST_OFF)
            for before, new in zip(off, known, strict=True)
        ]
    return 1 / off[0] ** 2, 1 / off[1] ** 2


def believed(
    depths: np.ndarray, inverse: np.ndarray, scene: np.ndarray, masks: np.ndarray, sure: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depths (N, h, w) of objects and inverses (N,) of those they seem to have; of objects whose
    confidence `sure` (N,) is below LEAST_SURE the depth of the scene (h, w) in their masks
    (N, h, w), which is as good as any, and NaN.
    """
    doubtful = sure < LEAST_SURE
    depths = np.where(doubtful[:, None, None], scene * masks, depths)
    return depths, np.where(doubtful, np.nan, inverse)


def paste(
    scene: np.ndarray, depths: Sequence[np.ndarray], masks: Sequence[np.ndarray],
    weights: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Label and weight (h, w): the scene's depth, in the masks that of the objects, the nearest
    where they overlap; weights of the objects there.
    """
    label, weight = scene.copy(), np.zeros(scene.shape, np.float32)
    nearest = np.full(scene.shape, np.inf, np.float32)
    for depth, mask, confidence_ in zip(depths, masks, weights, strict=True):
        wins = mask & (depth < nearest) & (depth > 0)
        nearest[wins] = label[wins] = depth[wins]
        weight[wins] = confidence_
    return label, weight


def drifts(
    depths: Sequence[np.ndarray], masks: Sequence[np.ndarray], inverse: np.ndarray
) -> np.ndarray:
    """Motion (h, w) of objects along the camera's own translation t, over that, the nearest where
    they overlap, 0 elsewhere and where it is unknown.

    An object at depth Z whose images are those of something that stands at 1 / inverse (N,), NaN
    unknown, moves by r with (t + r) / Z = t inverse: r = t (Z inverse - 1), -t of what drives ahead
    at the own speed, 0 of what stands. depths (h, w) of the objects, in the unit of inverse.
    """
    found = np.zeros(np.shape(masks)[1:], np.float32)
    middle = [float(np.median(d[m])) for d, m in zip(depths, masks, strict=True)]
    for k in np.argsort(middle)[::-1]:
        known = np.isfinite(inverse[k])
        found[masks[k]] = np.clip(middle[k] * inverse[k] - 1, -FASTEST, FASTEST) if known else 0.0
    return found


@torch.no_grad()
def label_block(
    scene: Objective, objects: ObjectObjective, source: SampleSource, block: Block, masks: Cache,
    mined: Cache, table: dict[str, np.ndarray], names: list[str],
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays of `make_labels` of one block."""
    shape = (len(block.targets), *source.config.size)
    labels, drift = np.zeros(shape, np.float16), np.zeros(shape, np.float16)
    weights, inverse = np.zeros(shape, np.uint8), masks.columns(block.name)["o_inverse"]
    moves = np.zeros(shape, bool)
    for row, target in enumerate(block.targets):
        own = table["id"][table["dynamic"] & (table["row"] == row)]
        inside = np.isin(masks.of(target, "ids")[0], own).astype(np.uint8)
        moves[row] = cv2.dilate(inside, np.ones((NEXT, NEXT))) > 0
    usable = table["dynamic"] & (table["weight"] > 0)
    rows = [row for row in range(len(block.targets)) if (usable & (table["row"] == row)).any()]
    done = 0
    for sample in walk(source, [block.targets[r] for r in rows], names):
        depth, _ = scene_depth(scene, sample)
        depth, unit = static_depth(depth, sample, mined)
        _, scale = scene.cameras_and_scales(sample, None)
        for i, image in enumerate(sample.tgt_net):
            row = rows[done]
            done += 1
            own = np.flatnonzero(usable & (table["row"] == row))
            ids = masks.of(block.targets[row], "ids")[0]
            inside = ids[None] == table["id"][own][:, None, None]
            stack = torch.from_numpy(inside)
            shapes = object_shapes(objects, image[None], stack, scale[i : i + 1]).numpy()
            around, sure = depth[i, 0].numpy(), table["weight"][own]
            depths = shapes * table["chosen"][own][:, None, None]
            depths, seems = believed(depths, inverse[own] / float(unit[i]), around, inside, sure)
            label, weight = paste(around, depths, inside, sure)
            labels[row], weights[row] = label, np.ceil(255 * weight)
            drift[row] = drifts(depths, inside, seems)
    found = {"label": labels, "weight": weights, "drift": drift, "moves": moves}
    return found | {f"o_{k}": v for k, v in table.items()}


def _summary(paths: list[Path]) -> dict[str, float | int | None]:
    """Objects with a label, their mean confidence, and how learned scales and contact differ."""
    keys = ("o_dynamic", "o_weight", "o_learned", "o_contact")
    dynamic, weight, learned, contact = (
        np.concatenate([read_column(path, key) for path in paths]) for key in keys
    )
    used = dynamic & (weight >= LEAST_SURE)
    off = np.abs(np.log(learned / contact))[dynamic]
    off = off[np.isfinite(off)]
    return {
        "labelled_objects": int(used.sum()),
        "confidence": float(weight[used].mean()) if used.any() else 0.0,
        "learned_against_contact": float(np.median(off)) if off.size else None,
    }
