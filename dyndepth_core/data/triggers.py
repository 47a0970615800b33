"""When is what the camera sees worth keeping: what flow cannot explain, and how much moves."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np

WIDTH = 160  # pixels of the images compared
MEMORY_NS = 60_000_000_000  # values this old no longer count as usual
ENOUGH = 20  # values before which nothing is unusual
FLOOR = 0.02  # of the grey range: below it nothing is unusual, as of a standing camera
IN_A_ROW = 3  # masks; one alone may be noise


class FlowResidual:
    """What dense optical flow leaves between consecutive images of one camera.

    mean |I_t(x) - I_s(x + flow(x))| over the pixels whose flow stays inside, grey values in [0, 1],
    images WIDTH pixels wide; flow by dense inverse search (Kroeger et al., ECCV 2016; OpenCV's).
    Depth and ego-motion explain no more than flow does, so this is what no model could: changes of
    light, glare, spray, things that come out of nowhere. It needs no model and knows none's errors.
    """

    def __init__(self) -> None:
        self._before: np.ndarray | None = None
        self._search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def __call__(self, image: np.ndarray) -> float | None:
        """Residual of uint8 (H, W, 3) RGB beside the image before it; None for the first of a
        size.
        """
        height = max(32, round(image.shape[0] * WIDTH / image.shape[1]))
        small = cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        before, self._before = self._before, grey
        if before is None or before.shape != grey.shape:
            return None
        flow = self._search.calc(grey, before, None)
        rows, cols = np.mgrid[:height, :WIDTH].astype(np.float32)
        x, y = cols + flow[..., 0], rows + flow[..., 1]
        inside = (x >= 0) & (x <= WIDTH - 1) & (y >= 0) & (y <= height - 1)
        if not inside.any():
            return None
        left = cv2.absdiff(grey, cv2.remap(before, x, y, cv2.INTER_LINEAR))
        return float(left[inside].mean()) / 255

    def restart(self) -> None:
        """The next image has none before it."""
        self._before = None


class Unusual:
    """Whether a value is high beside those of the last minute: above `factor` times their median,
    and above FLOOR.
    """

    def __init__(self) -> None:
        self._known: deque[tuple[int, float]] = deque()
        self.median: float | None = None  # of the last minute, once ENOUGH are known

    def __call__(self, stamp_ns: int, value: float, factor: float) -> bool:
        """Judge the next value; it then belongs to those before the one after it."""
        while self._known and not 0 <= stamp_ns - self._known[0][0] <= MEMORY_NS:
            self._known.popleft()
        enough = len(self._known) >= ENOUGH
        self.median = float(np.median([v for _, v in self._known])) if enough else None
        self._known.append((stamp_ns, value))
        return self.median is not None and value > max(factor * self.median, FLOOR)


class InARow:
    """Whether the last IN_A_ROW values all reached a threshold."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, value: float, threshold: float) -> bool:
        """Judge the next value."""
        self._count = self._count + 1 if value >= threshold else 0
        return self._count >= IN_A_ROW


def moving_share(mask: np.ndarray) -> float:
    """Share of a mask (h, w) that is set."""
    return float(np.count_nonzero(mask)) / mask.size
