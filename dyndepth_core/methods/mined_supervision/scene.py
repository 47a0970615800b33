"""Stage 1: depth, ego-motion and residual motion of the scene, and what later stages ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.methods.base import Objective
from dyndepth_core.methods.mined_supervision.cache import Cache
from dyndepth_core.methods.residual_motion.hinted import unit
from dyndepth_core.methods.stage import StageJob

BATCH = 8
VALIDATION_BATCHES = 32


def train_scene(job: StageJob) -> list[Path]:
    """The training of residual_motion; without a share of the budget, the model of --from."""
    objective = job.objective()
    if job.config.objective.shares.scene > 0:
        return [job.fit(objective)]
    if job.start is None:
        raise ValueError(
            "objective.shares.scene is 0, so the scene is that of a trained model: name it with "
            "--from, or give the scene a share"
        )
    job.report({"step": 0})
    return [job.keep(objective)]


def frozen(objective: Objective) -> Objective:
    """The objective in evaluation mode, without gradients."""
    return objective.eval().requires_grad_(False)


def scene_of(job: StageJob, path: Path) -> Objective:
    """The scene's networks, frozen, from a checkpoint of the scene or of an earlier round."""
    objective = job.objective()
    objective.load_state_dict(job.weights(path))
    return frozen(objective)


@torch.no_grad()
def scene_depth(scene: Objective, sample: Sample) -> tuple[Tensor, Tensor]:
    """Depth (B, 1, H, W) of tgt as its own camera sees it, and K (B, 3, 3)."""
    K, scale = scene.cameras_and_scales(sample, None)
    disp = scene.depth_net(sample.tgt_net)[0]
    return scene.depth(disp, scale), K


def static_depth(depth: Tensor, sample: Sample, mined: Cache) -> tuple[Tensor, Tensor]:
    """Depth (B, 1, H, W) of the scene, and where several images are sure of one, `still` of mining,
    that, in the unit of the scene; and theirs in it (B,), the median ratio.
    """
    still = np.stack([mined.of(int(i), "still")[0] for i in sample.index])
    found = torch.from_numpy(still.astype(np.float32))[:, None]
    sure = (found > 0).to(depth.dtype)
    ratio = unit(depth, found, sure)
    return torch.where(sure > 0, ratio * found, depth), ratio.flatten()


def walk(
    source: SampleSource, targets: Sequence[int], names: Sequence[str], batch: int = BATCH
) -> Iterator[Sample]:
    """Batches of the targets in order; names: recordings of the training, in whose list `video`
    counts (as in validation: one that the training does not know is the first).
    """
    index = torch.tensor([names.index(n) if n in names else 0 for n in source.names])
    for k in range(0, len(targets), batch):
        sample = source.take(list(enumerate(targets[k : k + batch])))
        sample.video = index[sample.video]
        yield sample


def validation_samples(job: StageJob) -> Iterator[Sample]:
    """Batches that thresholds are found on: held out ones where there are any."""
    source = (job.held_out or job.source).plain()
    count = min(len(source), VALIDATION_BATCHES * BATCH)
    targets = [k * len(source) // count for k in range(count)]
    return walk(source, targets, job.source.names)
