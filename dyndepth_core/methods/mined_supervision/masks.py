"""Stage 2c: objects of every target, which of them move, and where the sources show them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.geometry.warp import correspond, forward_splat
from dyndepth_core.instances.sources import RecordedInstances
from dyndepth_core.methods.base import Objective
from dyndepth_core.methods.mined_supervision.cache import Block, Cache, make_blocks
from dyndepth_core.methods.mined_supervision.clusters import keep_parts, vote
from dyndepth_core.methods.mined_supervision.config import MinedSupervisionConfig
from dyndepth_core.methods.mined_supervision.mining import full_size, unpack
from dyndepth_core.methods.mined_supervision.scene import frozen, scene_depth, scene_of, walk
from dyndepth_core.methods.mined_supervision.segment import SegmentObjective
from dyndepth_core.methods.stage import StageJob

LARGEST = 0.5  # share of the image above which a region is no object
KNOWN = 0.5  # share of a mined region in found objects from which it is not one more
SMALLER = 0.2  # of objects.min_area: parts below are noise

Finder = Callable[[int, Sample, np.ndarray], Tensor]


def find_masks(job: StageJob) -> list[Path]:
    """Per target: ids (h, w), src_ids (S, h, w); and a table with one row per object, see
    `label_objects`. Where masks come from: config.objective.masks.
    """
    scene = scene_of(job, job.earlier["scene"][0])
    config, network = job.config.objective, None
    if config.masks == "mined":
        network = SegmentObjective(job.config.network)
        network.load_state_dict(job.weights(job.earlier["segment"][0]))
        network = frozen(network)
    caches = {"training": Cache(job.earlier["mining"], job.source, "training")}
    if job.held_out is not None:
        caches["held_out"] = Cache(job.earlier["mining"], job.held_out, "held_out")

    def work(source: SampleSource, block: Block) -> dict[str, np.ndarray]:
        mined = caches[block.name.rpartition("_")[0].rpartition("_")[0]]
        return mask_block(scene, network, source, block, mined, config, job.source.names)

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
    mined: Cache, config: MinedSupervisionConfig, names: list[str],
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays of `find_masks` of one block."""
    rows, tables = [], []
    for sample in walk(source, block.targets, names):
        depth, K = scene_depth(scene, sample)
        for i in range(len(depth)):
            target, height, width = block.targets[len(rows)], *depth.shape[-2:]
            moving, T, residual = mined.of(target, "moving", "T", "residual")
            moving = unpack(moving, width)
            if network is None:
                ids, moving = _recorded(source, target, moving, config)
            else:
                least = max(1, round(SMALLER * config.min_area * height * width))
                ids = looks(network, sample.tgt_net[i : i + 1], least)
                ids = add_mined(ids, mined.of(target, "ids")[0])
            ids = gated(ids, config.min_area)
            table = label_objects(ids, moving, config)
            T, field = torch.from_numpy(T), full_size(residual, (height, width))
            table["T"] = object_motion(T, field, torch.from_numpy(ids), len(table["id"]))
            table["row"] = np.full(len(table["id"]), len(rows), np.int32)
            tables.append(table)
            src_ids = splat_ids(torch.from_numpy(ids), depth[i], K[i], T, field)
            rows.append((ids, src_ids))
    arrays = {name: np.stack([r[k] for r in rows]) for k, name in enumerate(("ids", "src_ids"))}
    return arrays | {f"o_{k}": np.concatenate([t[k] for t in tables]) for k in tables[0]}


def looks(network: SegmentObjective, image: Tensor, least: int) -> np.ndarray:
    """Ids (h, w) of what looks as if it could move in one image (1, 3, h, w); least pixels each."""
    logit, way = network.see(image)
    sure = F.avg_pool2d(logit.sigmoid(), 3, 1, 1, count_include_pad=False)  # no single pixels
    can_move = (sure[0, 0] > network.threshold).numpy()
    ids = vote(can_move, way[0].numpy(), max(1, least // 4))  # at half the size
    size = image.shape[-1], image.shape[-2]
    return cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)


def add_mined(ids: np.ndarray, mined: np.ndarray) -> np.ndarray:
    """The objects, and regions that move of which less than KNOWN belongs to any of them."""
    out, count = ids.copy(), int(ids.max())
    for name in np.unique(mined[mined > 0]):
        region = mined == name
        if (ids[region] > 0).mean() < KNOWN and count < 255:
            count += 1
            out[region & (ids == 0)] = count
    return out


def gated(ids: np.ndarray, min_area: float) -> np.ndarray:
    """Ids (h, w) of the objects that fill at least min_area and at most LARGEST of the image."""
    ids = keep_parts(ids, max(1, round(min_area * ids.size)))
    large = np.bincount(ids.ravel()) > LARGEST * ids.size
    large[0] = False
    return keep_parts(np.where(large[ids], 0, ids).astype(np.uint8), 1)


def label_objects(
    ids: np.ndarray, moving: np.ndarray, config: MinedSupervisionConfig
) -> dict[str, np.ndarray]:
    """Table of the objects of ids (h, w): id, area (share of the image), ratio (of its pixels in
    moving (h, w)), centre (it touches the middle `centre` of the columns) and dynamic: ratio >=
    moving_share or centre, because what moves straight ahead hardly shows (section E15 of MSDR).
    """
    names = np.arange(1, int(ids.max()) + 1)
    count = np.bincount(ids.ravel(), minlength=len(names) + 1)[1:]
    moved = np.bincount(ids[moving], minlength=len(names) + 1)[1:]
    width = ids.shape[1]
    half = config.centre * width / 2
    columns = np.abs(np.arange(width) - (width - 1) / 2) < half
    centre = np.isin(names, ids[:, columns])
    ratio = moved / np.maximum(count, 1)
    if config.masks == "oracle":
        centre[:] = False
    return {
        "id": names.astype(np.uint8),
        "area": (count / ids.size).astype(np.float32),
        "ratio": ratio.astype(np.float32),
        "centre": centre,
        "dynamic": (ratio >= config.moving_share) | centre,
    }


def object_motion(T: Tensor, residual: Tensor, ids: Tensor, count: int) -> np.ndarray:
    """T (N, S, 4, 4) of objects: ego-motion T (S, 4, 4) and their median residual (S, 3, h, w)."""
    found = T.repeat(count, 1, 1, 1)
    for i in range(count):
        found[i, :, :3, 3] += residual[:, :, ids == i + 1].median(2).values
    return found.numpy()


def splat_ids(ids: Tensor, depth: Tensor, K: Tensor, T: Tensor, residual: Tensor) -> np.ndarray:
    """Ids (S, h, w), uint8, of the pixels of the sources: those of tgt (h, w) carried there by
    depth (1, h, w), K (3, 3), T (S, 4, 4) and residuals (S, 3, h, w), the nearest on top; holes
    between pixels of one object are closed.
    """
    count = len(T)
    seen = correspond(depth.expand(count, 1, -1, -1), T, K.expand(count, -1, -1), residual)
    values = ids.float().expand(count, 1, -1, -1)
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
    tables = [np.load(path)["o_dynamic"] for path in paths]
    dynamic = np.concatenate(tables) if tables else np.zeros(0, bool)
    return {"objects": len(dynamic), "dynamic": int(dynamic.sum()), "static": int((~dynamic).sum())}
