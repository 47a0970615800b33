"""What the depth node tells about itself once a second: rate, latency, losses, model, scale."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from dyndepth_ros.calibrator import GUESSED
from dyndepth_ros.conversions import status_message

WINDOW_S = 10.0  # rates and percentiles are those of the last so many seconds
SAME_CLOCK_S = 60.0  # a latency beyond this is no latency: stamps and node have different clocks
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Frame:
    """A frame that was published: when (s), stamp to publish (s), network and all work (ms)."""

    when: float
    latency: float
    network_ms: float | None
    work_ms: float


@dataclass(frozen=True)
class Snapshot:
    """Counts since start; rates in Hz and percentiles in ms over the last WINDOW_S."""

    received: int
    published: int
    dropped: int
    bad: int
    unwanted: int
    input_hz: float
    output_hz: float
    latency_ms: dict[int, float] = field(default_factory=dict)
    network_ms: dict[int, float] = field(default_factory=dict)
    work_ms: dict[int, float] = field(default_factory=dict)
    seconds_since_input: float = float("inf")
    clocks_differ: bool = False


class Statistics:
    """Counts frames; may be used from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._inputs: deque[float] = deque()
        self._frames: deque[Frame] = deque()
        self._received = self._published = self._dropped = self._bad = self._unwanted = 0
        self.restart()

    def restart(self) -> None:
        """Rates, percentiles and the silence start anew; the counts go on."""
        with self._lock:
            self._started, self._last_input = self._clock(), None
            self._inputs.clear()
            self._frames.clear()

    def received(self, dropped: bool) -> None:
        """A frame came in; `dropped`: an older one had to go for it, the node being busy."""
        with self._lock:
            self._last_input = self._clock()
            self._inputs.append(self._last_input)
            self._received += 1
            self._dropped += dropped

    def bad(self) -> None:
        """A frame could not be used."""
        with self._lock:
            self._bad += 1

    def unwanted(self) -> None:
        """A frame came while nobody subscribed to any result."""
        with self._lock:
            self._unwanted += 1

    def published(self, latency: float, network_ms: float | None, work_ms: float) -> None:
        """A frame went out `latency` s after its stamp; the network, if run, took network_ms."""
        with self._lock:
            self._published += 1
            self._frames.append(Frame(self._clock(), latency, network_ms, work_ms))

    def snapshot(self) -> Snapshot:
        """The state now."""
        with self._lock:
            now = self._clock()
            while self._inputs and now - self._inputs[0] > WINDOW_S:
                self._inputs.popleft()
            while self._frames and now - self._frames[0].when > WINDOW_S:
                self._frames.popleft()
            frames, inputs = list(self._frames), len(self._inputs)
            span = max(min(WINDOW_S, now - self._started), 1e-3)
            counts = (
                self._received, self._published, self._dropped, self._bad, self._unwanted
            )  # fmt: skip
            silence = now - (self._started if self._last_input is None else self._last_input)
        sane = [f.latency * 1e3 for f in frames if -0.1 < f.latency < SAME_CLOCK_S]
        return Snapshot(
            *counts,
            input_hz=inputs / span,
            output_hz=len(frames) / span,
            latency_ms=_percentiles(sane),
            network_ms=_percentiles([f.network_ms for f in frames if f.network_ms is not None]),
            work_ms=_percentiles([f.work_ms for f in frames]),
            seconds_since_input=silence,
            clocks_differ=len(sane) < len(frames),
        )


def _percentiles(values: list[float]) -> dict[int, float]:
    """{50: ..., 95: ..., 99: ...} of the values, empty without any."""
    if not values:
        return {}
    return dict(zip(PERCENTILES, np.percentile(values, PERCENTILES).tolist(), strict=True))


@dataclass(frozen=True)
class Situation:
    """What the node knows about itself when it reports."""

    node: str
    state: str  # lifecycle label
    image_topic: str
    publishers: int  # how many publish images there
    calibration: str
    model: dict[str, str]  # of `describe`
    model_parameter: str  # what the next reload would load
    scale_source: str
    scale_value: float
    wanted: bool  # somebody subscribes to a result
    scale_variance: float = float("inf")
    scale_report: dict[str, str] = field(default_factory=dict)  # of ScaleFilter
    scale_fault: str = ""  # what is wrong with the odometry


def report(stamp: Any, situation: Situation, now: Snapshot) -> DiagnosticArray:
    """The message for /diagnostics."""
    level, message = judge(situation, now)
    values = {
        "state": situation.state,
        "rate_hz": f"{now.output_hz:.2f}",
        "input_rate_hz": f"{now.input_hz:.2f}",
        **{f"latency_p{p}_ms": f"{ms:.1f}" for p, ms in now.latency_ms.items()},
        **{f"network_p{p}_ms": f"{ms:.1f}" for p, ms in now.network_ms.items()},
        **{f"work_p{p}_ms": f"{ms:.1f}" for p, ms in now.work_ms.items()},
        "frames_in": str(now.received),
        "frames_out": str(now.published),
        "dropped_frames": str(now.dropped),
        "bad_frames": str(now.bad),
        "unwanted_frames": str(now.unwanted),
        "scale_source": situation.scale_source,
        "scale_value": f"{situation.scale_value:g}",
        "scale_variance": f"{situation.scale_variance:g}",
        **situation.scale_report,
        "calibration": situation.calibration,
        **situation.model,
        "model_parameter": situation.model_parameter,
    }
    device = situation.model.get("device", "")
    status = status_message(f"{situation.node}: depth", level, message, values, device)
    out = DiagnosticArray(status=[status])
    out.header.stamp = stamp
    return out


def silence(situation: Situation, now: Snapshot) -> str:
    """That no image comes, and what may be the cause."""
    cause = (
        "its publisher sends nothing, or does not fit: see ros2 topic info -v"
        if situation.publishers
        else "nobody publishes it; start the camera or remap image:=TOPIC"
    )
    return f"no image on {situation.image_topic} for {now.seconds_since_input:.0f} s: {cause}"


def judge(situation: Situation, now: Snapshot) -> tuple[bytes, str]:
    """The level, and in words the first thing that keeps depth from being right."""
    ok, warn = DiagnosticStatus.OK, DiagnosticStatus.WARN
    if situation.state != "active":
        return ok, f"not running: {situation.state}"
    if now.seconds_since_input > 2:
        return warn, silence(situation, now)
    if not situation.wanted:
        return ok, "idle: nobody subscribes to a result that this model gives"
    if now.output_hz == 0:
        return warn, f"images arrive, none can be used (calibration: {situation.calibration})"
    if situation.calibration == GUESSED:
        return warn, "the focal length is a guess: no camera_info"
    if now.clocks_differ:
        return warn, "image stamps are of another clock: set use_sim_time for a bag"
    if situation.scale_fault:
        return warn, situation.scale_fault
    if situation.scale_source == "relative":
        return warn, "depth is relative: the model has no metric scale, assumed_scale is used"
    return ok, "running"
