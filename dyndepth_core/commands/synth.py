"""`dyndepth synth`: render the synthetic driving world to recordings with ground truth."""

from __future__ import annotations

import multiprocessing
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import typer

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1  # of the clips, none where there are too few of them


def command(
    out: Annotated[Path, typer.Option("--out", help="Root folder of the recordings; must be new.")],
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Which worlds; (seed, clip) is one street.")
    ] = 0,
    clips: Annotated[
        int, typer.Option("--clips", min=1, help="Number of clips, each its own world.")
    ] = 8,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Frames per clip, at 10 Hz.")] = 40,
    size: Annotated[
        str, typer.Option("--size", help="Image height x width in pixels.")
    ] = "128x416",
    split: Annotated[
        str,
        typer.Option(
            "--split", help="train, val or test puts all clips there; auto: 80, 10 and 10 %."
        ),
    ] = "auto",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Rendering processes.")] = 2,
) -> None:
    """Render clips of the synthetic driving world: images, calibration, stamps and exact ground
    truth.

    The same seed gives the same bytes on the same machine. Clips that are there already are kept,
    so an interrupted command can be given again.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from dyndepth_core.data.writer import write_manifest, write_splits

    height, width = parse_size(size)
    if split not in ("auto", "train", "val", "test"):
        raise ValueError(f"--split {split!r}: choose auto, train, val or test")
    info = {
        "tool": "dyndepth synth",
        "seed": seed,
        "clips": clips,
        "frames": frames,
        "size": [height, width],
    }
    names = [f"synth_{seed:03d}_{clip:03d}" for clip in range(clips)]
    _check_root(out, names)
    todo = [
        (out, name, seed, clip, frames, height, width)
        for clip, name in enumerate(names)
        if not (out / name).is_dir()
    ]
    out.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        task = progress.add_task("", total=clips, completed=clips - len(todo))
        for _ in _render_all(todo, workers):
            progress.advance(task)
    write_splits(out, _splits(names, split))
    write_manifest(out, info)
    Console().print(
        f"{clips} clips of {frames} frames at {height}x{width} in {out}", highlight=False
    )


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from `HxW`; ValueError that shows the form."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text.strip())
    if not match:
        raise ValueError(f"--size {text!r}: give height x width in pixels, e.g. 128x416")
    return int(match[1]), int(match[2])


def _check_root(out: Path, names: list[str]) -> None:
    """Refuse a folder that holds anything but clips of this very command."""
    known = {*names, "splits", "manifest.json"} | {f".{n}.part" for n in names}
    strange = sorted(p.name for p in out.iterdir() if p.name not in known) if out.is_dir() else []
    if strange:
        raise ValueError(
            f"{out} holds other things ({', '.join(strange[:3])}): give a new folder with --out"
        )


def _splits(names: list[str], split: str) -> dict[str, list[str]]:
    if split != "auto":
        return {s: names if s == split else [] for s in ("train", "val", "test")}
    count = len(names)
    val = max(1, int(count * VALIDATION_SHARE)) if count >= 3 else 0
    test = max(1, int(count * TEST_SHARE)) if count >= 5 else 0
    end = count - val - test
    return {"train": names[:end], "val": names[end : end + val], "test": names[end + val :]}


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

    from dyndepth_core.data.synthetic import World, write_clip

    cv2.setNumThreads(1)
    out, name, seed, clip, frames, height, width = job
    partial = out / f".{name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    write_clip(partial, World(seed, clip, (height, width), frames))
    partial.rename(out / name)
    return name
