"""Reading recordings: images, calib.json, frames.csv and, where known, ground truth."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.image_codec import check_complete
from dyndepth_core.data.truth import read_poses, read_truth_png, read_velocity, shorten

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
ODOMETRY_KEYS = ("tx", "ty", "tz", "qx", "qy", "qz", "qw", "speed", "yaw_rate")
DEPTH_PNG_SCALE = 256.0  # 16-bit PNG holds metres x 256, 0 = none (the KITTI convention)


class DamagedImage(ValueError):
    """An image file that cannot be decoded, or only in part."""


class Recording:
    """One image sequence on disk (or a [first, last] range of it); every accessor takes 0 <= i <
    len(self).
    """

    def __init__(self, path: str | Path, first: int = 0, last: int | None = None) -> None:
        self.path = Path(path)
        self.name = self.label = self.path.name  # label: unlike others' of that name
        folder = self.path / "images" if (self.path / "images").is_dir() else self.path
        files = sorted(_images(folder.iterdir()))
        if not files:
            raise ValueError(
                f"{self.path}: no images ({', '.join(IMAGE_SUFFIXES)}) in it; is this the right "
                "folder?"
            )
        files, rows = _read_frames(self.path / "frames.csv", files)
        last = len(files) - 1 if last is None else last
        if not 0 <= first <= last < len(files):
            raise ValueError(
                f"{self.path}: frames {first} to {last} asked for, but it has 0 to {len(files) - 1}"
            )
        self._files = files[first : last + 1]
        self._rows = rows[first : last + 1]
        self.stamps_ns = np.array([int(r["stamp_ns"]) for r in self._rows], dtype=np.int64)
        self.keep = np.array(
            [r.get("keep", "1") not in ("0", "False", "false") for r in self._rows]
        )
        self.calib = self._read_calibration()
        self._poses = read_poses(self.path / "poses.csv")

    def __len__(self) -> int:
        return len(self._files)

    def part(self, first: int, last: int) -> Recording:
        """The frames first to last (inclusive) as a recording of their own."""
        if not 0 <= first <= last < len(self):
            raise ValueError(
                f"{self.path}: frames {first} to {last} asked for, but it has 0 to {len(self) - 1}"
            )
        piece, span = copy.copy(self), slice(first, last + 1)
        piece._files, piece._rows = self._files[span], self._rows[span]
        piece.stamps_ns, piece.keep = self.stamps_ns[span], self.keep[span]
        return piece

    def _read_calibration(self) -> Calibration:
        path = self.path / "calib.json"
        if path.exists():
            return Calibration.load(path)
        height, width = self.image(0).shape[:2]
        try:
            return Calibration(width, height, source="no calib.json: intrinsics unknown")
        except ValueError as error:
            raise ValueError(f"{self._files[0]}: {error}") from error

    def image_path(self, i: int) -> Path:
        """Path of image i."""
        return self._files[i]

    def reason(self, i: int) -> str:
        """Why frame i is left out of training, where it is (`keep`); else empty."""
        return self._rows[i].get("reason") or ""

    def image(self, i: int) -> np.ndarray:
        """Read image i as uint8 (H, W, 3) RGB; DamagedImage when the file is no whole image."""
        try:
            buffer = np.frombuffer(self._files[i].read_bytes(), np.uint8)
            check_complete(buffer)
            image = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
        except (ValueError, cv2.error) as error:
            raise DamagedImage(
                f"{self._files[i]}: is damaged ({shorten(error)}); re-record it"
            ) from error
        except OSError as error:
            raise DamagedImage(
                f"{self._files[i]}: cannot be read ({shorten(error)}); make it readable, or remove "
                "it"
            ) from error
        if image is None:
            raise DamagedImage(
                f"{self._files[i]}: cannot be decoded as an image; it is damaged, remove or "
                "re-record it"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _truth(self, folder: str, i: int, suffix: str = ".png") -> Path | None:
        path = self.path / folder / (self._files[i].stem + suffix)
        return path if path.exists() else None

    def _png(self, folder: str, i: int, dtype: type | None = None) -> np.ndarray | None:
        path = self._truth(folder, i)
        return None if path is None else read_truth_png(path, dtype)

    def depth(self, i: int) -> np.ndarray | None:
        """Ground-truth depth, float32 (H, W) in metres along z, 0 = none; None where the recording
        has none.
        """
        data = self._png("depth", i, np.uint16)
        return None if data is None else data.astype(np.float32) / DEPTH_PNG_SCALE

    def instances(self, i: int) -> np.ndarray | None:
        """Instance ids, int32 (H, W), 0 = background; None where unknown."""
        data = self._png("instances", i)
        return None if data is None else data.astype(np.int32)

    def dynamic(self, i: int) -> np.ndarray | None:
        """Mask, bool (H, W), of what moves at 1 m/s or more relative to the ground; None where
        unknown.
        """
        data = self._png("dynamic", i)
        return None if data is None else data > 127

    def velocity(self, i: int) -> np.ndarray | None:
        """Velocity relative to the ground, float32 (H, W, 3) in m/s, optical axes of frame i; None
        where unknown.
        """
        path = self._truth("velocity", i, ".npz")
        return None if path is None else read_velocity(path)

    def pose(self, i: int) -> np.ndarray | None:
        """T_world_cam, float64 (4, 4); None where unknown."""
        return self._poses.get(int(self._rows[i]["index"]))

    def odometry(self, i: int) -> dict[str, float] | None:
        """Vehicle odometry at the stamp (ODOMETRY_KEYS; metres, m/s, rad/s), None where unknown."""
        row = self._rows[i]
        try:
            found = {k: float(row[k]) for k in ODOMETRY_KEYS if row.get(k) not in (None, "")}
        except ValueError as error:
            raise ValueError(
                f"{self.path / 'frames.csv'}: odometry of row {row['index']}: {error}"
            ) from error
        return found or None


def _read_frames(path: Path, files: list[Path]) -> tuple[list[Path], list[dict[str, str]]]:
    """Images and their rows of frames.csv: by index where the images are numbered, so that one may
    be deleted, else in order.
    """
    if not path.exists():  # a folder of images: nominal 10 Hz, so that nothing divides by zero
        return files, [
            {"index": str(i), "stamp_ns": str(i * 100_000_000)} for i in range(len(files))
        ]
    try:
        with path.open(newline="") as file:
            table = csv.DictReader(file)
            if missing := {"index", "stamp_ns"} - set(table.fieldnames or ()):
                raise ValueError(f"it has no column {' and no column '.join(sorted(missing))}")
            rows = [r for r in table if r["index"] not in (None, "")]
        if rows and None in rows[-1].values():  # a kill or a full disk cut the last line short
            rows.pop()
        by_index = {int(r["index"]): r for r in rows}
        np.array([int(r["stamp_ns"]) for r in rows], dtype=np.int64)
    except (KeyError, ValueError, TypeError, OverflowError, csv.Error) as error:
        raise ValueError(
            f"{path}: every row needs an integer index and stamp_ns ({error})"
        ) from error
    if all(f.stem.isdecimal() for f in files):
        paired = [(f, by_index[int(f.stem)]) for f in files if int(f.stem) in by_index]
    elif len(rows) <= len(files):
        paired = list(zip(files, rows, strict=False))
    else:
        raise ValueError(
            f"{path}: {len(rows)} rows for {len(files)} images; name the images by their index, "
            "e.g. 000007.jpg"
        )
    # The image of a killed writer's last frame may lack its row.
    if len(paired) < max(len(files) - 1, 1):
        raise ValueError(
            f"{path}: rows for {len(paired)} of {len(files)} images; the recording is incomplete, "
            "collect it again"
        )
    return [f for f, _ in paired], [r for _, r in paired]


def open_recordings(path: str | Path, split: str | None = None) -> list[Recording]:
    """Open what `--data` names: a root of sequences, one sequence, an image folder or a video file.

    split: train, val or test: only the sequences (and frame ranges) listed in
    `<root>/splits/<split>.txt`; ignored when the root has no `splits` folder. Raises
    FileNotFoundError or ValueError that says what is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder; give a recording, a root of recordings or a video"
        )
    if path.is_file():
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            _no_bag(path)
            raise ValueError(
                f"{path}: not a video ({', '.join(VIDEO_SUFFIXES)}); give a folder of images or a "
                "video"
            )
        from dyndepth_core.data.video import VideoRecording  # here, because it builds on Recording

        try:
            return [VideoRecording(path)]
        except ValueError as error:  # of its calibration, which knows no file
            if str(path.with_suffix("")) in str(error):
                raise
            raise ValueError(f"{path}: {error}") from error
    listing = path / "splits" / f"{split}.txt"
    if split is not None and (path / "splits").is_dir():
        if not listing.exists():
            raise ValueError(
                f"{listing}: no such split; the root has "
                f"{sorted(p.stem for p in listing.parent.glob('*.txt'))}; write its sequences "
                "there, one name a line, or `name first last`"
            )
        found = [_open_split_line(listing, line) for line in _lines(listing)]
        if not found:
            raise ValueError(
                f"{listing}: names no sequence; write one name a line, or `name first last`"
            )
    elif (path / "images").is_dir():
        found = [Recording(path)]
    else:  # a root of sequences may hold a picture of its own, so sequences come first
        folders = [p for p in sorted(path.iterdir()) if p.name[0] != "."]  # hidden: half made
        folders = [p for p in folders if (p / "images").is_dir()]
        found = [Recording(p) for p in folders if not _only_begun(p)]
        if not found and any(_images(path.iterdir())):
            found = [Recording(path)]
    if not found:
        _no_bag(path)
        raise ValueError(
            f"{path}: empty; expected images, or sequences with an images/ folder (see README, "
            "recordings)"
        )
    return found


def _no_bag(path: Path) -> None:
    from dyndepth_core.data.bag import is_bag  # here, because it builds on writers of recordings

    if is_bag(path):
        raise ValueError(
            f"{path}: a bag; give the folder that `dyndepth collect {path} --out FOLDER` makes"
        )


def _only_begun(folder: Path) -> bool:
    """Whether its writer was killed before the first image: there is no row of one either."""
    if any(_images((folder / "images").iterdir())):
        return False
    table = folder / "frames.csv"
    return not table.is_file() or len(table.read_bytes().splitlines()) <= 1


def _images(paths: Iterable[Path]) -> Iterable[Path]:
    """Those that are images by their name; a pipe, a folder or a dangling link is none."""
    return (p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def _lines(listing: Path) -> list[str]:
    try:
        return [line for line in listing.read_text().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{listing}: is no text ({error}); write one name a line, or `name first last`"
        ) from error


def _open_split_line(listing: Path, line: str) -> Recording:
    root, (name, *span) = listing.parent.parent, line.split()
    if (
        len(span) not in (0, 2)
        or not all(v.isdecimal() and len(v) < 10 for v in span)
        or not (root / name).is_dir()
    ):
        raise ValueError(
            f"{listing}: line {line[:100]!r} must be `sequence [first last]` and name an "
            "existing folder"
        )
    return Recording(root / name, *(int(v) for v in span))
