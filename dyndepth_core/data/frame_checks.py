"""Is a frame worth learning from: blur, exposure, a standing camera; measured on the image alone
and judged beside the frames before it.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dyndepth_core.data.collect_options import CollectOptions

SHARP_WIDTH, THUMB_WIDTH = 640, 160  # pixels
NEAR, FAR = 1, 8  # pixels between the grey values that sharpness compares
BLACK, WHITE = 8, 247  # grey values at and beyond which a pixel says nothing
TINY = 1e-6  # sharpness of nothing at all
MEMORY, ENOUGH = 30, 5  # frames before, and how many of them make a judgement possible
APART_NS = 80_000_000  # between the images compared for motion: 10 Hz with jitter
TEXTURE, BLOCK = 8.0, (9, 9)  # grey values per pixel: gradients whose shift can be told; pixels
TEXTURED = 50  # pixels, at least
STILL = 0.06  # pixels of the thumbnail: median shift below which the camera stands
MAX_ODOMETRY_STEP_NS = 1_000_000_000  # between two poses from which a speed is taken


@dataclass(frozen=True)
class Look:
    """What is measured on one image.

    sharp: sharpness along x and y, without unit (NaN where the image is flat); lit: share of the
    pixels neither black nor white; thumb: uint8 (h, w) grey.
    """

    sharp: tuple[float, float]
    lit: float
    thumb: np.ndarray


def look(image: np.ndarray) -> Look:
    """Measure uint8 (H, W, 3) RGB.

    sharp = mean |I(x + 1) - I(x)| / mean |I(x + 8) - I(x)|: contrast and exposure cancel out, and a
    blur along one axis shows in that axis.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.shape[1] > SHARP_WIDTH:
        grey = _to_width(grey, SHARP_WIDTH)
    lit = cv2.countNonZero(cv2.inRange(grey, BLACK, WHITE)) / grey.size
    across = (_change(grey[:, :-d], grey[:, d:]) for d in (NEAR, FAR))
    down = (_change(grey[:-d], grey[d:]) for d in (NEAR, FAR))
    return Look((_ratio(*across), _ratio(*down)), lit, _to_width(grey, THUMB_WIDTH))


def _change(a: np.ndarray, b: np.ndarray) -> float:
    return cv2.mean(cv2.absdiff(a, b))[0] if a.size else 0.0


def _ratio(near: float, far: float) -> float:
    return near / far if far > 0 else float("nan")


def _to_width(grey: np.ndarray, width: int) -> np.ndarray:
    width = min(width, grey.shape[1])
    height = max(1, round(grey.shape[0] * width / grey.shape[1]))
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def median_shift(before: np.ndarray, after: np.ndarray) -> float:
    """Median over textured places of |sum dI grad I| / sum |grad I|^2, sums over BLOCK x BLOCK
    pixels, between two grey images (h, w); pixels, NaN without texture.

    A lower bound of the shift (least squares, Lucas and Kanade 1981, for one common direction);
    noise averages out. Of a standing camera it stays near zero however fast something moves, as
    long as that fills less than half of the texture. Brightness as a whole is taken out.
    """
    mean = cv2.addWeighted(before, 0.5, after, 0.5, 0, dtype=cv2.CV_32F)
    gx = cv2.Sobel(mean, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(mean, cv2.CV_32F, 0, 1, scale=1 / 8)
    change = after.astype(np.float32) - before
    change -= np.median(change)
    energy = cv2.blur(gx * gx + gy * gy, BLOCK)
    textured = energy > TEXTURE**2
    if np.count_nonzero(textured) < TEXTURED:
        return float("nan")
    product = cv2.magnitude(cv2.blur(change * gx, BLOCK), cv2.blur(change * gy, BLOCK))
    return float(np.median(product[textured] / energy[textured]))


class FrameJudge:
    """Judges the frames of one camera in their order.

    odometry_moves: False where odometry is known to stand still all along (a sensor that is not
    connected), so that the image decides.
    """

    def __init__(self, options: CollectOptions, odometry_moves: bool = True) -> None:
        self._options, self._odometry_moves = options, odometry_moves
        self._sharp: deque[list[float]] = deque(maxlen=MEMORY)
        self.begin_sequence()

    def begin_sequence(self) -> None:
        """The next frame has no frame before it; how sharp the lens is stays known."""
        self._thumbs: deque[tuple[int, np.ndarray]] = deque()
        self._pose: tuple[int, list[float]] | None = None

    def judge(
        self, seen: Look, stamp_ns: int, odometry: dict[str, float] | None
    ) -> tuple[str, str]:
        """(reason to drop the frame, reason to tag it), empty where there is none."""
        while len(self._thumbs) > 1 and stamp_ns - self._thumbs[1][0] >= APART_NS:
            self._thumbs.popleft()
        drop = self._exposure(seen) or self._blur(seen)
        standing = self._by_odometry(stamp_ns, odometry)
        if standing is None:
            standing = self._by_image(seen.thumb, stamp_ns)
        self._thumbs.append((stamp_ns, seen.thumb))
        return drop, "standing" if standing and not drop and self._options.standing_mps else ""

    def _exposure(self, seen: Look) -> str:
        return "exposure" if seen.lit < self._options.exposure else ""

    def _blur(self, seen: Look) -> str:
        """Rejected frames count as frames before, too: a lens that has become dull is no reason to
        reject for ever."""
        if not all(map(math.isfinite, seen.sharp)):  # a flat image: its exposure says more
            return ""
        known = np.array(self._sharp, np.float64)
        self._sharp.append(list(seen.sharp))
        if len(known) < ENOUGH:
            return ""
        usual = np.maximum(np.median(known, axis=0), TINY)
        return "blur" if min(seen.sharp / usual) < self._options.blur else ""

    def _by_odometry(self, stamp_ns: int, odometry: dict[str, float] | None) -> bool | None:
        """None where odometry does not tell."""
        if not odometry or not self._odometry_moves:
            return None
        position = [odometry[k] for k in ("tx", "ty", "tz") if k in odometry]
        before, self._pose = self._pose, (stamp_ns, position) if len(position) == 3 else None
        if "speed" in odometry:
            return abs(odometry["speed"]) < self._options.standing_mps
        if before is None or self._pose is None:
            return None
        seconds = (stamp_ns - before[0]) / 1e9
        if not 0 < seconds * 1e9 <= MAX_ODOMETRY_STEP_NS:
            return None
        return float(np.linalg.norm(np.subtract(position, before[1]))) < (
            self._options.standing_mps * seconds
        )

    def _by_image(self, thumb: np.ndarray, stamp_ns: int) -> bool:
        """The first frame of a sequence has nothing to be compared with, and can be no target."""
        if not self._thumbs or self._thumbs[0][1].shape != thumb.shape:
            return False
        return median_shift(self._thumbs[0][1], thumb) < STILL  # False for NaN

    def state(self) -> dict[str, Any]:
        """What it remembers, for JSON."""
        thumbs = [[s, *t.shape, base64.b85encode(t.tobytes()).decode()] for s, t in self._thumbs]
        return {"sharp": list(self._sharp), "thumbs": thumbs, "pose": self._pose}

    def restore(self, state: dict[str, Any]) -> None:
        """Remember what `state` gave."""
        self._sharp.extend(state["sharp"])
        for stamp, height, width, text in state["thumbs"]:
            pixels = np.frombuffer(base64.b85decode(text), np.uint8)
            self._thumbs.append((stamp, pixels.reshape(height, width)))
        self._pose = tuple(state["pose"]) if state["pose"] else None
