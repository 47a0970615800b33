"""`dyndepth doctor`: is a bag, a recording or a video fit for training?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dyndepth_core.commands.output import STDOUT, check_json, literal, write_json

if TYPE_CHECKING:
    from dyndepth_core.data.doctor import Report

NOT_FIT = 1
MARKS = {
    "good": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "fault": ("fault", "bold red"),
}
COLOURS = {"fit": "green", "fit with warnings": "yellow", "not fit": "bold red"}


def command(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Bag (rosbag2 folder, .db3, .mcap, ROS 1 .bag), recording, root of recordings, "
            "folder of images or video."
        ),
    ],
    image_topic: Annotated[
        str | None, typer.Option(help="Camera to look at; default: the one with most images.")
    ] = None,
    odom_topic: Annotated[
        str | None, typer.Option(help="Odometry to look at; default: what collect would take.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write it all to this file; - is stdout.")
    ] = None,
) -> None:
    """Say before any work whether something is fit for training, and what to do next.

    Topics, cameras, calibration, stamps, odometry and its units, light, sharpness, repeats, the
    vehicle's own bonnet, damage, minutes in motion. Of a large bag a sample is read. Nothing is
    written but --json.

    Exit code: 0 fit, also with warnings; 1 not fit; 2 cannot be read at all.
    """
    check_json(json_file)
    from dyndepth_core.data.doctor import examine, summary

    reports = [r for path in data for r in examine(path, image_topic, odom_topic)]
    verdict = summary(reports)
    content: dict[str, Any] = {"verdict": verdict, "reports": [r.to_json() for r in reports]}
    write_json(json_file, content)
    if json_file != STDOUT:
        _show(reports)
    if verdict == "not fit":
        raise SystemExit(NOT_FIT)


def _show(reports: list[Report]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    roots = [r for r in reports if r.kind == "root"]
    last = roots or reports  # a recording of a root is trained on with it
    for report in reports:
        console.print(f"[bold]{literal(report.path)}[/bold], {report.kind}", soft_wrap=True)
        if report.topics:
            table = Table(box=None, pad_edge=False)
            for column in ("topic", "type", "messages", "per second"):
                table.add_column(column, justify="right" if column[0] in "mp" else "left")
            for t in report.topics:
                rate = f"{t['rate_hz']:.1f}" if t["rate_hz"] else "-"
                table.add_row(literal(t["name"]), literal(t["type"]), str(t["count"]), rate)
            console.print(table)
        if report.sampled:
            console.print("a sample was read, not all of it", style="dim")
        for f in report.findings:
            word, style = MARKS[f.level]
            remedy = f"; {literal(f.remedy)}" if f.remedy else ""
            console.print(
                f"  [{style}]{word:8}[/{style}]{f.about}: {literal(f.text)}{remedy}", soft_wrap=True
            )
        colour = COLOURS[report.verdict]
        console.print(f"[{colour}]{report.verdict}[/{colour}]")
        if report.next and report.verdict != "not fit" and report in last:
            console.print(f"next: {literal(report.next)}", soft_wrap=True)
