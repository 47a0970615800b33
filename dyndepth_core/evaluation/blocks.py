"""Blocks of time on which models can be compared: none of them was trained on these frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dyndepth_core.data.chain import bag_hashes, recording_hash
from dyndepth_core.data.recording import Recording, open_recordings
from dyndepth_core.data.rectify import lens_of
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.data.writer import manifest_hash
from dyndepth_core.evaluation.runner import name_clips
from dyndepth_core.inference.lineage import sources
from dyndepth_core.inference.model_meta import ModelMeta
from dyndepth_core.training.source import split_recordings

RATE_HZ = 10.0  # at which frames are taken, as trainings do
FRAMES, LEAST = 60, 3  # of a block, at most; at least
BLOCKS = 30  # at most; of more, some, spread evenly


@dataclass(frozen=True)
class Block:
    """Frames of a recording, as they are given to the models one after the other."""

    name: str
    recording: Recording
    frames: tuple[int, ...]

    @property
    def stamps_ns(self) -> np.ndarray:
        """(N,) of its frames."""
        return self.recording.stamps_ns[list(self.frames)]

    def reader(self) -> tuple[Callable[[int], np.ndarray], np.ndarray | None]:
        """(image n of the block, free of lens distortion; K (3, 3) of it, None unknown)."""
        lens = lens_of(self.recording.calib)

        def read(n: int) -> np.ndarray:
            image = self.recording.image(self.frames[n])
            return lens.image(image) if lens else image

        return read, (lens.calib if lens else self.recording.calib).K


def unseen_blocks(
    data: str | Path, recordings: Sequence[Recording], metas: Mapping[str, ModelMeta]
) -> tuple[list[Block], list[str]]:
    """(blocks of frames that no model was trained on, what is to be said about that).

    By what the model files say of themselves and their forebears: spans of time of recordings known
    by their SHA-256, or by that of the bags they come from. A file of an older version knows only
    the SHA-256 of its whole data set: where that is `data`, the frames it held out are told as its
    training did. Raises ValueError where nothing is left.
    """
    notes, blocks = [], []
    seen = _Seen(data, metas, notes)
    count: Counter[str] = Counter()
    for clip, recording in name_clips(recordings).items():
        free = np.ones(len(recording), bool)
        for name, trained in seen.trained(recording).items():
            count[name] += int(trained.sum())
            free &= ~trained
        blocks += _cut(clip, recording, np.flatnonzero(free))
    notes += [
        f"{n} was trained on {k} of these frames, which are left out" for n, k in count.items()
    ]
    if not blocks:
        raise ValueError(
            f"{data}: the models were trained on all of it, so it cannot tell which is better; "
            "give another drive, or longer recordings, whose ends trainings hold out"
        )
    if not count:
        notes.append("no model was trained on any of this data, as far as the model files say")
    elif sum(len(b.frames) for b in blocks) < 5 * FRAMES:
        notes.append("what is held out of a short drive says little: another drive says more")
    if len(blocks) > BLOCKS:
        chosen = np.linspace(0, len(blocks) - 1, BLOCKS).round().astype(int)
        notes.append(f"{BLOCKS} of {len(blocks)} blocks are looked at, spread evenly")
        blocks = [blocks[k] for k in chosen]
    return blocks, list(dict.fromkeys(notes))


def _cut(name: str, recording: Recording, free: np.ndarray) -> list[Block]:
    """Blocks of a recording of this name, of at most FRAMES frames at about RATE_HZ, none across
    frames that are not free.
    """
    if not len(free):
        return []
    steps = np.diff(recording.stamps_ns)
    period = float(np.median(steps[steps > 0])) / 1e9 if (steps > 0).any() else 1 / RATE_HZ
    stride = max(1, round(1 / RATE_HZ / period))
    found = []
    for run in np.split(free, np.flatnonzero(np.diff(free) != 1) + 1):
        run = run[::stride]
        pieces = max(1, -(-len(run) // FRAMES))
        found += [p for p in np.array_split(run, pieces) if len(p) >= LEAST]
    return [
        Block(f"{name}#{p[0]}" if len(found) > 1 else name, recording, tuple(map(int, p)))
        for p in found
    ]


class _Seen:
    """What the models were trained on, as far as their files say."""

    def __init__(self, data: str | Path, metas: Mapping[str, ModelMeta], notes: list[str]) -> None:
        self._known: dict[str, list[dict[str, Any]]] = {}
        self._older: dict[str, dict[tuple[Path, int], np.ndarray]] = {}
        whole, silent = None, []
        for name, meta in metas.items():
            records = list(sources(meta))
            self._known[name] = [
                {**r, "bags": _bag_files(source, r["name"])}
                for source in records
                for r in source["recordings"]
            ]
            if records or not meta.provenance.dataset_manifest:
                continue
            whole = whole or manifest_hash(data)
            if whole in meta.provenance.dataset_manifest.split():
                self._older[name] = _held_out(data, meta)
            else:
                silent.append(name)
        if silent:
            notes.append(
                f"{', '.join(silent)}: of an older version, which lists no recordings; all that is "
                "known is that its data set as a whole was another, by its SHA-256"
            )

    def trained(self, recording: Recording) -> dict[str, np.ndarray]:
        """Frames, bool (N,), of a recording that each model was trained on; models that were on
        none are absent.
        """
        stamps = recording.stamps_ns
        found: dict[str, np.ndarray] = {}
        own: tuple[str, set[str]] | None = None
        for name, records in self._known.items():
            for record in records:
                inside = np.zeros(len(stamps), bool)
                for first, last in record["trained"]:
                    inside |= (stamps >= first) & (stamps <= last)
                if not inside.any():
                    continue
                if own is None:  # read a whole recording only where its time makes it likely
                    own = recording_hash(recording), bag_hashes(recording)
                if record["sha256"] == own[0] or record["bags"] & own[1]:
                    found[name] = found.get(name, False) | inside
        for name, held_out in self._older.items():
            free = held_out.get(recording.path.resolve(), np.zeros(0, np.int64))
            if not (kept := np.isin(stamps, free)).all():
                found[name] = ~kept
        return found


def _bag_files(source: dict[str, Any], recording: str) -> set[str]:
    bags = source.get("bags") or ()
    return {sha for bag in bags if recording in bag["recordings"] for sha in bag["files"].values()}


def _held_out(data: str | Path, meta: ModelMeta) -> dict[Path, np.ndarray]:
    """Stamps of the frames a training on `data` held out, by recording; also a test split's."""
    try:
        config = DataConfig(**meta.provenance.config.get("data", {}))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the settings in a file of {meta.method} that say what it held out are unusable "
            f"({error}): train anew"
        ) from error
    parts = list(split_recordings([data], config)[1])
    if (Path(data) / "splits" / "test.txt").exists():
        parts += open_recordings(data, "test")
    stamps: dict[Path, list[np.ndarray]] = {}
    for part in parts:
        stamps.setdefault(part.path.resolve(), []).append(part.stamps_ns)
    return {path: np.concatenate(found) for path, found in stamps.items()}
