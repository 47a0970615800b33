"""Clips of a live camera: what came before a moment and what comes after it become recordings."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from dyndepth_core.data.collect import (
    CameraFrame,
    CollectOptions,
    CollectReport,
    Intake,
    Preparation,
    RateLimit,
    SequenceWriter,
)
from dyndepth_core.data.live_manifest import LiveManifest
from dyndepth_core.data.ring import FrameRing, OdometryMemory

logger = logging.getLogger(__name__)

SEGMENT_S = 120.0  # of a continuous recording: so much is without its sums after a kill
ODOMETRY_WAIT_S = 0.5  # that a frame waits for odometry later than itself
SILENCE_S = 5.0  # without a frame a clip does not wait for what is missing
RETRY_S = 10.0  # after a failure to write
FRAME_OVERHEAD = 2300  # bytes a frame takes beside its image: half a block, its row


@dataclass(frozen=True)
class LiveSettings:
    """What may change while it runs: seconds before and after the moment, seconds after a clip in
    which `trigger` is deaf, bytes that may lie below the folder, bytes that stay free on its disk.
    """

    before_s: float = 5.0
    after_s: float = 5.0
    cooldown_s: float = 60.0
    max_total: float = 20e9
    min_free: float = 5e9


@dataclass
class _Clip:
    """A recording in the making; until_ns: stamp of its last frame."""

    name: str
    reason: str
    moment_ns: int
    until_ns: int
    report: CollectReport
    writer: _Counted
    intake: Intake
    complete: bool = False


class _Counted(SequenceWriter):
    """Knows how many bytes it wrote."""

    bytes = 0

    def add(self, image, stamp_ns, odometry, tag="") -> None:
        """Append a frame, as SequenceWriter."""
        super().add(image, stamp_ns, odometry, tag)
        self.bytes += len(image) + FRAME_OVERHEAD


class LiveCollector:
    """Holds the newest frames and writes clips below `root`; one thread calls it, but for
    `odometry`.

    What is on disk is valid at any moment. No frame is written twice: a clip that begins before the
    last one ended goes on where that stopped. Raises ValueError when `root` holds something else,
    OSError when it cannot be written.
    """

    def __init__(
        self,
        root: Path,
        options: CollectOptions,
        settings: Callable[[], LiveSettings],
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root, self._options, self._settings, self._clock = root, options, settings, clock
        self.manifest = LiveManifest(root, options)
        self.odometry = OdometryMemory()
        self.ring = FrameRing(max_bytes)
        self.dropped: Counter[str] = Counter()
        self.frames_in = self.written = 0
        self.blocked = ""  # why nothing can be written, empty when it can
        self._limit = RateLimit(options.rate_hz)
        # Frames come here at the rate already, and none so seldom that it ends a sequence.
        gap = max(options.max_gap_s, 2.5 / options.rate_hz if options.rate_hz else 0.0)
        self._clip_options = replace(options, rate_hz=0.0, max_gap_s=gap)
        self._prepare: Preparation | None = None
        self._topic = ""
        self._clip: _Clip | None = None
        self._pending: deque[tuple[CameraFrame, float]] = deque()  # frame, when it came
        self._newest: int | None = None
        self._saved = -(2**63)  # stamp of the newest frame that belongs to a clip
        self._last_came = self._deaf_until = self._blocked_until = -float("inf")

    @property
    def recording(self) -> str:
        """Name of the clip that is being written, empty between clips."""
        return self._clip.name if self._clip else ""

    def camera(self, prepare: Preparation, topic: str) -> None:
        """What the frames from now on are of; the ones before do not go with them."""
        if self._prepare is not None:
            self._forget("the camera changed")
        self._prepare, self._topic = prepare, topic

    def wants(self, stamp_ns: int) -> bool:
        """Whether the frame of this stamp shall be given to `take`; counts those that shall not."""
        self.frames_in += 1
        step = 1.0 if self._newest is None else (stamp_ns - self._newest) / 1e9
        if step < -self._options.max_gap_s:
            self._forget(f"stamps jumped back by {-step:.3f} s")
        elif step <= 0:
            self.dropped["stamp_repeated" if step == 0 else "stamp_backwards"] += 1
            return False
        self._newest = stamp_ns
        if not self._limit.accepts(stamp_ns):
            self.dropped["rate"] += 1
            return False
        return True

    def take(self, frame: CameraFrame, size: int) -> None:
        """Take a frame that was wanted, of `size` bytes in memory."""
        self._last_came = self._clock()
        self._newest = frame.stamp_ns  # a change of the camera has forgotten it
        before = self._settings().before_s
        short = self.ring.short
        self.ring.push(frame.stamp_ns, size, (frame, self._last_came), before)
        if self.ring.short and not short:
            logger.warning(
                "the frame buffer is full after %.1f s, less than the %.1f s wanted before a "
                "moment: raise its bytes or lower rate", self.ring.seconds, before,
            )  # fmt: skip
        if self._clip is not None and frame.stamp_ns <= self._clip.until_ns:
            self._pending.append((frame, self._last_came))
            self._saved = frame.stamp_ns
        elif self._clip is not None:
            self._clip.complete = True

    def save(self, reason: str, after_s: float | None = None) -> str:
        """Keep the seconds before the newest frame and those after it; returns the clip's name.

        A clip in the making is prolonged. Raises ValueError when nothing can be kept, and why.
        """
        settings = self._settings()
        after = settings.after_s if after_s is None else after_s
        if self._prepare is None or not len(self.ring):
            raise ValueError("no frame has come yet")
        moment = self._newest
        if self._clip is not None and not self._clip.complete:
            self._clip.until_ns = max(self._clip.until_ns, moment + round(after * 1e9))
            return self._clip.name
        self._end_clip()
        if fault := self._fault():
            raise ValueError(fault)
        self._unblock()
        when = datetime.fromtimestamp(moment // 10**9, timezone.utc)
        name = self.manifest.free_name(f"{when:%Y%m%d-%H%M%S}-{reason}")
        report = CollectReport(image_topic=self._topic, calibration=self._prepare.calib.source)
        writer = _Counted(self.root, name, self._prepare.calib, report)
        intake = Intake(
            self._prepare, self._clip_options, writer, report, source=self._topic
        )  # in this thread: every frame is on disk when it returns
        until = moment + round(after * 1e9)
        self._clip = _Clip(name, reason, moment, until, report, writer, intake)
        for frame, came in self.ring.after(self._saved):
            self._pending.append((frame, came))
            self._saved = frame.stamp_ns
        return name

    def trigger(self, reason: str) -> str:
        """As `save`, but not within the cool-down after a clip, and empty when it cannot; where no
        frame has come there is nothing to save, which is no fault.
        """
        if self._clip is not None or not len(self.ring) or self._clock() < self._deaf_until:
            return ""
        return self._try(reason)

    def go_on(self) -> None:
        """Record continuously, in clips of SEGMENT_S that follow one another."""
        if self._clip is None and len(self.ring):
            self._try("continuous", SEGMENT_S)

    def _try(self, reason: str, after_s: float | None = None) -> str:
        if self._clock() < self._blocked_until:
            return ""
        try:
            return self.save(reason, after_s)
        except ValueError as error:
            self._block(str(error))
            return ""

    def drain(self) -> None:
        """Write what is due, and end the clip whose last frame is written."""
        now = self._clock()
        while self._pending and self._clip is not None:
            frame, came = self._pending[0]
            newest = self.odometry.newest_ns
            late = now - came > ODOMETRY_WAIT_S or self._clip.complete
            if newest is not None and newest < frame.stamp_ns and not late:
                return
            self._pending.popleft()
            if not self._write(frame):
                return
        over = self._clip is not None and now - self._last_came > SILENCE_S
        if self._clip is not None and (self._clip.complete or over):
            self._end_clip()

    def close(self) -> None:
        """Write what is waiting and end the clip."""
        if self._clip is not None:
            self._clip.complete = True
            self.drain()
        self._end_clip()

    def total(self) -> int:
        """Bytes below the folder."""
        return self.manifest.total + (self._clip.writer.bytes if self._clip else 0)

    def _write(self, frame: CameraFrame) -> bool:
        fault = self._fault()
        if not fault:
            kept = self._clip.report.kept
            try:
                self._clip.intake.push(frame, self.odometry.at(frame.stamp_ns))
                self.written += self._clip.report.kept - kept
                return True
            except OSError as error:
                fault = f"{error.filename}: {error.strerror}"
        self._block(fault)
        self._clip.report.dropped["disk"] += 1 + len(self._pending)
        self._clip.report.frames_in += 1 + len(self._pending)
        self._pending.clear()
        self._end_clip()
        return False

    def _fault(self) -> str:
        """Why no more may be written, empty when it may."""
        limits, clip = self._settings(), self._clip
        folders = [sequence["name"] for sequence in clip.report.sequences] if clip else []
        written = clip.writer.bytes if clip else 0
        return self.manifest.fault(limits.max_total, limits.min_free, folders, written)

    def _block(self, fault: str) -> None:
        self._blocked_until = self._clock() + RETRY_S
        if not self.blocked:
            logger.error("recording stops: %s; it goes on when there is room", fault)
        self.blocked = fault

    def _unblock(self) -> None:
        if self.blocked:
            logger.warning("there is room at %s again: recording goes on", self.root)
        self.blocked = ""

    def _end_clip(self) -> None:
        clip, self._clip = self._clip, None
        if clip is None:
            return
        try:
            clip.intake.end()
            self.manifest.add(clip.report, clip.name, clip.reason, clip.moment_ns)
        except OSError as error:
            self._block(f"{error.filename}: {error.strerror}")
        self.dropped.update(clip.report.dropped)
        self._deaf_until = self._clock() + self._settings().cooldown_s
        count = len(clip.report.sequences)
        level = logging.INFO if count else logging.WARNING  # too short: before and after are
        logger.log(
            level, "%s: %d frames in %d sequence%s%s",
            self.root / clip.name, clip.report.kept, count, "" if count == 1 else "s",
            "".join(f", {n} left out ({why})" for why, n in clip.report.dropped.items() if n),
        )  # fmt: skip

    def _forget(self, why: str) -> None:
        """Nothing from before goes with what comes."""
        logger.warning("%s: the frame buffer begins anew", why)
        if self._clip is not None:
            self._clip.complete = True
            self.drain()
        self._end_clip()
        self.ring.clear()
        self._limit.restart()
        self._pending.clear()
        self._newest, self._saved = None, -(2**63)
