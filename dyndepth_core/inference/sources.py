"""What `dyndepth predict` reads: videos, image folders, recordings and bags, all as streams."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.rectify import Rectifier

logger = logging.getLogger(__name__)


class Frame(NamedTuple):
    """One image: file stem to name its results by, stamp, uint8 (H, W, 3) RGB without lens
    distortion; None where it cannot be used, and then why.
    """

    name: str
    stamp_ns: int
    image: np.ndarray | None
    fault: str = ""


@dataclass(frozen=True)
class FrameSource:
    """A stream of `count` frames of one camera, about `rate_hz` by their stamps.

    calib: of the frames it yields. rectified_here: their lens distortion is removed on the way, so
    that pixels are not those of the stored images.
    """

    name: str
    count: int
    rate_hz: float
    calib: Calibration
    rectified_here: bool
    frames: Callable[[], Iterator[Frame]]


def open_sources(path: str | Path, image_topic: str | None = None) -> list[FrameSource]:
    """Open a video file, an image folder, a recording, a root of recordings or a bag.

    image_topic: which camera of a bag. Raises FileNotFoundError or ValueError that says what is
    missing: an empty folder, no video, several cameras in a bag.
    """
    from dyndepth_core.data.recording import open_recordings

    path = Path(path)
    if path.exists():
        from dyndepth_core.data.bag import is_bag

        if is_bag(path):
            return [_from_bag(path, image_topic)]
    if image_topic is not None:
        raise ValueError(f"{path}: an image topic was named, but this is not a bag")
    return [_from_recording(recording) for recording in open_recordings(path)]


def _from_recording(recording) -> FrameSource:
    prepare, calib = _rectification(recording.calib)

    names = unique_names([recording.image_path(i) for i in range(len(recording))])

    def frames() -> Iterator[Frame]:
        for i, stamp in enumerate(recording.stamps_ns):
            yield _frame(names[i], int(stamp), calib, lambda i=i: prepare(recording.image(i)))

    rate = _rate(recording.stamps_ns)
    rectified = calib is not recording.calib
    return FrameSource(recording.name, len(recording), rate, calib, rectified, frames)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for the results of each image of a folder: its stem, `a.jpg` where `a.png` lies beside
    it."""
    count = Counter(path.stem for path in paths)
    names = [path.stem if count[path.stem] == 1 else path.name for path in paths]
    if len(set(names)) < len(names):  # a.jpg, a.png and a.jpg.png
        return [path.name for path in paths]
    return names


def _from_bag(path: Path, image_topic: str | None) -> FrameSource:
    from dyndepth_core.data.bag import Bag
    from dyndepth_core.data.bag_topics import choose_image_topic, find_calibration

    with Bag(path) as bag:
        topic = choose_image_topic(bag, image_topic)
        known = find_calibration(bag, topic)
        prepare, calib = _rectification(known)
        name = bag.name
        rate = _rate([frame.stamp_ns for frame in itertools.islice(bag.frames(topic.name), 10)])

    def frames() -> Iterator[Frame]:
        with Bag(path) as bag:
            for i, found in enumerate(bag.frames(topic.name)):
                name, stamp = f"{i:06d}", found.stamp_ns
                yield _frame(name, stamp, calib, lambda found=found: prepare(found.image()))
            for problem in bag.problems:
                logger.warning("%s", problem)

    return FrameSource(name, topic.count, rate, calib, calib is not known, frames)


def _rectification(
    calib: Calibration,
) -> tuple[Callable[[np.ndarray], np.ndarray], Calibration]:
    """What makes an image of this camera a pinhole image, and the calibration it then has."""
    if calib.K is not None and calib.distortion is not None and not calib.rectified:
        rectifier = Rectifier(calib)
        return rectifier.image, rectifier.calib
    return lambda image: image, calib


def _frame(name: str, stamp_ns: int, calib: Calibration, read: Callable[[], np.ndarray]) -> Frame:
    try:
        image = read()
        height, width = image.shape[:2]
        if calib.K is not None and (width, height) != (calib.width, calib.height):
            size = f"{calib.width}x{calib.height}"
            raise ValueError(
                f"{name}: image of {width}x{height}, but the calibration is for {size}"
            )
    except ValueError as error:
        logger.warning("%s", error)
        return Frame(name, stamp_ns, None, str(error))
    return Frame(name, stamp_ns, image)


def _rate(stamps_ns: Sequence[int]) -> float:
    """Frames per second by the median step of the stamps, 10 where they do not tell."""
    steps = np.diff(np.asarray(stamps_ns, np.int64))
    steps = steps[steps > 0]
    return float(np.clip(1e9 / np.median(steps), 0.1, 1000)) if len(steps) else 10.0
