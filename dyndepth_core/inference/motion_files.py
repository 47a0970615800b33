"""What `dyndepth predict` writes of motion: velocities, masks and ids as recordings hold them, a
table of the objects and a video with arrows.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import cv2
import numpy as np

from dyndepth_core.data.writer import naming, replace_file
from dyndepth_core.instances.motion import Motion

from .depth_files import SideBySide
from .motion_drawing import draw_motion

COLUMNS = (
    "frame", "stamp_ns", "id", "x", "y", "z", "vx", "vy", "vz", "speed", "width", "height", "depth",
    "left", "top", "right", "bottom", "age_s", "missed",
)  # fmt: skip
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class MotionFiles:
    """Writes velocity/NAME.npz (`velocity`, float32 (h, w, 3)), dynamic/NAME.png (8 bit, 255 =
    moves), instances/NAME.png (16-bit ids), objects.csv (optical frame) and motion.mp4.

    Frames without motion, the first one above all, leave no files. The table has the rows of every
    frame that was written, at any moment. unit: of the speeds, for the video. Raises OSError when
    the disk does not take it.
    """

    def __init__(self, folder: Path, fps: float, unit: str, video: bool = True) -> None:
        self.folder, self.unit = folder, unit
        self.video = SideBySide(folder / "motion", fps) if video else None
        self.count, self.ids = 0, set[int]()
        for name in ("velocity", "dynamic", "instances"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with naming(folder / "objects.csv"):
            self._table = (folder / "objects.csv").open("w", newline="", buffering=1)
            self._rows = csv.writer(self._table, lineterminator="\n")
            self._rows.writerow(COLUMNS)

    def write(
        self, name: str, stamp_ns: int, image: np.ndarray, K: np.ndarray, motion: Motion | None
    ) -> None:
        """Write one frame: image uint8 (h, w, 3) RGB, K (3, 3) and motion of its pixels."""
        if motion is None:
            if self.video is not None:  # so that it runs beside the other one
                nothing = np.zeros(image.shape[:2], np.int32)
                motion = Motion(nothing, nothing, nothing > 0, nothing)
                self.video.append(draw_motion(image, motion, K, self.unit))
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, velocity=motion.velocity)
        replace_file(self.folder / "velocity" / f"{name}.npz", buffer.getvalue())
        masks = {
            "dynamic": motion.mask.astype(np.uint8) * 255,
            "instances": motion.ids.astype(np.uint16),
        }
        for kind, mask in masks.items():
            data = cv2.imencode(".png", mask, PNG)[1].tobytes()
            replace_file(self.folder / kind / f"{name}.png", data)
        for o in motion.objects:
            numbers = (*o.position, *o.velocity, o.speed, *o.size, *o.box, o.age_s)
            rounded = (f"{float(x):.4g}" for x in numbers)
            with naming(self.folder / "objects.csv"):
                self._rows.writerow((name, stamp_ns, o.id, *rounded, o.missed))
            self.ids.add(o.id)
        if self.video is not None:
            self.video.append(draw_motion(image, motion, K, self.unit))
        self.count += 1

    def close(self) -> None:
        """Close the table and finish the video."""
        try:
            with naming(self.folder / "objects.csv"):
                self._table.close()
        finally:
            if self.video is not None:
                self.video.close()
