"""Point tracks through short windows of a recording: corners followed by Lucas-Kanade."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from dyndepth_core.data.recording import DamagedImage, Recording

log = logging.getLogger(__name__)
LARGEST_SIDE = 640  # larger images are halved until they fit: tracks take a fifth of the time
CORNERS = 220
PATCH, LEVELS = 13, 3  # pixels; pyramid
BACK = 0.5  # pixels by which a point followed there and back again may miss itself
KEY_STEP = 0.045  # of the mean side: median displacement from one kept frame to the next
KEYS = 6  # kept frames on either side of a window's middle
REACH = 25  # frames on either side at most
ALIVE = 0.25  # share of the points below which a window ends
LEAST = 24  # points of a window that is worth anything
PROBES = 1200  # places of a video at which turning is measured


@dataclass(frozen=True)
class Window:
    """Points of a middle frame, and where they are seen in frames before and after it; pixels of
    the stored images, pixel centres at integers.
    """

    middle: int  # index of the frame
    before: int  # how many of the frames lie before it, nearest first; then those after, also
    points: np.ndarray  # (N, 2) in the middle frame
    seen: np.ndarray  # (M, N, 2)
    valid: np.ndarray  # (M, N) bool


class Frames:
    """Grey images of a recording, no larger than LARGEST_SIDE; the last ones are kept."""

    def __init__(self, recording: Recording) -> None:
        self.recording, self._kept = recording, {}
        side, self.halvings = max(recording.calib.width, recording.calib.height), 0
        while side > LARGEST_SIDE:
            side, self.halvings = side / 2, self.halvings + 1

    def __call__(self, i: int) -> np.ndarray | None:
        """Frame i as uint8 (h, w); None where it is damaged."""
        if i not in self._kept:
            try:
                image = cv2.cvtColor(self.recording.image(i), cv2.COLOR_RGB2GRAY)
            except DamagedImage:
                return None
            size = [max(1, n >> self.halvings) for n in image.shape[::-1]]
            if self.halvings:
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            if len(self._kept) > 2 * REACH:
                self._kept.pop(next(iter(self._kept)))
            self._kept[i] = image
        return self._kept[i]

    def stored(self, points: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of the stored image from those of the reduced one."""
        calib, step = self.recording.calib, self.halvings
        size = np.array((calib.width, calib.height))
        return (points + 0.5) * (size / np.maximum(1, size >> step)) - 0.5


def windows(recording: Recording, count: int) -> list[Window]:
    """At most `count` windows, where the image turns most and in between; in temporal order."""
    frames, found = Frames(recording), []
    for middle in sorted(_middles(recording, frames, count)):
        window = _window(recording, frames, middle)
        if window is not None:
            found.append(window)
    return found


def _middles(recording: Recording, frames: Frames, count: int) -> list[int]:
    """Frames at which windows are centred: three quarters of them where most turning is about."""
    turning = _turning(recording, frames)
    length, gap = len(turning), 4
    around = np.convolve(turning, np.ones(9), "same")
    taken = np.zeros(length, bool)
    chosen: list[int] = []
    for score, wanted in ((around, count - count // 4), (np.ones(length), count)):
        score = np.where(taken, -1.0, score)
        if wanted == count:  # evenly
            spread = np.linspace(0, length - 1, count // 4 + 2)[1:-1].round().astype(int)
            chosen += [int(i) for i in spread if not taken[i]]
            break
        while len(chosen) < wanted and score.max() > 0:
            best = int(score.argmax())
            chosen.append(best)
            near = slice(max(0, best - gap), best + gap + 1)
            score[near], taken[near] = -1.0, True
    return list(dict.fromkeys(chosen))


def _turning(recording: Recording, frames: Frames) -> np.ndarray:
    """(len,) how far the image moves sideways or up and down as a whole: absolute median of the
    displacement of the upper half's points, in pixels per frame.
    """
    length = len(recording)
    stride = -(-length // PROBES)
    at, moved = [], []
    for i in range(0, length - 1, stride):
        first, second = frames(i), frames(i + 1)
        if first is None or second is None or _gap(recording, i):
            continue
        points = cv2.goodFeaturesToTrack(first[: first.shape[0] // 2], 60, 0.01, 5)
        if points is None or len(points) < 8:
            continue
        ends, good = follow(first, second, points[:, 0])
        if good.sum() >= 8:
            at.append(i)
            moved.append(np.abs(np.median((ends - points[:, 0])[good], 0)).max())
    return np.interp(np.arange(length), at, moved) if at else np.zeros(length)


def _gap(recording: Recording, i: int) -> bool:
    """Whether frames are missing between i and i + 1."""
    steps = np.diff(recording.stamps_ns)
    return not 0 < steps[i] < 2 * max(np.median(steps), 1)


def follow(
    first: np.ndarray, second: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 2) of the first grey image in the second: (N, 2), and whether to trust them (N,)
    bool: followed back, they come home.
    """
    options = {
        "winSize": (PATCH, PATCH),
        "maxLevel": LEVELS,
        "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01),
    }
    start = np.ascontiguousarray(points, np.float32).reshape(-1, 1, 2)
    ends, there, _ = cv2.calcOpticalFlowPyrLK(first, second, start, None, **options)
    home, back, _ = cv2.calcOpticalFlowPyrLK(second, first, ends, None, **options)
    missed = np.abs(home - start).reshape(-1, 2).max(1)
    size, border = np.array(second.shape[::-1]), PATCH // 2
    ends = ends.reshape(-1, 2)
    inside = ((ends >= border) & (ends <= size - 1 - border)).all(1)
    return ends, (there[:, 0] > 0) & (back[:, 0] > 0) & (missed < BACK) & inside


def _window(recording: Recording, frames: Frames, middle: int) -> Window | None:
    image = frames(middle)
    if image is None:
        return None
    corners = cv2.goodFeaturesToTrack(image, CORNERS, 0.003, max(4, min(image.shape) // 24))
    if corners is None or len(corners) < LEAST:
        return None
    points = corners[:, 0]
    seen, valid, before = [], [], 0
    for step in (-1, 1):
        for places, good in _keys(recording, frames, middle, step, points):
            seen.append(places)
            valid.append(good)
        before = len(seen) if step < 0 else before
    if len(seen) < 2:
        return None
    kept = np.array(valid).sum(0) >= 2
    if kept.sum() < LEAST:
        return None
    return Window(
        middle,
        before,
        frames.stored(points[kept].astype(np.float64)),
        frames.stored(np.array(seen, np.float64)[:, kept]),
        np.array(valid)[:, kept],
    )


def _keys(
    recording: Recording, frames: Frames, middle: int, step: int, points: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places and trust of the points in the kept frames on one side, nearest first."""
    image, places, alive = frames(middle), points, np.ones(len(points), bool)
    apart = KEY_STEP * sum(image.shape) / 2
    last, count = points, 0
    for i in range(middle + step, middle + step * (REACH + 1), step):
        if not 0 <= i < len(recording) or _gap(recording, min(i, i - step)):
            return
        following = frames(i)
        if following is None:
            return
        ends, good = follow(image, following, places)
        alive = alive & good
        if alive.sum() < max(LEAST, ALIVE * len(points)):
            return
        image, places = following, np.where(alive[:, None], ends, places)
        if np.median(np.linalg.norm(places - last, axis=1)[alive]) >= apart:
            yield places, alive
            last, count = places, count + 1
            if count == KEYS:
                return
