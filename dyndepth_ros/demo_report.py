"""What `dyndepth demo` makes of its recording: figures, pictures and a report for people."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table


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
    motion = {"motion": scores.pop("motion")} if "motion" in scores else {}
    return {
        "frames_in": counts["frames_in"],
        "frames_out": counts["frames_out"],
        "dropped": counts["frames_in"] - counts["frames_out"],
        "latency_ms": latency,
        "abs_rel": {s: scores[s]["abs_rel"] for s in ("all", "static", "dynamic") if s in scores},
        "points_per_cloud": round(float(np.mean(counts["points"]))),
        "metrics": scores,
        **motion,
    }


def draw_run(
    out: Path, summary: dict[str, Any], rate_hz: float, progress: Progress
) -> dict[str, Path]:
    """Contact sheet and video."""
    import cv2
    import numpy as np

    from dyndepth_core.data.recording import Recording
    from dyndepth_core.evaluation.film import block, contact_sheet
    from dyndepth_core.evaluation.received import load_shot
    from dyndepth_core.inference.depth_files import SideBySide

    recording = Recording(out / "recording")
    task = progress.add_task("drawing", total=len(recording))
    first = 1 if "motion" in summary else 0  # of the very first image no motion is known
    chosen = set(np.linspace(first, len(recording) - 1, 4).round().astype(int).tolist())
    shots, film = [], SideBySide(out / "film", rate_hz)
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
        *([_motion_note(summary["motion"])] if "motion" in summary else []),
        "synthetic world: these figures say nothing about a real street. Depth is scaled to the "
        "truth by one median ratio per frame.",
    ]
    title = f"dyndepth demo, world seed {summary['seed']}, {summary['method']}"
    sheet = out / "contact_sheet.png"
    picture = contact_sheet(shots, title, notes)
    if not cv2.imwrite(str(sheet), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{sheet}: cannot be written")
    return {"contact sheet": sheet, "video": film.path}


def _motion_note(motion: dict[str, float | None]) -> str:
    """One line for the contact sheet."""
    found, true, error = (
        _number(motion[key], digits)
        for key, digits in (("f1", 2), ("speed_mps", 1), ("speed_error_mps", 1))
    )
    return (
        f"moving pixels: F1 {found}   |   speed of moving objects wrong by {error} m/s, where they "
        f"move at {true} m/s   |   arrows: where an object will be seen in half a second"
    )


def motion_table(motion: dict[str, float | None]) -> Table:
    """Figures of MotionErrors.table with their units."""
    from rich.table import Table

    rows = {
        "moving pixels found": f"F1 {_number(motion['f1'])}, IoU {_number(motion['iou'])}",
        "": f"precision {_number(motion['precision'])}, recall {_number(motion['recall'])}",
        "still pixels said to move": _number(motion["false_share"], 4),
        "error of motion per image": f"{_number(motion['epe_m'])} m "
        f"(saying that nothing moves: {_number(motion['epe_zero_m'])} m)",
        "error of speed per object": f"{_number(motion['speed_error_mps'], 2)} m/s "
        f"(they move at {_number(motion['speed_mps'], 2)} m/s)",
        "objects, each in each image": str(motion["objects"]),
    }
    table = Table(title="motion against ground truth", title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


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
    if "motion" in summary:
        console.print(motion_table(summary["motion"]))
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
            "  export AMENT_PREFIX_PATH=$VIRTUAL_ENV:$AMENT_PREFIX_PATH   for ros2 launch\n"
            "  ros2 launch dyndepth demo.launch.py                        the same, live, in RViz\n"
            "  ros2 launch dyndepth depth.launch.py image:=TOPIC camera_info:=TOPIC   your camera\n"
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
