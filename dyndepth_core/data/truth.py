"""Reading ground truth, PNGs, velocities and poses: what cannot be believed is named."""

from __future__ import annotations

import csv
import tokenize
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np

from dyndepth_core.data.image_codec import check_complete

# What np.load raises on damaged archives; most of it is not documented.
NPZ_ERRORS = (
    ValueError, KeyError, IndexError, EOFError, TypeError, AttributeError, SyntaxError, OSError,
    NotImplementedError, RecursionError, MemoryError, OverflowError, RuntimeError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
MAX_POSE_CONDITION = 1e6  # of the 3 x 3 part; 1 for a rotation


def shorten(error: Exception) -> str:
    """Text of an error; of OpenCV's, what was wrong without the path of its own source."""
    if isinstance(error, cv2.error):
        if "CV_IO_MAX_IMAGE" in error.err:
            return "its header says more pixels than can be read"
        return (error.err or error.func or "OpenCV refuses it").strip()
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def read_truth_png(path: Path, dtype: type | None = None) -> np.ndarray:
    """A ground-truth PNG, (H, W) as stored; ValueError when it is damaged, has several channels or
    is not of `dtype`.
    """
    try:
        if not path.is_file():
            raise ValueError("it is no ordinary file")
        buffer = np.fromfile(path, np.uint8)
        check_complete(buffer)
        data = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
        if data is None:
            raise ValueError("it cannot be decoded")
    except (ValueError, OSError, cv2.error) as error:
        raise ValueError(
            f"{path}: damaged ground-truth PNG ({shorten(error)}); render or convert it again"
        ) from error
    if data.ndim != 2:
        raise ValueError(
            f"{path}: ground truth of {data.shape[2]} channels; convert it to a PNG of one channel"
        )
    if dtype is not None and data.dtype != dtype:  # 8 bit would be read 256 times too near
        raise ValueError(
            f"{path}: ground-truth depth of type {data.dtype}; convert it to a 16-bit PNG of "
            "metres x 256, 0 = none"
        )
    return data


def read_velocity(path: Path) -> np.ndarray:
    """Key `velocity` of an npz file as float32 (H, W, 3); ValueError when it is damaged."""
    try:
        if not path.is_file():
            raise ValueError("it is no ordinary file")
        with np.load(path, allow_pickle=False) as data:
            velocity = data["velocity"].astype(np.float32)
    except NPZ_ERRORS as error:  # without its text: NumPy's would advise to unpickle the file
        raise ValueError(
            f"{path}: damaged ground-truth velocity; render or convert it again"
        ) from error
    if velocity.ndim != 3 or velocity.shape[2] != 3:
        raise ValueError(
            f"{path}: ground-truth velocity of shape {velocity.shape}; convert it to (H, W, 3)"
        )
    return velocity


def read_poses(path: Path) -> dict[int, np.ndarray]:
    """{index: T_world_cam (4, 4)} of a poses.csv, empty where there is none; a last line that was
    cut short is left out.
    """
    if not path.exists():
        return {}
    try:
        with path.open(newline="") as file:
            lines = list(csv.reader(file))[1:]
        if lines and len(lines[-1]) < 13:  # a kill or a full disk cut the last line short
            lines.pop()
        table = np.array(lines, dtype=np.float64).reshape(-1, 13)
        if not np.isfinite(table[:, 0]).all():
            raise ValueError("an index is not finite")
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}: expected 13 numbers a row, index and T00..T23, rows of T_world_cam ({error})"
        ) from error
    bottom = np.array([[0.0, 0.0, 0.0, 1.0]])
    poses = {int(row[0]): np.concatenate([row[1:].reshape(3, 4), bottom]) for row in table}
    for index, pose in poses.items():
        # NaN says that a pose is unknown; a matrix without inverse says nothing true.
        if np.isfinite(pose).all() and not np.linalg.cond(pose[:3, :3]) < MAX_POSE_CONDITION:
            raise ValueError(
                f"{path}: the pose of frame {index:.9g} cannot be inverted, so it is no "
                "T_world_cam; write rotation and position, or leave out the row of an unknown pose"
            )
    return poses
