"""Stage 1: depth, ego-motion and residual motion of the scene, and what later stages ask of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.methods.base import Objective
from dyndepth_core.methods.mined_supervision.cache import Cache
from dyndepth_core.methods.residual_motion.hinted import unit
from dyndepth_core.methods.stage import StageJob


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
