"""Pictures of a run beside its ground truth: one block per frame, a contact sheet, a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dyndepth_core.inference.color import DepthColors
from dyndepth_core.inference.motion_drawing import draw_motion
from dyndepth_core.instances.motion import Motion

FAR_M = 80.0
ERROR_LIMIT = 0.5  # |g - p| / g at which the error colours end
PANEL_WIDTH = 640
TOP_WIDTH = 400
TOP_REACH_M = (60.0, 22.0)  # forward, to each side
EYE_LEVEL_M = 2.5  # points this far above the camera (trees, roofs) would hide the street
MARGIN = 6
DOT = 2  # pixels per point seen from above
INK, PAPER, DIM = (235, 235, 235), (24, 26, 30), (150, 155, 165)
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Shot:
    """A frame to draw: image uint8 (H, W, 3) RGB; depth, truth (H, W), metres or NaN / 0 = none.

    depth is already scaled to the truth; points (N, 3) in metres, optical axes, with colors (N, 3)
    uint8; title and note are written above it. true: what truly moves, where that is to be compared
    with found, what the model says moves (None: it said nothing of this frame); K (3, 3) of image.
    """

    image: np.ndarray
    depth: np.ndarray
    truth: np.ndarray
    points: np.ndarray
    colors: np.ndarray
    title: str
    note: str = ""
    K: np.ndarray | None = None
    found: Motion | None = None
    true: Motion | None = None


def block(shot: Shot) -> np.ndarray:
    """Input, ground truth, depth and error in two rows, motion and its truth in a third where that
    is to be compared; the cloud from above beside them.
    """
    height = round(PANEL_WIDTH * shot.image.shape[0] / shot.image.shape[1])
    size = (PANEL_WIDTH, height)
    colors = DepthColors(FAR_M)
    truth = np.where(shot.truth > 0, shot.truth, np.inf)
    panels = [
        (shot.image, "input", cv2.INTER_AREA),
        (colors(shot.depth), "depth", cv2.INTER_LINEAR),
        (colors(truth), "ground truth", cv2.INTER_NEAREST),
        (error_colors(shot.depth, shot.truth), "error |g-p|/g", cv2.INTER_NEAREST),
    ]
    if shot.true is not None:
        found = "motion" if shot.found is not None else "motion: none from this frame"
        for motion, text in ((shot.found, found), (shot.true, "ground truth of motion")):
            panels.append((_moving(shot, motion), text, cv2.INTER_AREA))
    drawn = [_caption(cv2.resize(p, size, interpolation=how), text) for p, text, how in panels]
    gap = np.full((height, MARGIN, 3), PAPER, np.uint8)
    line = np.full((MARGIN, 2 * PANEL_WIDTH + MARGIN, 3), PAPER, np.uint8)
    rows = [np.hstack([a, gap, b]) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    left = np.vstack([part for row in rows for part in (line, row)][1:])
    top = _caption(
        top_view(shot.points, shot.colors, (left.shape[0], TOP_WIDTH)), "cloud from above"
    )
    body = np.hstack([left, np.full((left.shape[0], MARGIN, 3), PAPER, np.uint8), top])
    return np.vstack([_bar(shot.title, shot.note, body.shape[1]), body])


def _moving(shot: Shot, motion: Motion | None) -> np.ndarray:
    """The image with what moves tinted, and an arrow per object to where it will be seen soon."""
    if motion is None:
        return shot.image
    return draw_motion(shot.image, motion, shot.K, "m/s", PANEL_WIDTH)


def error_colors(depth: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Relative error as Viridis, uint8 (H, W, 3) RGB; grey where there is nothing to compare."""
    counts = (truth > 1e-3) & (truth < FAR_M) & np.isfinite(depth)
    error = np.abs(truth - depth) / np.maximum(truth, 1e-3)
    level = np.where(counts, np.clip(error / ERROR_LIMIT, 0, 1), 0) * 255
    shown = cv2.applyColorMap(level.astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1].copy()
    shown[~counts] = (52, 54, 60)
    return shown


def top_view(points: np.ndarray, colors: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Points (N, 3) metres seen from above, forward is up; uint8 (height, width, 3) RGB."""
    height, width = size
    forward, side = TOP_REACH_M
    scale = min(height * 0.96 / forward, width / (2 * side))
    dots = np.full((height // DOT + 1, width // DOT + 1, 3), PAPER, np.uint8)
    x, y, z = (points[:, k].astype(np.float32) for k in range(3))
    shown = np.isfinite(points).all(1) & (z > 0) & (y > -EYE_LEVEL_M)
    order = np.argsort(-y[shown])  # what stands higher is drawn last
    column = ((width / 2 + x[shown][order] * scale) / DOT).astype(np.int32)
    row = ((height - z[shown][order] * scale) / DOT).astype(np.int32)
    inside = (column >= 0) & (column < dots.shape[1]) & (row >= 0) & (row < dots.shape[0])
    lighter = 60 + 195 * (colors[shown][order][inside] / 255.0) ** 0.7  # above the background
    dots[row[inside], column[inside]] = lighter.astype(np.uint8)
    canvas = dots.repeat(DOT, 0).repeat(DOT, 1)[:height, :width].copy()
    for metres in range(10, int(forward) + 1, 10):
        at = round(height - metres * scale)
        cv2.line(canvas, (0, at), (width, at), (70, 74, 82), 1)
        text = f"{metres} m"
        (w, _), _ = cv2.getTextSize(text, FONT, 0.38, 1)
        cv2.putText(canvas, text, (width - w - 6, at - 4), FONT, 0.38, DIM, 1, cv2.LINE_AA)
    tip = (width // 2, height - 10)
    corners = np.array([tip, (tip[0] - 6, height - 1), (tip[0] + 6, height - 1)])
    cv2.fillConvexPoly(canvas, corners, (255, 190, 60), cv2.LINE_AA)
    return canvas


def contact_sheet(shots: Sequence[Shot], title: str, notes: Sequence[str]) -> np.ndarray:
    """Blocks one below the other under a heading with its colour scales; uint8 RGB."""
    blocks = [block(shot) for shot in shots]
    width = blocks[0].shape[1]
    head = np.full((64 + 26 * len(notes), width, 3), PAPER, np.uint8)
    cv2.putText(head, title, (14, 38), FONT, 0.95, INK, 2, cv2.LINE_AA)
    for k, note in enumerate(notes):
        cv2.putText(head, note, (14, 72 + 26 * k), FONT, 0.52, DIM, 1, cv2.LINE_AA)
    _scales(head)
    return np.vstack([head, *blocks, np.full((MARGIN, width, 3), PAPER, np.uint8)])


def _scales(head: np.ndarray) -> None:
    """Colour bars of depth and error in the right corner of the heading."""
    bar = 300
    left = head.shape[1] - bar - 20
    near = DepthColors(FAR_M).near
    inverse = np.linspace(1 / near, 1 / FAR_M, bar)
    depth = DepthColors(FAR_M)((1 / inverse)[None].astype(np.float32))
    level = np.linspace(0, 255, bar).astype(np.uint8)[None]
    error = cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    for row, strip, low, high in (
        (14, depth, f"{near:g} m", f"{FAR_M:g} m"),
        (52, error, "error 0", f"{ERROR_LIMIT:g}"),
    ):
        head[row : row + 14, left : left + bar] = strip
        cv2.putText(head, low, (left, row + 28), FONT, 0.4, DIM, 1, cv2.LINE_AA)
        (w, _), _ = cv2.getTextSize(high, FONT, 0.4, 1)
        cv2.putText(head, high, (left + bar - w, row + 28), FONT, 0.4, DIM, 1, cv2.LINE_AA)


def _bar(title: str, note: str, width: int) -> np.ndarray:
    bar = np.full((30, width, 3), PAPER, np.uint8)
    cv2.putText(bar, title, (8, 20), FONT, 0.5, INK, 1, cv2.LINE_AA)
    (w, _), _ = cv2.getTextSize(note, FONT, 0.5, 1)
    cv2.putText(bar, note, (width - w - 8, 20), FONT, 0.5, DIM, 1, cv2.LINE_AA)
    return bar


def _caption(panel: np.ndarray, text: str) -> np.ndarray:
    """Write on a darkened plate: white letters alone vanish in a bright sky."""
    panel = np.ascontiguousarray(panel)
    (w, h), base = cv2.getTextSize(text, FONT, 0.5, 1)
    panel[: h + base + 8, : w + 16] //= 3
    cv2.putText(panel, text, (8, h + 5), FONT, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return panel
