"""Writing recordings so that what is on disk is valid at any moment, and their manifest."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.chain import combined, hashed_files, read_manifest
from dyndepth_core.data.recording import DEPTH_PNG_SCALE, ODOMETRY_KEYS

JPEG_QUALITY = 95
COLUMNS = ("index", "stamp_ns", *ODOMETRY_KEYS, "keep", "reason")
PART = ".part"  # ends the name of what is not complete yet
POSE_COLUMNS = ("index", *(f"T{r}{c}" for r in range(3) for c in range(4)))


class RecordingWriter:
    """Writes one sequence frame by frame; a row of frames.csv appears only after its image is whole
    on disk.
    """

    def __init__(
        self, path: str | Path, calib: Calibration, image_format: str = "jpg", keep: int = 0
    ) -> None:
        """keep: go on with the recording that is there, after its first `keep` frames (0: a new
        one); what comes after them is removed.
        """
        if image_format not in ("jpg", "png"):
            raise ValueError(f"image_format {image_format!r}: use jpg or png")
        self.path, self.calib, self._format = Path(path), calib, image_format
        if not keep and (self.path / "frames.csv").exists():
            raise ValueError(
                f"{self.path}: holds a recording already; choose another folder or remove it first"
            )
        (self.path / "images").mkdir(parents=True, exist_ok=True)
        with naming(self.path / "calib.json"):
            calib.save(self.path / "calib.json")
        if keep:
            shorten_recording(self.path, keep)
        self._frames = (self.path / "frames.csv").open("a", newline="", buffering=1)
        self._rows = csv.writer(self._frames, lineterminator="\n")
        if not keep:
            self._row(COLUMNS)
        self._pose_file = None
        self.count = keep

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(
        self,
        image: np.ndarray | bytes,
        stamp_ns: int,
        *,
        depth: np.ndarray | None = None,
        instances: np.ndarray | None = None,
        dynamic: np.ndarray | None = None,
        velocity: np.ndarray | None = None,
        T_world_cam: np.ndarray | None = None,
        odometry: dict[str, float] | None = None,
        keep: bool = True,
        reason: str = "",
    ) -> None:
        """Append a frame: image uint8 (H, W, 3) RGB or what `encode` made of one, depth (H, W)
        metres (256 and more: none), velocity (H, W, 3) m/s; rest as in Recording.
        """
        expected = (self.calib.height, self.calib.width, 3)
        if not isinstance(image, bytes) and image.shape != expected:
            raise ValueError(
                f"{self.path}: image of shape {image.shape}, but the calibration says {expected}"
            )
        stem = f"{self.count:06d}"
        if depth is not None:
            coded = np.nan_to_num(depth, posinf=0, neginf=0) * DEPTH_PNG_SCALE + 0.5
            self._png(
                "depth", stem, np.where((coded < 1) | (coded >= 65536), 0, coded).astype(np.uint16)
            )
        if instances is not None:
            self._png("instances", stem, instances.astype(np.uint16))
        if dynamic is not None:
            self._png("dynamic", stem, dynamic.astype(np.uint8) * 255)
        if velocity is not None:
            (self.path / "velocity").mkdir(exist_ok=True)
            replace_file(
                self.path / "velocity" / f"{stem}.npz", _npz(velocity=velocity.astype(np.float16))
            )
        if T_world_cam is not None:
            self._write_pose(T_world_cam)
        data = image if isinstance(image, bytes) else encode(image, self._format)
        replace_file(self.path / "images" / f"{stem}.{self._format}", data)
        known = odometry or {}
        motion = [repr(float(known[k])) if k in known else "" for k in ODOMETRY_KEYS]
        self._row([self.count, int(stamp_ns), *motion, int(keep), reason])
        self.count += 1

    def _row(self, values: Iterable) -> None:
        with naming(self.path / "frames.csv"):
            self._rows.writerow(values)

    def _png(self, folder: str, stem: str, data: np.ndarray) -> None:
        (self.path / folder).mkdir(exist_ok=True)
        _write(self.path / folder / f"{stem}.png", data, [cv2.IMWRITE_PNG_COMPRESSION, 3])

    def _write_pose(self, T_world_cam: np.ndarray) -> None:
        values = ",".join(repr(float(v)) for v in T_world_cam[:3].reshape(-1))
        with naming(self.path / "poses.csv"):
            if self._pose_file is None:
                self._pose_file = (self.path / "poses.csv").open("w", newline="", buffering=1)
                self._pose_file.write(",".join(POSE_COLUMNS) + "\n")
            self._pose_file.write(f"{self.count},{values}\n")

    def close(self) -> None:
        """Close the tables; the recording was valid before this too."""
        with naming(self.path / "frames.csv"):
            self._frames.close()
        if self._pose_file is not None:
            with naming(self.path / "poses.csv"):
                self._pose_file.close()


def encode(image: np.ndarray, image_format: str = "jpg") -> bytes:
    """The file of an image, uint8 (H, W, 3) RGB, as RecordingWriter stores it."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if image_format == "jpg" else []
    good, data = cv2.imencode(f".{image_format}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not good:
        raise ValueError(f"an image of shape {image.shape}, {image.dtype} cannot be encoded")
    return data.tobytes()


def shorten_recording(path: Path, count: int) -> None:
    """Leave the first `count` frames of a recording that a RecordingWriter left unfinished.

    Raises ValueError where fewer are there.
    """
    lines = (path / "frames.csv").read_text().splitlines()[: count + 1]
    images = sorted((path / "images").iterdir())
    if len(lines) <= count or len(images) < count:
        raise ValueError(
            f"{path}: holds fewer than the {count} frames that were written; it was changed since: "
            "remove it and start anew"
        )
    replace_file(path / "frames.csv", "".join(f"{line}\n" for line in lines).encode())
    for image in images[count:]:
        image.unlink()


def _write(path: Path, image: np.ndarray, options: list[int]) -> None:
    """Encode and write through a temporary name, so that a kill never leaves half an image under
    its final name.
    """
    good, data = cv2.imencode(path.suffix, image, options)
    if not good:
        raise ValueError(
            f"{path}: an image of shape {image.shape}, {image.dtype} cannot be encoded"
        )
    replace_file(path, data.tobytes())


def _npz(**arrays: np.ndarray) -> bytes:
    """What np.savez_compressed writes, without the time of writing: the same data, the same
    bytes.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()


def replace_file(path: Path, data: bytes, durable: bool = False) -> None:
    """Write a file through a temporary name: it is there whole or not at all; durable: after a
    power cut too.
    """
    partial = path.with_name(path.name + PART)
    with naming(path):
        try:
            with partial.open("wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError of writing the name of the file, which the operating system does not say."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += "; make room there, then give the command again"
        raise OSError(error.errno, reason, error.filename or str(path)) from error


def write_splits(root: str | Path, splits: dict[str, list[str]]) -> None:
    """Write `<root>/splits/<name>.txt`, one line `sequence [first last]` each."""
    folder = Path(root) / "splits"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in splits.items():
        replace_file(folder / f"{name}.txt", "".join(f"{line}\n" for line in lines).encode())


def write_manifest(
    root: str | Path,
    info: dict,
    name: str = "manifest.json",
    only: Collection[str] | None = None,
) -> dict[str, str]:
    """Write `<root>/<name>`: `info` and the SHA-256 of every other complete file below root, or of
    its entries `only`; nothing else is looked at then. Returns the sums by path.
    """
    root, sums = Path(root), {}
    places = [root] if only is None else [root / entry for entry in only]
    paths = {p for place in places for p in (place, *place.rglob("*"))}
    for path in sorted(p for p in paths if p.is_file()):
        inner = path.relative_to(root)
        if path.name in ("manifest.json", name) or any(p.endswith(PART) for p in inner.parts):
            continue  # a kill left it half done
        sums[str(inner)] = hashlib.sha256(path.read_bytes()).hexdigest()
    text = json.dumps({**info, "files": sums}, indent=1) + "\n"
    replace_file(root / name, text.encode(), durable=True)
    return sums


def manifest_hash(root: str | Path) -> str:
    """SHA-256 that names a data set: of its images, stamps and calibration only, so that ground
    truth does not change it.
    """
    return combined(hashed_files(root))


def world_seeds(roots: Iterable[str | Path]) -> list[int]:
    """Seeds of the synthetic worlds among these data sets, as their manifests say."""
    seeds = set()
    for root in roots:
        for folder in (Path(root), Path(root).parent):  # a root, or one sequence of it
            info = read_manifest(folder) or {}
            if info.get("tool") == "dyndepth synth":
                seeds.add(int(info["seed"]))
    return sorted(seeds)
