"""How far the camera travelled between two images, from the vehicle's odometry."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dyndepth_core.data.odometry import OdometryTrack
from dyndepth_core.data.recording import ODOMETRY_KEYS, Recording
from dyndepth_core.data.settings import DataConfig

log = logging.getLogger(__name__)
MIN_SPEED = 1.0  # m/s; slower, the noise of odometry and of motion networks outweighs the motion
# rad/s. Where the camera sits is unknown: 2 m ahead of the base it moves 0.2 m/s sideways by this.
MAX_YAW_RATE = 0.1
AGREE = (
    1.5  # poses and speed within this factor; poses that jump or stand still between fixes do not
)
KMH = 3.6  # km/h per m/s
KMH_TOLERANCE = 0.15
POSE, SPEED, YAW_RATE = slice(0, 7), 7, 8  # columns of ODOMETRY_KEYS


class Travel:
    """Lengths in metres between frames of one recording, from its odometry.

    base_to_camera: 'x y z roll pitch yaw' of the camera in the frame of the odometry's base (x
    forward, y left, z up; metres, radians), None where unknown. offset: seconds by which odometry
    lags behind the images: what it says at t + offset happened at t.
    """

    def __init__(
        self,
        recording: Recording,
        base_to_camera: Sequence[float] | None = None,
        offset: float = 0.0,
    ) -> None:
        rows = [recording.odometry(i) or {} for i in range(len(recording))]
        values = np.array([[r.get(k, np.nan) for k in ODOMETRY_KEYS] for r in rows])
        self.known = bool(np.isfinite(values).any())
        self._lever = None if base_to_camera is None else np.array(base_to_camera[:3], float)
        self._stamps, self._values = recording.stamps_ns, values
        if offset:
            track = OdometryTrack(recording.stamps_ns, values)
            shifted = [track.at(int(s + round(offset * 1e9))) or {} for s in self._stamps]
            self._values = np.array([[r.get(k, np.nan) for k in ODOMETRY_KEYS] for r in shifted])

    def length(self, i: int, j: int) -> float | str:
        """Metres the camera travels between frames i and j, or in words why nobody can tell.

        From the poses of both frames, |p_j - p_i + (R_j - R_i) r|, else |v + w x r| |t_j - t_i|
        with speed v (signed) and yaw rate w averaged over both; r: the camera in the base frame.
        """
        a, b = self._values[i], self._values[j]
        seconds = abs(int(self._stamps[j]) - int(self._stamps[i])) / 1e9
        poses, speeds = (
            np.isfinite([a[POSE], b[POSE]]).all(),
            np.isfinite([a[SPEED], b[SPEED]]).all(),
        )
        if not (poses or speeds) or not seconds:
            return "without odometry"
        yaw_rate = self._yaw_rate(a, b, seconds)
        if self._lever is None and abs(yaw_rate) > MAX_YAW_RATE:
            return f"turn faster than {MAX_YAW_RATE:g} rad/s, data.base_to_camera unknown"
        lever = np.zeros(3) if self._lever is None else self._lever
        found = []
        if poses:
            turned = rotate(b[3:7], lever) - rotate(a[3:7], lever)
            found.append(float(np.linalg.norm(b[:3] - a[:3] + turned)))
        if speeds:
            speed = (a[SPEED] + b[SPEED]) / 2
            velocity = speed - yaw_rate * lever[1], yaw_rate * lever[0]
            found.append(math.hypot(*velocity) * seconds)
        if min(found) < MIN_SPEED * seconds:
            return f"slower than {MIN_SPEED:g} m/s"
        if max(found) > AGREE * min(found):
            return "with poses and speed that disagree"
        return found[0]

    @staticmethod
    def _yaw_rate(a: np.ndarray, b: np.ndarray, seconds: float) -> float:
        """rad/s about z; of the poses (without sign) where odometry does not say it, else 0."""
        rates = np.array([a[YAW_RATE], b[YAW_RATE]])
        if np.isfinite(rates).all():
            return float(rates.mean())
        cosine = abs(float(a[3:7] @ b[3:7]))
        return 2 * math.acos(min(cosine, 1.0)) / seconds if np.isfinite(cosine) else 0.0

    def speed_ratios(self) -> np.ndarray:
        """Speed over that of the poses, frame by frame, where both are known and the base moves."""
        seconds = np.diff(self._stamps) / 1e9
        with np.errstate(invalid="ignore", divide="ignore"):
            of_poses = np.linalg.norm(np.diff(self._values[:, :3], axis=0), axis=1) / seconds
            speed = np.abs(self._values[1:, SPEED] + self._values[:-1, SPEED]) / 2
            ratio = speed / of_poses
        return ratio[np.isfinite(ratio) & (of_poses > MIN_SPEED)]


def rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """R(q) v of a unit quaternion (x, y, z, w) and a vector (3,): v + 2 u x (u x v + w v)."""
    u, w = quaternion[:3], quaternion[3]
    return vector + 2 * np.cross(u, np.cross(u, vector) + w * vector)


def travel_table(
    recordings: Sequence[Recording],
    targets: Sequence[tuple[int, int, tuple[int, ...]]],
    config: DataConfig,
    needed: bool = True,
) -> np.ndarray:
    """Metres travelled between targets (recording, frame, sources) and sources, float32 (N, S); NaN
    unknown.

    Raises ValueError when speeds are km/h taken for m/s, or, if `needed`, when no pair is known.
    """
    travels = [Travel(r, config.base_to_camera, config.odometry_offset) for r in recordings]
    _check_unit(recordings, travels)
    table = np.full((len(targets), len(config.source_offsets)), np.nan, np.float32)
    left_out: Counter[str] = Counter()
    for row, (video, tgt, sources) in zip(table, targets, strict=True):
        for s, src in enumerate(sources):
            found = travels[video].length(tgt, src)
            if isinstance(found, str):
                left_out[found] += 1
            else:
                row[s] = found
    why = "; ".join(f"{count} {reason}" for reason, count in left_out.most_common())
    if needed and not np.isfinite(table).any():
        without = not any(t.known for t in travels)
        raise ValueError(
            "no recording has odometry: collect with an odometry topic (columns speed or tx to qw "
            "of frames.csv), or learn metres by objective.camera_height with data.camera_height"
            if without
            else f"odometry tells of no pair of frames how far the camera travelled ({table.size} "
            f"pairs: {why}); record a drive"
        )
    log.info(
        "odometry knows the travel of %d of %d pairs%s",
        np.isfinite(table).sum(), table.size, f" (not: {why})" if why else "",
    )  # fmt: skip
    return table


def _check_unit(recordings: Sequence[Recording], travels: Sequence[Travel]) -> None:
    """ValueError when a recording's speed is 3.6 times that of its poses."""
    for recording, travel in zip(recordings, travels, strict=True):
        ratios = travel.speed_ratios()
        if len(ratios) and abs(np.median(ratios) / KMH - 1) < KMH_TOLERANCE:
            raise ValueError(
                f"{recording.path}: the speed in frames.csv is {np.median(ratios):.1f} times that "
                "of its poses: it is in km/h and must be in m/s; divide it by 3.6, or collect "
                "again from a topic in m/s"
            )
