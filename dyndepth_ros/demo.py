"""`dyndepth demo`: the whole chain as real ROS processes, scored against ground truth."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from dyndepth_core.inference.model_meta import ModelMeta

DEFAULT_SEED = 1000  # bundled models are trained on seeds far below
CAMERA_PIXELS = 640 * 197  # a camera of the model's own shape, so that no border lacks depth
RATE_HZ = 10.0
START_PATIENCE_S = 120.0  # until the first frame; importing torch from a cold disk takes its time
FRAME_PATIENCE_S = 60.0
MARK = ".dyndepth_demo"
OURS = ("recording", "received", "logs", "received.json", "summary.json", "contact_sheet.png")


def command(
    frames: Annotated[int, typer.Option(min=5, help="Camera frames to send.")] = 120,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the synthetic world; one no model was trained on.")
    ] = DEFAULT_SEED,
    out: Annotated[Path, typer.Option(help="Folder for figures and pictures.")] = Path("demo_out"),
    model: Annotated[
        Path | None, typer.Option(help="Model file, run, depth or motion (bundled). None: motion.")
    ] = None,
    clip: Annotated[int, typer.Option(min=0, help="Which drive through that world.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Drive a synthetic camera through a world the model never saw and look at its depth.

    Starts synthetic_camera_node, depth_node and a recorder as separate processes over DDS, in a ROS
    domain of their own on this machine only, the camera paced to the node. Leaves summary.json
    (frames, latency, abs_rel, and motion where the model tells it), contact_sheet.png and a video,
    and says what to look at next.
    """
    import rclpy  # noqa: F401  said at once where ROS is missing, not by three dying processes
    from rich.console import Console

    from dyndepth_core.inference.model_file import find_model, read_meta
    from dyndepth_ros.demo_report import draw_run, evaluate_run, report

    console = Console()
    path = find_model(model)
    meta = read_meta(path)
    unseen = check_seed(seed, meta)
    prepare(out)
    console.print(f"model {path} ({meta.method}); world seed {seed}: {unseen}", soft_wrap=True)
    started = time.monotonic()
    size = camera_size(meta.input_size)
    with _progress(console) as progress:
        motion = tells_motion(path)
        run_processes(out, path, motion, frames, seed, clip, size, device, progress)
        result = evaluate_run(out, progress)
        summary = {
            **result, "seed": seed, "clip": clip, "seed_unseen": unseen, "model": str(path),
            "method": meta.method, "model_size": list(meta.input_size), "device": device,
            "image_size": list(size),
        }  # fmt: skip
        pictures = draw_run(out, summary, RATE_HZ, progress)
    summary["seconds"] = round(time.monotonic() - started, 1)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    shutil.rmtree(out / "received")
    (out / "received.json").unlink()
    report(console, out, summary, pictures)


def check_seed(seed: int, meta: ModelMeta) -> str:
    """Say whether the model was trained on this world; ValueError when it was."""
    known = getattr(meta.provenance, "world_seeds", None)
    if known is None:
        return "the model file does not say which world seeds it was trained on"
    if seed in known:
        raise ValueError(
            f"--seed {seed}: the model was trained on this world, which would flatter it; "
            f"choose a seed above {max(known)}"
        )
    return "not among the seeds the model was trained on"


def camera_size(model_size: tuple[int, int]) -> tuple[int, int]:
    """Image size (H, W) of the camera: the model's shape at CAMERA_PIXELS."""
    height, width = model_size
    cols = 2 * round(math.sqrt(CAMERA_PIXELS * width / height) / 2)
    return math.ceil(cols * height / width), cols


def tells_motion(model: Path) -> bool:
    """Whether the model says what moves; ValueError or FileNotFoundError where it is unusable."""
    from dyndepth_core.inference.predictor import Predictor

    predictor = Predictor(model, device="cpu")
    predictor.warm_up()
    return bool(predictor.has_object_motion)


def prepare(out: Path) -> None:
    """Make the folder; what an earlier demo left there goes, anything else is refused."""
    out.mkdir(parents=True, exist_ok=True)
    strange = {p.name for p in out.iterdir()} - {*OURS, MARK, "film.mp4", "film.avi"}
    if strange:
        raise ValueError(f"{out}: holds other files ({', '.join(sorted(strange)[:3])}); "
                         "give another folder with --out")  # fmt: skip
    if any(out.iterdir()) and not (out / MARK).is_file():
        raise ValueError(f"{out}: not empty and not of an earlier demo; remove it, or give "
                         "another folder with --out")  # fmt: skip
    for path in out.iterdir():
        if path.name != MARK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (out / MARK).write_text("made by dyndepth demo, which empties this folder before it runs\n")


def _progress(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def run_processes(
    out: Path,
    model: Path,
    motion: bool,
    frames: int,
    seed: int,
    clip: int,
    size: tuple[int, int],
    device: str,
    progress: Progress,
) -> None:
    """Camera, depth node and recorder until the last frame is recorded; none is left running.

    motion: the model tells what moves, so that it is recorded, too; its speeds are in the unit of
    its depth until the node has learned metres from the camera's odometry.
    Raises ValueError with the end of its log when a process fails or nothing arrives in time.
    """
    from dyndepth_ros.processes import Processes, isolated_environment, own_domain

    task = progress.add_task("driving", total=frames)
    with own_domain() as domain, Processes(out / "logs", isolated_environment(domain)) as children:
        children.start("recorder", "dyndepth_ros.demo_recorder", out=out.resolve(), motion=motion)
        children.start(
            "depth_node", "dyndepth_ros.depth_node", model=model.resolve(), device=device,
            allow_relative_velocity=motion,
            max_range=10_000.0,  # what is put too far away is an error, too, and is scored
        )  # fmt: skip
        children.start(
            "camera", "dyndepth_ros.synthetic_camera_node", seed=seed, clip=clip, frames=frames,
            width=size[1], height=size[0], rate=RATE_HZ, ground_truth=True,
            wait_for=2, pace_topic="depth_node/scale", pace_timeout=10.0,
        )  # fmt: skip
        _follow(out, frames, children, lambda n: progress.update(task, completed=n))
        children.stop("recorder", 60.0)


def _follow(out: Path, frames: int, children: Any, on_count: Any) -> None:
    """Wait until all frames are recorded, or the camera has ended and no more come."""
    count, changed = 0, time.monotonic()
    while True:
        children.check(may_end=("camera",))
        now, seen = time.monotonic(), len(list((out / "received").glob("[0-9]*.npz")))
        if seen != count:
            count, changed = seen, now
            on_count(count)
        over = not children.running("camera")
        if count >= frames or (over and now - changed > 3.0):
            return
        if now - changed > (FRAME_PATIENCE_S if count else START_PATIENCE_S):
            logs = "\n".join(children.tail(name, 5) for name in ("depth_node", "camera"))
            raise ValueError(f"no frame for {now - changed:.0f} s, giving up:\n{logs}")
        time.sleep(0.1)
