"""Hints for the depth of what stands and for the motion, from several images at once: a stage
before a training that goes on from a model (after the depth hints of Watson et al. 2019).
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.targets import frame_stride
from dyndepth_core.geometry.multi_view import MultiView, multi_view_depth
from dyndepth_core.instances.mining import Said, walk
from dyndepth_core.methods.base import SPEED_THRESHOLD
from dyndepth_core.methods.masks import foreground_stages
from dyndepth_core.methods.residual_motion.hinted import hinted
from dyndepth_core.methods.residual_motion.tracked_motion import track_motions
from dyndepth_core.methods.stage import StageInfo, StageJob

log = logging.getLogger(__name__)
SHARE = 0.35  # of the minutes of a training: for the hints before it
REACH = 3  # images before and after that a hint is made of, where they are there
CHUNK = 24  # images that are looked at together
ROUNDS = 2  # of every two images one is hinted first, then the other one
AROUND = 9  # pixels around what moves that may move, too
USES = 2  # times that a training of so many steps sees each hint at least


@dataclass(frozen=True)
class Hint(MultiView):
    """T (M, 4, 4): from the image to those `around` it, numbers (M,) in what was seen."""

    T: np.ndarray
    around: tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """Frames of a recording in the order of time, one step of the samples apart."""

    video: int
    frames: tuple[int, ...]


def chunks(source: SampleSource) -> list[Chunk]:
    """All frames of a source, those at the ends of a chunk again in the next one."""
    found = []
    for video, recording in enumerate(source.recordings):
        if len(recording) < 2:
            continue
        stride, _ = frame_stride(recording, source.config.target_rate_hz)
        for phase in range(stride):
            frames = range(phase, len(recording), stride)
            for k in range(0, max(len(frames) - 2 * REACH, 1), CHUNK - 2 * REACH):
                found.append(Chunk(video, tuple(frames[k : k + CHUNK])))
    return found


def make_hints(job: StageJob) -> list[Path]:
    """Files of hints, one per chunk and round: frames (N,), depth (N, h, w) fp16, sure (N, h, w)
    packed, around (N, 2 REACH) the frames that T (N, 2 REACH, 4, 4) lead to, -1: none. As many as
    there is time for, or as a training of so many steps can use.
    """
    from dyndepth_core.inference.model_file import load_model  # it imports the methods

    if job.start is None:
        raise ValueError(
            "objective.hints needs a model that knows how the camera moves: name it with --from, "
            "or set objective.hints=0"
        )
    graph, meta = load_model(job.start)
    threshold = meta.thresholds.get(SPEED_THRESHOLD)
    if threshold is None:
        log.info(
            "no hints: %s does not know what moves, and only what stands can be hinted", job.start
        )
        return []
    cuda = job.config.train.device != "cpu" and torch.cuda.is_available()
    graph = graph.eval().to("cuda" if cuda else "cpu")
    source, train = job.source.plain(), job.config.train
    wanted = {(video, frame) for video, frame, _ in source.targets}
    enough = len(wanted) if train.steps is None else train.steps * train.batch_size // USES
    until = None if train.minutes is None else time.monotonic() + 60 * train.minutes
    every = chunks(source)
    order = np.random.default_rng(train.seed).permutation(len(every)).tolist()
    todo = [(k, round_) for round_ in range(ROUNDS) for k in order]
    paths, count, share = [], 0, []
    for k, round_ in job.track(todo, "depth from several images"):
        path, chunk = job.folder / f"{k:06d}_{round_}.npz", every[k]
        if not path.is_file():
            if paths and (count >= enough or (until is not None and time.monotonic() > until)):
                continue  # those that a killed run has left are kept
            seen = list(walk(graph, source, chunk.video, chunk.frames))
            chosen = [
                i for i in range(round_, len(seen), ROUNDS)
                if seen[i] is not None and (chunk.video, chunk.frames[i]) in wanted
            ]  # fmt: skip
            _write(path, chunk, hint_chunk(seen, threshold, chosen), source.config.size)
        with np.load(path, allow_pickle=False) as data:
            count += len(data["frames"])
            share += data["share"].tolist()
        paths.append(path)
    log.info("%d of %d images have hints; the training is on those", count, len(wanted))
    job.report({"hinted": count, "sure": float(np.mean(share)) if share else 0.0})
    return paths


def hint_chunk(
    seen: Sequence[Said | None], threshold: float, chosen: Sequence[int]
) -> list[tuple[int, Hint]]:
    """Depth from several images of the `chosen` ones of those seen that have REACH known ones
    around them, by their number; without what may move, see `may_move`. The motions are those of
    tracked points, see `track_motions`, or else of the graph.
    """
    greys = [None if s is None else cv2.cvtColor(s.image, cv2.COLOR_RGB2GRAY) for s in seen]

    def hint(i: int) -> tuple[int, Hint] | None:
        sides = [list(_motions(seen, i, step)) for step in (-1, 1)]
        around = [*sides[0], *sides[1]]
        if len(around) < REACH:
            return None
        moves, T = may_move(seen[i], threshold), np.stack([T for _, T in around])
        depth, K = seen[i].depth[0, 0].float().cpu().numpy(), seen[i].K.astype(np.float64)
        tracks = [[greys[j] for j, _ in side] for side in sides]
        tracked = track_motions(greys[i], tracks, T, K, depth, moves)
        T = T if tracked is None else tracked
        tgt, *others = (greys[j].astype(np.float32) / 255 for j in (i, *(j for j, _ in around)))
        found = multi_view_depth(tgt, others, T, K, depth)
        return i, Hint(found.depth, found.sure & ~moves, T, tuple(j for j, _ in around))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return [found for found in pool.map(hint, chosen) if found is not None]


def _motions(seen: Sequence[Said | None], i: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Those before (step -1) or after (1) number i, up to a gap, and T (4, 4) from i to each."""
    T = np.eye(4)
    for j in range(i + step, i + step * (REACH + 1), step):
        if not 0 <= j < len(seen) or seen[j] is None:
            return
        T_step = seen[max(j, j - step)].T_src_tgt
        if T_step is None:
            return
        T = (T_step if step < 0 else np.linalg.inv(T_step)) @ T
        yield j, T


def may_move(said: Said, threshold: float) -> np.ndarray:
    """Bool (h, w): what moves faster than `threshold`, units of the graph's depth per second, and
    AROUND pixels.
    """
    if said.velocity is None:
        return np.zeros(said.image.shape[:2], bool)
    moves = (said.velocity.norm(dim=1)[0] > threshold).byte().cpu().numpy()
    return cv2.dilate(moves, np.ones((AROUND, AROUND), np.uint8)) > 0


def train_hinted(job: StageJob, minutes: float | None) -> list[Path]:
    """Train on the samples that have hints, if there are enough, and save the model; where there
    are none at all, nobody needed their part of the `minutes`.
    """
    files = job.earlier["hints"]
    if not files:
        train = job.config.train.model_copy(update={"minutes": minutes})
        job.config = job.config.model_copy(update={"train": train})
    objective, source = job.objective(), hinted(job.source, files) if files else None
    job.fit(objective, source or job.source, job.held_out)
    return [job.save(objective)]


def _write(path: Path, chunk: Chunk, found: Sequence[tuple[int, Hint]], size: tuple) -> None:
    """See `make_hints`; whole or not at all."""
    shape, most = (len(found), *size), 2 * REACH
    depth = np.array([h.depth for _, h in found], np.float16).reshape(shape)
    sure = np.array([h.sure for _, h in found], bool).reshape(shape)
    frames = np.array([chunk.frames[i] for i, _ in found], np.int64)
    around = np.full((len(found), most), -1, np.int64)
    T = np.zeros((len(found), most, 4, 4), np.float32)
    for row, (_, h) in enumerate(found):
        around[row, : len(h.around)] = [chunk.frames[j] for j in h.around]
        T[row, : len(h.T)] = h.T
    partial = path.with_name(f".{path.name}.partial.npz")
    np.savez_compressed(
        partial, video=chunk.video, frames=frames, depth=depth, sure=np.packbits(sure, axis=-1),
        around=around, T=T, share=sure.mean((1, 2)) if found else np.zeros(0),
    )  # fmt: skip
    os.replace(partial, path)


def stages(config: Any) -> tuple[StageInfo, ...]:
    """Hints before the training, where they are wanted and the cameras are known."""
    own = config.objective
    if own.hints == 0 or own.foreground != "none" or config.data.intrinsics != "given":
        return foreground_stages(config)
    train = functools.partial(train_hinted, minutes=config.train.minutes)
    return (
        StageInfo("hints", 1.0, make_hints, minutes=SHARE, off="objective.hints=0"),
        StageInfo("train", 1.0, train, minutes=1 - SHARE),
    )
