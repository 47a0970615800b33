"""`dyndepth synth`: render the synthetic driving world to recordings with ground truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1  # of the clips, none where there are too few of them


def command(
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Root folder of the recordings: a new one, or that of this same command."
        ),
    ],
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
    camera: Annotated[
        str,
        typer.Option(
            "--camera",
            help="car: each clip its own; hand: carried by somebody who walks at 1.4 m/s; vehicle: "
            "one camera for all clips of a seed, whose lens, height and colours no car has.",
        ),
    ] = "car",
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

    from dyndepth_core.data.synthetic.dataset import render_dataset
    from dyndepth_core.data.synthetic.world import CAMERAS

    height, width = parse_size(size)
    if split not in ("auto", "train", "val", "test"):
        raise ValueError(f"--split {split!r}: choose auto, train, val or test")
    if camera not in CAMERAS:
        raise ValueError(f"--camera {camera!r}: choose one of {', '.join(CAMERAS)}")
    columns = (
        TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        task = progress.add_task("", total=clips)
        render_dataset(
            out, seed, _shares(clips, split), frames, (height, width), workers,
            lambda n: progress.advance(task, n), camera,
        )  # fmt: skip
    Console().print(
        f"{clips} clips of {frames} frames at {height}x{width} in {out}", highlight=False
    )


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from `HxW`; ValueError that shows the form."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text.strip())
    if not match:
        raise ValueError(f"--size {text!r}: give height x width in pixels, e.g. 128x416")
    return int(match[1]), int(match[2])


def _shares(count: int, split: str) -> dict[str, int]:
    """Number of clips per split."""
    if split != "auto":
        return {s: count if s == split else 0 for s in ("train", "val", "test")}
    val = max(1, int(count * VALIDATION_SHARE)) if count >= 3 else 0
    test = max(1, int(count * TEST_SHARE)) if count >= 5 else 0
    return {"train": count - val - test, "val": val, "test": test}
