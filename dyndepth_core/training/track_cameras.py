"""What point tracks tell of cameras without a calibration, before a training begins."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ..data.sample import SampleSource
from ..data.tracks import windows
from ..geometry.bundle import focals
from ..geometry.self_calibration import estimate, stack
from ..networks.pose_net import VideoIntrinsics
from .checkpoint import write_json

log = logging.getLogger(__name__)
FILE = "track_cameras.json"
WINDOWS, POINTS = 24, 100  # per video, per window: about 15 seconds of one core
USEFUL = 0.1  # standard deviation of log f above which tracks do not hold a training
FOCAL_GOAL, CENTRE_GOAL = 0.1, 0.05  # two sigma above which a value counts as not determined


@dataclass(frozen=True)
class TrackCamera:
    """Of one video: (fx, fy, cx, cy) in pixels of the stored images, None where there were no
    tracks, and one standard deviation of (log f, log fx / fy, cx, cy), in pixels the last two.
    """

    video: str
    camera: tuple[float, float, float, float] | None = None
    sigma: tuple[float, float, float, float] | None = None
    windows: int = 0

    @property
    def determined(self) -> bool:
        """Whether the tracks say enough of the focal length to begin with it."""
        return self.sigma is not None and self.sigma[0] <= USEFUL

    def shares(self, size: tuple[int, int]) -> dict[str, float | None]:
        """Two sigma of focal, aspect (shares of f and fx / fy), centre_x, centre_y (of an image of
        `size` (H, W)); None where nothing is known.
        """
        names = ("focal", "aspect", "centre_x", "centre_y")
        if not self.determined:
            return dict.fromkeys(names)
        over = (1, 1, size[1], size[0])
        return {n: 2 * s / o for n, s, o in zip(names, self.sigma, over, strict=True)}

    def open(self, size: tuple[int, int]) -> list[str]:
        """Names of what the tracks do not determine."""
        shares = self.shares(size)
        if not self.determined:
            return ["focal length", "cx", "cy"]
        goals = {"focal": ("focal length", FOCAL_GOAL), "centre_x": ("cx", CENTRE_GOAL),
                 "centre_y": ("cy", CENTRE_GOAL)}  # fmt: skip
        return [name for key, (name, goal) in goals.items() if shares[key] > goal]

    @property
    def K(self) -> np.ndarray:
        """(3, 3), where there is a camera."""
        fx, fy, cx, cy = self.camera
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    def __str__(self) -> str:
        if self.determined:
            return (
                f"focal length {np.sqrt(self.camera[0] * self.camera[1]):.1f} pixels to "
                f"{200 * self.sigma[0]:.1f} % (2 sigma), from {self.windows} windows of tracks"
            )
        return (
            "its tracks do not tell the focal length (the camera turns too little, or too little "
            "can be followed): the training begins with a guess"
        )


def track_cameras(source: SampleSource, folder: Path, write: bool) -> list[TrackCamera]:
    """Cameras of the videos of a source, in its order: from the file in `folder` where a training
    that goes on has left it, else from the images; kept there if `write`.
    """
    path = folder / FILE
    known = _read(path, source.names)
    if known is not None:
        return known
    found = []
    for video, name in enumerate(source.names):
        began = time.monotonic()
        found.append(_track_camera(source, video))
        log.info(
            "camera %d of %d, %s: %s (%.0f s)",
            video + 1, len(source.names), name, found[-1], time.monotonic() - began,
        )  # fmt: skip
    if write:
        write_json(path, [asdict(camera) for camera in found])
    return found


def _track_camera(source: SampleSource, video: int) -> TrackCamera:
    name, stamps = source.names[video], source.recordings[video].stamps_ns
    if len(stamps) < 3:
        return TrackCamera(name)
    found = windows(lambda i: source.straight(video, i), stamps, WINDOWS)
    if not found:
        return TrackCamera(name)
    data = stack([(w.points, w.seen, w.valid, w.before) for w in found], POINTS)
    calib = source.recordings[video].calib
    guess = estimate(data, (calib.height, calib.width))
    if guess is None:
        return TrackCamera(name)
    camera = (*focals(guess.camera), *guess.camera[2:])
    return TrackCamera(
        name, tuple(map(float, camera)), tuple(map(float, guess.sigma)), guess.windows
    )


def _read(path: Path, names: list[str]) -> list[TrackCamera] | None:
    """The file's cameras; None where it is missing, damaged or of other videos."""
    try:
        rows = json.loads(path.read_text())
        found = [
            TrackCamera(
                str(row["video"]),
                *(row[k] and tuple(float(v) for v in row[k]) for k in ("camera", "sigma")),
                int(row["windows"]),
            )
            for row in rows
        ]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s): the cameras are looked at anew", path, error)
        return None
    whole = all(c.camera is None or len(c.camera) == len(c.sigma or ()) == 4 for c in found)
    return found if whole and [c.video for c in found] == names else None


def begin_at(intrinsics: VideoIntrinsics, source: SampleSource, cameras: list[TrackCamera]) -> None:
    """Let the learned cameras start where tracks tell them, and stay within 2 sigma of that."""
    for video, found in enumerate(cameras):
        if not found.determined:
            continue
        K = source.network_K(video, found.K)
        scale = np.array((1, 1, K[0, 0] / found.K[0, 0], K[1, 1] / found.K[1, 1]))
        sigma = np.array(found.sigma) * scale
        intrinsics.start(video, torch.from_numpy(K), torch.from_numpy(sigma))
