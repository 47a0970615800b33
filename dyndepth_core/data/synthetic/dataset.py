"""A root of rendered clips with splits and a manifest, by several processes, resumable."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ..writer import write_manifest, write_splits
from .world import World
from .write import write_clip

MANIFEST = "manifest.json"
MAX_SIDE = 4096  # pixels


def clip_names(seed: int, count: int) -> list[str]:
    """Names of the recordings of a seed."""
    return [f"synth_{seed:03d}_{clip:03d}" for clip in range(count)]


def render_dataset(
    out: Path,
    seed: int,
    splits: Mapping[str, int],
    frames: int,
    size: tuple[int, int],
    workers: int = 2,
    advance: Callable[[int], None] = lambda clips: None,
    walking: bool = False,
) -> None:
    """Render clips (seed, 0), (seed, 1), ... of `frames` frames at size (H, W) into a root.

    splits: number of clips per split, in order; walking: see World. Clips that are there already
    are kept, so that an interrupted call can be given again; advance(n) is called when n more clips
    are there. Raises ValueError when the folder holds anything else.
    """
    if min(size) < 16 or max(size) > MAX_SIDE:
        raise ValueError(f"size {size[0]}x{size[1]}: both sides must be 16 to {MAX_SIDE} pixels")
    names = clip_names(seed, sum(splits.values()))
    _check_root(out, names)
    todo = [
        (out, name, seed, clip, frames, *size, walking)
        for clip, name in enumerate(names)
        if not (out / name).is_dir()
    ]
    about = {
        "tool": "dyndepth synth", "seed": seed, "clips": len(names), "frames": frames,
        "size": list(size), "camera": "hand" if walking else "car",
    }  # fmt: skip
    _check_settings(out, about)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).write_text(json.dumps(about) + "\n")  # until it is complete
    advance(len(names) - len(todo))
    for _ in _render_all(todo, workers):
        advance(1)
    first, lines = 0, {}
    for split, count in splits.items():
        lines[split] = names[first : first + count]
        first += count
    write_splits(out, lines)
    write_manifest(out, about)


def _check_root(out: Path, names: list[str]) -> None:
    """Refuse a folder that holds anything but clips of this very command."""
    known = {*names, "splits", "manifest.json"} | {f".{n}.part" for n in names}
    strange = sorted(p.name for p in out.iterdir() if p.name not in known) if out.is_dir() else []
    if strange:
        raise ValueError(
            f"{out} holds other things, or clips of another seed ({', '.join(strange[:3])}): give "
            "a new folder with --out; a training takes several (--data A --data B)"
        )


def _check_settings(out: Path, about: Mapping[str, Any]) -> None:
    """Refuse to go on with clips that were rendered with other settings."""
    path = out / MANIFEST
    if not path.is_file():
        return
    try:
        old = json.loads(path.read_text())
        old.setdefault("camera", "car")
        changed = [k for k in ("seed", "frames", "size", "camera") if old[k] != about[k]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; give a new folder with --out") from error
    if changed:
        was = ", ".join(f"{k} {old[k]}" for k in changed)
        raise ValueError(f"{out} holds clips of {was}: give a new folder with --out")


def _die_quietly() -> None:
    """Ctrl-C reaches every process of the terminal; the first one says what there is to say."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def _render_all(todo: list[tuple], workers: int) -> Iterator[str]:
    if workers == 1 or len(todo) < 2:
        yield from map(_render, todo)
        return
    # spawn: forking a process that has threads (BLAS, OpenCV) can deadlock
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=context, initializer=_die_quietly
    ) as pool:
        jobs = [pool.submit(_render, job) for job in todo]
        try:
            for job in as_completed(jobs):
                yield job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _render(job: tuple) -> str:
    """Render one clip beside its final place and move it there whole."""
    import cv2

    cv2.setNumThreads(1)
    out, name, seed, clip, frames, height, width, walking = job
    partial = out / f".{name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    write_clip(partial, World(seed, clip, (height, width), frames, walking=walking))
    partial.rename(out / name)
    return name
