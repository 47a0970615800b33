"""What can be wrong with a recording, judged from plain numbers: stamps, camera, odometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import ODOMETRY_KEYS
from dyndepth_core.data.travel import KMH, KMH_TOLERANCE

Level = Literal["good", "warning", "fault"]
FOCAL = (0.3, 3.0)  # image widths: horizontal views of 118 to 19 degrees
OFF_CENTRE = 0.15  # of the side, by which a principal point may miss the centre
ASPECT = 0.03  # fx over fy, of square pixels
MAX_GAP_S = 1.0  # as `dyndepth collect` splits sequences
LATE_S = 0.5  # between the stamp in the header and the moment of recording
JITTER = 0.5  # of the period, at the 95th percentile
MOVING = 0.3  # m/s
FAST = 70.0  # m/s: no vehicle on a road
UNITS = {KMH: "km/h", 2.237: "mph", 100.0: "cm/s", 1000.0: "mm/s"}  # per m/s
SPEED, YAW_RATE = ODOMETRY_KEYS.index("speed"), ODOMETRY_KEYS.index("yaw_rate")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how bad, what was found, what to do about it."""

    level: Level
    about: str
    text: str
    remedy: str = ""


def check_camera(calib: Calibration, image_size: tuple[int, int] | None) -> list[Finding]:
    """Is a calibration plausible for images of image_size (H, W), None where none can be read?"""
    about = "calibration"
    if image_size is not None and image_size != (calib.height, calib.width):
        return [
            Finding(
                "fault", about,
                f"it is for {calib.width}x{calib.height}, the images are "
                f"{image_size[1]}x{image_size[0]}",
                "scale width, height, fx, fy, cx, cy of calib.json to the images",
            )
        ]  # fmt: skip
    if calib.K is None:
        why = calib.source.removeprefix("unknown: ") or "nothing says it"
        remedy = "calibrate the camera, or learn the intrinsics: --intrinsics video"
        return [Finding("warning", about, f"focal length unknown ({why})", remedy)]
    found = []
    longer = max(calib.width, calib.height)
    share = calib.fx / longer
    view = 2 * np.degrees(np.arctan(0.5 * calib.width / calib.fx))
    if not FOCAL[0] <= share <= FOCAL[1]:
        text = f"fx is {share:.2f} image sides ({view:.0f} degrees wide): hardly a camera's"
        remedy = "is it of another resolution, or in another unit? calibrate again"
        found.append(Finding("warning", about, text, remedy))
    if abs(calib.fx / calib.fy - 1) > ASPECT:
        text = f"fx and fy differ by {abs(calib.fx / calib.fy - 1):.0%}: pixels are square"
        found.append(Finding("warning", about, text, "was the image stretched? calibrate again"))
    for name, value, side in (("cx", calib.cx, calib.width), ("cy", calib.cy, calib.height)):
        off = value / (side - 1) - 0.5 if side > 1 else 0.0
        if abs(off) > OFF_CENTRE:
            text = f"{name} = {value:.1f} lies {abs(off):.0%} of the side off the centre"
            remedy = "right after a crop; else it is of another resolution: calibrate again"
            found.append(Finding("warning", about, text, remedy))
    lens = calib.distortion["model"] if calib.distortion else "no distortion"
    text = f"fx {calib.fx:.1f}, fy {calib.fy:.1f} pixels ({view:.0f} degrees wide), {lens}"
    return found or [Finding("good", about, text)]


def check_stamps(
    segments: Sequence[np.ndarray], bag_segments: Sequence[np.ndarray] = (), unset: int = 0
) -> tuple[float, list[Finding]]:
    """(frames per second, findings) of stamps in ns, in the order of the frames.

    segments: looked at one by one, nothing is concluded across their ends; bag_segments: when each
    of these frames was recorded, where that is known; unset: how many stamps are that, because the
    driver set none.
    """
    about, found = "stamps", []
    steps = np.concatenate([np.diff(s) for s in segments] or [np.zeros(0)]) / 1e9
    forward = steps[steps > 0]
    if not len(forward):
        return 0.0, [Finding("fault", about, "no two frames with rising stamps", "record longer")]
    period = float(np.median(forward))
    for name, count in (
        ("the same stamp twice", int((steps == 0).sum())),
        ("steps back in time", int((steps < 0).sum())),
    ):
        if count:
            remedy = "collect leaves them out or begins a new sequence; mend the driver"
            found.append(Finding("warning", about, f"{name}: {count} of {len(steps)}", remedy))
    gaps = forward[forward > MAX_GAP_S]
    if len(gaps) and period < MAX_GAP_S:
        text = f"{len(gaps)} gaps over {MAX_GAP_S:g} s, the longest {gaps.max():.1f} s"
        found.append(Finding("warning", about, text, "each begins a new sequence"))
    lost = forward[(forward > 1.5 * period) & (forward <= MAX_GAP_S)]
    if len(lost) > 0.05 * len(forward):
        text = f"{len(lost) / len(forward):.0%} of the frames are missing (steps of {period:.3f} s)"
        found.append(Finding("warning", about, text, "record to a faster disk, or compressed"))
    regular = forward[forward <= 1.5 * period]
    jitter = float(np.percentile(np.abs(regular - period), 95)) / period
    if jitter > JITTER:
        text = f"steps vary by {jitter:.0%} of {period:.3f} s"
        remedy = "are they of the exposure, or of the arrival? velocities suffer"
        found.append(Finding("warning", about, text, remedy))
    if unset:
        every = unset == sum(map(len, segments))
        whose = "the driver sets no stamps" if every else f"{unset} frames have no stamp"
        text = f"{whose}: those of the recorder count"
        found.append(Finding("warning", about, text, "mend the driver"))
    found += _against_bag_time(segments, bag_segments)
    text = f"{1 / period:.1f} frames per second, regular"
    return 1 / period, found or [Finding("good", about, text)]


def _against_bag_time(
    segments: Sequence[np.ndarray], bag_segments: Sequence[np.ndarray]
) -> list[Finding]:
    if not bag_segments:
        return []
    headers, arrival = np.concatenate(segments), np.concatenate(bag_segments)
    late = (arrival - headers) / 1e9
    usual, spread = float(np.median(late)), float(np.percentile(late, 95) - np.percentile(late, 5))
    if abs(usual) > LATE_S:
        text = f"recorded {usual:+.2f} s after the header's stamp: two clocks"
        remedy = "odometry must have the camera's clock: synchronise them (chrony, PTP)"
        return [Finding("warning", "stamps", text, remedy)]
    if spread > LATE_S:
        text = f"between the header's stamp and the recording lie {spread:.2f} s more or less"
        return [Finding("warning", "stamps", text, "the recorder was too slow at times")]
    return []


def check_odometry(
    stamps: Sequence[np.ndarray], tables: Sequence[np.ndarray]
) -> tuple[float | None, list[Finding]]:
    """(share of the time in which the vehicle moves, findings); None: nobody knows.

    Segments as in check_stamps: stamps in ns, tables (N, 9) of ODOMETRY_KEYS, NaN unknown. Asks for
    the unit of speed and yaw rate (against the poses) and for the axes of the base: x must point
    where it drives (REP 105).
    """
    about = "odometry"
    pieces = [_derived(s, t) for s, t in zip(stamps, tables, strict=True) if len(s) > 1]
    if not pieces:
        remedy = "without it the scale stays relative, or comes from the camera's height"
        return None, [Finding("warning", about, "none", remedy)]
    said, of_poses, turn_said, turn_poses, ahead = (
        np.concatenate([p[k] for p in pieces]) for k in range(5)
    )
    speed = np.where(np.isfinite(of_poses), of_poses, said)
    if not np.isfinite(speed).any():
        return None, [Finding("warning", about, "no pose and no speed in it", "record another")]
    found = []
    moves = of_poses > 1.0
    if (both := moves & np.isfinite(said)).any():
        ratio = float(np.median(said[both] / of_poses[both]))
        unit = next((u for f, u in UNITS.items() if abs(ratio / f - 1) < KMH_TOLERANCE), None)
        if unit:
            text = f"speed is {ratio:.2f} times that of the poses: {unit} taken for m/s"
            remedy = "publish m/s; a training refuses the speed as it is"
            found.append(Finding("fault", about, text, remedy))
        elif not 0.8 < ratio < 1.25:
            text = f"speed is {ratio:.2f} times that of the poses"
            found.append(Finding("warning", about, text, "one of them is wrong: find out which"))
    elif np.nanpercentile(speed, 95) > FAST:
        text = f"speeds up to {np.nanmax(speed):.0f} m/s: km/h taken for m/s?"
        found.append(Finding("fault", about, text, "publish m/s"))
    turning = np.isfinite(turn_said) & (np.abs(turn_poses) > 0.05)
    if turning.sum() > 10:
        ratio = float(np.median(np.abs(turn_said[turning]) / np.abs(turn_poses[turning])))
        if abs(ratio / 57.3 - 1) < KMH_TOLERANCE:
            text = f"yaw rate is {ratio:.0f} times that of the poses: degrees taken for radians"
            found.append(Finding("fault", about, text, "publish rad/s"))
    if moves.sum() > 10:
        along = float(np.median(ahead[moves & np.isfinite(ahead)]))
        if np.isfinite(along) and abs(along) < 0.7:
            text = "the base drives across its own x axis: an optical or a rotated frame"
            remedy = "publish the pose of base_link, x ahead, y left, z up (REP 105)"
            found.append(Finding("warning", about, text, remedy))
    moving = float(np.mean(np.abs(speed[np.isfinite(speed)]) > MOVING))
    what = "poses" if np.isfinite(of_poses).any() else "speed alone"
    text = f"{what}, moving {moving:.0%} of the time, up to {np.nanmax(np.abs(speed)):.1f} m/s"
    return moving, [*found, Finding("good", about, text)]


def _derived(stamps: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, ...]:
    """Between neighbours: speed said, speed of the poses, yaw rate said, turning of the poses
    (without sign), cosine between the base's x axis and where it goes; NaN unknown.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        seconds = np.diff(stamps) / 1e9
        seconds = np.where((seconds > 0) & (seconds < 1), seconds, np.nan)
        step = np.diff(table[:, :3], axis=0)
        length = np.linalg.norm(step, axis=1)
        x, y, z, w = table[:-1, 3:7].T
        forward = np.stack((1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)), 1)
        cosine = np.abs((table[1:, 3:7] * table[:-1, 3:7]).sum(1)).clip(0, 1)
        middle = (table[1:] + table[:-1]) / 2
        return (
            np.abs(middle[:, SPEED]),
            length / seconds,
            middle[:, YAW_RATE],
            2 * np.arccos(cosine) / seconds,
            (forward * step).sum(1) / length,
        )
