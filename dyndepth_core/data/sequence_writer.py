"""Runs of frames become recordings `<root>/<name>_000`, `_001`, ...; a jump begins the next."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.collect_options import CollectReport
from dyndepth_core.data.writer import RecordingWriter

MIN_FRAMES = 3  # a training sample needs a frame before and one after


class SequenceWriter:
    """Writes runs of frames as recordings; a run shorter than MIN_FRAMES never reaches the disk.

    root None: counts what would be written (a dry run).
    """

    def __init__(
        self, root: Path | None, name: str, calib: Calibration, report: CollectReport
    ) -> None:
        self._root, self._name, self._calib, self._report = root, name, calib, report
        self._waiting: list[tuple] = []
        self._writer: RecordingWriter | None = None
        self._begun = False

    @property
    def dry(self) -> bool:
        """Whether nothing is written."""
        return self._root is None

    @property
    def waiting(self) -> int:
        """Frames that are not on disk yet, because their run is still too short."""
        return len(self._waiting)

    @property
    def begun(self) -> bool:
        """Whether a sequence is being written."""
        return self._begun

    def add(
        self,
        image: np.ndarray | bytes | None,
        stamp_ns: int,
        odometry: dict[str, float] | None,
        tag: str = "",
    ) -> None:
        """Append a frame to the current sequence.

        image: uint8 (H, W, 3) RGB, or the JPEG that `writer.encode` made of it; None when dry.
        tag: why it shall be no target of a training (keep = 0), empty where it may be one.
        """
        self._waiting.append((image, stamp_ns, odometry, tag))
        if not self._begun and len(self._waiting) >= MIN_FRAMES:
            name = f"{self._name}_{len(self._report.sequences):03d}"
            if self._root is not None:
                self._writer = RecordingWriter(self._root / name, self._calib)
            self._begun = True
            self._report.sequences.append({"name": name, "frames": 0, "first_stamp_ns": None})
        if self._begun:
            for frame in self._waiting:
                self._write(*frame)
            self._waiting.clear()

    def _write(
        self,
        image: np.ndarray | bytes | None,
        stamp_ns: int,
        odometry: dict[str, float] | None,
        tag: str,
    ) -> None:
        if self._writer is not None:
            self._writer.add(image, stamp_ns, odometry=odometry, keep=not tag, reason=tag)
        sequence = self._report.sequences[-1]
        sequence["frames"] += 1
        sequence["last_stamp_ns"] = stamp_ns
        if sequence["first_stamp_ns"] is None:
            sequence["first_stamp_ns"] = stamp_ns
        self._report.kept += 1
        self._report.with_odometry += odometry is not None
        if tag:
            self._report.tagged[tag] += 1

    def end(self) -> None:
        """End the current sequence; the next frame begins another."""
        if self._waiting:
            self._report.dropped["sequence_too_short"] += len(self._waiting)
            self._waiting.clear()
        self._begun = False
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def resume(self, begun: bool) -> None:
        """Bring the disk to what the report says: later sequences go, the last one is gone on with
        where it was being written.
        """
        if self._root is None:
            return
        known = {s["name"] for s in self._report.sequences}
        pattern = re.compile(re.escape(self._name) + r"_\d{3,}")
        for path in self._root.iterdir() if self._root.is_dir() else ():
            if pattern.fullmatch(path.name) and path.name not in known:
                shutil.rmtree(path)
        self._begun = begun
        if begun:
            last = self._report.sequences[-1]
            self._writer = RecordingWriter(
                self._root / last["name"], self._calib, keep=last["frames"]
            )
