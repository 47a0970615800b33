"""`dyndepth export`: a model file for the vehicle."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Format(str, Enum):
    """File formats a model can be written in."""

    safetensors = "safetensors"


class Weights(str, Enum):
    """Number formats of the weights in the file."""

    float16 = "float16"
    float32 = "float32"
    mixed = "mixed"


def command(
    model: Annotated[Path, typer.Option(help="Model file, or the folder of a run.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    format: Annotated[
        Format, typer.Option(help="safetensors: this package's own model file.")
    ] = Format.safetensors,
    weights: Annotated[
        Weights,
        typer.Option(
            help="float16 halves the file; mixed also stores in 8 bits what only motion needs. It "
            "is computed with as ever."
        ),
    ] = Weights.float16,
    depth_only: Annotated[
        bool, typer.Option("--depth-only", help="Leave out the networks that only motion needs.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(help="Largest relative change of depth that is accepted.", min=0)
    ] = 0.02,
) -> None:
    """Write a trained model smaller, for the vehicle. The new file's depth is compared with the old
    one's before it is kept.
    """
    from dyndepth_core.inference.export import export_model
    from dyndepth_core.inference.model_file import find_model

    model = find_model(model)
    change = export_model(model, out, weights.value, depth_only, tolerance)
    before, after = model.stat().st_size, out.stat().st_size
    if after >= before:
        typer.echo(f"{out} is not smaller: {model} holds nothing that could be left out")
    typer.echo(
        f"{out}  {after / 1e6:.1f} MB (was {before / 1e6:.1f} MB), "
        f"largest change of depth {change:.2%}"
    )
