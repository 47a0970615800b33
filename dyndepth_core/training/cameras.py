"""Cameras a training has learned, and how well they are known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.calibration import Calibration
from ..data.sample import SampleSource
from ..methods.base import Objective
from ..networks.pose_net import VideoIntrinsics
from .checkpoint import write_json
from .source import validation_batches
from .track_cameras import TrackCamera
from .units import UNIT_BATCHES

log = logging.getLogger(__name__)


@torch.no_grad()
def learned_cameras(intrinsics: VideoIntrinsics, source: SampleSource) -> list[Calibration]:
    """The camera of each video of the training's source, in pixels of the stored images."""
    videos = torch.arange(len(source.names), device=intrinsics.log_focal.device)
    found = []
    for video, K in enumerate(intrinsics(videos, videos < 0).double().cpu().numpy()):
        calib = source.recordings[video].calib
        stored = source.stored_K(video, K)
        origin = "learned from the video itself"
        found.append(Calibration.from_K(stored, calib.width, calib.height, source=origin))
    return found


@torch.no_grad()
def paired_focal(objective: Objective, frames: SampleSource, videos: Sequence[str]) -> float:
    """Median fx in pixels at network size that networks which learn intrinsics per pair say of
    images: the focal length their depth belongs to, whatever the training began with.

    videos: names of the recordings of the training.
    """
    batches = validation_batches(frames, UNIT_BATCHES, videos)
    return float(torch.cat([objective.predict(b, 1.0).K[:, 0, 0] for b in batches]).median())


def report_cameras(
    intrinsics: VideoIntrinsics, source: SampleSource, tracks: Sequence[TrackCamera], run: Path
) -> None:
    """Leave RUN/cameras/VIDEO.json, calib.json files that also say how far each value is known, and
    log it.

    `two_sigma`: of focal (share of the focal length), aspect (of fx / fy), centre_x and centre_y
    (of the image's width and height) as the point tracks tell them, None where they do not;
    `not_determined` names those beyond the goals of TrackCamera.
    """
    for calib, known in zip(learned_cameras(intrinsics, source), tracks, strict=True):
        content: dict[str, Any] = asdict(calib)
        content["two_sigma"] = known.shares((calib.height, calib.width))
        content["not_determined"] = known.open((calib.height, calib.width))
        write_json(run / "cameras" / f"{known.video}.json", content)
        K = np.round([calib.fx, calib.fy, calib.cx, calib.cy], 1)
        if known.determined:
            shares = content["two_sigma"].values()
            words = (
                "point tracks tell the focal length to {:.1f} %, fx / fy to {:.1f} %, cx to {:.1f} "
                "% of the width and cy to {:.1f} % of the height (2 sigma; fx / fy and the centre "
                "partly by assumption); within that the training was free"
            ).format(*(100 * s for s in shares))
        else:
            words = (
                "point tracks do not determine it: these are the values at which a free training "
                "from a guess stood when it ended, which may be far off; give a calibration, or a "
                "video in which the camera turns"
            )
        log.info(
            "camera of %s: fx %g fy %g cx %g cy %g at %dx%d; %s",
            known.video, *K, calib.width, calib.height, words,
        )  # fmt: skip
