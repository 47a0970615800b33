"""One picture of a whole collection, to see at a glance what a training will see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dyndepth_core.data.recording import DamagedImage, Recording
from dyndepth_core.data.writer import replace_file

TILES, COLUMNS = 48, 6
TILE_WIDTH, LABEL, MARGIN = 240, 16, 4  # pixels
MAX_TILE_HEIGHT = 240
GREY, TAGGED = (200, 200, 200), (80, 120, 255)  # BGR
FONT = cv2.FONT_HERSHEY_SIMPLEX


def write_contact_sheet(path: Path, root: Path, sequences: Sequence[tuple[str, int]]) -> None:
    """Write frames spread evenly over sequences (name, frames) below `root` as one JPEG.

    Each carries its sequence and index; tagged ones (keep = 0) have an orange frame and their tag.
    """
    total = sum(frames for _, frames in sequences)
    if not total:
        return
    chosen = np.unique(np.linspace(0, total - 1, min(TILES, total)).round().astype(int))
    tiles, first = [], 0
    for name, frames in sequences:
        inside = [int(i) - first for i in chosen if first <= i < first + frames]
        first += frames
        if inside:
            recording = Recording(root / name)
            tiles += [_tile(recording, i) for i in inside if i < len(recording)]
    rows = [_row(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    good, data = cv2.imencode(".jpg", np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not good:
        raise ValueError(f"{path}: a picture of {len(tiles)} frames cannot be encoded")
    replace_file(path, data.tobytes())


def _row(tiles: list[np.ndarray]) -> np.ndarray:
    height = max(tile.shape[0] for tile in tiles) + MARGIN
    padded = [_padded(tile, height, TILE_WIDTH + MARGIN) for tile in tiles]
    return _padded(np.hstack(padded), height, COLUMNS * (TILE_WIDTH + MARGIN))


def _tile(recording: Recording, i: int) -> np.ndarray:
    try:
        image = cv2.cvtColor(recording.image(i), cv2.COLOR_RGB2BGR)
    except DamagedImage:
        image = np.zeros((TILE_WIDTH // 2, TILE_WIDTH, 3), np.uint8)
    scale = min(TILE_WIDTH / image.shape[1], MAX_TILE_HEIGHT / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    tag = "" if recording.keep[i] else recording.reason(i) or "left out"
    colour = TAGGED if tag else GREY
    if tag:
        cv2.rectangle(image, (0, 0), (size[0] - 1, size[1] - 1), TAGGED, 2)
    label = np.zeros((LABEL, TILE_WIDTH, 3), np.uint8)
    text = f"{recording.name} {recording.image_path(i).stem} {tag}".strip()
    text = text if text.isascii() else text.encode("ascii", "replace").decode()
    width = cv2.getTextSize(text, FONT, 0.36, 1)[0][0]
    cv2.putText(
        label, text, (1, LABEL - 5), FONT, 0.36 * min(1.0, (TILE_WIDTH - 2) / max(width, 1)),
        colour, 1, cv2.LINE_AA,
    )  # fmt: skip
    return np.vstack([label, _padded(image, size[1], TILE_WIDTH)])


def _padded(tile: np.ndarray, height: int, width: int) -> np.ndarray:
    """Black at the right and below."""
    below, right = height - tile.shape[0], width - tile.shape[1]
    return cv2.copyMakeBorder(tile, 0, below, 0, right, cv2.BORDER_CONSTANT)
