"""Vehicle odometry as a track in time, read at any stamp between two messages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import numpy as np

from dyndepth_core.data.recording import ODOMETRY_KEYS

MAX_GAP_S = 0.5  # between two odometry messages; across a longer silence nothing is invented
BACK_S = 0.5  # a message that is older by less came late; by more, the clock was set back


class OdometryTrack:
    """Samples of ODOMETRY_KEYS at stamps; metres, m/s, rad/s; NaN = unknown."""

    def __init__(self, stamps_ns: Iterable[int], values: Iterable[Iterable[float]]) -> None:
        stamps = np.asarray(list(stamps_ns), np.int64)
        table = np.asarray(list(values), np.float64).reshape(len(stamps), len(ODOMETRY_KEYS))
        self.stamps_ns, first = np.unique(stamps, return_index=True)  # sorted, doubles dropped
        self.values = table[first]

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def moves(self, speed_mps: float) -> bool:
        """Whether it says anywhere that the vehicle is as fast as that; a sensor that is not
        connected never does.
        """
        speeds = self.values[:, ODOMETRY_KEYS.index("speed")]
        with np.errstate(invalid="ignore", divide="ignore"):
            steps = np.linalg.norm(np.diff(self.values[:, :3], axis=0), axis=1)
            of_poses = steps / (np.diff(self.stamps_ns) / 1e9)
            known = np.isfinite(speeds)
            return bool((np.abs(speeds[known]) >= speed_mps).any()) or bool(
                not known.any() and (of_poses >= speed_mps).any()
            )

    def at(self, stamp_ns: int) -> dict[str, float] | None:
        """Values at a stamp, interpolated; None outside the track or in a gap of it."""
        right = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if right < len(self) and self.stamps_ns[right] == stamp_ns:
            return _named(self.values[right])
        if right == 0 or right == len(self):
            return None
        before, after = int(self.stamps_ns[right - 1]), int(self.stamps_ns[right])
        if after - before > MAX_GAP_S * 1e9:
            return None
        share = (stamp_ns - before) / (after - before)
        a, b = self.values[right - 1], self.values[right]
        mixed = (1 - share) * a + share * b
        mixed[3:7] = slerp(a[3:7], b[3:7], share)
        return _named(mixed)


class OdometryPieces:
    """The odometry of a bag: a track for each run of its clock, in the order of recording.

    A driver or a computer that is restarted may count from an earlier moment again, so that one
    stamp has several answers; which is meant is told by when the asking frame was recorded.
    """

    def __init__(
        self,
        bag_ns: Iterable[int],
        stamps_ns: Iterable[int],
        values: Iterable[Iterable[float]],
    ) -> None:
        """bag_ns: when each message was recorded; stamps_ns, values: as OdometryTrack."""
        arrivals = np.asarray(list(bag_ns), np.int64)
        stamps = np.asarray(list(stamps_ns), np.int64)
        table = np.asarray(list(values), np.float64).reshape(len(stamps), len(ODOMETRY_KEYS))
        cuts = np.flatnonzero(np.diff(stamps) < -BACK_S * 1e9) + 1
        runs = np.split(np.arange(len(stamps)), cuts) if len(stamps) else []
        found = [_Run(arrivals[run], stamps[run], table[run]) for run in runs]
        self._runs = sorted(found, key=lambda run: run.begin_ns)  # files may be in another order
        self._begins = [run.begin_ns for run in self._runs]

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def moves(self, speed_mps: float) -> bool:
        """As OdometryTrack.moves, of any of the runs."""
        return any(run.moves(speed_mps) for run in self._runs)

    def at(self, stamp_ns: int, bag_ns: int) -> dict[str, float] | None:
        """Values at the stamp of a frame that was recorded at bag_ns, as OdometryTrack.at."""
        if not self._runs:
            return None
        # About a restart a frame may be recorded after the next run began, or before it did.
        k = bisect_right(self._begins, bag_ns)
        near = self._runs[max(0, k - 2) : k + 1]
        near.sort(key=lambda run: abs(run.recorded(stamp_ns) - bag_ns))
        # The best may not know it where one message alone came late and began a run of its own.
        return next((found for run in near if (found := run.at(stamp_ns)) is not None), None)


class _Run(OdometryTrack):
    """A track that knows when its messages were recorded; at least one of them."""

    def __init__(self, bag_ns: np.ndarray, stamps_ns: np.ndarray, values: np.ndarray) -> None:
        super().__init__(stamps_ns, values)
        self.begin_ns = int(bag_ns[0])
        _, first = np.unique(stamps_ns, return_index=True)
        self._delays = (bag_ns - stamps_ns)[first]

    def recorded(self, stamp_ns: int) -> int:
        """Bag time (ns) of a message of this stamp, by the delay of the one next to it."""
        place = min(int(np.searchsorted(self.stamps_ns, stamp_ns)), len(self) - 1)
        return stamp_ns + int(self._delays[place])


def slerp(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Unit quaternion (4,) on the shorter arc from a (share 0) to b (share 1); Shoemake 1985."""
    dot = float(a @ b)
    if not np.isfinite(dot):
        return np.full(4, np.nan)
    if dot < 0:
        b, dot = -b, -dot
    if dot > 0.9995:  # the sine would vanish
        mixed = (1 - share) * a + share * b
    else:
        angle = np.arccos(dot)
        mixed = (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
    return mixed / np.linalg.norm(mixed)


def odometry_values(message: Any) -> list[float]:
    """Values of a nav_msgs/Odometry or a geometry_msgs/TwistStamped in the order of ODOMETRY_KEYS.

    speed is the length of the linear velocity, negative when it points backwards along x.
    """
    pose = [float("nan")] * 7
    twist = message.twist
    if hasattr(message, "pose"):
        p, q = message.pose.pose.position, message.pose.pose.orientation
        rotation = np.array([q.x, q.y, q.z, q.w], np.float64)
        norm = np.linalg.norm(rotation)
        if norm > 1e-6:  # an all-zero quaternion means that the driver knows no pose
            pose = [p.x, p.y, p.z, *(rotation / norm)]
        twist = message.twist.twist
    v = twist.linear
    speed = float(np.hypot(np.hypot(v.x, v.y), v.z))
    backwards = v.x < 0 and abs(v.x) >= max(abs(v.y), abs(v.z))
    return [float(x) for x in (*pose, -speed if backwards else speed, twist.angular.z)]


def _named(values: np.ndarray) -> dict[str, float] | None:
    known = {k: float(v) for k, v in zip(ODOMETRY_KEYS, values, strict=True) if np.isfinite(v)}
    return known or None
