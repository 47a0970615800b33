"""Depth of a whole source of frames into files; `dyndepth predict` is this with a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dyndepth_core.data.calibration import Calibration

from ..files import write_atomically
from .color import DepthColors
from .depth_files import FORMATS, DepthFiles, SideBySide
from .motion_files import MotionFiles
from .output import OutputSize
from .predictor import Prediction, Predictor
from .sources import FrameSource

ASSUMED = "assumed, the camera is unknown"
METRIC_RANGE = 80.0  # metres, the far end of the colours where nothing else is asked for


@dataclass(frozen=True)
class BatchOptions:
    """What to write. max_range: metres, None = all depth is kept; fps: of the video, None = as the
    source. ValueError names the option that cannot be used.
    """

    file_format: str = "png"
    size: OutputSize = "input"
    max_range: float | None = None
    fps: float | None = None
    video: bool = True

    def __post_init__(self) -> None:
        if self.file_format not in FORMATS:
            raise ValueError(f"--format {self.file_format}: choose {' or '.join(FORMATS)}")
        if self.size not in ("input", "model"):
            raise ValueError(f"--size {self.size}: choose input or model")
        if self.max_range is not None and not 0 < self.max_range < np.inf:
            raise ValueError(f"--max-range {self.max_range}: give metres above 0")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"--fps {self.fps}: give a number above 0, up to 1000")


class _Output:
    """The files of one source, begun with its first frame."""

    def __init__(
        self,
        folder: Path,
        source: FrameSource,
        options: BatchOptions,
        first: Prediction,
        moves: bool,
    ) -> None:
        self.size, self.K = first.depth.shape, first.K
        self.files = DepthFiles(folder / "depth", options.file_format, options.max_range)
        if options.max_range or first.scale.is_metric:
            self.colours = DepthColors(options.max_range or METRIC_RANGE)
        else:
            self.colours = DepthColors.for_depth(first.depth)
        fps = options.fps or source.rate_hz
        self.video = SideBySide(folder / "color", fps)
        unit = "m/s" if first.scale.is_metric else "rel./s"
        self.motion = MotionFiles(folder, fps, unit, options.video) if moves else None
        known = source.calib.K is not None
        camera = f"predict: {source.calib.source if known else ASSUMED}"
        calib = Calibration.from_K(self.K, self.size[1], self.size[0], camera)
        write_atomically(folder / "calib.json", calib.dumps().encode())

    def close(self) -> None:
        """Finish the files that all frames share."""
        try:
            self.video.close()
        finally:
            if self.motion is not None:
                self.motion.close()


def predict_source(
    source: FrameSource,
    predictor: Predictor,
    folder: Path,
    options: BatchOptions,
    on_frame: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write depth, video, calib.json and summary.json of a source to `folder`, and motion where the
    model has it; returns the summary.

    Frames that cannot be used are left out and counted. `on_frame` is called once per frame.
    Raises ValueError when no frame can be used.
    """
    predictor.warm_up()
    moves = bool(predictor.has_object_motion)
    times: dict[str, list[float]] = {"prepare": [], "network": [], "write": []}
    output: _Output | None = None
    faults: list[str] = []
    start = time.perf_counter()
    try:
        for frame in source.frames():
            on_frame()
            if frame.image is None:
                faults.append(frame.fault)
                continue
            K = source.calib.K
            result = predictor(
                frame.image, K, frame.stamp_ns, output_size=options.size, motion=moves
            )
            before = time.perf_counter()
            if output is None:
                output = _Output(folder, source, options, result, moves)
            output.files.write(frame.name, result.depth, result.K)
            if options.video:
                output.video.add(result.image, output.colours(result.depth))
            if output.motion is not None:
                output.motion.write(
                    frame.name, frame.stamp_ns, result.image, result.K, result.motion
                )
            spans = result.timings_ms | {"write": 1e3 * (time.perf_counter() - before)}
            for name, span in spans.items():
                times[name].append(span)
    finally:
        if output is not None:
            output.close()
    if output is None:
        why = faults[0] if faults else "it has none"
        raise ValueError(f"{source.name}: none of its {source.count} frames can be used: {why}")
    seconds, frames = time.perf_counter() - start, len(times["write"])
    summary = {
        "input": source.name,
        "frames": frames,
        "damaged": len(faults),
        "model": str(predictor.path),
        "method": predictor.meta.method,
        "scale": {k: None if v == np.inf else v for k, v in vars(predictor.scale).items()},
        "device": str(predictor.device),
        "network_size": list(predictor.input_size),
        "depth_size": list(output.size),
        "K": output.K.tolist(),
        "camera": source.calib.source if source.calib.K is not None else ASSUMED,
        "max_range": options.max_range,
        "colour_range": [output.colours.near, output.colours.far],
        "depth_files": f"depth/*.{options.file_format}",
        "video": output.video.path.name if output.video.path else None,
        "motion": _motion_summary(output.motion),
        "seconds": round(seconds, 3),
        "frames_per_second": round(frames / seconds, 2),
        "milliseconds": {name: _percentiles(values) for name, values in times.items()},
        "empty": output.files.empty,
        "notes": notes(source, predictor),
    }
    text = json.dumps(summary, indent=1) + "\n"
    write_atomically(folder / "summary.json", text.encode())
    return summary


def _motion_summary(files: MotionFiles | None) -> dict[str, Any] | None:
    if files is None:
        return None
    video = files.video.path.name if files.video is not None and files.video.path else None
    return {
        "frames": files.count, "objects": len(files.ids), "speed_unit": files.unit, "video": video,
    }  # fmt: skip


def notes(source: FrameSource, predictor: Predictor) -> list[str]:
    """What the reader of the results must know about their metres."""
    found = []
    if source.calib.K is None:
        found.append(
            f"the camera of {source.name} is unknown: the model's focal length is assumed, so "
            "distances are right only up to one factor; put a calib.json beside the images, or "
            "VIDEO.calib.json beside a video"
        )
    if source.rectified_here:
        found.append(
            f"the lens distortion of {source.name} is removed first: depth lies over the rectified "
            "images (those of the video), their camera is in calib.json"
        )
    if not predictor.scale.is_metric:
        found.append(
            "the model has no metric scale: depth is in its own units times "
            f"{predictor.scale.value:g} (--assumed-scale)"
        )
    return found


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}
