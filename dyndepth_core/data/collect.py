"""From a bag to recordings: chosen frames, rectified, resized, with odometry at their stamps."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dyndepth_core.data.bag import Bag
from dyndepth_core.data.bag_topics import choose_image_topic, find_calibration, find_odometry
from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.odometry import OdometryTrack
from dyndepth_core.data.rectify import Rectifier
from dyndepth_core.data.transforms import plan_fit
from dyndepth_core.data.writer import RecordingWriter

logger = logging.getLogger(__name__)

MIN_FRAMES = 3  # a training sample needs a frame before and one after


@dataclass(frozen=True)
class CollectOptions:
    """What to take from a bag.

    rate_hz: frames per second by header stamp, 0 = all. size: (H, W) to resize to, None = as it is.
    max_gap_s: a longer silence, or any larger step back in time, begins a new sequence.
    """

    image_topic: str | None = None
    info_topic: str | None = None
    odom_topic: str | None = None
    rate_hz: float = 10.0
    size: tuple[int, int] | None = None
    max_gap_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate_hz <= 1000:
            raise ValueError(f"rate {self.rate_hz} Hz: give 0 (all frames) to 1000")
        if not 0 < self.max_gap_s <= 1e6:
            raise ValueError(f"max gap {self.max_gap_s} s: give more than 0 and at most 1e6")
        if self.size is not None and min(self.size) < 32:
            raise ValueError(f"size {self.size[0]}x{self.size[1]}: both sides must be at least 32")


@dataclass
class CollectReport:
    """What became of the frames of one bag: frames_in = kept + sum of dropped (by reason)."""

    image_topic: str = ""
    odom_topic: str | None = None
    calibration: str = ""
    frames_in: int = 0
    kept: int = 0
    with_odometry: int = 0
    dropped: Counter = field(default_factory=Counter)
    sequences: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Preparation:
    """What is done to every image of a camera, and the calibration that results."""

    def __init__(self, calib: Calibration, size: tuple[int, int] | None) -> None:
        self.in_size = (calib.height, calib.width)
        self._rectifier = Rectifier(calib) if calib.distortion else None
        calib = self._rectifier.calib if self._rectifier else calib
        self._fit = None
        if size is not None and size != self.in_size:
            self._fit = plan_fit(self.in_size, size, calib.K)
            if self._fit.resized != size:
                rows = self._fit.resized[0]
                raise ValueError(
                    f"size {size[0]}x{size[1]}: an image of {calib.height}x{calib.width} does not "
                    f"fill it; use {rows}x{size[1]} or a smaller height"
                )
            if calib.K is None:
                calib = Calibration(size[1], size[0], source=calib.source)
            else:
                K = self._fit.K(calib.K)
                calib = Calibration.from_K(K, size[1], size[0], f"{calib.source}, resized")
        self.calib = calib

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Rectify and resize uint8 (H, W, 3)."""
        if self._rectifier is not None:
            image = self._rectifier.image(image)
        return image if self._fit is None else self._fit.image(image)


class RateLimit:
    """Keeps frames at a target rate by their stamps, not by counting them."""

    def __init__(self, rate_hz: float) -> None:
        self._period = 1e9 / rate_hz if rate_hz else 0.0
        self._due: float | None = None

    def accepts(self, stamp_ns: int) -> bool:
        """Whether the frame at this stamp is due; a quarter period early counts as on time."""
        if self._due is not None and stamp_ns < self._due - 0.25 * self._period:
            return False
        due = stamp_ns if self._due is None else self._due
        # The grid is kept, so that 30 Hz gives 10 and not 9; after a pause it starts at the frame.
        self._due = max(due, stamp_ns - 0.5 * self._period) + self._period
        return True

    def restart(self) -> None:
        """Begin a new grid at the next frame."""
        self._due = None


class SequenceWriter:
    """Writes runs of frames as recordings; a run shorter than MIN_FRAMES never reaches the disk."""

    def __init__(self, root: Path, name: str, calib: Calibration, report: CollectReport) -> None:
        self._root, self._name, self._calib, self._report = root, name, calib, report
        self._waiting: list[tuple] = []
        self._writer: RecordingWriter | None = None

    def add(self, image: np.ndarray, stamp_ns: int, odometry: dict[str, float] | None) -> None:
        """Append a frame to the current sequence."""
        self._waiting.append((image, stamp_ns, odometry))
        if self._writer is None and len(self._waiting) >= MIN_FRAMES:
            name = f"{self._name}_{len(self._report.sequences):03d}"
            self._writer = RecordingWriter(self._root / name, self._calib)
            self._report.sequences.append({"name": name, "frames": 0, "first_stamp_ns": None})
        if self._writer is not None:
            for frame in self._waiting:
                self._write(*frame)
            self._waiting.clear()

    def _write(self, image: np.ndarray, stamp_ns: int, odometry: dict[str, float] | None) -> None:
        self._writer.add(image, stamp_ns, odometry=odometry)
        sequence = self._report.sequences[-1]
        sequence["frames"] += 1
        sequence["last_stamp_ns"] = stamp_ns
        if sequence["first_stamp_ns"] is None:
            sequence["first_stamp_ns"] = stamp_ns
        self._report.kept += 1
        self._report.with_odometry += odometry is not None

    def end(self) -> None:
        """End the current sequence; the next frame begins another."""
        if self._waiting:
            self._report.dropped["sequence_too_short"] += len(self._waiting)
            self._waiting.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def collect_bag(
    bag: Bag,
    root: str | Path,
    name: str,
    options: CollectOptions,
    report: CollectReport | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> CollectReport:
    """Turn the images of one camera of a bag into recordings `<root>/<name>_000`, `_001`, ...

    `report`, also returned, is up to date at any moment; `on_frame` is called once per message.
    Raises ValueError: no such topic, several cameras, calibration or size that do not fit.
    """
    report = CollectReport() if report is None else report
    topic = choose_image_topic(bag, options.image_topic)
    prepare = Preparation(find_calibration(bag, topic, options.info_topic), options.size)
    report.image_topic, report.calibration = topic.name, prepare.calib.source
    report.odom_topic, track = find_odometry(bag, options.odom_topic)
    report.problems = bag.problems
    writer = SequenceWriter(Path(root), name, prepare.calib, report)
    try:
        _sort_frames(bag, topic.name, prepare, track, options, writer, report, on_frame)
    finally:
        writer.end()
    if report.kept == 0:
        logger.warning("%s: no frame of %s could be used: %s", bag.path, topic.name, report.dropped)
    return report


def _sort_frames(
    bag: Bag,
    topic: str,
    prepare: Preparation,
    track: OdometryTrack,
    options: CollectOptions,
    writer: SequenceWriter,
    report: CollectReport,
    on_frame: Callable[[], None],
) -> None:
    limit, last = RateLimit(options.rate_hz), None
    for frame in bag.frames(topic):
        on_frame()
        report.frames_in += 1
        step = None if last is None else (frame.stamp_ns - last) / 1e9
        if step is not None and -options.max_gap_s <= step <= 0:
            report.dropped["stamp_repeated" if step == 0 else "stamp_backwards"] += 1
            continue
        if step is not None and not 0 < step <= options.max_gap_s:
            writer.end()
            limit.restart()
        last = frame.stamp_ns
        if not limit.accepts(frame.stamp_ns):
            report.dropped["rate"] += 1
            continue
        try:
            image = frame.image()
        except ValueError as error:
            report.dropped["undecodable"] += 1
            logger.warning("%s: image at %d ns left out: %s", bag.path, frame.stamp_ns, error)
            continue
        if image.shape[:2] != prepare.in_size:
            report.dropped["resolution"] += 1
            continue
        writer.add(prepare(image), frame.stamp_ns, track.at(frame.stamp_ns))
