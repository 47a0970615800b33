"""`dyndepth evaluate`: the field's metrics of a model, with baselines that never learn beside
it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyndepth_core.commands.output import check_json, write_json

if TYPE_CHECKING:
    from dyndepth_core.data.recording import Recording


def command(
    data: Annotated[
        Path,
        typer.Option(
            help="Root of recordings, or one recording, with ground-truth depth; for --compare "
            "also without."
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="Model file, run, depth or motion (the bundled ones). Default: motion."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split to evaluate where the root has splits.")
    ] = "test",
    protocol: Annotated[
        str,
        typer.Option(
            help="native, kitti-eigen, cityscapes or waymo: which pixels and depths count."
        ),
    ] = "native",
    crop: Annotated[
        str,
        typer.Option(
            help="Count only top,bottom,left,right (fractions), e.g. 0.44,1,0,1 without the sky."
        ),
    ] = "",
    baselines_from: Annotated[
        Path | None,
        typer.Option(help="The training's recordings, to fit row_prior and plane on their truth."),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another model: which is better, with a 95 % interval? Also without ground truth. "
            "May be repeated."
        ),
    ] = None,
    without_truth: Annotated[
        bool,
        typer.Option(
            "--without-truth",
            help="Compare as if there were no ground truth, and say how often that agrees with it.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Folder for error maps of the best and worst frames, error over time and, "
            "where poses are known, trajectories."
        ),
    ] = None,
) -> None:
    """Score a model on recordings with ground truth, beside row_prior and plane, on the very same
    pixels.

    One median ratio per image, taken from all its valid pixels; strata: all, static, dynamic,
    same_speed (dynamic, under 1 m/s relative to the camera), raised (0.3 m and more above the
    ground plane). A stratum is the mean over images with at least 100 of its pixels.

    With --compare and recordings without ground truth: which model is better on blocks of time that
    none of them was trained on, by points triangulated from the video itself, then by photometric
    error; temporal change and steadiness of scale are shown beside them.
    """
    check_json(json_file)
    _check_pictures(pictures)
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from dyndepth_core.data.recording import open_recordings
    from dyndepth_core.evaluation.protocols import get_protocol, with_crop
    from dyndepth_core.evaluation.runner import (
        BaselineArm,
        ModelArm,
        evaluate,
        has_truth,
        name_clips,
        require_truth,
        true_track,
    )
    from dyndepth_core.inference.predictor import Predictor

    console = Console()
    rule = with_crop(get_protocol(protocol), crop) if crop else get_protocol(protocol)
    recordings = open_recordings(data, split)
    if compare and (without_truth or not has_truth(recordings)):
        from dyndepth_core.commands.compare import compare as compare_without_truth

        models = [model, *compare]
        compare_without_truth(data, recordings, models, device, json_file, console)
        return
    if without_truth:
        raise ValueError("--without-truth compares models: name another one with --compare")
    require_truth(recordings)
    recordings = [r for r in recordings if has_truth([r])]
    if model is None:
        console.print("no --model given: evaluating the bundled model")
    arms: dict = {"model": ModelArm(Predictor(model, device=device))}
    for number, other in enumerate(compare or (), 1):
        name = "compare" if number == 1 else f"compare {number}"
        arms[name] = ModelArm(Predictor(other, device=device))
    priors, fitted_on = _fit_priors(recordings, baselines_from, console)
    blind = [r.name for r in recordings if r.calib.K is None]
    if blind and priors.pop("plane", None):
        console.print(f"no plane: {', '.join(blind[:3])} has no intrinsics", style="yellow")
    arms.update({name: BaselineArm(prior) for name, prior in priors.items()})
    columns = (TextColumn("evaluate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("evaluate", total=sum(len(r) for r in recordings))
        result = evaluate(recordings, arms, rule, lambda: progress.advance(task))
    first = arms["model"].predictor
    report = {
        "model": str(first.path),
        "compare": [str(other) for other in compare or ()],
        "data": str(data),
        "recordings": [r.name for r in recordings],
        "protocol": rule.name,
        "protocol_says": rule.says,
        "baselines_fitted_on": fitted_on,
        "scale_state": first.meta.scale.state,
        "input_size": list(first.input_size),
        "device": str(first.device),
        "methods": result.table(),
        "paired": _pairs(result.scores),
    }
    _show(console, report, rule.says)  # first: a disk may be full, and the run was long
    write_json(json_file, report)
    if pictures is not None:
        from dyndepth_core.evaluation.report import draw_trajectories, save_pictures

        files = save_pictures(pictures, recordings, arms["model"], result.scores["model"], rule)
        if "model" in result.tracks:
            clips = name_clips(recordings)
            truth = {clip: true_track(clips[clip]) for clip in result.tracks["model"]}
            files.append(draw_trajectories(result.tracks, truth, pictures / "trajectories.png"))
        console.print("pictures:", ", ".join(str(f) for f in files), soft_wrap=True)


def _check_pictures(folder: Path | None) -> None:
    """ValueError, before any work, when no pictures could be written there; the folder is made."""
    if folder is None:
        return
    import dyndepth_core.evaluation.report  # noqa: F401  what draws may not be installed

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--pictures {folder}: is no folder; name one for the pictures")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"--pictures {folder}: cannot be written there; choose another place")


def _fit_priors(recordings: list[Recording], training: Path | None, console) -> tuple[dict, str]:
    """Baselines fitted on the training set; where that has no ground truth, on the evaluated
    frames, said aloud."""
    from dyndepth_core.data.recording import open_recordings
    from dyndepth_core.evaluation.baselines import fit_baselines
    from dyndepth_core.evaluation.runner import has_truth

    why = "no --baselines-from given"
    if training is not None:
        source = open_recordings(training, "train")
        if has_truth(source):
            return fit_baselines(source), str(training)
        why = f"{training} has no ground-truth depth"
    console.print(
        f"{why}: row_prior and plane are fitted on the evaluated recordings themselves,"
        " which flatters them",
        style="yellow",
    )
    return fit_baselines(recordings), "the evaluated recordings"


def _pairs(scores: dict) -> list[dict]:
    from dyndepth_core.evaluation.statistics import compare_scores

    return [
        {"first": "model", "second": other, "metric": "abs_rel", "stratum": stratum, **interval}
        for other in scores
        if other != "model"
        for stratum, interval in compare_scores(scores["model"], scores[other]).items()
    ]


def _show(console, report: dict, rule: str) -> None:
    from dyndepth_core.evaluation.report import (
        metrics_table,
        motion_table,
        paired_table,
        scale_table,
    )

    console.print(
        metrics_table(report["methods"], f"{report['model']} on {report['data']}: {rule}")
    )
    console.print(scale_table(report["methods"]))
    if (moving := motion_table(report["methods"])) is not None:
        console.print(moving)
    console.print(paired_table(report["paired"]))
    console.print(
        f"one median ratio per image; baselines fitted on {report['baselines_fitted_on']};"
        f" depth of the model is {report['scale_state']};"
        f" input {report['input_size']} on {report['device']}",
        soft_wrap=True,
    )
