"""What one process works on, one camera of one bag: found beforehand, collected on its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2

from dyndepth_core.data.bag import Bag, bag_name
from dyndepth_core.data.bag_topics import camera_name, choose_image_topics
from dyndepth_core.data.chain import hash_file, read_object
from dyndepth_core.data.collect import CheckpointError, collect_bag, estimate
from dyndepth_core.data.collect_options import CollectOptions, CollectReport
from dyndepth_core.data.writer import replace_file


@dataclass(frozen=True)
class Unit:
    """One camera of one bag: what one process works on.

    order: of the bag in the command; frames: messages of the topic; needed: (frames, bytes) that
    will be written, as far as its first frames tell.
    """

    name: str
    order: int
    path: Path
    topic: str
    frames: int
    needed: tuple[int, int]


@dataclass
class Plan:
    """What is to be done, and the bags of which nothing can be used, as entries with an error."""

    units: list[Unit] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)


def plan(bags: Sequence[Path], options: CollectOptions, mine: Sequence[int]) -> Plan:
    """Look into the bags of the indices `mine`; the names of recordings are the same in every
    shard.
    """
    found, names, taken = Plan(), _names(bags), set()
    for order in mine:
        path = bags[order]
        try:
            with Bag(path) as bag:
                topics = choose_image_topics(bag, options.image_topic)
                shown = [t.name for t in topics]
                for topic in topics:
                    name = names[order]
                    if options.image_topic and ("," in options.image_topic or len(topics) > 1):
                        name += f"_{camera_name(topic.name, shown)}"
                    if name in taken:
                        raise ValueError(
                            f"{path}: recordings {name} of another bag have the same name; rename "
                            "one of the bags"
                        )
                    taken.add(name)
                    own = replace(options, image_topic=topic.name)
                    needed = estimate(bag, topic, own)
                    found.units.append(Unit(name, order, path, topic.name, topic.count, needed))
        except (ValueError, OSError) as error:
            found.bad.append(empty_entry(names[order], order, path, str(error)))
    return found


def _names(bags: Sequence[Path]) -> list[str]:
    names: list[str] = []
    for path in bags:
        name, number = bag_name(path), 1
        while (candidate := name if number == 1 else f"{name}-{number}") in names:
            number += 1
        names.append(candidate)
    return names


def empty_entry(name: str, order: int, path: Path, error: str | None = None) -> dict[str, Any]:
    """What the manifest says of a camera of which nothing was collected yet."""
    empty = CollectReport().as_dict()
    return {
        "name": name,
        "order": order,
        "path": str(path),
        "error": error,
        "bag_files": {},
    } | empty


@dataclass(frozen=True)
class Work:
    """A unit and how to collect it; out and journal None: a dry run."""

    unit: Unit
    out: Path | None
    journal: Path | None
    options: CollectOptions
    threads: int
    on_frame: Callable[[Unit], None] | None


def collect_unit(work: Work) -> dict[str, Any]:
    """The entry of a unit: collected now, or in an earlier run."""
    cv2.setNumThreads(1)  # the frames of a unit are spread over threads already
    unit, journal = work.unit, work.journal
    entry = empty_entry(unit.name, unit.order, unit.path)
    done = None if journal is None else journal / f"{unit.name}.done.json"
    if done is not None and done.is_file():
        return read_object(done, "delete it to collect this bag anew", entry)
    report = CollectReport()
    stopped = None if journal is None else journal / f"{unit.name}.stopped.json"
    if stopped is not None:
        stopped.unlink(missing_ok=True)
    checkpoint = None if journal is None else journal / f"{unit.name}.json"
    options = replace(work.options, image_topic=unit.topic)

    def on_frame() -> None:
        if work.on_frame is not None:
            work.on_frame(unit)

    try:
        with Bag(unit.path) as bag:
            collect_bag(
                bag, work.out, unit.name, options, report, on_frame,
                threads=work.threads, checkpoint=checkpoint,
            )  # fmt: skip
            entry["bag_files"] = {file.name: sha256(file) for file in bag.files}
    except (ValueError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        if work.out is not None and is_below(error, work.out):
            _remember(stopped, entry | report.as_dict())
            raise  # no other bag could be written either
        entry["error"] = str(error)
    except BaseException:  # Ctrl-C
        _remember(stopped, entry | report.as_dict())
        raise
    entry |= report.as_dict()
    if done is not None and not entry["error"]:
        replace_file(done, json.dumps(entry).encode())
    return entry


def _remember(stopped: Path | None, entry: dict[str, Any]) -> None:
    """How far a unit came, for a manifest of what is there."""
    if stopped is not None:
        with suppress(OSError):  # the disk is full; the checkpoint before says it roughly
            replace_file(stopped, json.dumps(entry).encode())


def is_below(error: Exception, out: Path) -> bool:
    """Whether an error is one of writing below a folder."""
    name = getattr(error, "filename", None)
    return isinstance(name, str) and Path(name).absolute().is_relative_to(out.absolute())


def sha256(path: Path) -> str:
    """SHA-256 of a file of any size."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    """Once per file, however many cameras are in it."""
    return hash_file(path)
