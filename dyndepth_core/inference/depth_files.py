"""What `dyndepth predict` writes: depth as 16-bit PNG or npz, and a video beside the input."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import cv2
import numpy as np

from dyndepth_core.data.recording import DEPTH_PNG_SCALE
from dyndepth_core.data.writer import replace_file

FORMATS = ("png", "npz")
PNG_LIMIT = 65535 / DEPTH_PNG_SCALE  # metres; 256 m less one step
CODECS = (("mp4v", ".mp4"), ("MJPG", ".avi"))
PANEL = 960  # a panel of the video is at most this wide, pixels


def depth_to_png(depth: np.ndarray, max_range: float = PNG_LIMIT) -> np.ndarray:
    """Depth (h, w) in metres -> uint16 metres x 256, 0 = none (NaN, not positive, beyond range).

    The KITTI convention; a positive depth never becomes 0 by rounding.
    """
    with np.errstate(invalid="ignore"):
        valid = (depth > 0) & (depth <= min(max_range, PNG_LIMIT))
        coded = np.clip(np.rint(depth * DEPTH_PNG_SCALE), 1, 65535)
    return np.where(valid, coded, 0).astype(np.uint16)


class DepthFiles:
    """Writes `<folder>/<name>.png` (16 bit, metres x 256, 0 = none) or `.npz` (key `depth`, float32
    metres, NaN = none, and its `K`); depth beyond max_range is left out. empty: no pixel of any of
    them has depth.

    Raises ValueError for another format, OSError when the disk does not take it.
    """

    def __init__(self, folder: Path, file_format: str, max_range: float | None) -> None:
        if file_format not in FORMATS:
            raise ValueError(f"depth format {file_format!r}: choose {' or '.join(FORMATS)}")
        self.folder, self.format = folder, file_format
        self.max_range = np.inf if max_range is None else max_range
        self.empty = True
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, depth: np.ndarray, K: np.ndarray) -> Path:
        """Write one depth image (h, w) and return its path."""
        path = self.folder / f"{name}.{self.format}"
        if self.format == "npz":
            kept = np.where(depth <= self.max_range, depth, np.nan).astype(np.float32)
            self.empty &= not np.isfinite(kept).any()
            buffer = io.BytesIO()
            np.savez_compressed(buffer, depth=kept, K=K)
            replace_file(path, buffer.getvalue())
            return path
        # Level 1: a third of the time of the default, a tenth more bytes.
        options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
        coded = depth_to_png(depth, self.max_range)
        self.empty &= not coded.any()
        good, data = cv2.imencode(".png", coded, options)
        if not good:
            raise ValueError(f"{path}: depth of shape {depth.shape} cannot be encoded")
        replace_file(path, data.tobytes())
        return path


class SideBySide:
    """A video of the input and the coloured depth: side by side, wide images one above the other.

    The first codec that this build of OpenCV can really write is used: mp4v in .mp4, else MJPG in
    .avi. It has its final name, `path`, once it is closed. Raises ValueError when there is none or
    the frame rate cannot be used.
    """

    def __init__(self, stem: Path, fps: float) -> None:
        if not 0 < fps <= 1000:
            raise ValueError(f"video at {fps} frames per second: give a number above 0, up to 1000")
        self._stem, self._fps = stem, fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self.path: Path | None = None
        self._partial = Path()
        self.count = 0

    def add(self, image: np.ndarray, colours: np.ndarray) -> None:
        """Append a frame: image and coloured depth, both uint8 (h, w, 3) RGB."""
        height, width = image.shape[:2]
        scale = min(1.0, PANEL / width)
        size = (max(2, round(width * scale)), max(2, round(height * scale)))
        panels = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (image, colours)]
        self.append(np.vstack(panels) if size[0] > 2 * size[1] else np.hstack(panels))

    def append(self, frame: np.ndarray) -> None:
        """Append a picture as it is, uint8 (h, w, 3) RGB."""
        frame = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._open(frame.shape[:2])
        rows, cols = self._size
        if frame.shape[:2] != self._size and frame.shape[0] >= rows and frame.shape[1] >= cols:
            frame = frame[:rows, :cols]  # codecs want even sizes
        if frame.shape[:2] != self._size:  # the camera changed its resolution
            frame = cv2.resize(frame, (cols, rows), interpolation=cv2.INTER_AREA)
        self._writer.write(np.ascontiguousarray(frame))
        self.count += 1

    def _open(self, size: tuple[int, int]) -> None:
        self._size = (size[0] // 2 * 2, size[1] // 2 * 2)
        for codec, suffix in CODECS:
            if _can_write(codec, suffix, self._size):
                self.path = self._stem.with_suffix(suffix)
                code = cv2.VideoWriter_fourcc(*codec)
                # OpenCV knows the container by the end of the name.
                self._partial = self.path.with_name(f".{self._stem.name}.part{suffix}")
                size = self._size[::-1]
                self._writer = cv2.VideoWriter(str(self._partial), code, self._fps, size)
                return
        raise ValueError("this OpenCV writes neither mp4v nor MJPG video: use --no-video")

    def close(self) -> None:
        """Finish the file; ValueError when it did not come out readable (a full disk, say)."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if not cv2.VideoCapture(str(self._partial)).read()[0]:
            self._partial.unlink(missing_ok=True)
            raise ValueError(f"{self.path}: the video could not be written; is the disk full?")
        self._partial.replace(self.path)


def _can_write(codec: str, suffix: str, size: tuple[int, int]) -> bool:
    """Whether a video of this codec can be written and read back; isOpened alone does not tell."""
    with tempfile.TemporaryDirectory(prefix="dyndepth_video_") as folder:
        path = str(Path(folder) / f"probe{suffix}")
        writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*codec), 10.0, size[::-1])
        if not writer.isOpened():
            return False
        writer.write(np.zeros((*size, 3), np.uint8))
        writer.release()
        return cv2.VideoCapture(path).read()[0]
