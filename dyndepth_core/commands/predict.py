"""`dyndepth predict`: depth of every frame of a video, image folder, recording or bag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyndepth_core.commands.output import check_json, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from dyndepth_core.inference.batch import BatchOptions
    from dyndepth_core.inference.predictor import Predictor
    from dyndepth_core.inference.sources import FrameSource


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="Video file, folder of images, recording, root of them, or bag."
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the results.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Model file, run, depth or motion (the bundled ones). Default: motion."),
    ] = None,
    file_format: Annotated[
        str,
        typer.Option(
            "--format", help="png (16 bit, metres x 256, 0 = none) or npz (float32 metres, NaN)."
        ),
    ] = "png",
    size: Annotated[
        str, typer.Option(help="Depth pixel for pixel of the input, or at the size of the model.")
    ] = "input",
    max_range: Annotated[
        float | None,
        typer.Option(
            help="Metres: farther depth is left out, and the colours end there. Default: all is "
            "kept, colours end at 80 m (without metric scale: where the first frame does)."
        ),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second of the video; default: as the input.")
    ] = None,
    video: Annotated[bool, typer.Option(help="Write a video of input and depth.")] = True,
    assumed_scale: Annotated[
        float, typer.Option(help="Metres per unit of depth, for a model without metric scale.")
    ] = 1.0,
    image_topic: Annotated[
        str | None, typer.Option(help="Camera of a bag; needed only where it has several.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the summary to this file as well.")
    ] = None,
) -> None:
    """Turn camera images into depth: one file a frame, and a video of input and depth.

    The camera is read from calib.json (VIDEO.calib.json beside a video, camera_info in a bag).
    Where it is unknown the model's own focal length is assumed: shapes are right, distances only up
    to one factor. Writes OUT/depth/, OUT/color.mp4, OUT/calib.json (the camera of the depth images)
    and OUT/summary.json; a root of several recordings gets one such folder for each. A model with
    object motion also gives OUT/velocity/ (npz, relative to the ground), OUT/dynamic/ (masks),
    OUT/instances/ (ids), OUT/objects.csv and OUT/motion.mp4.
    """
    check_json(json_file)
    from rich.console import Console

    from dyndepth_core.inference.batch import BatchOptions, notes
    from dyndepth_core.inference.predictor import Predictor
    from dyndepth_core.inference.sources import open_sources

    console = Console()
    options = BatchOptions(file_format, size, max_range, fps, video)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: not an empty folder; give a new one for the results")
    sources = open_sources(source, image_topic)
    if model is None:
        console.print("no --model given: the bundled model runs; it knows a synthetic world only")
    predictor = Predictor(model, device=device, assumed_scale=assumed_scale)
    for note in dict.fromkeys(note for one in sources for note in notes(one, predictor)):
        console.print(f"[yellow]note:[/yellow] {note}", soft_wrap=True)
    summaries = _predict_all(sources, predictor, out, options, console)
    write_json(json_file, summaries[0] if len(summaries) == 1 else {"sources": summaries})


def _predict_all(
    sources: list[FrameSource],
    predictor: Predictor,
    out: Path,
    options: BatchOptions,
    console: Console,
) -> list[dict]:
    """Predict every source, each into its own folder where there are several."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from dyndepth_core.inference.batch import predict_source

    summaries = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        for source in sources:
            task = progress.add_task(source.name, total=source.count)
            folder = out if len(sources) == 1 else out / source.name
            summary = predict_source(
                source, predictor, folder, options, lambda task=task: progress.advance(task)
            )
            summaries.append(summary)
            text = f"{source.name}: depth of {summary['frames']} frames"
            if summary["damaged"]:
                text += f" ({summary['damaged']} damaged ones left out)"
            milliseconds = summary["milliseconds"]["network"]["p50"]
            text += f" in {folder / 'depth'}, network {milliseconds:.1f} ms a frame"
            if summary["video"]:
                text += f"; look at {folder / summary['video']}"
            console.print(text, soft_wrap=True, highlight=False)
            if motion := summary["motion"]:
                text = f"{source.name}: {motion['objects']} moving objects"
                if motion["video"]:
                    text += f"; look at {folder / motion['video']}"
                text += f", speeds in {motion['speed_unit']}"
                console.print(text, soft_wrap=True, highlight=False)
            if summary["empty"]:
                console.print(
                    f"[yellow]warning:[/yellow] no pixel of {source.name} has a depth: look at its "
                    "focal length (calib.json), at --max-range and at the model",
                    soft_wrap=True,
                )
    return summaries
