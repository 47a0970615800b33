"""`dyndepth collect`: bags become recordings to train on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dyndepth_core.commands.collect_output import BagProgress, say_estimate, show, size_text
from dyndepth_core.commands.output import check_json, literal, write_json

if TYPE_CHECKING:
    from dyndepth_core.data.collect_units import Unit
    from dyndepth_core.data.collection import Collection

SOME_FAILED = 3
TIGHT = 0.8  # of the free room, from which a warning is due


def command(
    bags: Annotated[
        list[Path],
        typer.Argument(help="rosbag2 folders (split ones too), .db3, .mcap or ROS 1 .bag files."),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the recordings.")],
    image_topic: Annotated[
        list[str] | None,
        typer.Option(
            help="Camera topic, needed only where a bag has several; repeatable, or: all. Of "
            "several cameras each has its own recordings, BAG_CAMERA_000, ..."
        ),
    ] = None,
    camera_info_topic: Annotated[
        str | None, typer.Option(help="CameraInfo topic; default: the one beside the images.")
    ] = None,
    odom_topic: Annotated[
        str | None, typer.Option(help="Odometry topic; default: the bag's, if it has one.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Frames per second, by stamp; 0: all.")] = 10.0,
    stamp: Annotated[
        str, typer.Option(help="header, or bag: the time of recording, where stamps are wrong.")
    ] = "header",
    start: Annotated[float, typer.Option(help="Seconds of the bag to leave out at first.")] = 0.0,
    end: Annotated[
        float | None, typer.Option(help="Seconds of the bag after which to stop; default: its end.")
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            help="TOP,BOTTOM,LEFT,RIGHT to cut off the rectified image, the bonnet say: pixels, or "
            "shares below 1."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="HxW to resize to, never stretched: rows are cropped; default: as is."),
    ] = None,
    max_gap: Annotated[
        float, typer.Option(help="Seconds without a frame after which a new sequence begins.")
    ] = 1.0,
    standing: Annotated[
        float,
        typer.Option(help="m/s below which a frame is tagged as standing; 0: no tags."),
    ] = 0.3,
    blur: Annotated[
        float,
        typer.Option(help="Least sharpness, as a share of that of the frames before; 0: any."),
    ] = 0.6,
    exposure: Annotated[
        float, typer.Option(help="Least share of pixels neither black nor white; 0: any.")
    ] = 0.1,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Keep frames that repeat the one before.")
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=1, max=256, help="Bags (cameras of bags) at the same time.")
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            help="i/n: only bags i, i+n, ... of the list, for n machines with the same command."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was stopped or killed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be kept; write nothing.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the counts to this file.")
    ] = None,
) -> None:
    """Turn bags into recordings that `dyndepth train --data` takes.

    Images are rectified, cropped and resized with their intrinsics, odometry is interpolated at
    their stamps, a jump in the stamps begins a new sequence. Damaged bags give what can be read.
    Repeated, blurred, black and white frames are left out; frames of a standing camera stay, tagged
    (keep = 0 in frames.csv), and are no targets of a training: by odometry, else by the image.

    `manifest.json` holds every file's SHA-256, the source bags, what was dropped and why;
    `contact_sheet.jpg` shows frames of it all. What is on disk is valid at any moment, and
    `--resume` brings it to the very files of a run that nobody stopped. Shards may write to one
    folder, or to several that are copied together: the last one, or any of them given again with
    --resume, writes the manifest of the whole.

    Exit code: 0 all bags collected; 2 nothing could be used, bad arguments, or no room; 3 some bags
    could not be used (named at the end), the others are there; 70 a fault of this program; 130
    Ctrl-C, what is there is usable.
    """
    check_json(json_file)
    from rich.console import Console

    from dyndepth_core.cli import version
    from dyndepth_core.data.collect_options import ALL_CAMERAS, CollectOptions
    from dyndepth_core.data.collection import Collection

    topics = ",".join(image_topic or ()) or None
    if topics is not None and ALL_CAMERAS in topics.split(","):
        topics = ALL_CAMERAS
    if camera_info_topic and topics and (topics == ALL_CAMERAS or "," in topics):
        raise ValueError(
            "--camera-info-topic is for one camera; of several, each takes the one beside it"
        )
    options = CollectOptions(
        topics, camera_info_topic, odom_topic, rate, parse_size(size), max_gap, stamp, start, end,
        _crop(crop), standing, blur, exposure, duplicates,
    )  # fmt: skip
    collection = Collection(out, bags, options, parse_shard(shard), resume, version())
    for order in collection.mine:
        if not bags[order].exists():
            raise FileNotFoundError(f"{bags[order]}: no such bag")
    console = Console()
    if collection.complete:
        merged = collection.merge()
        write_json(json_file, collection.ended())
        text = f"{out}: complete already" + (", shards merged" if merged else "")
        console.print(literal(text), soft_wrap=True)
        return
    entries = _run(collection, jobs, dry_run, json_file, console)
    bad = [entry for entry in entries if entry["error"]]
    if bad and len(entries) == 1:
        raise ValueError(bad[0]["error"])
    show(console, out, entries, dry_run)
    if not collection.mine:
        text = f"shard {shard}: no bag of the {len(bags)} is its own; fewer shards would do"
        console.print(text, style="yellow", soft_wrap=True)
    if entries and not any(entry["kept"] for entry in entries):
        raise ValueError(f"{out}: no frame could be used, see above for the reasons")
    if not dry_run and not bad and collection.merge():
        text = f"all {collection.shard[1]} shards are here: {out}/manifest.json is of the whole"
        console.print(literal(text), soft_wrap=True)
    if bad:
        from dyndepth_core.cli import say

        say(
            f"{len(bad)} of {len(entries)} bags could not be used "
            f"({', '.join(e['path'] for e in bad)}), see above for the reasons; the others are "
            "there"
        )
        raise SystemExit(SOME_FAILED)


def _run(
    collection: Collection, jobs: int, dry: bool, json_file: Path | None, console: Any
) -> list[dict[str, Any]]:
    """The entries of all units; manifest and journal are written, however it ends."""
    from dyndepth_core.data.collect_units import plan

    found = plan(collection.bags, collection.options, collection.mine)
    units, entries = found.units, list(found.bad)
    _check_room(collection, units, dry, console)
    threads = max(1, len(os.sched_getaffinity(0)) // min(jobs, max(len(units), 1)))
    if (units or collection.shard[1] > 1) and not dry:
        collection.begin()
    try:
        with BagProgress(console, collection, units) as progress:
            work = collection.collect(
                units, jobs, threads, dry, on_frame=progress.advance, poll=progress.look
            )
            for entry in work:
                entries.append(entry)
                progress.done(entry)
            if not dry:
                with progress.last("contact sheet and SHA-256 of the recordings"):
                    collection.finish(entries)
    except BaseException as error:  # a full disk, Ctrl-C: what is there gets its manifest
        interrupted = isinstance(error, KeyboardInterrupt)
        if not dry:
            with suppress(OSError):  # on a full disk; the first error is the one to report
                entries = found.bad + collection.unfinished(units)
                collection.finish(entries, interrupted=True)
                write_json(json_file, collection.info(entries, interrupted=True))
        if not interrupted:
            raise
        some = any(entry["kept"] for entry in entries) and not dry
        raise KeyboardInterrupt(
            "what was collected so far is complete and usable; --resume goes on"
            if some
            else "nothing collected yet"
        ) from None
    write_json(json_file, collection.info(entries))
    return entries


def _check_room(collection: Collection, units: Sequence[Unit], dry: bool, console: Any) -> None:
    """ValueError before the work when the disk is too small for it."""
    needed, free = collection.missing_bytes(units), collection.free_bytes()
    say_estimate(console, units, needed, free)
    if needed > free and not dry:
        raise ValueError(
            f"{collection.out}: about {size_text(needed)} will be written, but only "
            f"{size_text(free)} are free: make room there, or lower --rate or --size"
        )
    if needed > TIGHT * free:
        console.print(
            literal(f"{collection.out}: the disk will be nearly full"),
            style="yellow",
            soft_wrap=True,
        )


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(H, W) from "HxW"; ValueError names the form."""
    if text is None:
        return None
    try:
        height, width = (int(v) for v in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"--size {text}: give HxW in pixels, for example 192x640") from None
    return height, width


def _crop(text: str | None) -> tuple[float, float, float, float]:
    from dyndepth_core.data.collect_options import parse_crop

    try:
        return parse_crop(text or "")
    except ValueError as error:
        raise ValueError(f"--crop {text}: {error}") from None


def parse_shard(text: str | None) -> tuple[int, int]:
    """(i, n) from "i/n"; ValueError names the form."""
    if text is None:
        return 1, 1
    try:
        number, count = (int(v) for v in text.split("/"))
    except ValueError:
        raise ValueError(f"--shard {text}: give i/n, for example 1/4") from None
    return number, count
