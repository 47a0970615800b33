"""Stage 2c: objects of every target, which of them move, and where the sources show them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.geometry.road import road_inverse
from dyndepth_core.geometry.warp import correspond, forward_splat
from dyndepth_core.instances.sources import RecordedInstances
from dyndepth_core.methods.base import Objective
from dyndepth_core.methods.mined_supervision.cache import (
    Block,
    Cache,
    caches,
    make_blocks,
    read_column,
)
from dyndepth_core.methods.mined_supervision.clusters import keep_parts
from dyndepth_core.methods.mined_supervision.config import MinedSupervisionConfig
from dyndepth_core.methods.mined_supervision.contact import box_of, standing_columns
from dyndepth_core.methods.mined_supervision.cues import LEAST_ROAD, on_road
from dyndepth_core.methods.mined_supervision.mining import REACH, full_size
from dyndepth_core.methods.mined_supervision.scene import scene_depth, scene_of, static_depth
from dyndepth_core.methods.mined_supervision.segment import (
    SegmentObjective,
    looks,
    segment_of,
)
from dyndepth_core.methods.stage import StageJob, walk

LARGEST = 0.5  # share of the image above which a region is no object
# Log of apparent over true depth from which something moves: on tuning world 11 three quarters of
# what moves, where it is known, exceed it, and one of 25 of what stands.
MOVED = 0.5
# Share of an object's pixels whose depth several images are sure of, as of what stands. Of what
# would be called moving else, 57 of 79 with 0.1 to 0.2 of them moved, 29 of 75 with up to 0.4, 27
# of 221 with more (worlds 0 to 2).
STANDS = 0.2
# Pixels, for what seems apart and what is in the middle: before a camera that crawls are queues.
# Of objects that would grow by less 6 of 36 and 2 of 104 moved, of others 153 of 183 and 29 of 31
# (worlds 0 to 2).
GROWS = 2.0, 4.0
FARTHEST = 50.0  # times as far away as the road under it: it moves like what is infinitely far
FEW, PART = 10, 0.03  # pixels that say how far away something seems, and share of its own
BEHIND = 2e3  # times the largest depth


def find_masks(job: StageJob) -> list[Path]:
    """Per target: ids (h, w), src_ids (S, h, w); and a table with one row per object, see
    `label_objects`. Where masks come from: config.objective.masks.
    """
    scene = scene_of(job, job.earlier["scene"][0])
    config, network = job.config.objective, None
    if config.masks == "mined":
        network = segment_of(job)
    mined_of = caches(job, "mining")
    parted_of = caches(job, "slots") if "slots" in job.earlier else mined_of

    def work(source: SampleSource, block: Block) -> dict[str, np.ndarray]:
        mined = mined_of[block.part], parted_of[block.part]
        return mask_block(scene, network, source, block, *mined, config, job.source.names)

    paths = make_blocks(job, "masking objects", work)
    job.report(_summary(paths))
    return paths


def reads_masks(config: Any) -> Callable[..., Mapping[str, Any]]:
    """What `find_masks` reads beside the images: hashes of mask files, where they are wanted."""
    folders = {"mined": (), "files": ("instances",), "oracle": ("instances", "dynamic")}

    def reads(source: SampleSource, held_out: SampleSource | None) -> Mapping[str, Any]:
        digest, wanted = hashlib.sha256(), folders[config.objective.masks]
        roots = {r.path for s in (source, held_out) if s for r in s.recordings}
        for path in sorted(p for root in roots for name in wanted for p in (root / name).glob("*")):
            digest.update(path.name.encode() + path.read_bytes())
        return {"masks": digest.hexdigest()} if wanted else {}

    return reads


@torch.no_grad()
def mask_block(
    scene: Objective, network: SegmentObjective | None, source: SampleSource, block: Block,
    mined: Cache, parted: Cache, config: MinedSupervisionConfig, names: list[str],
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays of `find_masks` of one block; parted: where the ids of what was mined are."""
    rows, tables = [], []
    for sample in walk(source, block.targets, names):
        depth, K = scene_depth(scene, sample)
        _, unit = static_depth(depth, sample, mined)
        for i in range(len(depth)):
            target, height, width = block.targets[len(rows)], *depth.shape[-2:]
            moves, T, residual, apparent, road, about, own_K, motion = mined.of(
                target, "ids", "T", "residual", "apparent", "road", "about", "K", "motion"
            )
            far = road_inverse(road, own_K, (height, width))
            apparent = apparent.astype(np.float32)
            if network is None:
                ids, moving = _recorded(source, target, moves > 0, config)
            else:
                ids, moving = parted.of(target, "ids")[0], moves > 0
                if network.recognises:  # or else only what was mined is an object
                    level = on_road(apparent, far)
                    ids = looks(network, sample.tgt_net[i : i + 1], level, far, config.min_area)
            ids = gated(ids, config.min_area)
            table = label_objects(ids, moving, about, apparent, far, config, growth(motion, far))
            table["row"] = np.full(len(table["id"]), len(rows), np.int32)
            T, field = torch.from_numpy(T), full_size(residual, (height, width))
            shown = Shown(torch.from_numpy(ids), depth[i], field, table["inverse"] / float(unit[i]))
            table["T"] = shown.motions(T)
            tables.append(table)
            rows.append((ids, shown.splat(K[i], T)))
    arrays = {name: np.stack([r[k] for r in rows]) for k, name in enumerate(("ids", "src_ids"))}
    return arrays | {f"o_{k}": np.concatenate([t[k] for t in tables]) for k in tables[0]}


def gated(ids: np.ndarray, min_area: float) -> np.ndarray:
    """Ids (h, w) of the objects that fill at least min_area and at most LARGEST of the image."""
    ids = keep_parts(ids, max(1, round(min_area * ids.size)))
    large = np.bincount(ids.ravel()) > LARGEST * ids.size
    large[0] = False
    return keep_parts(np.where(large[ids], 0, ids).astype(np.uint8), 1)


def label_objects(
    ids: np.ndarray, moving: np.ndarray, still: np.ndarray, apparent: np.ndarray, road: np.ndarray,
    config: MinedSupervisionConfig, grows: float,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Table of the objects of ids (h, w): id, area (share of the image), ratio (of its pixels in
    moving (h, w)), inverse (median of apparent (h, w) in it, NaN unknown), apart (the depth that
    says, if it stands, over that of the road (h, w), inverse, under it: 1 of what stands, NaN
    unknown), centre (it touches the middle `centre` of the columns) and dynamic: ratio >=
    moving_share or |log apart| > MOVED or, where apart is unknown, centre, because what moves
    straight ahead hardly shows (section E15 of MSDR). Both of these if `grows`, see `growth`, would
    make it GROWS pixels larger: before a camera that crawls everything is as unknown. But not where
    STANDS of it lies in still (h, w), the pixels that surely stand.
    """
    names = np.arange(1, int(ids.max()) + 1)
    count = np.bincount(ids.ravel(), minlength=len(names) + 1)[1:]
    moved = np.bincount(ids[moving], minlength=len(names) + 1)[1:]
    width = ids.shape[1]
    half = config.centre * width / 2
    columns = np.abs(np.arange(width) - (width - 1) / 2) < half
    centre = np.isin(names, ids[:, columns])
    ratio = moved / np.maximum(count, 1)
    inverse = np.array([_median(apparent[ids == name]) for name in names], np.float32)
    under = np.array([lower_edge(ids, name, road) for name in names], np.float32)
    apart = under / np.maximum(inverse, under / FARTHEST)
    larger = np.sqrt(count) * grows
    moves = (np.abs(np.log(apart)) > MOVED) & (larger >= GROWS[0])
    moves |= centre & np.isnan(apart) & (larger >= GROWS[1])
    moves |= ratio >= config.moving_share
    stands = np.bincount(ids[still], minlength=len(names) + 1)[1:] / np.maximum(count, 1)
    moves &= stands < STANDS
    if config.masks == "oracle":
        moves = ratio >= config.moving_share
    return {
        "id": names.astype(np.uint8),
        "area": (count / ids.size).astype(np.float32),
        "ratio": ratio.astype(np.float32),
        "inverse": inverse,
        "apart": apart.astype(np.float32),
        "centre": centre,
        "dynamic": moves,
    }


def growth(motion: np.ndarray, road: np.ndarray) -> float:
    """By how much, relative, what stands on the nearest road, inverse depth (h, w), grows over the
    images that are looked at, from motion (S, 4, 4) to the sources in the same unit.
    """
    return REACH * float(np.linalg.norm(motion[:, :3, 3], axis=1).max() * max(road.max(), 0.0))


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    enough = known.size >= max(FEW, PART * values.size)
    return float(np.median(known)) if enough else float("nan")


def lower_edge(ids: np.ndarray, name: int, road: np.ndarray) -> float:
    """Inverse depth of the road (h, w) where the object `name` of ids (h, w) stands on it, the
    median of the columns that reach down; NaN where the image or another object cuts it off or
    shows no road.
    """
    mask = ids == name
    _, bottom, _, _ = box_of(mask)
    cols, lowest = standing_columns(mask, (ids > 0) & ~mask)
    if bottom >= len(mask) - 1 or not len(cols):
        return float("nan")
    found = float(np.median(road[lowest + 1, cols]))
    return found if found > LEAST_ROAD * road.max() else float("nan")


@dataclass(frozen=True)
class Shown:
    """Where the sources show objects of ids (h, w): where the depth of the scene (1, h, w) and
    residuals (S, 3, h, w) say, or where it is known, at the depth 1 / inverse (N,), in the unit of
    depth, at which they would stand.
    """

    ids: Tensor
    depth: Tensor
    residual: Tensor
    inverse: np.ndarray

    def motions(self, T: Tensor) -> np.ndarray:
        """T (N, S, 4, 4) of the objects, at the scene's depth, from the ego-motion T (S, 4, 4):
        with their median residual or by similar triangles, t' = t depth inverse.
        """
        found = T.repeat(len(self.inverse), 1, 1, 1)
        for i, inverse in enumerate(self.inverse.tolist()):
            inside = self.ids == i + 1
            if np.isfinite(inverse):
                found[i, :, :3, 3] *= float(self.depth[0, inside].median()) * inverse
            else:
                found[i, :, :3, 3] += self.residual[:, :, inside].median(2).values
        return found.numpy()

    def splat(self, K: Tensor, T: Tensor) -> np.ndarray:
        """Ids (S, h, w), uint8, of the pixels of the sources, the nearest on top; K (3, 3), T
        (S, 4, 4). Holes between pixels of one object are closed.
        """
        count, depth, residual = len(T), self.depth.clone(), self.residual.clone()
        for i, inverse in enumerate(self.inverse.tolist()):
            if np.isfinite(inverse):
                inside = self.ids == i + 1
                depth[0, inside] = 1 / max(inverse, 1e-3 / float(self.depth.max()))
                residual[:, :, inside] = 0
        seen = correspond(depth.expand(count, 1, -1, -1), T, K.expand(count, -1, -1), residual)
        # objects lie before the rest: what drives ahead seems to lie behind the road under it
        seen.z_src[:, :, self.ids == 0] += BEHIND * float(self.depth.max())
        values = self.ids.float().expand(count, 1, -1, -1)
        found = forward_splat(values, seen, fill=0.0)[0][:, 0].numpy().astype(np.uint8)
        return np.stack([cv2.morphologyEx(f, cv2.MORPH_CLOSE, np.ones((3, 3))) for f in found])


def _recorded(
    source: SampleSource, target: int, moving: np.ndarray, config: MinedSupervisionConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Ids from files, and what moves: as mined, for the oracle from dynamic/."""
    video, frame, _ = source.targets[target]
    recording = source.recordings[video]
    ids = recorded_ids(source, target)
    dynamic = recording.dynamic(frame) if config.masks == "oracle" else None
    if ids is None or (config.masks == "oracle" and dynamic is None):
        wanted = "instances/" if config.masks == "files" else "instances/ and dynamic/"
        raise ValueError(
            f"{recording.path}: objective.masks={config.masks}, but frame {frame} has no {wanted} "
            "file; add it, or mine the masks"
        )
    if dynamic is not None:
        moving = source.labels(video, dynamic.astype(np.uint8)) > 0
    return ids, moving


def recorded_ids(source: SampleSource, target: int) -> np.ndarray | None:
    """Ids (h, w) at network size, uint8, from 1 without gaps, of the mask file of a target; None
    where there is none. ValueError where it has over 255.
    """
    video, frame, _ = source.targets[target]
    recording = source.recordings[video]
    ids = RecordedInstances(recording).ids(frame)
    if ids is None:
        return None
    names, place = np.unique(ids, return_inverse=True)
    if names[0] != 0:
        place = place + 1
    if place.max() > 255:
        raise ValueError(f"{recording.path}: frame {frame} has over 255 instances; leave some out")
    return source.labels(video, place.reshape(ids.shape).astype(np.uint8))


def _summary(paths: list[Path]) -> dict[str, int]:
    dynamic = np.concatenate([read_column(path, "o_dynamic") for path in paths])
    return {"objects": len(dynamic), "dynamic": int(dynamic.sum()), "static": int((~dynamic).sum())}
