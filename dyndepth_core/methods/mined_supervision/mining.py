"""Stage 2a: what moves, as the scene's networks see it, and which pixels move together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.geometry.flow import residual_velocity
from dyndepth_core.instances.motion import MotionTracker
from dyndepth_core.methods.base import SPEED_THRESHOLD, Objective
from dyndepth_core.methods.mined_supervision.cache import Block, make_blocks
from dyndepth_core.methods.mined_supervision.scene import scene_of, validation_samples, walk
from dyndepth_core.methods.stage import StageJob

COARSE = 4  # residuals are kept this many times smaller: the network that says them is as coarse
MOST = 255  # objects in one image


def mine(job: StageJob) -> list[Path]:
    """Per target: ids (h, w) of regions that move together, moving (h, w), T (S, 4, 4) to each
    source, residual (S, 3, h / 4, w / 4). Regions come from the velocities by the same means by
    which the vehicle finds what moves (instances/motion.py).
    """
    scene = scene_of(job, job.earlier["scene"][0])
    threshold = scene.thresholds(validation_samples(job)).get(SPEED_THRESHOLD)
    if threshold is None and job.config.objective.masks == "mined":
        raise ValueError(
            "nothing moves in the held-out part of these recordings as far as the scene's networks "
            "can see, so there is nothing to mine: train residual_motion, or give recordings with "
            "traffic"
        )

    def work(source: SampleSource, block: Block) -> dict[str, np.ndarray]:
        return mine_block(scene, source, block, job.source.names, threshold)

    paths = make_blocks(job, "looking for what moves", work)
    counts = [_count(path) for path in paths]
    regions, targets = np.sum(counts, axis=0)
    job.report({"threshold": threshold, "regions": int(regions), "targets": int(targets)})
    return paths


def mine_block(
    scene: Objective, source: SampleSource, block: Block, names: list[str], threshold: float | None
) -> dict[str, np.ndarray]:
    """The arrays of `mine`, one row per target; every block begins without a history. Without a
    threshold nothing moves.
    """
    # one for every phase of the frames' stride, by the stamp it has come to
    trackers: dict[int, MotionTracker] = {}
    found = []
    recording = source.recordings[block.video]
    stamps = [
        (recording.stamps_ns[frame], recording.stamps_ns[max(frames, key=lambda f: (f < frame, f))])
        for _, frame, frames in (source.targets[t] for t in block.targets)
    ]
    for sample in walk(source, block.targets, names):
        said = _said(scene, sample)
        for velocity, depth, K, T, residual, past in zip(*said, strict=True):
            stamp, before = (int(s) for s in stamps[len(found)])
            if before < stamp and threshold is not None:
                tracker = trackers.pop(before, None) or MotionTracker(birth=1)
                motion = tracker.step(velocity, depth, K, T[past], stamp, before, threshold)
                trackers[stamp] = tracker
                ids, moving = motion.ids, motion.mask
            else:
                ids, moving = np.zeros(depth.shape, np.int32), np.zeros(depth.shape, bool)
            found.append((_compact(ids), moving, T, residual))
    ids, moving, T, residual = (np.stack(x) for x in zip(*found, strict=True))
    return {"ids": ids, "moving": np.packbits(moving, axis=-1), "T": T, "residual": residual}


@torch.no_grad()
def _said(scene: Objective, sample: Sample) -> tuple:
    """Velocities (B, h, w, 3), the mean over the sources, depths (B, h, w), K (B, 3, 3), T
    (B, S, 4, 4), residuals (B, S, 3, h / 4, w / 4) and which source is the last one before.
    """
    p, (batch, sources) = scene.predict(sample), sample.dt.shape
    count = batch * sources
    T, residual = p.refined[:count], p.residual[:count]
    velocity = residual_velocity(residual, T, sample.dt.flatten()).unflatten(0, (batch, sources))
    velocity = velocity.mean(1).permute(0, 2, 3, 1)
    past = torch.where(sample.dt < 0, sample.dt, -torch.inf).argmax(1)
    small = F.avg_pool2d(residual, COARSE).unflatten(0, (batch, sources)).half()
    return (
        np.ascontiguousarray(velocity.float().numpy()), p.depth[:count:sources, 0].float().numpy(),
        p.K.double().numpy(), T.unflatten(0, (batch, sources)).numpy(), small.numpy(),
        past.tolist(),
    )  # fmt: skip


def unpack(moving: np.ndarray, width: int) -> np.ndarray:
    """Bool (h, w) of a packed row of `mine`."""
    return np.unpackbits(moving, axis=-1, count=width).astype(bool)


def full_size(residual: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Residuals (S, 3, h, w) of `mine` at the size of the image."""
    found = torch.from_numpy(residual.astype(np.float32))
    return F.interpolate(found, size, mode="bilinear", align_corners=False)


def _compact(ids: np.ndarray) -> np.ndarray:
    """Ids that count from 1 without gaps, uint8; beyond MOST they share the last one."""
    names = np.unique(ids[ids > 0])
    return np.where(ids > 0, np.minimum(np.searchsorted(names, ids) + 1, MOST), 0).astype(np.uint8)


def _count(path: Path) -> tuple[int, int]:
    with np.load(path) as data:
        ids = data["ids"]
    return int(ids.reshape(len(ids), -1).max(1).sum()), len(ids)
