"""`dyndepth info`: what is in a model file and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dyndepth_core.commands.output import STDOUT, check_json, write_json

WEIGHTS = ("F32", "F16", "BF16", "I8")


def command(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Model file, depth or motion (bundled), or the folder of a run. Default: motion."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write it all to this file; - is stdout.")
    ] = None,
) -> None:
    """Say what a model file holds: method, network, camera, scale, licence, and how it was
    trained.
    """
    check_json(json_file)
    from dyndepth_core.inference.model_file import find_model

    content = describe(find_model(model))
    write_json(json_file, content)
    if json_file != STDOUT:
        _show(content)


def describe(path: Path) -> dict[str, Any]:
    """Everything about a model file as plain data: its metadata, weights by kind, size and SHA-256.

    Raises FileNotFoundError or ValueError as `load_model`.
    """
    import hashlib

    from dyndepth_core.inference.model_file import read_meta

    meta = read_meta(path)
    data = path.read_bytes()
    tensors = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors.pop("__metadata__", None)
    count = {}
    for entry in tensors.values():
        size = 1
        for side in entry["shape"]:
            size *= side
        count[entry["dtype"]] = count.get(entry["dtype"], 0) + size
    return {
        "file": str(path),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "parameters": sum(
            n for kind, n in count.items() if kind in WEIGHTS
        ),  # counters are no parameters
        "parameters_by_type": count,
        **meta.model_dump(mode="json"),
    }


def _show(content: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    kinds = ", ".join(
        f"{n / 1e6:.2f} M {k}" for k, n in content["parameters_by_type"].items() if k in WEIGHTS
    )
    near, far = content["depth_range"]
    scale = content["scale"]
    height, width = content["input_size"]
    rows = {
        "file": f"{content['file']} ({content['bytes'] / 1e6:.1f} MB)",
        "sha256": content["sha256"],
        "method": content["method"],
        "network": _pairs({k: v for k, v in content["architecture"].items() if k != "method"}),
        "weights": kinds,
        "input": f"{height} x {width} pixels (height x width)",
        "canonical focal": f"{content['canonical_focal']:.2f} pixels at that size",
        "depth range": f"{near:g} to {far:g} at that focal length",
        "scale": _scale(scale),
        "thresholds": _pairs(content["thresholds"]) or "none",
        "licence": content["license"] or "not stated",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    provenance = dict(content["provenance"])
    config = provenance.pop("config", {}) or {}
    for name, value in provenance.items():
        table.add_row(
            f"trained: {name.replace('_', ' ')}",
            "not stated" if value in (None, "") else _plain(value),
        )
    for name, value in config.items():
        text = _pairs(value) if isinstance(value, dict) else _plain(value)
        table.add_row(f"config: {name}", text or "none")
    Console(highlight=False, markup=False).print(table)


def _scale(scale: dict[str, Any]) -> str:
    """State, who says so, and how far single frames scatter about it."""
    notes = [scale["source"].replace("_", " ")] if scale["source"] else []
    if scale["variance"] is not None:
        notes.append(f"standard deviation {100 * scale['variance'] ** 0.5:.1f} %")
    return scale["state"] + (f" ({', '.join(notes)})" if notes else "")


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(str, value)) + "]"
    return "null" if value is None else str(value)
