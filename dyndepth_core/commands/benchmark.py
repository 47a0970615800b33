"""`dyndepth benchmark`: how fast this package is on this machine, against plain variants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyndepth_core.commands.output import check_json, write_json

if TYPE_CHECKING:
    from dyndepth_core.evaluation.timing import Row


def command(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="The plain variants: test/reference of a source checkout (found here)."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each variant.")] = 15,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of torch; default: torch's own.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these: network, many_depth, step, depthwise, ssim, cloud, cloud720, "
            "preprocess, collect, node, node_vga, node_motion, hot_swap. Repeatable."
        ),
    ] = None,
    collect_gb: Annotated[
        float, typer.Option(min=0.01, max=1e4, help="Size of the bag to collect from, in GB.")
    ] = 2.0,
) -> None:
    """Measure networks, training step, SSIM, clouds, preprocessing, collecting and the node.

    Each is measured in turn with its plain variant (ours, plain, ours, plain, ...) and reported as
    the median, with what is inside the timer. Absolute times differ between machines; ratios
    matter.
    """
    check_json(json_file)
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from dyndepth_core.evaluation import network_speed, speed
    from dyndepth_core.evaluation.timing import environment
    from dyndepth_core.inference.device import resolve_device

    console = Console()
    if threads is not None:
        torch.set_num_threads(threads)
    target = resolve_device(device)
    plain = speed.find_reference(reference)
    if plain is None:
        console.print(
            "no test/reference here: absolute figures only, no ratios; run this in a source"
            " checkout or name the folder with --reference",
            style="yellow",
        )
    measurements = {
        "network": lambda: speed.network_forward(plain, target, rounds, (192, 640)),
        "many_depth": lambda: network_speed.many_depth(target, rounds, (192, 640)),
        "step": lambda: speed.training_step(plain, target, max(3, rounds // 3), (128, 416)),
        "depthwise": lambda: network_speed.depthwise_gradient(rounds, (96, 320)),
        "ssim": lambda: speed.ssim(plain, target, rounds, (128, 416)),
        "cloud": lambda: speed.cloud(plain, rounds, (480, 640), 2.5),
        "cloud720": lambda: speed.cloud(plain, rounds, (720, 1280), 7.0),
        "preprocess": lambda: speed.preprocessing(plain, rounds),
        "collect": lambda: _collect(collect_gb),
        **{name: lambda run=run: run(target) for name, run in _installed().items()},
    }
    chosen = _choose(measurements, only)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    rows, absent = {}, {}
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("benchmark", total=len(chosen))
        for name in chosen:
            progress.update(task, description=name)
            try:
                rows[name] = measurements[name]()
            except ImportError as error:  # measurements of the ROS side, where ROS is not
                absent[name] = f"not measured: {error}"
            progress.advance(task)
    report = {
        "environment": environment(target),
        "reference": plain is not None,
        "rounds": rounds,
        "rows": {name: row.to_json() for name, row in rows.items()},
        "not_measured": absent,
    }
    write_json(json_file, report)
    _show(console, report)


def _collect(gigabytes: float) -> Row:
    from dyndepth_core.evaluation import collect_speed

    return collect_speed.collect(gigabytes)


def _promise(gate: dict) -> str:
    sign = "at least" if gate["at_least"] else "at most"
    mark = "[green]kept[/green]" if gate["kept"] else "[bold red]BROKEN[/bold red]"
    return f"{gate['name']} {gate['value']:.3g}, {sign} {gate['limit']:.3g}: {mark}"


def _installed() -> dict:
    """Measurements that other packages of this distribution register (the node's, which needs
    ROS)."""
    from importlib.metadata import entry_points

    def load(point):
        return lambda device: point.load()(device)

    return {point.name: load(point) for point in entry_points(group="dyndepth.benchmarks")}


def _choose(measurements: dict, only: list[str] | None) -> list[str]:
    if not only:
        return list(measurements)
    unknown = sorted(set(only) - set(measurements))
    if unknown:
        raise ValueError(
            f"--only {', '.join(unknown)}: no such measurement; {', '.join(measurements)}"
        )
    return [name for name in measurements if name in only]


def _show(console, report: dict) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    about = report["environment"]
    console.print(", ".join(f"{k} {v}" for k, v in about.items()), soft_wrap=True, style="dim")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in ("ms", "plain ms", "speed-up"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("promise")
    for name, row in report["rows"].items():
        plain, speedup = row["plain_ms"], row["speedup"]
        table.add_row(
            name,
            f"{row['ms']:.3g}",
            "-" if plain is None else f"{plain:.3g}",
            "-" if speedup is None else f"{speedup:.2f}",
            "\n".join(_promise(gate) for gate in row["gates"]) or "-",
        )
    console.print(table)
    for name, row in report["rows"].items():
        others = "".join(f"; {key} {value:.3g} ms" for key, value in row["others"].items())
        against = f"; plain: {row['plain']}" if row["plain"] else ""
        text = f"{row['work']}, {row['input']}, {row['precision']}; timer: {row['timer']}"
        console.print(f"[bold]{name}[/bold] {text}{against}{others}", style="dim", highlight=False)
    for name, reason in report["not_measured"].items():
        console.print(f"{name}: {reason}", style="yellow")
    broken = [
        f"{name}: {gate['name']}"
        for name, row in report["rows"].items()
        for gate in row["gates"]
        if not gate["kept"]
    ]
    if about["load_1min"] > about["cores"]:
        console.print(
            f"this machine is busy (load {about['load_1min']:.1f} on {about['cores']} cores): its"
            " absolute times are too long, measure again when it is idle",
            style="yellow",
        )
    console.print(f"promises broken: {', '.join(broken)}" if broken else "every promise kept")
