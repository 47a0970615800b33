"""From pixels that vote for the middle of their object to objects."""

from __future__ import annotations

import cv2
import numpy as np

BLUR = 5  # cells over which votes for one middle scatter
APART = 5  # cells within which only one middle can be
NEAR = 1.2  # of the mean way of its pixels: a middle so near another is of the same object


def vote(can_move: np.ndarray, way: np.ndarray, least: int) -> np.ndarray:
    """Ids (h, w), uint8, from 1 on, of the objects of the pixels `can_move` (h, w), bool.

    way (2, h, w): to the middle, along x and y in shares of the width. A middle is where the votes
    of at least `least` pixels, blurred, have a maximum; every pixel goes to the middle that its
    vote comes nearest to (after Cheng et al. 2020, Panoptic-DeepLab). The larger an object, the
    farther its votes scatter: middles that are nearer than NEAR ways are one. Of each object its
    largest connected part stays, if it has `least` pixels.
    """
    height, width = can_move.shape
    ids = np.zeros((height, width), np.uint8)
    rows, cols = np.nonzero(can_move)
    if rows.size < least:
        return ids
    x = np.clip(cols + way[0, rows, cols] * width, 0, width - 1)
    y = np.clip(rows + way[1, rows, cols] * width, 0, height - 1)
    votes = np.zeros((height, width), np.float32)
    np.add.at(votes, (np.rint(y).astype(int), np.rint(x).astype(int)), 1.0)
    votes = cv2.boxFilter(votes, -1, (BLUR, BLUR), normalize=False)
    votes = cv2.GaussianBlur(votes, (BLUR, BLUR), 0)  # one maximum where votes tie
    top = cv2.dilate(votes, np.ones((APART, APART), np.uint8))
    peak_rows, peak_cols = np.nonzero((votes >= top) & (votes >= 0.5 * least))
    if not peak_rows.size:
        return ids
    order = np.argsort(-votes[peak_rows, peak_cols], kind="stable")[:255]
    peaks = np.stack((peak_cols[order], peak_rows[order]), 1).astype(np.float32)
    off = np.square(x[:, None] - peaks[:, 0]) + np.square(y[:, None] - peaks[:, 1])
    middle = _joined(peaks, off.argmin(1), np.hypot(x - cols, y - rows))
    ids[rows, cols] = middle + 1
    return keep_parts(ids, least)


def _joined(peaks: np.ndarray, nearest: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """Of every pixel the number of its middle: `nearest` (N,) of peaks (P, 2), most votes first, or
    the first one that lies less than NEAR of a mean way away, that of `ways` (N,) over the pixels
    of either, the longer one.
    """
    size = np.bincount(nearest, ways, len(peaks)) / np.bincount(nearest, None, len(peaks)).clip(1)
    off = np.hypot(*(peaks[:, None] - peaks).transpose(2, 0, 1))
    one = np.arange(len(peaks))
    for k in range(len(peaks)):
        close = np.flatnonzero(
            (one[:k] == np.arange(k)) & (off[k, :k] < NEAR * np.maximum(size[:k], size[k]))
        )
        if close.size:
            one[k] = close[0]
    return one[nearest]


def keep_parts(ids: np.ndarray, least: int) -> np.ndarray:
    """Of every id its largest connected part, if it has `least` pixels; ids again count from 1."""
    out, count = np.zeros_like(ids), 0
    for name in np.unique(ids[ids > 0]):
        _, parts, stats, _ = cv2.connectedComponentsWithStats((ids == name).astype(np.uint8))
        areas = stats[1:, cv2.CC_STAT_AREA]
        if areas.max() >= least:
            count += 1
            out[parts == 1 + int(areas.argmax())] = count
    return out
