"""The newest frames and odometry of a live camera, held in bounded memory."""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from dyndepth_core.data.odometry import BACK_S, OdometryTrack

ODOMETRY_S = 120.0  # of odometry that is remembered


class FrameRing:
    """Frames of rising stamps, at most so many seconds and bytes of them; the oldest go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames: deque[tuple[int, int, Any]] = deque()  # stamp (ns), bytes, frame
        self.bytes = 0
        self.short = False  # the bytes did not last for the seconds

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def seconds(self) -> float:
        """From the oldest to the newest."""
        return (self._frames[-1][0] - self._frames[0][0]) / 1e9 if self._frames else 0.0

    def push(self, stamp_ns: int, size: int, frame: Any, seconds: float) -> None:
        """Append a frame of `size` bytes; frames more than `seconds` older than it go."""
        self._frames.append((stamp_ns, size, frame))
        self.bytes += size
        while stamp_ns - self._frames[0][0] > seconds * 1e9:
            self._drop()
        self.short = self.bytes > self._max_bytes
        while self.bytes > self._max_bytes and len(self._frames) > 1:
            self._drop()

    def after(self, stamp_ns: int) -> Iterable[Any]:
        """The frames later than a stamp, oldest first."""
        return [frame for stamp, _, frame in self._frames if stamp > stamp_ns]

    def clear(self) -> None:
        """Forget them all."""
        self._frames.clear()
        self.bytes, self.short = 0, False

    def _drop(self) -> None:
        self.bytes -= self._frames.popleft()[1]


class OdometryMemory:
    """The odometry of the last ODOMETRY_S seconds, read at any stamp; may be used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamps: list[int] = []
        self._values: list[list[float]] = []

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest, None while there is none."""
        with self._lock:
            return self._stamps[-1] if self._stamps else None

    def observe(self, stamp_ns: int, values: list[float]) -> None:
        """Take values in the order of ODOMETRY_KEYS. One that is older by less than BACK_S came
        late and is left out; a jump back in time forgets what was.
        """
        with self._lock:
            back = self._stamps[-1] - stamp_ns if self._stamps else 0
            if 0 < back < round(BACK_S * 1e9):
                return
            if back > 0:
                self._forget()
            self._stamps.append(stamp_ns)
            self._values.append(values)
            old = bisect.bisect_left(self._stamps, stamp_ns - round(ODOMETRY_S * 1e9))
            if old > len(self._stamps) // 2:  # seldom, because lists move all that stays
                del self._stamps[:old], self._values[:old]

    def at(self, stamp_ns: int) -> dict[str, float] | None:
        """Values at a stamp, interpolated as OdometryTrack does; None where they are not known."""
        with self._lock:
            right = bisect.bisect_left(self._stamps, stamp_ns)
            near = slice(max(0, right - 1), right + 1)
            stamps, values = self._stamps[near], self._values[near]
        return OdometryTrack(stamps, values).at(stamp_ns)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._stamps.clear()
        self._values.clear()
