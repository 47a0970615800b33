"""What stages hand on: arrays per target, in compressed files of a few targets each."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.methods.stage import StageJob

BLOCK = 32  # targets per file: what is read to get at one of them
KEPT_MB = 512  # of blocks that stay in memory, those used last


@dataclass(frozen=True)
class Block:
    """Consecutive targets of one recording; part: training or held_out."""

    part: str
    video: int
    number: int
    targets: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of its file, without suffix."""
        return f"{self.part}_{self.video:04d}_{self.number:03d}"


def blocks(source: SampleSource, part: str) -> list[Block]:
    """All targets of a source; part: training or held_out."""
    found, of_video = [], {}
    for target, (video, *_) in enumerate(source.targets):
        of_video.setdefault(video, []).append(target)
    for video, targets in of_video.items():
        for k in range(0, len(targets), BLOCK):
            found.append(Block(part, video, k // BLOCK, tuple(targets[k : k + BLOCK])))
    return found


def make_blocks(
    job: StageJob,
    what: str,
    work: Callable[[SampleSource, Block], dict[str, np.ndarray]],
) -> list[Path]:
    """Files of all blocks of training and held-out samples, made where they are not there yet.

    work(source, block) -> arrays; `source` augments nothing. Reports their size per 1,000 targets.
    """
    todo = [(job.source.plain(), b) for b in blocks(job.source, "training")]
    if job.held_out is not None:
        todo += [(job.held_out.plain(), b) for b in blocks(job.held_out, "held_out")]
    paths = []
    for source, block in job.track(todo, what):
        path = job.folder / f"{block.name}.npz"
        if not path.exists():
            partial = job.folder / f".{block.name}.partial.npz"
            np.savez_compressed(partial, **work(source, block))
            os.replace(partial, path)
        paths.append(path)
    count = sum(len(b.targets) for _, b in todo)
    size = sum(p.stat().st_size for p in paths)
    job.report({"cache_mb_per_1000_targets": round(size / 1e3 / max(count, 1), 3)})
    return paths


def caches(job: StageJob, stage: str) -> dict[str, Cache]:
    """What a stage made of the training samples and of those that are held out, by part."""
    parts = {"training": job.source, "held_out": job.held_out}
    paths = job.earlier[stage]
    return {
        part: Cache(paths, source, part) for part, source in parts.items() if source is not None
    }


class Cache:
    """Reads what `make_blocks` made: arrays of a block, or rows of a target."""

    def __init__(self, paths: Sequence[Path], source: SampleSource, part: str) -> None:
        of_name = {p.stem: p for p in paths}
        self.blocks = blocks(source, part)
        self._paths = {b.name: of_name[b.name] for b in self.blocks}
        self._place = {t: (b, row) for b in self.blocks for row, t in enumerate(b.targets)}
        self._kept: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()

    def block(self, name: str) -> dict[str, np.ndarray]:
        """All arrays of a block."""
        if name not in self._kept:
            with np.load(self._paths[name], allow_pickle=False) as data:
                self._kept[name] = {key: data[key] for key in data.files}
            while len(self._kept) > 1 and self._bytes() > KEPT_MB * 1e6:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]

    def _bytes(self) -> int:
        return sum(a.nbytes for arrays in self._kept.values() for a in arrays.values())

    def table(self) -> dict[str, np.ndarray]:
        """The columns `o_...` of all blocks, without that prefix, a row per object; and target."""
        columns: dict[str, list[np.ndarray]] = {"target": []}
        for block in self.blocks:
            with np.load(self._paths[block.name], allow_pickle=False) as data:
                for key in (k for k in data.files if k.startswith("o_")):
                    columns.setdefault(key[2:], []).append(data[key])
            targets = np.array(block.targets, np.int64)
            columns["target"].append(targets[columns["row"][-1]])
        return {key: np.concatenate(parts) for key, parts in columns.items()}

    def of(self, target: int, *keys: str) -> list[np.ndarray]:
        """Rows of a target in arrays that have one row per target."""
        block, row = self._place[target]
        arrays = self.block(block.name)
        return [arrays[key][row] for key in keys]
