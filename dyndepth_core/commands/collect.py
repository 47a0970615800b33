"""`dyndepth collect`: bags become recordings to train on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyndepth_core.commands.output import check_json, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from dyndepth_core.data.collect import CollectOptions, CollectReport


def command(
    bags: Annotated[
        list[Path], typer.Argument(help="rosbag2 folders, .db3, .mcap or ROS 1 .bag files.")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the recordings.")],
    image_topic: Annotated[
        str | None, typer.Option(help="Camera topic; needed only where a bag has several cameras.")
    ] = None,
    camera_info_topic: Annotated[
        str | None, typer.Option(help="CameraInfo topic; default: the one beside the images.")
    ] = None,
    odom_topic: Annotated[
        str | None, typer.Option(help="Odometry topic; default: the bag's, if it has one.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Frames per second, by stamp; 0: all.")] = 10.0,
    size: Annotated[
        str | None,
        typer.Option(help="HxW to resize to, never stretched: rows are cropped; default: as is."),
    ] = None,
    max_gap: Annotated[
        float, typer.Option(help="Seconds without a frame after which a new sequence begins.")
    ] = 1.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the counts to this file.")
    ] = None,
) -> None:
    """Turn bags into recordings that `dyndepth train --data` takes.

    Images are rectified and resized with their intrinsics, odometry is interpolated at their
    stamps, a jump in the stamps begins a new sequence. Damaged bags give what can be read.
    `manifest.json` holds every file's SHA-256, the source bags and what was dropped and why. What
    is on disk is valid at any moment. A bag that cannot be used is named at the end, exit code 2.
    """
    check_json(json_file)
    from rich.console import Console

    from dyndepth_core.data.collect import CollectOptions

    options = CollectOptions(
        image_topic, camera_info_topic, odom_topic, rate, parse_size(size), max_gap
    )
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: not empty; give a new folder for the recordings")
    for path in bags:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such bag")
    console = Console()
    entries: list[dict] = []
    try:
        _collect(bags, out, options, entries, console)
    except BaseException as error:  # a full disk, Ctrl-C: what is there gets its manifest
        with suppress(OSError):  # on a full disk; the first error is the one to report
            _finish(out, options, entries, json_file, isinstance(error, KeyboardInterrupt))
        if not isinstance(error, KeyboardInterrupt):
            raise
        some = any(entry["kept"] for entry in entries)
        raise KeyboardInterrupt(
            "what was collected so far is complete and usable" if some else "nothing collected yet"
        ) from None
    _finish(out, options, entries, json_file, interrupted=False)
    bad = [entry for entry in entries if entry["error"]]
    if bad and len(bags) == 1:
        raise ValueError(bad[0]["error"])
    _show(console, out, entries)
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(bags)} bags could not be used ({', '.join(e['path'] for e in bad)}"
            "), see above for the reasons"
        )
    if not any(entry["kept"] for entry in entries):
        raise ValueError(f"{out}: no frame could be used, see above for the reasons")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(H, W) from "HxW"; ValueError names the form."""
    if text is None:
        return None
    try:
        height, width = (int(v) for v in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"--size {text}: give HxW in pixels, for example 192x640") from None
    return height, width


def _collect(
    bags: list[Path], out: Path, options: CollectOptions, entries: list[dict], console: Console
) -> None:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from dyndepth_core.cli import error_text
    from dyndepth_core.data.bag import Bag
    from dyndepth_core.data.collect import CollectReport

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        for path in bags:
            taken = {entry["name"] for entry in entries}
            entry = {"name": path.name, "path": str(path), "error": None, "bag_files": {}}
            entry.update(CollectReport().as_dict())
            entries.append(entry)
            try:
                with Bag(path) as bag:
                    entry["name"] = _unique(bag.name, taken)
                    _collect_one(bag, out, options, entry, progress)
            except (ValueError, OSError) as error:
                if _is_below(error, out):
                    raise  # no other bag could be written either
                entry["error"] = error_text(error)


def _collect_one(bag, out: Path, options: CollectOptions, entry: dict, progress: Progress) -> None:
    from dyndepth_core.data.bag_topics import choose_image_topic
    from dyndepth_core.data.collect import CollectReport, collect_bag

    total = choose_image_topic(bag, options.image_topic).count
    task = progress.add_task(entry["name"], total=total)
    report = CollectReport()
    try:
        collect_bag(
            bag, out, entry["name"], options, report, on_frame=lambda: progress.advance(task)
        )
        hashing = progress.add_task("SHA-256 of the bag", total=len(bag.files))
        for file in bag.files:
            entry["bag_files"][file.name] = sha256(file)
            progress.advance(hashing)
    finally:
        entry.update(report.as_dict())


def _is_below(error: Exception, out: Path) -> bool:
    """Whether an error is one of writing below a folder."""
    name = getattr(error, "filename", None)
    return isinstance(name, str) and Path(name).absolute().is_relative_to(out.absolute())


def sha256(path: Path) -> str:
    """SHA-256 of a file of any size."""
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _finish(
    out: Path,
    options: CollectOptions,
    entries: list[dict],
    json_file: Path | None,
    interrupted: bool,
) -> None:
    from dataclasses import asdict
    from importlib.metadata import PackageNotFoundError, version

    from dyndepth_core.data.writer import write_manifest

    try:
        tool = version("dyndepth")
    except PackageNotFoundError:
        tool = "not installed"
    info = {
        "tool": "dyndepth collect",
        "version": tool,
        "parameters": asdict(options),
        "interrupted": interrupted,
        "frames": sum(entry["kept"] for entry in entries),
        "bags": entries,
    }
    stopped = interrupted or any(entry["error"] for entry in entries)
    if info["frames"] or not stopped:  # a lone manifest would only be in the way of another try
        out.mkdir(parents=True, exist_ok=True)
        write_manifest(out, info)
    write_json(json_file, info)


def _show(console: Console, out: Path, entries: list[dict]) -> None:
    for e in entries:
        if e["error"]:
            console.print(f"{e['name']}: {e['error']}", style="red", soft_wrap=True)
            if not e["kept"]:
                continue
        console.print(
            f"{e['name']}: {e['image_topic']}, {e['frames_in']} frames, {e['kept']} kept in "
            f"{_count(e['sequences'], 'sequence')}, {e['with_odometry']} with odometry"
            + "".join(f"; left out {n} ({reason})" for reason, n in e["dropped"].items()),
            soft_wrap=True,
        )
    for e in entries:
        if e["problems"]:  # each was logged when it was met
            found = f"{_count(e['problems'], 'fault')} of the bag listed in manifest.json"
            console.print(f"{e['name']}: {found}", style="yellow", soft_wrap=True)
        if e["calibration"].startswith("unknown"):
            console.print(
                f"{e['name']}: intrinsics {e['calibration']}; train with --intrinsics video",
                style="yellow",
                soft_wrap=True,
            )
    if any(e["kept"] for e in entries):
        console.print(
            f"next: dyndepth train --method monodepth --data {out} --out RUN", soft_wrap=True
        )


def _count(things: list, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"
