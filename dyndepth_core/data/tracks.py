"""Point tracks through short windows of a recording: corners followed by Lucas-Kanade."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from dyndepth_core.data.recording import DamagedImage

LARGEST_SIDE = 640  # larger images are halved until they fit: tracks take a fifth of the time
CORNERS = 220
PATCH, LEVELS = 13, 3  # pixels; pyramid
BACK = 0.5  # pixels by which a point followed there and back again may miss itself
KEY_STEP = 0.045  # of the mean side: median displacement from one kept frame to the next
KEYS = 6  # kept frames on either side of a window's middle
REACH = 25  # frames on either side at most
ALIVE = 0.25  # share of the points below which a window ends
LEAST = 24  # points of a window that is worth anything
APART = 4  # frames between the middles of windows, at least
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
    frames: tuple[int, ...] = ()  # indices of those M frames


class Frames:
    """Grey images of a video, no larger than LARGEST_SIDE; the last ones are kept.

    read: frame i as uint8 (H, W, 3) RGB, or DamagedImage.
    """

    def __init__(self, read: Callable[[int], np.ndarray], stamps_ns: np.ndarray) -> None:
        self._read, self._kept = read, {}
        self.steps = np.diff(stamps_ns)
        self.usual = max(float(np.median(self.steps)), 1.0) if len(self.steps) else 1.0
        self.scale = np.ones(2)  # stored pixels per pixel

    def __len__(self) -> int:
        return len(self.steps) + 1

    def __call__(self, i: int) -> np.ndarray | None:
        """Frame i as uint8 (h, w); None where it is damaged."""
        if i not in self._kept:
            try:
                image = cv2.cvtColor(self._read(i), cv2.COLOR_RGB2GRAY)
            except DamagedImage:
                return None
            stored, times = np.array(image.shape[::-1]), -(-max(image.shape) // LARGEST_SIDE)
            if times > 1:
                image = cv2.resize(image, stored // times, interpolation=cv2.INTER_AREA)
            self.scale = stored / image.shape[::-1]
            if len(self._kept) > 2 * REACH:
                self._kept.pop(next(iter(self._kept)))
            self._kept[i] = image
        return self._kept[i]

    def gap(self, i: int) -> bool:
        """Whether frames are missing between i and i + 1."""
        return not 0 < self.steps[i] < 2 * self.usual

    def stored(self, points: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of the stored image from those of the reduced one."""
        return (points + 0.5) * self.scale - 0.5


def windows(
    read: Callable[[int], np.ndarray],
    stamps_ns: np.ndarray,
    count: int,
    key_step: float = KEY_STEP,
) -> list[Window]:
    """At most `count` windows, where the image turns most and in between, in temporal order.

    read: as in Frames; stamps_ns (frames,); key_step: as KEY_STEP.
    """
    frames = Frames(read, stamps_ns)
    found = (_window(frames, middle, key_step) for middle in sorted(_middles(frames, count)))
    return [window for window in found if window is not None]


def _middles(frames: Frames, count: int) -> list[int]:
    """Frames at which windows are centred: a quarter of them evenly, the others where most turning
    is about, none near another.
    """
    around = np.convolve(_turning(frames), np.ones(9), "same")[: len(frames)]
    evenly = np.linspace(0, len(frames) - 1, count // 4 + 2)[1:-1].round().astype(int)
    chosen: list[int] = []
    by_turning = np.argsort(-around, kind="stable")
    for order, wanted in ((by_turning, count - count // 4), (evenly, count)):
        for i in order:
            if len(chosen) < wanted and all(abs(i - j) > APART for j in chosen):
                chosen.append(int(i))
    return chosen


def _turning(frames: Frames) -> np.ndarray:
    """(len,) how far the image moves sideways or up and down as a whole: absolute median of the
    displacement of the upper half's points, in pixels per frame.
    """
    length = len(frames)
    stride = -(-length // PROBES)
    at, moved = [], []
    for i in range(0, length - 1, stride):
        first, second = frames(i), frames(i + 1)
        if first is None or second is None or frames.gap(i):
            continue
        points = cv2.goodFeaturesToTrack(first[: first.shape[0] // 2], 60, 0.01, 5)
        if points is None or len(points) < 8:
            continue
        ends, good = follow(first, second, points[:, 0])
        if good.sum() >= 8:
            at.append(i)
            moved.append(np.abs(np.median((ends - points[:, 0])[good], 0)).max())
    return np.interp(np.arange(length), at, moved) if at else np.zeros(length)


def follow(
    first: np.ndarray, second: np.ndarray, points: np.ndarray, patch: int = PATCH
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 2) of the first grey image in the second: (N, 2), and whether to trust them (N,)
    bool: followed back, they come home. patch: pixels, side of what is compared.
    """
    options = {
        "winSize": (patch, patch),
        "maxLevel": LEVELS,
        "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01),
    }
    start = np.ascontiguousarray(points, np.float32).reshape(-1, 1, 2)
    ends, there, _ = cv2.calcOpticalFlowPyrLK(first, second, start, None, **options)
    home, back, _ = cv2.calcOpticalFlowPyrLK(second, first, ends, None, **options)
    missed = np.abs(home - start).reshape(-1, 2).max(1)
    size, border = np.array(second.shape[::-1]), patch // 2
    ends = ends.reshape(-1, 2)
    inside = ((ends >= border) & (ends <= size - 1 - border)).all(1)
    return ends, (there[:, 0] > 0) & (back[:, 0] > 0) & (missed < BACK) & inside


def _window(frames: Frames, middle: int, key_step: float) -> Window | None:
    image = frames(middle)
    if image is None:
        return None
    corners = cv2.goodFeaturesToTrack(image, CORNERS, 0.003, max(4, min(image.shape) // 24))
    if corners is None or len(corners) < LEAST:
        return None
    points = corners[:, 0]
    seen, valid, at, before = [], [], [], 0
    for step in (-1, 1):
        for i, places, good in _keys(frames, middle, step, points, key_step):
            at.append(i)
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
        tuple(at),
    )


def _keys(
    frames: Frames, middle: int, step: int, points: np.ndarray, key_step: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Indices of the kept frames on one side, nearest first, with places and trust of the points
    in them.
    """
    image, places, alive = frames(middle), points, np.ones(len(points), bool)
    apart = key_step * sum(image.shape) / 2
    last, count = points, 0
    for i in range(middle + step, middle + step * (REACH + 1), step):
        if not 0 <= i < len(frames) or frames.gap(min(i, i - step)):
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
            yield i, places, alive
            last, count = places, count + 1
            if count == KEYS:
                return
