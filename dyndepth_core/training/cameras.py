"""Cameras a training has learned, and how much its video could say about them."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.calibration import Calibration
from ..data.sample import SampleSource
from ..geometry.se3 import rotation_vector
from ..methods.base import Objective
from .checkpoint import write_json
from .source import validation_batches

log = logging.getLogger(__name__)
RESOLVED = 0.25  # pixels a whole image's photometric error tells apart
FOCAL_GOAL, CENTRE_GOAL = 0.1, 0.05  # of the focal length; of the image's side
BATCHES = 48
BUSY = 95  # percentile of the rotations of a video


@dataclass(frozen=True)
class Tolerance:
    """What the motion leaves open: focal as a share of the focal length, centre_x and centre_y as
    shares of the image's width and height.
    """

    focal: float
    centre_x: float
    centre_y: float

    @classmethod
    def of(cls, K: Tensor, size: tuple[int, int], pitch: float, yaw: float) -> Tolerance:
        """K (3, 3) in pixels of an image of size (H, W); rotation about the image's x (pitch) and y
        (yaw) axis in radians between two images.

        A wrong camera hides behind a wrong translation (f t is all that shows) and behind
        rotation times f; what it cannot hide is how rotation bends the image. Turning by r about y
        moves the pixel x off the centre by r (f + x^2 / f), at the border x = W / 2:
          a focal length wrong by the share d by d r W^2 / (2 f) pixels (Gordon et al. 2019: fx is
          known to 2 fx^2 / (W^2 r) per pixel of error),
          a centre wrong by c columns by c r W / f, one wrong by c rows, in the corner (r x y / f),
          by c r W / (2 f).
        About x the same with H. The tolerance is the error that moves the border by RESOLVED
        pixels.
        """
        (height, width), f = size, float(K[0, 0] * K[1, 1]) ** 0.5
        yaw, pitch = max(yaw, 1e-9), max(pitch, 1e-9)
        return cls(
            2 * RESOLVED * f / max(width**2 * yaw, height**2 * pitch),
            RESOLVED * f / (width * max(width * yaw, height * pitch / 2)),
            RESOLVED * f / (height * max(width * yaw / 2, height * pitch)),
        )

    def open(self) -> list[str]:
        """Names of what the motion does not determine."""
        names = [] if self.focal <= FOCAL_GOAL else ["focal length"]
        names += [] if self.centre_x <= CENTRE_GOAL else ["cx"]
        return names + ([] if self.centre_y <= CENTRE_GOAL else ["cy"])


@torch.no_grad()
def learned_cameras(
    objective: Objective, source: SampleSource
) -> dict[str, tuple[Calibration, Tolerance]]:
    """{video: its camera in pixels of the stored images, what its motion leaves open}.

    source: of the training, with train=False; the rotations are those the objective predicts.
    """
    objective.eval()
    rotations: dict[int, list[Tensor]] = {}
    cameras: dict[int, Tensor] = {}
    for batch in validation_batches(source, BATCHES * len(source.names), source.names):
        found = objective.predict(batch, 1.0)
        for video, T, K in zip(batch.video.tolist(), found.T_src_tgt, found.K, strict=True):
            rotations.setdefault(video, []).append(rotation_vector(T[:, :3, :3]))
            cameras[video] = K
    out = {}
    for video, K in sorted(cameras.items()):
        pitch, yaw, _ = torch.cat(rotations[video]).abs().quantile(BUSY / 100, 0).tolist()
        recording = source.recordings[video]
        stored = source.stored_K(video, K.double().numpy())
        size = recording.calib.width, recording.calib.height
        calib = Calibration.from_K(stored, *size, source="learned from the video itself")
        out[recording.name] = calib, Tolerance.of(K, source.config.size, pitch, yaw)
    return out


def report_cameras(objective: Objective, source: SampleSource, run: Path) -> None:
    """Leave RUN/cameras/VIDEO.json, calib.json files that also say what is open, and log it."""
    for name, (calib, tolerance) in learned_cameras(objective, source).items():
        content: dict[str, Any] = asdict(calib)
        content["tolerance"] = {
            k: v if math.isfinite(v) else None for k, v in asdict(tolerance).items()
        }
        content["not_determined"] = tolerance.open()
        write_json(run / "cameras" / f"{name}.json", content)
        K = np.round([calib.fx, calib.fy, calib.cx, calib.cy], 1)
        log.info(
            "camera of %s: fx %g fy %g cx %g cy %g at %dx%d; its motion can tell them to %s of the "
            "focal length, %s of the width, %s of the height, a short training tells less%s",
            name, *K, calib.width, calib.height,
            *(f"{100 * min(t, 1):.0f} %" for t in asdict(tolerance).values()),
            f"; its motion does not determine {', '.join(tolerance.open())}: the camera turns too "
            "little" if tolerance.open() else "",
        )  # fmt: skip
