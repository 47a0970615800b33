"""Stage 2a: what moves, as the scene's networks and several images say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.recording import DamagedImage
from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.geometry.flow import residual_velocity
from dyndepth_core.methods.base import SPEED_THRESHOLD, Objective
from dyndepth_core.methods.mined_supervision.cache import Block, make_blocks, read_column
from dyndepth_core.methods.mined_supervision.cues import Cues, find_cues, no_cues
from dyndepth_core.methods.mined_supervision.scene import scene_of
from dyndepth_core.methods.residual_motion.tracked_motion import track_motions
from dyndepth_core.methods.stage import StageJob, validation_samples, walk

COARSE = 4  # residuals are kept this many times smaller: the network that says them is as coarse
REACH = 3  # images before and after that say what moves, where they are there


def mine(job: StageJob) -> list[Path]:
    """Per target: ids (h, w) of regions that move, T (S, 4, 4) to each source, residual
    (S, 3, h / 4, w / 4), apparent (h, w) fp16, road (4,), still (h, w) fp16 and about (h, w), see
    cues.py, motion (S, 4, 4) to each source in the unit of `still`, 0 where it is unknown, and K
    (3, 3); for slots also depth (h, w) fp16 of the scene.
    """
    scene = scene_of(job, job.earlier["scene"][0])
    threshold = scene.thresholds(validation_samples(job)).get(SPEED_THRESHOLD)

    with_depth = job.config.objective.grouping == "slots"

    def work(source: SampleSource, block: Block) -> dict[str, np.ndarray]:
        return mine_block(scene, source, block, job.source.names, threshold, with_depth)

    paths = make_blocks(job, "looking for what moves", work)
    counts = [_count(path) for path in paths]
    regions, targets = np.sum(counts, axis=0)
    job.report({"threshold": threshold, "regions": int(regions), "targets": int(targets)})
    return paths


def check_mined(paths: Sequence[Path]) -> None:
    """ValueError where nothing was mined; masks from elsewhere do without."""
    if not any(_count(path)[0] for path in paths):
        raise ValueError(
            "nothing moves in these recordings as far as can be seen, so there is nothing to mine: "
            "train residual_motion, or give recordings with traffic"
        )


def mine_block(
    scene: Objective, source: SampleSource, block: Block, names: list[str],
    threshold: float | None, with_depth: bool = False,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays of `mine`, one row per target. threshold: speed from which something moves, as the
    scene's networks see it, None: they see nothing that does.
    """
    own = [t for t, (video, *_) in enumerate(source.targets) if video == block.video]
    first = own.index(block.targets[0])
    _, frame, its_sources = source.targets[block.targets[0]]
    # Images of neighbouring blocks, too, say what moves; a faster camera has more of them.
    further = (REACH - 1) * min(abs(s - frame) for s in its_sources)
    before = min(first, further)
    beside = own[first - before : first + len(block.targets) + further]
    said = [
        row
        for sample in walk(source, beside, names)
        for row in zip(*_said(scene, sample), strict=True)
    ]
    links = {
        source.targets[t][1]: dict(zip(source.targets[t][2], T, strict=True))
        for t, (*_, T, _) in zip(beside, said, strict=True)
    }
    said = said[before : before + len(block.targets)]
    frames = [source.targets[t][1] for t in block.targets]
    greys: dict[int, np.ndarray] = {}
    for k in {k for frame, to in links.items() for k in (frame, *to)}:
        with contextlib.suppress(DamagedImage):
            greys[k] = cv2.cvtColor(source.frame(block.video, k), cv2.COLOR_RGB2GRAY)
    links = {  # without what cannot be read
        frame: {k: T for k, T in to.items() if k in greys}
        for frame, to in links.items()
        if frame in greys
    }

    def cues(frame: int, row: tuple) -> tuple[Cues, dict[int, np.ndarray]]:
        velocity, depth, K, _, _ = row
        sides = [list(_chain(links, frame, later)) for later in (False, True)]
        if not any(sides):
            return no_cues(depth.shape), {}
        T = np.stack([T for side in sides for _, T in side]).astype(np.float64)
        speed = np.linalg.norm(velocity, axis=2) / (threshold or np.inf)
        images = [[greys[f] for f, _ in side] for side in sides]
        tracked = track_motions(greys[frame], images, T, K, depth, speed > 1)
        tgt, *others = (g.astype(np.float32) / 255 for g in (greys[frame], *sum(images, [])))
        T = T if tracked is None else tracked
        around = (f for side in sides for f, _ in side)
        return find_cues(tgt, others, T, K, depth, speed), dict(zip(around, T, strict=True))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found, ways = zip(*pool.map(cues, frames, said), strict=True)
    unknown = np.zeros((4, 4))
    sources = [source.targets[t][2] for t in block.targets]
    depths = [depth.astype(np.float16) for _, depth, *_ in said] if with_depth else []
    return ({"depth": np.stack(depths)} if with_depth else {}) | {
        "ids": np.stack([c.ids for c in found]),
        "T": np.stack([T for *_, T, _ in said]),
        "residual": np.stack([residual for *_, residual in said]),
        "apparent": np.stack([c.apparent for c in found]).astype(np.float16),
        "road": np.stack([c.road for c in found]),
        "still": np.stack([c.still for c in found]).astype(np.float16),
        "about": np.stack([c.about for c in found]),
        "motion": np.array(
            [[to.get(k, unknown) for k in s] for to, s in zip(ways, sources, strict=True)],
            np.float32,
        ),
        "K": np.stack([K for _, _, K, _, _ in said]),
    }


def _chain(
    links: Mapping[int, Mapping[int, np.ndarray]], frame: int, later: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Up to REACH frames before or after one, nearest first, and T (4, 4) from it to each; links:
    of frames T to their sources.
    """
    T, at = np.eye(4), frame
    for _ in range(REACH):
        ways = [f for f in links.get(at, ()) if (f > at) == later]
        if not ways:
            return
        to = min(ways, key=lambda f: abs(f - at))
        T, at = links[at][to] @ T, to
        yield at, T


@torch.no_grad()
def _said(scene: Objective, sample: Sample) -> tuple:
    """Velocities (B, h, w, 3), the mean over the sources, depths (B, h, w), K (B, 3, 3), T
    (B, S, 4, 4) and residuals (B, S, 3, h / 4, w / 4).
    """
    p, (batch, sources) = scene.predict(sample), sample.dt.shape
    count = batch * sources
    T, residual = p.refined[:count], p.residual[:count]
    velocity = residual_velocity(residual, T, sample.dt.flatten()).unflatten(0, (batch, sources))
    velocity = velocity.mean(1).permute(0, 2, 3, 1)
    small = F.avg_pool2d(residual, COARSE).unflatten(0, (batch, sources)).half()
    return (
        np.ascontiguousarray(velocity.float().numpy()), p.depth[:count:sources, 0].float().numpy(),
        p.K.double().numpy(), T.unflatten(0, (batch, sources)).numpy(), small.numpy(),
    )  # fmt: skip


def full_size(residual: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Residuals (S, 3, h, w) of `mine` at the size of the image."""
    found = torch.from_numpy(residual.astype(np.float32))
    return F.interpolate(found, size, mode="bilinear", align_corners=False)


def _count(path: Path) -> tuple[int, int]:
    ids = read_column(path, "ids")
    return int(ids.reshape(len(ids), -1).max(1).sum()), len(ids)
