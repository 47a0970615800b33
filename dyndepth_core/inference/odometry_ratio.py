"""Metres by odometry over units of the predicted ego-motion, frame by frame, where both can be
believed.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .log_scale import Measurement
from .odometry_faults import FRAMES, LEFT_OUT, MESSAGES, Lately
from .vehicle_odometry import VehicleOdometry

if TYPE_CHECKING:  # the node is on the graph before torch is loaded
    from torch import Tensor

logger = logging.getLogger(__name__)

MAX_YAW_RATE = 0.3  # rad/s: ego-motion is least sure in turns
MAX_ACCELERATION = 12.0  # m/s^2: no car brakes harder
LATE_S = 1.0  # odometry that is still missing so long after an image will not come
SILENT_S = 2.0  # without odometry for so long, nobody waits for it any more
POSITION_NOISE = 0.02  # m, of a distance by odometry
SHORT = 1e-9  # units: no ego-motion at all
NO_EGO_MOTION = (
    "odometry arrives, but this model has no ego-motion to hold it against: it cannot give the "
    "scale. Run a model that was saved with its pose network, or give the camera's height"
)


class _Step(NamedTuple):
    """Ego-motion of one frame that waits for its odometry: ns, units, radians."""

    start_ns: int
    end_ns: int
    length: float
    angle: float


class OdometryRatio:
    """Measurements of the scale; counts says why frames gave none, lately why the latest did not.

    min_speed: m/s, below which the ratio of two small numbers says nothing.
    """

    def __init__(self, odometry: VehicleOdometry, min_speed: float) -> None:
        self.odometry, self._min_speed = odometry, min_speed
        self.counts: Counter[str] = Counter()
        self.lately = Lately(FRAMES)
        self._steps: deque[_Step] = deque(maxlen=100)
        self._without_T = 0
        self.clear()

    def clear(self) -> None:
        """Forget the frames that wait: the clock was set back."""
        self._steps.clear()
        self._speed, self._speed_s = math.nan, -math.inf

    def silence(self, now: float) -> float:
        """Seconds from the newest message to a frame at `now`; infinite before the first one."""
        latest = self.odometry.latest_ns
        return math.inf if latest is None else now - latest * 1e-9

    def absent(self, now: float) -> str:
        """That no odometry comes which could be used, after some had come, and why, in words; empty
        when it does. now: of the latest frame, in s.
        """
        if (reason := self.odometry.lately.reason) in LEFT_OUT:
            return LEFT_OUT[reason]
        silence = self.silence(now)
        if not SILENT_S < silence < math.inf:
            return ""
        return f"no odometry for {silence:.0f} s: its driver is silent, or stamps by another clock"

    @property
    def fault(self) -> str:
        """What is wrong with the odometry that comes, in words; empty when nothing is."""
        odometry = self.odometry
        words = MESSAGES.get(odometry.lately.reason) or FRAMES.get(self.lately.reason, "")
        return odometry.fault or words

    def judged(self, reason: str) -> None:
        """Count what became of the measurement of a frame: why it was not used, empty if it was."""
        self.lately.add(reason)
        if reason:
            self.counts[reason] += 1

    def speed(self, now: float) -> float | None:
        """Speed of the vehicle in m/s, None when the latest is too old."""
        return self._speed if now - self._speed_s < SILENT_S else None

    def measure(
        self, stamp_ns: int, previous_ns: int | None, T_src_tgt: Tensor | None
    ) -> list[Measurement]:
        """All measurements that have become possible with this frame: its own if its odometry has
        come, and those of earlier frames. Arguments as those of ScaleFilter.update.
        """
        arrives = self.silence(stamp_ns * 1e-9) <= SILENT_S
        if arrives and previous_ns is not None and stamp_ns > previous_ns:
            if T_src_tgt is not None:
                T = np.asarray(T_src_tgt[0].double().cpu())
                angle = math.acos(min(max((np.trace(T[:3, :3]) - 1) / 2, -1.0), 1.0))
                length = float(np.linalg.norm(T[:3, 3]))
                self._steps.append(_Step(previous_ns, stamp_ns, length, angle))
                self._without_T = 0
            else:
                self._without_T += 1
                if self._without_T == 5:  # the first were asked for before odometry came
                    logger.warning(NO_EGO_MOTION)
        found = []
        while self._steps:
            if self.odometry.covers(self._steps[0].end_ns):
                found.append(self._one(self._steps.popleft()))
            elif stamp_ns - self._steps[0].end_ns > LATE_S * 1e9:
                self._steps.popleft()
                self.judged("late")
            else:
                break
        return [one for one in found if one is not None]

    def _one(self, step: _Step) -> Measurement | None:
        travel = self.odometry.travel(step.start_ns, step.end_ns)
        if isinstance(travel, str):
            self.judged(travel)
            return None
        self._speed, self._speed_s = travel.speed, step.end_ns * 1e-9
        turn = max(abs(travel.yaw_rate), step.angle * 1e9 / (step.end_ns - step.start_ns))
        reasons = {
            "slow": abs(travel.speed) < self._min_speed,
            "turning": turn > MAX_YAW_RATE,
            "acceleration": abs(travel.acceleration) > MAX_ACCELERATION,
            "no_ego_motion": not step.length > SHORT,
        }
        for reason, applies in reasons.items():
            if applies:
                self.judged(reason)
                return None
        z, slope = math.log(travel.distance / step.length), travel.acceleration / travel.speed
        relative = POSITION_NOISE / travel.distance
        return Measurement(step.end_ns * 1e-9, z, np.array([1.0, -slope, 0.0, 1.0]), relative**2)

    def report(self, now: float, delay_s: float) -> dict[str, str]:
        """For /diagnostics. now: of the latest frame, in s; delay_s: what was learned of it."""
        out = {"odometry_refused": listed(self.odometry.counts)}
        silence = self.silence(now)
        if math.isfinite(silence):
            out["odometry_behind_image_s"] = f"{silence:.3f}"
            out["odometry_delay_s"] = f"{self.odometry.delay_s + delay_s:.3f}"
        return out


def listed(counts: Counter[str]) -> str:
    """Counts for /diagnostics; another thread may count on."""
    return ", ".join(f"{name} {number}" for name, number in sorted(dict(counts).items()))
