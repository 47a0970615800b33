"""What the stages of mined_supervision made of single images, and how right it is where there is
truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dyndepth_core.inference.color import DepthColors
from dyndepth_core.inference.motion_drawing import color
from dyndepth_core.methods.mined_supervision.cache import Cache
from dyndepth_core.methods.mined_supervision.crops import object_shapes
from dyndepth_core.methods.mined_supervision.masks import recorded_ids
from dyndepth_core.methods.mined_supervision.mining import full_size
from dyndepth_core.methods.mined_supervision.objects import ObjectObjective
from dyndepth_core.methods.mined_supervision.scene import frozen, scene_depth, scene_of
from dyndepth_core.methods.stage import StageJob, walk

PANELS = (
    "image", "static depth", "motion", "objects: (m)oving, (s)tanding", "their depth, as they say",
    "their depth, aligned", "label", "final depth",
)  # fmt: skip
SCALES = ("scene", "learned", "contact", "chosen")
LARGE = 0.005  # share of the image from which an object has to be found
IOU = 0.5  # with an object from which it is found


@dataclass
class Mined:
    """The caches and networks of one round over the samples of one part of a run."""

    job: StageJob
    part: str = "training"
    end: str = ""  # of the stages' names: that of the round

    def __post_init__(self) -> None:
        job, earlier = self.job, self.job.earlier
        source = job.source if self.part == "training" else job.held_out
        if source is None:
            raise ValueError("nothing was held out in this run: look at its training part")
        self.source = source.plain()
        before = "scene" if not self.end else "final" + _before(self.end)
        self.scene = scene_of(job, earlier[before][0])
        self.objects = ObjectObjective(self.scene)
        self.objects.load_state_dict(job.weights(earlier["objects" + self.end][0]))
        frozen(self.objects)
        self.final = scene_of(job, earlier["final" + self.end][0])
        files = {name: earlier[name] for name in ("mining", "masks")}
        files["labels"] = earlier["labels" + self.end]
        self._depths: dict[int, dict[str, np.ndarray]] = {}
        self.caches = {name: Cache(paths, source, self.part) for name, paths in files.items()}

    def table(self) -> dict[str, np.ndarray]:
        """One row per object: see labels.py and masks.py."""
        return self.caches["masks"].table() | self.caches["labels"].table()

    def truth(self, target: int) -> np.ndarray | None:
        """Depth in metres at network size, 0 = none; None where there is no truth."""
        video, frame, _ = self.source.targets[target]
        depth = self.source.recordings[video].depth(frame)
        return None if depth is None else self.source.labels(video, depth)

    def instances(self, target: int) -> np.ndarray | None:
        """Ids of the true objects (h, w) at network size; None where there are none."""
        return recorded_ids(self.source, target)

    def moves(self, target: int) -> np.ndarray | None:
        """What truly moves, bool at network size."""
        video, frame, _ = self.source.targets[target]
        found = self.source.recordings[video].dynamic(frame)
        return None if found is None else self.source.labels(video, found.astype(np.uint8)) > 0

    @torch.no_grad()
    def depths(self, target: int) -> dict[str, np.ndarray]:
        """Depth (h, w) of scene, label (the scene's where there is none) and final network."""
        if target in self._depths:
            return self._depths[target]
        (sample,) = walk(self.source, [target], self.job.source.names)
        scene = scene_depth(self.scene, sample)[0][0, 0].numpy()
        final = scene_depth(self.final, sample)[0][0, 0].numpy()
        (label,) = self.caches["labels"].of(target, "label")
        label = np.where(label > 0, label.astype(np.float32), scene)
        self._depths[target] = {"scene": scene, "label": label, "final": final}
        return self._depths[target]

    @torch.no_grad()
    def panels(self, target: int) -> dict[str, np.ndarray]:
        """Pictures (h, w, 3), uint8 RGB, of every intermediate of a target, see PANELS."""
        (sample,) = walk(self.source, [target], self.job.source.names)
        found = self.depths(target)
        colours = DepthColors.for_depth(found["scene"])
        image = (255 * sample.tgt[0].permute(1, 2, 0)).byte().numpy()
        ids, residual = (
            self.caches[name].of(target, key)[0] for name, key in (("masks", "ids"),
                                                                  ("mining", "residual"))
        )  # fmt: skip
        table = self.table()
        own = np.flatnonzero(table["target"] == target)
        _, scale = self.scene.cameras_and_scales(sample, None)
        masks = ids[None] == table["id"][own][:, None, None]
        raw, aligned = np.zeros_like(found["scene"]), np.zeros_like(found["scene"])
        if len(own):
            stack = torch.from_numpy(masks)
            shapes = object_shapes(self.objects, sample.tgt_net, stack, scale).numpy()
            for mask, shape, k in zip(masks, shapes, own, strict=True):
                said = self.objects.depth(sample.tgt_net, torch.from_numpy(mask)[None, None], scale)
                raw[mask] = said[0, 0].numpy()[mask]
                aligned[mask] = np.nan_to_num(table["chosen"][k] * shape[mask])
        speed = full_size(residual, ids.shape).norm(dim=1).mean(0).numpy()
        heat = cv2.applyColorMap(
            (255 * np.clip(speed / max(speed.max(), 1e-9), 0, 1)).astype(np.uint8),
            cv2.COLORMAP_INFERNO,
        )
        pictures = (
            image, colours(found["scene"]), heat[..., ::-1], _tinted(image, ids, table, own),
            colours(raw), colours(aligned), colours(found["label"]), colours(found["final"]),
        )  # fmt: skip
        return dict(zip(PANELS, pictures, strict=True))


def errors(mined: Mined, targets: list[int]) -> dict[str, Any]:
    """Where there is truth: abs_rel of scene, label and final network over what truly moves, over
    that of it which has a label, and over the rest, one median ratio per image (of its static
    pixels; the scene's for label and scene alike); and |log| errors of the scales of dynamic
    objects, median and 90th percentile.
    """
    single: dict[str, list[float]] = {}
    for target in targets:
        truth, moves = mined.truth(target), mined.moves(target)
        if truth is None or moves is None:
            continue
        (weight,) = mined.caches["labels"].of(target, "weight")
        known = (truth > 1e-3) & (truth < 80)
        strata = {"dynamic": known & moves, "labelled": known & moves & (weight > 0),
                  "static": known & ~moves}  # fmt: skip
        found = mined.depths(target)
        for name, depth in found.items():
            unit = found["scene"] if name == "label" else depth
            stands = strata["static"] if strata["static"].any() else known
            ratio = float(np.median(truth[stands] / unit[stands]))
            for stratum, where in strata.items():
                if where.sum() >= 20:
                    off = np.abs(depth[where] * ratio / truth[where] - 1).mean()
                    single.setdefault(f"{name}_{stratum}", []).append(float(off))
    means = {key: float(np.mean(values)) for key, values in sorted(single.items())}
    return {"abs_rel": means, "images": len(single.get("scene_static", ())),
            "scales": scale_errors(mined, targets), "recall": recall(mined, targets)}  # fmt: skip


def recall(mined: Mined, targets: list[int]) -> dict[str, dict[str, float]]:
    """Share of the true objects above LARGE of the image that are found, and their number: those of
    which most moves (moving) and the others (standing). Empty where there are no true objects.
    """
    found: dict[str, list[bool]] = {}
    for target in targets:
        truth, moves = mined.instances(target), mined.moves(target)
        if truth is not None and moves is not None:
            for kind, hit in found_objects(
                mined.caches["masks"].of(target, "ids")[0], truth, moves
            ):
                found.setdefault(kind, []).append(hit)
    return {k: {"recall": float(np.mean(v)), "objects": len(v)} for k, v in sorted(found.items())}


def found_objects(
    ids: np.ndarray, truth: np.ndarray, moves: np.ndarray
) -> Iterator[tuple[str, bool]]:
    """Per true object above LARGE of an image whether it moves, and whether one of ids (h, w) has
    an intersection over union of IOU or more with it; truth (h, w) ids, moves (h, w) bool.
    """
    sizes = np.bincount(ids.ravel())
    for name in np.unique(truth[truth > 0]):
        where = truth == name
        if where.mean() <= LARGE:
            continue
        shared = np.bincount(ids[where], minlength=len(sizes))
        ious = shared / (sizes + where.sum() - shared)
        yield "moving" if moves[where].mean() > 0.5 else "standing", bool((ious[1:] >= IOU).any())


def scale_errors(mined: Mined, targets: list[int]) -> dict[str, dict[str, float]]:
    """|log(scale / true scale)| of what is labelled dynamic in the targets and of the rest, and of
    what stands by its label but truly moves (missed), median and 90th percentile; the true scale is
    the truth's median in the mask in units of the scene (by its median ratio over the image).
    """
    table, off = mined.table(), {}
    units: dict[int, float] = {}
    wanted = set(targets)
    for k, target in enumerate(table["target"].tolist()):
        truth = mined.truth(target) if target in wanted else None
        if truth is None:
            continue
        known = (truth > 1e-3) & (truth < 80)
        if target not in units:
            units[target] = float(np.median(truth[known] / mined.depths(target)["scene"][known]))
        mask = (mined.caches["masks"].of(target, "ids")[0] == table["id"][k]) & known
        if mask.sum() < 10:
            continue
        right = float(np.median(truth[mask])) / units[target]
        kind = "dynamic" if table["dynamic"][k] else "static"
        moves = mined.moves(target)
        if kind == "static" and moves is not None and moves[mask].mean() > 0.5:
            kind = "missed"
        for name in SCALES:
            if np.isfinite(table[name][k]):
                off.setdefault(f"{name} {kind}", []).append(abs(np.log(table[name][k] / right)))
    return {
        key: {"median": float(np.median(v)), "p90": float(np.percentile(v, 90)), "objects": len(v)}
        for key, v in sorted(off.items())
    }


def busiest(table: Mapping[str, np.ndarray], count: int) -> list[int]:
    """Targets with the largest dynamic objects, of different ones, then any with objects."""
    order = np.lexsort((-table["area"], ~table["dynamic"]))
    found = list(dict.fromkeys(table["target"][order].tolist()))
    apart: list[int] = []
    for target in found:  # neighbouring images show the same
        if all(abs(target - other) > 3 for other in apart):
            apart.append(target)
    return (apart + [t for t in found if t not in apart])[:count]


def sheet(panels: Mapping[str, np.ndarray], zoom: int = 2) -> np.ndarray:
    """All pictures of a target in two columns, each with its name above."""
    cells = []
    for name, picture in panels.items():
        large = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
        head = np.full((18, large.shape[1], 3), 255, np.uint8)
        cv2.putText(head, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        cells.append(np.concatenate((head, large)))
    rows = [np.concatenate(cells[k : k + 2], axis=1) for k in range(0, len(cells), 2)]
    return np.concatenate(rows)


def save_sheet(path: Path, panels: Mapping[str, np.ndarray]) -> None:
    """Write the sheet of a target as PNG."""
    cv2.imwrite(str(path), sheet(panels)[..., ::-1])


def _tinted(
    image: np.ndarray, ids: np.ndarray, table: Mapping[str, np.ndarray], own: np.ndarray
) -> np.ndarray:
    picture = image.copy()
    for k in own:
        name, mask = int(table["id"][k]), ids == table["id"][k]
        picture[mask] = (picture[mask].astype(np.uint16) + np.array(color(name))) // 2
        row, col = np.argwhere(mask).mean(0).astype(int)
        text = f"{name}{'m' if table['dynamic'][k] else 's'}"
        cv2.putText(
            picture, text, (int(col) - 6, int(row) + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.35,
            (255, 255, 255), 1, cv2.LINE_AA,
        )  # fmt: skip
    return picture


def _before(end: str) -> str:
    number = int(end[1:]) - 1
    return "" if number == 1 else f"_{number}"
