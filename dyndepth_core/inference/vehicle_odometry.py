"""How far the vehicle's odometry says the camera moved between two images."""

from __future__ import annotations

import bisect
import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dyndepth_core.data.odometry import BACK_S, MAX_GAP_S, slerp

from .odometry_faults import LEFT_OUT, MESSAGES, Lately

logger = logging.getLogger(__name__)

BUFFER_S = 10.0  # of messages are kept
MAX_SPEED = 100.0  # m/s
# A step of the speed beyond STEP + MAX_ACCELERATION dt: a wheel slips or a filter jumps.
STEP, MAX_ACCELERATION = 1.0, 15.0  # m/s, m/s^2
SLOPE_S = 0.5  # the acceleration is that of the last so many seconds
COMPARED = 50  # intervals over which speed and pose are held against each other, at least
ENOUGH = 8
KMH = math.log(3.6)


class Travel(NamedTuple):
    """distance of the camera in m, then of the vehicle: speed in m/s, its slope in m/s^2, yaw_rate
    in rad/s.
    """

    distance: float
    speed: float
    acceleration: float
    yaw_rate: float


class VehicleOdometry:
    """The latest odometry messages; one thread may `observe` while another asks for `travel`.

    T_base_camera: (4, 4) of `parse_mount`, its translation is the lever arm; None = the camera sits
    at the origin of base_link. delay_s: how much later the stamp of odometry is than that of an
    image of the same moment. counts: why messages were refused; lately: the same of the latest.
    """

    def __init__(self, T_base_camera: np.ndarray | None = None, delay_s: float = 0.0) -> None:
        self._arm = np.zeros(3) if T_base_camera is None else np.array(T_base_camera[:3, 3])
        self.delay_s, self._delay_ns = delay_s, round(1e9 * delay_s)
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.lately = Lately({*LEFT_OUT, *MESSAGES})
        self.fault = ""
        self._ratios: deque[float] = deque(maxlen=COMPARED)
        self._clear()

    def _clear(self) -> None:
        self._jump_ns = -math.inf  # where this track begins, if a jump ended the one before
        self._stamps: list[int] = []
        self._path: list[float] = []  # metres along the way, by the speed
        self._heading: list[float] = []  # radians, by the yaw rate
        self._values: list[np.ndarray] = []

    @property
    def latest_ns(self) -> int | None:
        """Stamp of the newest message on the clock of the images; None before the first."""
        with self._lock:
            return self._stamps[-1] - self._delay_ns if self._stamps else None

    def clear(self) -> None:
        """Forget the messages: others follow that do not continue them."""
        with self._lock:
            self._clear()
            self._ratios.clear()
            self.lately.clear()

    def observe(self, stamp_ns: int, values: Sequence[float]) -> None:
        """Take a message: values in the order of ODOMETRY_KEYS, NaN = unknown.

        What cannot be right is counted and left out; a clock set back, or a speed that jumps,
        begins a new track, so that nothing is measured across it.
        """
        new = np.array(values, np.float64)
        with self._lock:
            reason = self._refusal(stamp_ns, new)
            self.lately.add(reason)
            if reason:
                self.counts[reason] += 1
                if reason not in ("stamp_jumped_back", "jump"):
                    return
                self._clear()
                if reason == "jump":
                    self._jump_ns = stamp_ns
            self._append(stamp_ns, new)

    def _refusal(self, stamp_ns: int, new: np.ndarray) -> str:
        """In one word what is wrong with a message; empty where nothing is."""
        has_pose = bool(np.isfinite(new[:7]).all())
        if not (np.isfinite(new[7]) or has_pose):
            return "not_finite"
        if abs(new[7]) > MAX_SPEED:
            return "absurd_speed"
        dt = (stamp_ns - self._stamps[-1]) * 1e-9 if self._stamps else math.inf
        if dt <= 0:
            return "stamp_not_newer" if dt > -BACK_S else "stamp_jumped_back"
        return "jump" if self._stamps and self._jumped(new, dt, has_pose) else ""

    def _jumped(self, new: np.ndarray, dt: float, has_pose: bool) -> bool:
        old = self._values[-1]
        if abs(new[7] - old[7]) > STEP + MAX_ACCELERATION * dt:
            return True
        step = np.linalg.norm(new[:3] - old[:3]) if has_pose else 0.0
        return bool(step > STEP + MAX_SPEED * dt)  # False where the old pose is unknown

    def _append(self, stamp_ns: int, new: np.ndarray) -> None:
        path = heading = 0.0
        if self._stamps:
            old, dt = self._values[-1], (stamp_ns - self._stamps[-1]) * 1e-9
            ways = np.nan_to_num(0.5 * dt * (old[7:] + new[7:]))
            path, heading = self._path[-1] + float(ways[0]), self._heading[-1] + float(ways[1])
        self._stamps.append(stamp_ns)
        self._path.append(path)
        self._heading.append(heading)
        self._values.append(new)
        old = bisect.bisect_left(self._stamps, stamp_ns - round(1e9 * BUFFER_S))
        if old > len(self._stamps) // 4:  # in larger pieces, because it moves the rest
            for column in (self._stamps, self._path, self._heading, self._values):
                del column[:old]

    def covers(self, stamp_ns: int) -> bool:
        """Whether messages up to the moment of that image stamp have come."""
        latest = self.latest_ns
        return latest is not None and latest >= stamp_ns

    def travel(self, start_ns: int, end_ns: int) -> Travel | str:
        """The camera's way between two image stamps, or in one word why it is not known.

        By the speed v and yaw rate w the base moves by an arc, |v| dt sin(a) / a with a = w dt / 2
        in the direction a; by poses it moves by R_0^T (p_1 - p_0). A camera at r on the base
        then moves by p + (R - I) r, R the turn of the base. Where a message has both, they have to
        agree, and the speed is taken; a factor 3.6 between them means km/h in one of them, and the
        other is taken.
        """
        with self._lock:
            start_ns, end_ns = start_ns + self._delay_ns, end_ns + self._delay_ns
            speed, pose = self._by_speed(start_ns, end_ns), self._by_pose(start_ns, end_ns)
            if speed is None and pose is None:
                return "jump" if start_ns < self._jump_ns else "gap"
            if speed is None or pose is None:
                return speed or pose
            return self._choose(speed, pose, (end_ns - start_ns) * 1e-9)

    def _choose(self, speed: Travel, pose: Travel, dt: float) -> Travel | str:
        """Of two ways to measure the same the one that can be right."""
        small = 1e-3
        ratio = math.log((abs(speed.speed) + small) / (abs(pose.speed) + small))
        if max(abs(speed.speed), abs(pose.speed)) > 1.0:
            self._ratios.append(ratio)
        elif not self._ratios:
            return speed  # standing
        if len(self._ratios) < ENOUGH:
            return "comparing"
        usual = float(np.median(self._ratios))
        kmh = abs(abs(usual) - KMH) < 0.12
        self._say("twist" if usual > 0 else "pose") if kmh else self._say("")
        if abs(usual) < 0.2:
            metres = abs(abs(speed.speed) - abs(pose.speed)) * dt
            return "pose_jump" if abs(ratio) > 0.3 and metres > 0.3 else speed
        if kmh or abs(usual) > 3.0:  # beyond 20 times: one of the two is never filled in
            return pose if (usual > 0) == kmh else speed
        return "pose_disagrees"

    def _say(self, which: str) -> None:
        fault = (
            f"the odometry's {which} is in km/h: 3.6 times what the other part of the message says"
            if which
            else ""
        )
        if fault and fault != self.fault:
            logger.warning("%s; it is not used. Publish m/s and metres (REP 103)", fault)
        self.fault = fault

    def _bracket(self, stamp_ns: int) -> tuple[int, float] | None:
        """(i, share): the moment lies between messages i and i + 1; None outside or in a gap."""
        right = bisect.bisect_left(self._stamps, stamp_ns)
        if right < len(self._stamps) and self._stamps[right] == stamp_ns:
            return (right, 0.0) if right + 1 < len(self._stamps) else (right - 1, 1.0)
        if right == 0 or right == len(self._stamps):
            return None
        before, after = self._stamps[right - 1], self._stamps[right]
        if after - before > MAX_GAP_S * 1e9:
            return None
        return right - 1, (stamp_ns - before) / (after - before)

    def _span(self, start_ns: int, end_ns: int) -> list[tuple[int, float]] | None:
        """Brackets of both ends, None where messages are missing at or between them."""
        ends = [self._bracket(start_ns), self._bracket(end_ns)]
        if None in ends or ends[0][0] < 0:
            return None
        stamps = self._stamps[ends[0][0] : ends[1][0] + 2]
        silence = max((b - a for a, b in zip(stamps, stamps[1:], strict=False)), default=0)
        return None if silence > MAX_GAP_S * 1e9 else ends

    def _mixed(self, column: list, at: tuple[int, float], part: int | None = None) -> float:
        i, share = at
        low, high = (v if part is None else v[part] for v in column[i : i + 2])
        return float((1 - share) * low + share * high)

    def _by_speed(self, start_ns: int, end_ns: int) -> Travel | None:
        ends = self._span(start_ns, end_ns)
        if ends is None:
            return None
        used = self._values[ends[0][0] : ends[1][0] + 2]
        if not all(np.isfinite(v[7]) for v in used):
            return None
        dt = (end_ns - start_ns) * 1e-9
        way = self._mixed(self._path, ends[1]) - self._mixed(self._path, ends[0])
        turn = self._mixed(self._heading, ends[1]) - self._mixed(self._heading, ends[0])
        chord = way * float(np.sinc(turn / 2 / np.pi))
        moved = np.array([chord * math.cos(turn / 2), chord * math.sin(turn / 2), 0.0])
        cos, sin = math.cos(turn), math.sin(turn)
        R = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        early = self._span(end_ns - round(1e9 * SLOPE_S), end_ns) or ends
        span = max(SLOPE_S if early is not ends else dt, 1e-3)
        faster = self._mixed(self._values, ends[1], 7) - self._mixed(self._values, early[0], 7)
        return self._travel(moved, R, way, turn, faster / span, dt)

    def _by_pose(self, start_ns: int, end_ns: int) -> Travel | None:
        found = self._relative(start_ns, end_ns)
        if found is None:
            return None
        moved, R = found
        way, dt = float(np.linalg.norm(moved)), (end_ns - start_ns) * 1e-9
        turn, slope, fifth = math.atan2(R[1, 0], R[0, 0]), 0.0, round(2e8)
        late, early = (
            self._relative(e - fifth, e) for e in (end_ns, end_ns - round(1e9 * SLOPE_S) + fifth)
        )
        if late is not None and early is not None:
            speeds = [float(np.linalg.norm(one[0])) / 0.2 for one in (late, early)]
            slope = (speeds[0] - speeds[1]) / (SLOPE_S - 0.2)
        return self._travel(moved, R, math.copysign(way, moved[0]), turn, slope, dt)

    def _relative(self, start_ns: int, end_ns: int) -> tuple[np.ndarray, np.ndarray] | None:
        """How the base moved by its poses: translation (3,) and rotation (3, 3) in the old base."""
        ends = self._span(start_ns, end_ns)
        if ends is None:
            return None
        poses = []
        for i, share in ends:
            a, b = self._values[i][:7], self._values[i + 1][:7]
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                return None
            place = (1 - share) * a[:3] + share * b[:3]
            poses.append((place, _rotation(slerp(a[3:], b[3:], share))))
        (p0, R0), (p1, R1) = poses
        return R0.T @ (p1 - p0), R0.T @ R1

    def _travel(
        self, moved: np.ndarray, R: np.ndarray, way: float, turn: float, slope: float, dt: float
    ) -> Travel:
        camera = moved + R @ self._arm - self._arm
        return Travel(float(np.linalg.norm(camera)), way / dt, slope, turn / dt)


def _rotation(q: np.ndarray) -> np.ndarray:
    """R (3, 3) of a unit quaternion x y z w."""
    v, w = q[:3], q[3]
    skew = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return (w * w - v @ v) * np.eye(3) + 2 * np.outer(v, v) + 2 * w * skew
