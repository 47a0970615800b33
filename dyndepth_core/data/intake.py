"""Frames of one camera, from a bag or from live topics, on their way into recordings: which are
taken, prepared by several threads, judged and written in their order.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dyndepth_core.data.collect_options import CollectOptions, CollectReport
from dyndepth_core.data.frame_checks import FrameJudge, Look, look
from dyndepth_core.data.preparation import Preparation
from dyndepth_core.data.sequence_writer import SequenceWriter
from dyndepth_core.data.writer import encode

logger = logging.getLogger(__name__)

AHEAD = 2  # frames per thread that are read before the oldest is written
HEAD_BYTES = 4096  # of two images: nearly always enough to see that they differ


class RateLimit:
    """Keeps frames at a target rate by their stamps, not by counting them."""

    def __init__(self, rate_hz: float) -> None:
        self._period = 1e9 / rate_hz if rate_hz else 0.0
        self.due: float | None = None  # ns

    def accepts(self, stamp_ns: int) -> bool:
        """Whether the frame at this stamp is due; a quarter period early counts as on time."""
        if self.due is not None and stamp_ns < self.due - 0.25 * self._period:
            return False
        due = stamp_ns if self.due is None else self.due
        # The grid is kept, so that 30 Hz gives 10 and not 9; after a pause it starts at the frame.
        self.due = max(due, stamp_ns - 0.5 * self._period) + self._period
        return True

    def restart(self) -> None:
        """Begin a new grid at the next frame."""
        self.due = None


@dataclass(frozen=True)
class CameraFrame:
    """An image that arrived, decoded when it is needed.

    read: gives uint8 (H, W, 3) RGB, or raises ValueError; may be called in another thread.
    data: its bytes as they came, uint8 (N,), to tell repeated images; None: not looked at.
    """

    stamp_ns: int
    read: Callable[[], np.ndarray]
    data: np.ndarray | None = None


@dataclass
class _Task:
    """A frame on its way; `error` says why it has no image."""

    stamp_ns: int
    odometry: dict[str, float] | None
    begins: bool  # a new sequence
    seen: Look | None = None
    image: np.ndarray | bytes | None = None
    dropped: str = ""
    error: str = ""


class Intake:
    """Takes the frames of one camera in order of arrival; call `end` after the last.

    threads: those that decode, prepare and encode; 0: the caller's own, so that every frame is on
    disk when `push` returns (but for the first ones of a sequence, see MIN_FRAMES).
    The report is up to date for what has been written or dropped so far.
    """

    def __init__(
        self,
        prepare: Preparation,
        options: CollectOptions,
        writer: SequenceWriter,
        report: CollectReport,
        threads: int = 0,
        odometry_moves: bool = True,
        source: str = "",
    ) -> None:
        self._prepare, self._options, self._writer = prepare, options, writer
        self._report, self._source = report, source
        self._limit = RateLimit(options.rate_hz)
        self._judge = FrameJudge(options, odometry_moves)
        self._last: int | None = None  # stamp of the last frame that was in order
        self._written: int | None = None  # stamp of the last frame of the current sequence
        self._data: np.ndarray | None = None
        # A frame that is left out must not end a sequence of low rate.
        self._max_gap_ns = 1e9 * max(
            options.max_gap_s, 2.5 / options.rate_hz if options.rate_hz else 0
        )
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._ahead = AHEAD * threads
        self._tasks: deque[_Task | Future[_Task]] = deque()

    def push(self, frame: CameraFrame, odometry: dict[str, float] | None = None) -> None:
        """Take the next frame, with the odometry at its stamp; OSError: cannot be written."""
        self._report.frames_in += 1
        repeated = self._repeats(frame.data)
        step = None if self._last is None else (frame.stamp_ns - self._last) / 1e9
        if repeated and not self._options.duplicates:
            self._report.dropped["duplicate"] += 1
            return
        if step is not None and -self._options.max_gap_s <= step <= 0:
            self._report.dropped["stamp_repeated" if step == 0 else "stamp_backwards"] += 1
            return
        begins = step is not None and not 0 < step <= self._options.max_gap_s
        if begins:
            self._limit.restart()
        self._last = frame.stamp_ns
        if not self._limit.accepts(frame.stamp_ns):
            self._report.dropped["rate"] += 1
            return
        task = _Task(frame.stamp_ns, odometry, begins)
        if self._pool is None:
            self._settle(self._work(task, frame))
            return
        self._tasks.append(self._pool.submit(self._work, task, frame))
        while len(self._tasks) > self._ahead:
            self._settle(self._tasks.popleft().result())

    def prime(self, data: np.ndarray | None) -> None:
        """Tell the bytes of the frame before the next one, without taking it."""
        self._data = data

    def _repeats(self, data: np.ndarray | None) -> bool:
        before, self._data = self._data, data
        if before is None or data is None or before.size != data.size:
            return False
        head = slice(0, HEAD_BYTES)
        return np.array_equal(before[head], data[head]) and np.array_equal(before, data)

    def _work(self, task: _Task, frame: CameraFrame) -> _Task:
        """What needs no other frame; runs in a thread of the pool."""
        try:
            image = frame.read()
        except ValueError as error:
            return replace(task, dropped="undecodable", error=str(error))
        if image.shape[:2] != self._prepare.in_size:
            return replace(task, dropped="resolution")
        image = self._prepare(image)
        return replace(task, seen=look(image), image=None if self._writer.dry else encode(image))

    def _settle(self, task: _Task) -> None:
        """What depends on the frames before."""
        if task.begins:
            self._end_sequence()
        if task.dropped:
            self._report.dropped[task.dropped] += 1
            if task.error:
                logger.warning(
                    "%s: image at %d ns left out: %s", self._source, task.stamp_ns, task.error
                )
            return
        # Frames were left out for longer than a sequence may pause.
        if self._written is not None and task.stamp_ns - self._written > self._max_gap_ns:
            self._end_sequence()
        drop, tag = self._judge.judge(task.seen, task.stamp_ns, task.odometry)
        if drop:
            self._report.dropped[drop] += 1
            return
        self._writer.add(task.image, task.stamp_ns, task.odometry, tag)
        self._written = task.stamp_ns

    def _end_sequence(self) -> None:
        self._writer.end()
        self._judge.begin_sequence()
        self._written = None

    def flush(self) -> None:
        """Write what is under way."""
        while self._tasks:
            self._settle(self._tasks.popleft().result())

    def end(self) -> None:
        """Write what is under way and end the sequence."""
        try:
            self.flush()
        finally:
            self.close()

    def close(self) -> None:
        """End the sequence at what is written; frames under way are lost."""
        self._tasks.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._writer.end()
        report = self._report
        if lost := report.frames_in - report.kept - sum(report.dropped.values()):
            report.dropped["interrupted"] += lost

    def state(self) -> dict[str, Any]:
        """What it remembers, for JSON; only after `flush`."""
        return {
            "last": self._last,
            "written": self._written,
            "due": self._limit.due,
            "judge": self._judge.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Remember what `state` gave."""
        self._last, self._written = state["last"], state["written"]
        self._limit.due = state["due"]
        self._judge.restore(state["judge"])
