"""`dyndepth demo`: the whole chain as real ROS processes, scored against ground truth."""

from __future__ import annotations

import json
import math
import shutil
import sys
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
        Path | None, typer.Option(help="Model file; without it the bundled model.")
    ] = None,
    clip: Annotated[int, typer.Option(min=0, help="Which drive through that world.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Drive a synthetic camera through a world the model never saw and look at its depth.

    Starts synthetic_camera_node, depth_node and a recorder as separate processes over DDS, in a ROS
    domain of their own on this machine only, the camera paced to the node. Leaves summary.json
    (frames, latency, abs_rel), contact_sheet.png and a video, and says what to look at next.
    """
    import rclpy  # noqa: F401  said at once where ROS is missing, not by three dying processes
    from rich.console import Console

    from dyndepth_core.inference.model_file import bundled_model, read_meta

    console = Console()
    path = bundled_model() if model is None else model
    meta = read_meta(path)
    unseen = check_seed(seed, meta)
    prepare(out)
    console.print(f"model {path} ({meta.method}); world seed {seed}: {unseen}", soft_wrap=True)
    started = time.monotonic()
    size = camera_size(meta.input_size)
    with _progress(console) as progress:
        run_processes(out, path, frames, seed, clip, size, device, progress)
        result = evaluate_run(out, progress)
        summary = {
            **result, "seed": seed, "clip": clip, "seed_unseen": unseen, "model": str(path),
            "method": meta.method, "model_size": list(meta.input_size), "device": device,
            "image_size": list(size),
        }  # fmt: skip
        pictures = draw_run(out, summary, progress)
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
    frames: int,
    seed: int,
    clip: int,
    size: tuple[int, int],
    device: str,
    progress: Progress,
) -> None:
    """Camera, depth node and recorder until the last frame is recorded; none is left running.

    Raises ValueError with the end of its log when a process fails or nothing arrives in time.
    """
    from dyndepth_ros.processes import Processes, isolated_environment, own_domain

    task = progress.add_task("driving", total=frames)
    with own_domain() as domain, Processes(out / "logs", isolated_environment(domain)) as children:
        children.start("recorder", "dyndepth_ros.demo_recorder", out=out.resolve())
        children.start(
            "depth_node", "dyndepth_ros.depth_node", model=model.resolve(), device=device
        )
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


def evaluate_run(out: Path, progress: Progress) -> dict[str, Any]:
    """Figures of what was recorded: the first part of summary.json."""
    import numpy as np

    from dyndepth_core.data.recording import Recording
    from dyndepth_core.evaluation.protocols import get_protocol
    from dyndepth_core.evaluation.received import ReceivedArm
    from dyndepth_core.evaluation.runner import evaluate

    counts = json.loads((out / "received.json").read_text())
    if not counts["recorded"]:
        raise ValueError(f"no frame came back from the depth node; see {out / 'logs'}")
    recording = Recording(out / "recording")
    task = progress.add_task("scoring", total=len(recording))
    arms = {"model": ReceivedArm(out / "received")}
    table = evaluate([recording], arms, get_protocol("native"), lambda: progress.advance(task))
    scores = table.table()["model"]
    latency = {
        f"p{p}": round(float(np.percentile(counts["latency_ms"], p)), 1) for p in (50, 95, 99)
    }
    return {
        "frames_in": counts["frames_in"],
        "frames_out": counts["frames_out"],
        "dropped": counts["frames_in"] - counts["frames_out"],
        "latency_ms": latency,
        "abs_rel": {s: scores[s]["abs_rel"] for s in ("all", "static", "dynamic") if s in scores},
        "points_per_cloud": round(float(np.mean(counts["points"]))),
        "metrics": scores,
    }


def draw_run(out: Path, summary: dict[str, Any], progress: Progress) -> dict[str, Path]:
    """Contact sheet and video."""
    import cv2
    import numpy as np

    from dyndepth_core.data.recording import Recording
    from dyndepth_core.evaluation.film import block, contact_sheet
    from dyndepth_core.evaluation.received import load_shot
    from dyndepth_core.inference.depth_files import SideBySide

    recording = Recording(out / "recording")
    task = progress.add_task("drawing", total=len(recording))
    chosen = set(np.linspace(0, len(recording) - 1, 4).round().astype(int).tolist())
    shots, film = [], SideBySide(out / "film", RATE_HZ)
    for i in range(len(recording)):
        shot = load_shot(recording, out / "received", i)
        film.append(block(shot))
        if i in chosen:
            shots.append(shot)
        progress.advance(task)
    film.close()
    figures = ", ".join(f"{k} {v:.3f}" for k, v in summary["abs_rel"].items())
    latency = summary["latency_ms"]
    notes = [
        f"abs_rel {figures}   |   {summary['frames_out']} of {summary['frames_in']} frames came "
        f"back   |   image to depth {latency['p50']:.0f} ms (p95 {latency['p95']:.0f} ms)",
        "synthetic world: these figures say nothing about a real street. Depth is scaled to the "
        "truth by one median ratio per frame.",
    ]
    title = f"dyndepth demo, world seed {summary['seed']}, {summary['method']}"
    sheet = out / "contact_sheet.png"
    picture = contact_sheet(shots, title, notes)
    if not cv2.imwrite(str(sheet), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{sheet}: cannot be written")
    return {"contact sheet": sheet, "video": film.path}


def report(console: Console, out: Path, summary: dict[str, Any], pictures: dict[str, Path]) -> None:
    """Figures and what to look at next, for people."""
    from rich.table import Table

    table = Table(title="depth against ground truth", title_justify="left")
    for column in ("pixels", "abs_rel", "d1", "images"):
        table.add_column(column, justify="left" if column == "pixels" else "right")
    for name in summary["abs_rel"]:
        row = summary["metrics"][name]
        table.add_row(name, f"{row['abs_rel']:.3f}", f"{row['d1']:.3f}", str(row["images"]))
    console.print(table)
    latency = summary["latency_ms"]
    console.print(
        f"{summary['frames_out']} of {summary['frames_in']} frames came back; image to depth "
        f"p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms; "
        f"{summary['points_per_cloud']} points per cloud; {summary['seconds']:.0f} s in all",
        soft_wrap=True,
    )
    if summary["frames_out"] < 0.9 * summary["frames_in"]:
        console.print(f"more than 1 in 10 frames was lost: see {out / 'logs'}", style="yellow")
    console.print("look at:")
    for what, path in {**pictures, "figures": out / "summary.json"}.items():
        console.print(f"  {path}  ({what})", soft_wrap=True)
    if shutil.which("ros2"):
        live = (
            "  ros2 launch dyndepth demo.launch.py                 the same, live, in RViz\n"
            "  ros2 launch dyndepth depth.launch.py image:=TOPIC   your own camera\n"
        )
    else:  # the wheels bring ROS's libraries, but neither ros2 nor RViz
        live = (
            "  depth_node --ros-args -r image:=TOPIC -r camera_info:=TOPIC   your own camera\n"
            "  (with ROS 2 installed: ros2 launch dyndepth demo.launch.py, in RViz)\n"
        )
    console.print(
        f"next (in this environment: source {Path(sys.prefix) / 'bin' / 'activate'}):\n{live}"
        f"  dyndepth evaluate --data {out / 'recording'}   all figures of the same frames\n"
        "  dyndepth collect BAG --out DATA                     your own bag, to train on",
        soft_wrap=True,
        highlight=False,
    )
