"""What stages hand on: arrays per target, compressed one by one in files of a few targets each, and
columns `o_...` with a row per object.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.methods.stage import StageJob

BLOCK = 32  # targets per file
KEPT_MB = 512  # of arrays that stay in memory, those used last
COLUMN = "o_"  # begins the name of what has a row per object


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
            np.savez_compressed(partial, **_members(work(source, block)))
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


def _members(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a file of these arrays holds: what is asked for at a time is one target."""
    found = {}
    for key, values in arrays.items():
        if key.startswith(COLUMN):
            found[key] = values
        else:
            found |= {f"{key}.{row}": value for row, value in enumerate(values)}
    return found


def read_column(path: Path, key: str) -> np.ndarray:
    """A column `o_...` of a file, or an array with all its targets as rows."""
    with np.load(path, allow_pickle=False) as data:
        if key in data.files:
            return data[key]
        rows = sum(name.rpartition(".")[0] == key for name in data.files)
        return np.stack([data[f"{key}.{row}"] for row in range(rows)])


class Cache:
    """Reads what `make_blocks` made."""

    def __init__(self, paths: Sequence[Path], source: SampleSource, part: str) -> None:
        of_name = {p.stem: p for p in paths}
        self.blocks = blocks(source, part)
        self._paths = {b.name: of_name[b.name] for b in self.blocks}
        self._place = {t: (b, row) for b in self.blocks for row, t in enumerate(b.targets)}
        self._kept: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
        self._bytes = 0

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """The columns `o_...` of a block."""
        with np.load(self._paths[name], allow_pickle=False) as data:
            return {key: data[key] for key in data.files if key.startswith(COLUMN)}

    def table(self) -> dict[str, np.ndarray]:
        """The columns `o_...` of all blocks, without that prefix, a row per object; and target."""
        columns: dict[str, list[np.ndarray]] = {"target": []}
        for block in self.blocks:
            for key, values in self.columns(block.name).items():
                columns.setdefault(key.removeprefix(COLUMN), []).append(values)
            targets = np.array(block.targets, np.int64)
            columns["target"].append(targets[columns["row"][-1]])
        return {key: np.concatenate(parts) for key, parts in columns.items()}

    def of(self, target: int, *keys: str) -> list[np.ndarray]:
        """Arrays of a target."""
        block, row = self._place[target]
        members = [f"{key}.{row}" for key in keys]
        if absent := [m for m in members if (block.name, m) not in self._kept]:
            path = self._paths[block.name]
            with np.load(path, allow_pickle=False) as data:
                if not set(absent) <= set(data.files):
                    raise ValueError(
                        f"{path}: made by another version of dyndepth; train into a new folder"
                    )
                for member in absent:
                    self._kept[block.name, member] = found = data[member]
                    self._bytes += found.nbytes
        arrays = [self._kept[block.name, m] for m in members]
        for member in members:
            self._kept.move_to_end((block.name, member))
        while len(self._kept) > len(members) and self._bytes > KEPT_MB * 1e6:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return arrays
