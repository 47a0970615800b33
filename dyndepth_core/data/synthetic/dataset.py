"""A root of rendered clips with splits and a manifest, by several processes, resumable."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from ..writer import write_manifest, write_splits
from .world import World
from .write import write_clip


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
) -> None:
    """Render clips (seed, 0), (seed, 1), ... of `frames` frames at size (H, W) into a root.

    splits: number of clips per split, in order. Clips that are there already are kept, so that an
    interrupted call can be given again; advance(n) is called when n more clips are there. Raises
    ValueError when the folder holds anything else.
    """
    names = clip_names(seed, sum(splits.values()))
    _check_root(out, names)
    todo = [
        (out, name, seed, clip, frames, *size)
        for clip, name in enumerate(names)
        if not (out / name).is_dir()
    ]
    out.mkdir(parents=True, exist_ok=True)
    advance(len(names) - len(todo))
    for _ in _render_all(todo, workers):
        advance(1)
    first, lines = 0, {}
    for split, count in splits.items():
        lines[split] = names[first : first + count]
        first += count
    write_splits(out, lines)
    write_manifest(
        out,
        {
            "tool": "dyndepth synth",
            "seed": seed,
            "clips": len(names),
            "frames": frames,
            "size": list(size),
        },
    )


def _check_root(out: Path, names: list[str]) -> None:
    """Refuse a folder that holds anything but clips of this very command."""
    known = {*names, "splits", "manifest.json"} | {f".{n}.part" for n in names}
    strange = sorted(p.name for p in out.iterdir() if p.name not in known) if out.is_dir() else []
    if strange:
        raise ValueError(
            f"{out} holds other things ({', '.join(strange[:3])}): give a new folder with --out"
        )


def _render_all(todo: list[tuple], workers: int) -> Iterator[str]:
    if workers == 1 or len(todo) < 2:
        yield from map(_render, todo)
        return
    # spawn: forking a process that has threads (BLAS, OpenCV) can deadlock
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context) as pool:
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
    out, name, seed, clip, frames, height, width = job
    partial = out / f".{name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    write_clip(partial, World(seed, clip, (height, width), frames))
    partial.rename(out / name)
    return name
