"""A video file as a recording: frames decoded on demand, damaged files as far as they go."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import numpy as np

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording

log = logging.getLogger(__name__)
# Decoders that a process inherited: closing one would wait for its threads, which stayed behind.
_OF_PARENTS: list[cv2.VideoCapture] = []


class VideoRecording(Recording):
    """A video file read as a recording without calibration; frames are decoded on demand, in order
    when possible.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.label = self.path.stem
        self._capture = cv2.VideoCapture(str(self.path))
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if not self._capture.isOpened() or count < 1:
            raise ValueError(
                f"{self.path}: cannot be opened as a video; convert it, e.g. ffmpeg -i IN -c:v "
                "libx264 OUT.mp4"
            )
        whole = _whole_frames(self.path, count)
        if whole < 1:
            raise ValueError(
                f"{self.path}: no frame of it can be decoded; the video is damaged, copy or "
                "convert it again"
            )
        if whole < count:
            log.warning(
                "%s: only the first %d of %d frames can be decoded; is it cut off?",
                self.path,
                whole,
                count,
            )
        count = whole
        rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._next, self._count, self._owner = 0, count, os.getpid()
        self.stamps_ns = (np.arange(count) * (1e9 / rate)).astype(np.int64)
        self.keep = np.ones(count, bool)
        self._poses = {}
        self._rows = [{"index": str(i)} for i in range(count)]
        self._files = [Path(f"{i:06d}") for i in range(count)]
        sidecar = self.path.with_suffix(".calib.json")
        width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.calib = (
            Calibration.load(sidecar)
            if sidecar.exists()
            else Calibration(width, height, source="video file")
        )

    def part(self, first: int, last: int) -> Recording:
        """Frames first to last (inclusive) as a recording of their own, with its own decoder."""
        piece = super().part(first, last)
        piece._owner = -1
        return piece

    def image(self, i: int) -> np.ndarray:
        """Decode frame i as uint8 (H, W, 3) RGB; ValueError when the stream is damaged there."""
        i = int(self._rows[i]["index"])
        if self._owner != os.getpid():  # a forked worker must not share its parent's position
            _OF_PARENTS.append(self._capture)
            self._reopen()
        good, image = self._decode(i)
        if not good:  # after the last frame of some files, seeking fails
            self._reopen()
            good, image = self._decode(i)
        if not good:
            raise ValueError(
                f"{self.path}: frame {i} of {self._count} cannot be decoded; the video is damaged "
                "or shorter"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _reopen(self) -> None:
        self._capture, self._next, self._owner = cv2.VideoCapture(str(self.path)), 0, os.getpid()

    def _decode(self, i: int) -> tuple[bool, np.ndarray | None]:
        if i != self._next:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, i)
        self._next = i + 1
        return self._capture.read()

    def _truth(self, folder: str, i: int, suffix: str = ".png") -> Path | None:
        return None


def _whole_frames(path: Path, count: int) -> int:
    """How many frames decode: `count` as the container says, or fewer where the file was cut off
    behind its header.
    """

    def decodes(i: int) -> bool:
        capture = cv2.VideoCapture(str(path))  # one that met the end does not always find back
        capture.set(cv2.CAP_PROP_POS_FRAMES, i)
        return capture.grab()

    if decodes(count - 1):
        return count
    whole, beyond = 0, count - 1
    while whole < beyond:
        middle = (whole + beyond) // 2
        whole, beyond = (middle + 1, beyond) if decodes(middle) else (whole, middle)
    return whole
