"""`dyndepth info`: what is in a model file and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dyndepth_core.commands.output import STDOUT, check_json, printable, write_json

NESTED = 8  # forebears, each beneath its child, before they stand side by side
SHOWN = 8  # recordings and bags of a data set that are printed; --json has them all
LONGEST = 2000  # characters of one value that are printed
WEIGHTS = ("F32", "F16", "BF16", "I8")


def command(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Model file, depth or motion (bundled), or the folder of a run. Default: motion."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Recordings: is this the data it was trained on? By SHA-256; exit code 1: not."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write it all to this file; - is stdout.")
    ] = None,
) -> None:
    """Say what a model file holds: method, network, camera, scale, licence, how it was trained,
    and the chain of SHA-256 from the model to its data sets, recordings, bags and the models it was
    begun with.
    """
    check_json(json_file)
    from dyndepth_core.inference.lineage import check_data
    from dyndepth_core.inference.model_file import find_model, read_meta

    path = find_model(model)
    content = describe(path)
    if data is not None:
        content["data_check"] = check_data(read_meta(path), data)
    write_json(json_file, content)
    if json_file != STDOUT:
        _show(content)
        _show_chain(content)
    if data is not None and not content["data_check"]["is_its_data"]:
        raise SystemExit(1)


def describe(path: Path) -> dict[str, Any]:
    """Everything about a model file as plain data: its metadata, weights by kind, size and SHA-256.

    Raises FileNotFoundError or ValueError as `load_model`.
    """
    import hashlib

    from dyndepth_core.inference.lineage import chain
    from dyndepth_core.inference.model_file import check_content, read_meta

    meta = read_meta(path)
    check_content(path)
    data = path.read_bytes()
    tensors = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors.pop("__metadata__", None)
    count = {}
    for entry in tensors.values():
        size = 1
        for side in entry["shape"]:
            size *= side
        count[entry["dtype"]] = count.get(entry["dtype"], 0) + size
    sha256 = hashlib.sha256(data).hexdigest()
    return {
        "file": str(path),
        "bytes": len(data),
        "sha256": sha256,
        "parameters": sum(
            n for kind, n in count.items() if kind in WEIGHTS
        ),  # counters are no parameters
        "parameters_by_type": count,
        **meta.model_dump(mode="json"),
        "chain": chain(path, sha256, meta),
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
        table.add_row(name, _short(value))
    provenance = dict(content["provenance"])
    config = provenance.pop("config", {}) or {}
    for name, value in provenance.items():
        if name in ("sources", "parent"):  # of the chain
            continue
        text = "not stated" if value in (None, "") else _plain(value)
        table.add_row(_short(f"trained: {name.replace('_', ' ')}"), _short(text))
    for name, value in config.items():
        text = _pairs(value) if isinstance(value, dict) else _plain(value)
        table.add_row(_short(f"config: {name}"), _short(text) or "none")
    Console(highlight=False, markup=False).print(table)


def _show_chain(content: dict[str, Any]) -> None:
    """The chain as a tree: the model, its data sets, their recordings and bags, its forebear."""
    from rich.console import Console
    from rich.tree import Tree

    tree = branch = None
    for level, link in enumerate(content["chain"]):
        text = f"{'model' if tree is None else 'fine-tuned from'} {_hash(link['sha256'])}"
        known = [str(link[k]) for k in ("name", "method", "date") if link.get(k)]
        text = ", ".join((text, *(known or ("of which nothing more is known",))))
        if tree is None:
            tree = branch = found = Tree(_short(text))
        else:  # each beneath the one that was made from it, while there is room
            found = branch.add(_short(text))
            branch = found if level < NESTED else branch
        _add_sources(found, link)
    Console(highlight=False, markup=False).print(tree)  # wraps long lines between its branches
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if "data_check" in content:
        console.print(printable(content["data_check"]["says"]))
        for name, says in content["data_check"]["recordings"].items():
            console.print(_short(f"  {name}: {says}"))


def _add_sources(branch: Any, link: dict[str, Any]) -> None:
    if link.get("exported_from"):
        branch = branch.add(_short(f"exported from model {_hash(link['exported_from'])}"))
    for source in link.get("sources") or ():
        recordings, bags = source["recordings"], source.get("bags") or []
        tool = f", by {source['tool']}" if source.get("tool") else ""
        changed = f", {source['changed']} files changed since" if source.get("changed") else ""
        at = branch.add(
            _short(f"data set {_hash(source['sha256'])}, {source['name']}{tool}{changed}")
        )
        for recording in recordings[:SHOWN]:
            at.add(_short(f"recording {_hash(recording['sha256'])}, {recording['name']}"))
        if len(recordings) > SHOWN:
            at.add(f"and {len(recordings) - SHOWN} recordings more: see --json")
        for bag in bags[:SHOWN]:
            node = at.add(_short(f"bag {bag['name']}"))
            for file, sha256 in bag["files"].items():
                node.add(_short(f"bag file {_hash(sha256)}, {file}"))
        if len(bags) > SHOWN:
            at.add(f"and {len(bags) - SHOWN} bags more: see --json")
        if not bags:
            at.add("no bag known: not of dyndepth collect")
    if not link.get("sources"):
        for name, sha256 in zip(
            link.get("data") or (), (link.get("dataset_manifest") or "").split(), strict=False
        ):
            branch.add(
                _short(f"data set {_hash(sha256)}, {name} (its recordings were not written down)")
            )


def _short(text: str) -> str:
    """For the terminal, whatever a file holds."""
    rest = len(text) - LONGEST
    return printable(text if rest <= 0 else f"{text[:LONGEST]}... ({rest} characters more: --json)")


def _hash(sha256: str) -> str:
    return sha256[:16]


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
