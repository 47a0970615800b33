"""From a bag to recordings: chosen frames, rectified, cropped, resized, judged, with odometry at
their stamps.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dyndepth_core.data.bag import Bag, BagFrame
from dyndepth_core.data.bag_topics import (
    ImageTopic,
    choose_image_topic,
    find_calibration,
    find_odometry,
)
from dyndepth_core.data.chain import read_object
from dyndepth_core.data.collect_options import CollectOptions, CollectReport
from dyndepth_core.data.intake import CameraFrame, Intake, RateLimit
from dyndepth_core.data.preparation import Preparation
from dyndepth_core.data.sequence_writer import MIN_FRAMES, SequenceWriter
from dyndepth_core.data.writer import encode, replace_file

__all__ = [
    "MIN_FRAMES",
    "CameraFrame",
    "CollectOptions",
    "CollectReport",
    "Intake",
    "Preparation",
    "RateLimit",
    "SequenceWriter",
    "collect_bag",
]
logger = logging.getLogger(__name__)

ANEW = "delete it to begin this bag anew"
CHECKPOINT_FRAMES = 250  # between two of them; so much is done again after a kill
SAMPLED = 8  # frames at the beginning from which the size on disk is estimated
OVERHEAD = 2300  # bytes a frame takes beside its image: half a block, its row


class CheckpointError(ValueError):
    """A kept state is damaged: no fault of the bag, whose recordings must stay as they are."""


def collect_bag(
    bag: Bag,
    root: str | Path | None,
    name: str,
    options: CollectOptions,
    report: CollectReport | None = None,
    on_frame: Callable[[], None] = lambda: None,
    *,
    threads: int = 0,
    checkpoint: Path | None = None,
) -> CollectReport:
    """Turn the images of one camera of a bag into recordings `<root>/<name>_000`, `_001`, ...

    `report`, also returned, is up to date at any moment; `on_frame` is called once per message.
    root None: nothing is written (a dry run). threads: see Intake. checkpoint: a file in which the
    state is kept; where it is there, an earlier call that was killed is gone on with, and the
    recordings become those of an uninterrupted call.
    Raises ValueError: no such topic, several cameras, calibration, crop or size that do not fit.
    """
    report = CollectReport() if report is None else report
    topic = choose_image_topic(bag, options.image_topic)
    prepare = preparation(bag, topic, options)
    bag_time = options.stamp == "bag"
    report.image_topic, report.calibration = topic.name, prepare.calib.source
    report.odom_topic, odometry = find_odometry(bag, options.odom_topic, bag_time)
    moves = odometry.moves(options.standing_mps)
    if len(odometry) and not moves and options.standing_mps:
        logger.warning(
            "%s: %s never says that the vehicle moves: the image decides whether it stands",
            bag.path, report.odom_topic,
        )  # fmt: skip
    writer = SequenceWriter(None if root is None else Path(root), name, prepare.calib, report)
    intake = Intake(prepare, options, writer, report, threads, moves, source=str(bag.path))
    state = _load(checkpoint)
    report.problems = bag.problems
    try:
        skip = 0 if state is None else _restore(state, bag, report, intake, name)
        if checkpoint is not None:
            writer.resume(state is not None and state["begun"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        intake.close()
        raise CheckpointError(f"{checkpoint} is damaged ({error!r}): {ANEW}") from error
    due = skip + CHECKPOINT_FRAMES
    try:
        for frame in bag.frames(topic.name, *time_span(bag, options), skip=max(0, skip - 1)):
            if skip and frame.number <= skip:  # the last one taken: the next may repeat it
                intake.prime(frame.message.data)
                continue
            on_frame()
            stamp = frame.bag_ns if bag_time else frame.stamp_ns
            motion = odometry.at(stamp, frame.bag_ns)
            intake.push(CameraFrame(stamp, frame.image, frame.message.data), motion)
            if checkpoint is not None and frame.number >= due:
                due = _save(checkpoint, frame, bag, report, intake, writer) or due
        intake.end()
    finally:
        intake.close()
    if report.kept == 0:
        why = ", ".join(f"{n} {reason}" for reason, n in report.dropped.items())
        why = why or "there is none in the time that was asked for"
        logger.warning("%s: no frame of %s could be used: %s", bag.path, topic.name, why)
    return report


def preparation(bag: Bag, topic: ImageTopic, options: CollectOptions) -> Preparation:
    """What will be done to the images of a camera; ValueError as Preparation."""
    calib = find_calibration(bag, topic, options.info_topic)
    try:
        return Preparation(calib, options.size, options.crop)
    except ValueError as error:
        raise ValueError(f"{bag.path}: {topic.name}: {error}") from error


def time_span(bag: Bag, options: CollectOptions) -> tuple[int | None, int | None]:
    """Bag time (ns) of the part that is wanted, None: from the start, to the end."""
    if not options.start_s and options.end_s is None:
        return None, None
    first = bag.start_ns()
    stop = None if options.end_s is None else first + round(options.end_s * 1e9)
    return first + round(options.start_s * 1e9), stop


def estimate(bag: Bag, topic: ImageTopic, options: CollectOptions) -> tuple[int, int]:
    """(frames, bytes) that collecting this camera will write, by its first frames; a guess."""
    prepare = preparation(bag, topic, options)
    sizes, stamps = [], []
    start, stop = time_span(bag, options)
    for frame in bag.frames(topic.name, start, stop):
        stamps.append(frame.bag_ns)
        try:
            image = frame.image()
            if image.shape[:2] == prepare.in_size:
                sizes.append(len(encode(prepare(image))))
        except ValueError:
            pass
        if len(stamps) >= SAMPLED:
            break
    if not sizes or len(stamps) < 2:
        return 0, 0
    period = max((stamps[-1] - stamps[0]) / (len(stamps) - 1) / 1e9, 1e-3)
    count = topic.count
    if start is not None:
        first, last = bag.span()
        seconds = (last - first) / 1e9
        end_s = seconds if options.end_s is None else min(options.end_s, seconds)
        count = min(count, max(0.0, end_s - options.start_s) / period)
    count = round(count * min(1.0, options.rate_hz * period) if options.rate_hz else count)
    return count, round(count * (sum(sizes) / len(sizes) + OVERHEAD))


def _save(
    path: Path,
    frame: BagFrame,
    bag: Bag,
    report: CollectReport,
    intake: Intake,
    writer: SequenceWriter,
) -> int | None:
    """Keep the state after a frame; returns when the next one is due, None: it cannot be kept now,
    because frames wait for a sequence long enough.
    """
    intake.flush()
    if writer.waiting:
        return None
    state: dict[str, Any] = {
        "number": frame.number,
        "begun": writer.begun,
        "problems": bag.problems,
        "intake": intake.state(),
        "report": report.as_dict(),
    }
    replace_file(path, json.dumps(state).encode())
    return frame.number + CHECKPOINT_FRAMES


def _load(path: Path | None) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    try:
        return read_object(path, ANEW, ("number", "begun", "problems", "intake", "report"))
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _restore(
    state: dict[str, Any], bag: Bag, report: CollectReport, intake: Intake, name: str
) -> int:
    """Take up a kept state; returns the number of messages that are done."""
    for number, sequence in enumerate(state["report"]["sequences"]):
        if sequence["name"] != f"{name}_{number:03d}":  # a path elsewhere would be written to
            raise ValueError(f"{sequence['name']} is no recording of {name}")
    intake.restore(state["intake"])
    for problem in state["problems"]:  # in their order; met again, they are not repeated
        bag.note(problem)
    report.restore(state["report"])
    report.problems = bag.problems
    return state["number"]
