"""Tables and pictures of an evaluation, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures go to files; no display is needed or touched
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from rich.box import SIMPLE_HEAD  # noqa: E402
from rich.table import Table  # noqa: E402

from dyndepth_core.data.recording import Recording  # noqa: E402
from dyndepth_core.evaluation.metrics import (  # noqa: E402
    METRICS,
    STRATA,
    ImageScore,
    median_ratio,
    valid_depth,
)
from dyndepth_core.evaluation.protocols import Protocol  # noqa: E402
from dyndepth_core.evaluation.runner import Arm, name_clips  # noqa: E402
from dyndepth_core.evaluation.statistics import BLOCK_SECONDS, MIN_BLOCKS  # noqa: E402

ERROR_LIMIT = 0.5  # abs_rel at which the error colours end


def metrics_table(methods: Mapping[str, dict], title: str) -> Table:
    """One row per method and stratum; the methods of a stratum stand together, best abs_rel
    bold."""
    absent = [s for s in STRATA if not any(s in m for m in methods.values())]
    note = (
        f"no image has 100 pixels, or the data cannot tell: {', '.join(absent)}" if absent else None
    )
    table = _table(title, note)
    table.add_column("stratum", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    for stratum in STRATA:
        rows = [(name, m[stratum]) for name, m in methods.items() if stratum in m]
        best = min((row["abs_rel"] for _, row in rows), default=0.0)
        for k, (name, row) in enumerate(rows):
            cells = [f"{row[m]:.3f}" for m in METRICS]
            if row["abs_rel"] == best:
                cells[0] = f"[bold]{cells[0]}[/bold]"
            table.add_row(stratum if k == 0 else "", name, *cells, str(row["images"]))
        if rows:
            table.add_section()
    return table


def scale_table(methods: Mapping[str, dict]) -> Table:
    """How the depth is scaled, per method: median ratio, its spread, unscaled abs_rel,
    ego-motion."""
    table = _table("scale and ego-motion")
    for column in ("method", "median ratio", "scale_std", "unscaled abs_rel", "ate_m", "rpe_deg"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for name, row in methods.items():
        unscaled = row.get("unscaled", {}).get("all", {}).get("abs_rel")
        ego = row.get("ego", {})
        ratio, spread = row["median_ratio"], row["scale_std"]
        values = (ratio, spread, unscaled, ego.get("ate_m"), ego.get("rpe_deg"))
        table.add_row(name, *("-" if v is None else f"{v:.3f}" for v in values))
    return table


MOVING = {  # of MotionErrors.table: heading, digits
    "f1": ("F1", 3), "false_share": ("still said to move", 4), "epe_m": ("error m", 3),
    "epe_zero_m": ("of saying none", 3), "speed_error_mps": ("speed error m/s", 2),
    "speed_mps": ("speed m/s", 2), "objects": ("objects", 0),
}  # fmt: skip


def motion_table(methods: Mapping[str, dict]) -> Table | None:
    """How well moving things and their motion are found; None where no method says."""
    found = {name: m["motion"] for name, m in methods.items() if m.get("motion")}
    if not found:
        return None
    table = _table("what moves", "error: of the translation from image to image, moving pixels")
    table.add_column("method", no_wrap=True)
    for heading, _ in MOVING.values():
        table.add_column(heading, justify="right")
    for name, m in found.items():
        cells = ("-" if m[k] is None else f"{m[k]:.{n}f}" for k, (_, n) in MOVING.items())
        table.add_row(name, *cells)
    return table


def paired_table(paired: Sequence[Mapping]) -> Table:
    """Ratios of abs_rel with their 95 % intervals."""
    table = _table(
        "abs_rel of the first over the second, paired per image; below 1 the first is better",
        f"resampled: clips or blocks of {BLOCK_SECONDS:g} s; under {MIN_BLOCKS} of them no verdict",
    )
    for column in (
        "first",
        "second",
        "stratum",
        "ratio",
        "95 % interval",
        "images",
        "blocks",
        "first is",
    ):
        table.add_column(column, no_wrap=True)
    for row in paired:
        known = row["low"] is not None
        table.add_row(
            row["first"],
            row["second"],
            row["stratum"],
            f"{row['ratio']:.3f}",
            f"{row['low']:.3f}-{row['high']:.3f}" if known else "-",
            str(row["images"]),
            str(row["blocks"]),
            row["verdict"],
        )
    return table


def _table(title: str, caption: str | None = None) -> Table:
    """A table that fits 80 columns."""
    sides = {"title_justify": "left", "caption_justify": "left"}
    return Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0, pad_edge=False, **sides)


def save_pictures(
    folder: Path,
    recordings: Sequence[Recording],
    arm: Arm,
    scores: Sequence[ImageScore],
    protocol: Protocol,
    name: str = "model",
    count: int = 3,
) -> list[Path]:
    """Write best.png, worst.png (image, prediction, truth, error map of the extreme frames) and
    over_time.png.

    Frames are ordered by abs_rel over all pixels and predicted again. Returns the files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips = name_clips(recordings)
    ranked = sorted(scores, key=lambda s: s.scaled["all"]["abs_rel"])
    files = []
    for label, order in (("best", ranked), ("worst", ranked[::-1])):
        chosen = _apart(order, count)
        shape = recordings[0].calib.height / recordings[0].calib.width
        size = (20, len(chosen) * (5 * shape + 0.4) + 0.5)
        figure, axes = plt.subplots(
            len(chosen), 4, figsize=size, squeeze=False, layout="constrained"
        )
        for row, score in zip(axes, chosen, strict=True):
            _draw_frame(row, clips[score.clip], arm, score, protocol)
        figure.suptitle(f"{label} frames of {name} by abs_rel, {protocol.says}")
        files.append(_save(figure, folder / f"{label}.png"))
    files.append(_over_time(folder / "over_time.png", scores, name))
    return files


def draw_trajectories(
    tracks: Mapping[str, Mapping[str, np.ndarray]], truth: Mapping[str, np.ndarray], path: Path
) -> Path:
    """Seen from above: tracks {method: {clip: (N, 3) metres, x right, z ahead}}, truth {clip}."""
    clips = list(truth)[:6]
    columns = min(len(clips), 3)
    shape = -(-len(clips) // columns), columns
    size = (4 * shape[1], 4 * shape[0])
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for axis, clip in zip(axes.flat, clips, strict=False):
        axis.plot(truth[clip][:, 0], truth[clip][:, 2], "k-", linewidth=2, label="truth")
        for name, of_clip in tracks.items():
            if clip in of_clip:
                axis.plot(of_clip[clip][:, 0], of_clip[clip][:, 2], ".-", markersize=3, label=name)
        axis.set_title(clip, fontsize=9)
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xlabel("x (m)")
        axis.set_ylabel("z (m)")
    for axis in list(axes.flat)[len(clips) :]:
        axis.set_axis_off()
    axes.flat[0].legend(fontsize=8)
    return _save(figure, path)


def _apart(order: Sequence[ImageScore], count: int) -> list[ImageScore]:
    """The first `count` that are no neighbours of one taken: three alike tell no more than one."""
    chosen: list[ImageScore] = []
    for score in order:
        if all(score.clip != c.clip or abs(score.index - c.index) > 5 for c in chosen):
            chosen.append(score)
    return chosen[:count]


def _draw_frame(row, recording: Recording, arm: Arm, score: ImageScore, protocol: Protocol) -> None:
    gt = recording.depth(score.index)
    arm.start(recording)
    if score.index > 0:  # a model that looks back gets one frame to look at
        arm.depth(recording, score.index - 1, gt.shape)
    guess = arm.depth(recording, score.index, gt.shape)
    counts = valid_depth(gt, *protocol.depth_range) & protocol.mask(*gt.shape) & np.isfinite(guess)
    guess = guess * median_ratio(gt[counts], guess[counts])
    error = np.full(gt.shape, np.nan)
    error[counts] = np.abs(gt - guess)[counts] / gt[counts]
    near, far = 1.0 / np.percentile(gt[counts], (98, 2))
    truth = np.where(valid_depth(gt, *protocol.depth_range), 1.0 / np.maximum(gt, 1e-3), np.nan)
    what = f"{score.clip} frame {score.index}"
    row[0].imshow(recording.image(score.index))
    row[0].set_title(what, fontsize=9)
    for axis, inverse, label in (
        (row[1], 1.0 / guess, "predicted 1/z"),
        (row[2], truth, "true 1/z"),
    ):
        axis.imshow(inverse, cmap="magma", vmin=near, vmax=far, interpolation="nearest")
        axis.set_title(label, fontsize=9)
    shown = row[3].imshow(
        _thicken(error), cmap="viridis", vmin=0, vmax=ERROR_LIMIT, interpolation="nearest"
    )
    row[3].set_title(f"|g-p|/g, mean {score.scaled['all']['abs_rel']:.3f}", fontsize=9)
    row[3].figure.colorbar(shown, ax=row[3], fraction=0.02)
    for axis in row:
        axis.set_axis_off()


def _thicken(error: np.ndarray) -> np.ndarray:
    """Sparse truth (LiDAR) is invisible pixel by pixel: show the largest error of each 5x5 block
    instead."""
    if np.isfinite(error).mean() > 0.1:
        return error
    h, w = error.shape[0] // 5 * 5, error.shape[1] // 5 * 5
    blocks = (
        error[:h, :w]
        .reshape(h // 5, 5, w // 5, 5)
        .transpose(0, 2, 1, 3)
        .reshape(h // 5, w // 5, 25)
    )
    return np.fmax.reduce(blocks, axis=2)


def _over_time(path: Path, scores: Sequence[ImageScore], name: str) -> Path:
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(12, 6), sharex=True, layout="constrained")
    for stratum in STRATA:
        known = [k for k, s in enumerate(scores) if stratum in s.scaled]
        if known:
            errors = [scores[k].scaled[stratum]["abs_rel"] for k in known]
            top.plot(known, errors, ".-", linewidth=0.8, markersize=3, label=stratum)
    top.set_ylabel("abs_rel")
    top.legend(fontsize=8)
    top.set_title(f"{name}, image by image")
    bottom.plot([s.ratio for s in scores], ".-", linewidth=0.8, markersize=3)
    bottom.set_ylabel("median ratio")
    bottom.set_xlabel("image")
    return _save(figure, path)


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
