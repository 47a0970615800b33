"""Is a bag, a recording or a video fit for training? Looked at beforehand, in bounded time."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dyndepth_core.data.bag import IMAGE_TYPES, Bag, is_bag
from dyndepth_core.data.bag_sample import PAIRS, BagSample
from dyndepth_core.data.bag_topics import (
    INFO_TYPE,
    ODOMETRY_TYPES,
    ImageTopic,
    find_calibration,
    image_topics,
)
from dyndepth_core.data.checks import Finding, check_camera, check_odometry, check_stamps
from dyndepth_core.data.image_checks import ImageSample, crop_option
from dyndepth_core.data.recording import ODOMETRY_KEYS, DamagedImage, Recording, open_recordings

MINUTES = "time"
SHORT_MINUTES, GOOD_MINUTES = 0.05, 3.0  # in motion: too little to train on; enough not to say so


@dataclass
class Report:
    """What the doctor found; `minutes` in all and `moving_minutes`, None where nobody knows."""

    path: str
    kind: str
    topics: list[dict[str, Any]] = field(default_factory=list)
    camera: str = ""
    cameras: list[str] = field(default_factory=list)
    frames: int = 0
    rate_hz: float = 0.0
    minutes: float = 0.0
    moving_minutes: float | None = None
    sampled: bool = False
    findings: list[Finding] = field(default_factory=list)
    next: str = ""

    @property
    def verdict(self) -> str:
        """`fit`, `fit with warnings` or `not fit`."""
        levels = {f.level for f in self.findings}
        if "fault" in levels:
            return "not fit"
        return "fit with warnings" if "warning" in levels else "fit"

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {"verdict": self.verdict, **asdict(self)}


def examine(
    path: str | Path, image_topic: str | None = None, odom_topic: str | None = None
) -> list[Report]:
    """One report for a bag or a video; one for each recording of a root, then one for the root.

    Raises FileNotFoundError or ValueError for what cannot be opened at all.
    """
    path = Path(path)
    if is_bag(path):
        with Bag(path) as bag:
            return [_examine_bag(bag, image_topic, odom_topic)]
    reports = [_examine_recording(r) for r in open_recordings(path)]
    if len(reports) > 1:
        return [*reports, _together(path, reports)]
    reports[0].next = train_command(path, " video" in reports[0].next)  # the root, where it is one
    return reports


def _examine_bag(bag: Bag, image_topic: str | None, odom_topic: str | None) -> Report:
    report = Report(str(bag.path), "bag")
    cameras = _cameras(bag, report, image_topic)
    if not cameras:
        _end(report, None)
        return report
    camera = cameras[0]
    report.camera, report.frames = camera.name, camera.count
    odometry = _odometry_topic(bag, report, odom_topic)
    calib = find_calibration(bag, camera)
    report.findings += check_camera(calib, camera.size)
    base = camera.name.removesuffix("/compressed").rpartition("/")[0]
    if calib.K is not None and not calib.source.startswith(f"{base}/"):
        text = f"{calib.source}, the only one of the bag, is not beside {camera.name}"
        remedy = "is it of this camera? else leave it out of the bag"
        report.findings.append(Finding("warning", "calibration", text, remedy))
    seen = BagSample(bag, camera.name, camera.count, odometry)
    report.sampled, report.minutes = seen.sampled, seen.seconds / 60
    for t in bag.topics().values():
        rate = (t.count - 1) / seen.seconds if seen.seconds and t.count > 1 else 0.0
        report.topics.append({"name": t.name, "type": t.type, "count": t.count, "rate_hz": rate})
    report.rate_hz, found = check_stamps(seen.stamps, seen.arrivals, seen.unset)
    report.findings += found
    moving, found = check_odometry(seen.odometry_stamps, seen.odometry)
    report.findings += found + seen.images.findings()
    if moving is None:
        moving = seen.images.moving
    for text in bag.problems:
        report.findings.append(Finding("warning", "damage", text, "what can be read is collected"))
    _end(report, moving)
    crop = seen.images.bonnet() if len(seen.images) else 0.0
    chosen = len(cameras) > 1 or image_topic
    words = ["dyndepth", "collect", str(bag.path), "--out", f"recordings/{bag.name}"]
    words += ["--image-topic", camera.name] if chosen else []
    words += ["--odom-topic", odometry] if odom_topic else []
    words += shlex.split(crop_option(crop)) if crop >= 0.03 else []
    report.next = shlex.join(words)
    return report


def _cameras(bag: Bag, report: Report, wanted: str | None) -> list[ImageTopic]:
    """The cameras of a bag, first the one that is looked at; raw and compressed are one."""
    found = image_topics(bag)
    usable = [t for t in found if t.size is not None]
    names = {t.name for t in usable}
    usable = [t for t in usable if t.name.removesuffix("/compressed") not in names - {t.name}]
    usable.sort(key=lambda t: (t.name != wanted, -t.count))
    report.cameras = [str(t) for t in usable]
    for topic in found:
        if topic.size is None:
            text = f"{topic.name}: no usable image ({topic.why_not})"
            report.findings.append(Finding("warning", "cameras", text, "the topic is not taken"))
    if wanted and (not usable or usable[0].name != wanted):
        known = "".join(f"\n  {t}" for t in found) or " none"
        raise ValueError(f"{bag.path}: no camera images on {wanted}; it has:{known}")
    if not usable:
        kinds = ", ".join(IMAGE_TYPES)
        text, remedy = f"no topic with images ({kinds})", "record the camera's topic"
        report.findings.append(Finding("fault", "cameras", text, remedy))
    elif len(usable) > 1 and not wanted:
        text = f"several cameras; looked at {usable[0].name}"
        remedy = "name one with --image-topic, here and for collect, which also takes: all"
        report.findings.append(Finding("warning", "cameras", text, remedy))
    else:
        report.findings.append(Finding("good", "cameras", f"{usable[0]} would be taken"))
    infos = [t.name for t in bag.topics().values() if t.type == INFO_TYPE and t.count]
    if usable and not infos:
        text = "the bag has no camera_info"
        report.findings.append(Finding("warning", "cameras", text, "record it with the images"))
    return usable


def _odometry_topic(bag: Bag, report: Report, wanted: str | None) -> str | None:
    found = [t for t in bag.topics().values() if t.type in ODOMETRY_TYPES and t.count]
    if wanted and wanted not in {t.name for t in found}:
        names = ", ".join(t.name for t in found) or "none"
        raise ValueError(f"{bag.path}: no odometry on {wanted}; it has {names}")
    found.sort(key=lambda t: (t.name != wanted, t.type != ODOMETRY_TYPES[0], -t.count))
    if len(found) > 1 and not wanted:
        text = f"{len(found)} topics; looked at {found[0].name}, which collect takes"
        report.findings.append(Finding("warning", "odometry", text, "choose with --odom-topic"))
    return found[0].name if found else None


def _examine_recording(recording: Recording) -> Report:
    report = Report(str(recording.path), "recording", frames=len(recording))
    report.camera = recording.name
    stamps = recording.stamps_ns
    report.rate_hz, found = check_stamps([stamps])
    report.minutes = float(stamps.max() - stamps.min()) / 60e9
    images = _sample(recording)
    report.sampled = len(recording) > 2 * PAIRS
    report.findings += check_camera(recording.calib, images.size) + found
    rows = [recording.odometry(i) or {} for i in range(len(recording))]
    table = np.array([[r.get(k, np.nan) for k in ODOMETRY_KEYS] for r in rows])
    known = np.isfinite(table).any(1)
    moving, found = check_odometry([stamps[known]], [table[known]])
    report.findings += found + images.findings()
    if not recording.keep.all():
        count = int((~recording.keep).sum())
        text = f"{count} frames are marked as not to be trained on (keep = 0)"
        report.findings.append(Finding("good", "frames", text))
    _end(report, images.moving if moving is None else moving)
    report.next = train_command(recording.path, recording.calib.K is None)
    return report


def _sample(recording: Recording) -> ImageSample:
    images, last = ImageSample(), len(recording) - 1
    for i in np.unique(np.linspace(0, max(last - 1, 0), PAIRS).round().astype(int)):
        pair: list[np.ndarray | None] = []
        for j in (i, i + 1):
            try:
                pair.append(recording.image(int(j)) if j <= last else None)
            except (DamagedImage, ValueError) as error:
                images.damaged.append(str(error))
                pair.append(None)
        if pair[0] is not None:
            images.pair(pair[0], pair[1])
    return images


def _together(path: Path, reports: Sequence[Report]) -> Report:
    """The root: minutes count together, and a short recording is no fault of it."""
    root = Report(str(path), "root", frames=sum(r.frames for r in reports))
    root.minutes = sum(r.minutes for r in reports)
    known = [r.moving_minutes for r in reports if r.moving_minutes is not None]
    moving = sum(known) / root.minutes if known and root.minutes else None
    for report in reports:
        report.findings = [f for f in report.findings if f.about != MINUTES]
        if report.moving_minutes == 0:
            remedy = "a camera that stands teaches nothing"
            report.findings.append(Finding("warning", MINUTES, "none in motion", remedy))
    _end(root, moving)
    learned = any(" video" in r.next for r in reports)
    root.next = train_command(path, learned)
    return root


def train_command(path: Path, learn_intrinsics: bool) -> str:
    """What trains on a recording, or on a root of them, for a shell."""
    words = ["dyndepth", "train", "--from", "motion", "--data", str(path)]
    name = path.resolve()
    words += ["--out", f"runs/{name.name if path.is_dir() else name.stem}"]
    words += ["--set", "train.minutes=45"]
    return shlex.join([*words, *(("--intrinsics", "video") if learn_intrinsics else ())])


def _end(report: Report, moving: float | None) -> None:
    """How much there is to learn from."""
    if moving is None:
        text = f"{_time(report.minutes)}; nobody knows how much of it in motion"
        remedy = "a camera that stands teaches nothing"
        report.findings.append(Finding("warning", MINUTES, text, remedy))
        return
    report.moving_minutes = moving * report.minutes
    text = f"{_time(report.minutes)}, of these {_time(report.moving_minutes)} in motion"
    if report.moving_minutes < SHORT_MINUTES:
        long = report.minutes > SHORT_MINUTES
        remedy = "drive: a camera that stands teaches nothing" if long else "record more"
        found = Finding("fault", MINUTES, text, remedy)
    elif report.moving_minutes < GOOD_MINUTES:
        remedy = f"enough for a try or a fine-tuning; {GOOD_MINUTES:g} minutes train better"
        found = Finding("warning", MINUTES, text, remedy)
    else:
        found = Finding("good", MINUTES, text)
    report.findings.append(found)


def _time(minutes: float) -> str:
    return f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.0f} s"


def summary(reports: Sequence[Report]) -> str:
    """The worst verdict of all."""
    verdicts = [r.verdict for r in reports]
    return next((v for v in ("not fit", "fit with warnings") if v in verdicts), "fit")
