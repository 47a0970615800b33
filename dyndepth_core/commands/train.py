"""`dyndepth train`: recordings in, model file out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dyndepth_core.commands.output import check_json, literal, write_json


def command(
    method: Annotated[
        str | None,
        typer.Option(
            help="METHOD or METHOD+PLUGIN; METHOD is monodepth, sc_depth, residual_motion, "
            "mined_supervision, many_depth or dynamic_depth, PLUGIN motion_aware [default: that "
            "of --from (residual_motion after mined_supervision) or --config, else monodepth]"
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="recording, root of recordings, image folder or video; may be repeated; needed"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="folder of the run; gets model.safetensors, config, metrics, logs; needed"
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with settings, as --show-config writes it")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.field=value, e.g. train.steps=2000")
    ] = None,
    intrinsics: Annotated[
        str | None,
        typer.Option(help="given (calib.json), or learned: pair, video [default: given]"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="model file, run, depth or motion (bundled) to go on from (fine-tuning): its "
            "method, networks, size, losses and learning rate are the defaults then",
        ),
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            help="another run, whose finished stages are taken over where they would be the same "
            "(data, --from, and all settings that they read); may be repeated",
        ),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="devices on each machine [default: 1]")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="machines [default: 1]")] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="print every setting with its meaning and stop")
    ] = False,
    json_: Annotated[
        Path | None, typer.Option("--json", help="also write the metrics of the run there")
    ] = None,
) -> None:
    """Train a depth model on video without labels.

    Leaves in RUN: model.safetensors, config.yaml, metrics.json, and under stages/ checkpoints,
    metrics.csv and a TensorBoard log. Ctrl-C stops after the current step with a checkpoint;
    --resume goes on from there.

    Example: dyndepth train --from motion --data recordings/ --out runs/first --set
    train.minutes=45
    """
    check_json(json_)
    from dyndepth_core.config import dump, load
    from dyndepth_core.inference.model_file import find_model
    from dyndepth_core.training.folder import CONFIG, resumed_request
    from dyndepth_core.training.going_on import settings_of
    from dyndepth_core.training.run import train_run

    if out is None and not show_config:
        raise ValueError("--out: name the folder of the run, e.g. --out runs/first")
    overrides = list(set_ or [])
    for name, value in (
        ("data.intrinsics", intrinsics),
        ("train.devices", devices),
        ("train.nodes", nodes),
    ):
        if value is not None:
            overrides.append(f"{name}={value}")
    if resume and not show_config:
        old_data, old_start = resumed_request(out)
        data, from_, config = data or old_data, from_ or old_start, config or out / CONFIG
    base, before = None, from_
    if from_ is not None:
        from_ = find_model(from_)
        base = settings_of(from_, method)
    if show_config:
        typer.echo(dump(load(config, overrides, method, base)), nl=False)
        return
    if not data:
        raise ValueError(
            "--data: name at least one recording, root of recordings, image folder or video"
        )
    settings = load(config, overrides, method, base)
    for other in reuse or ():
        if not (other / "stages").is_dir():
            raise ValueError(f"--reuse {other}: no run there; name the --out of another training")
    metrics = train_run(settings, data, out, resume=resume, start=from_, reuse=reuse or ())
    if not metrics:  # a process that Lightning started beside the first one, which reports
        return
    write_json(json_, metrics)
    _report(out, metrics)
    words = ["dyndepth", "evaluate", "--model", out, "--compare", before, "--data", data[0]]
    if before is None:
        words = ["dyndepth", "predict", data[0], "--model", out, "--out", "look"]
    typer.echo(f"next: {shlex.join(map(str, words))}")


def _report(out: Path, metrics: dict) -> None:
    from rich.console import Console

    console = Console()
    best = metrics.get("best") or {}
    console.print(
        f"[bold]{literal(out / 'model.safetensors')}[/bold]  "
        f"{metrics['step']} steps in {metrics['seconds'] / 60:.1f} minutes"
    )
    if best.get("score") is not None:
        console.print(
            f"weights of step {best['step']}, validation score {best['score']:.4f} "
            "(no ground truth, lower is better)"
        )
    for warning in metrics["warnings"]:
        console.print(
            f"[yellow]warning[/yellow] step {warning['step']}: {literal(warning['message'])}",
            highlight=False,
        )
    console.print(literal(f"look at it: tensorboard --logdir {out}"), highlight=False)
