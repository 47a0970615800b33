"""What the Predictor remembers of earlier frames, and when it must forget it."""

from __future__ import annotations

import logging
import math
import re
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

logger = logging.getLogger(__name__)

MAX_GAP_S = 2.0  # older images tell nothing about the present one, unless a model says less
AGAIN = 100  # frames without a reason of a kind, after which one is said again


class Camera(NamedTuple):
    """Image size (H, W) and intrinsics: what must stay the same for a history to hold."""

    size: tuple[int, int]
    K: bytes | None

    @classmethod
    def of(cls, image: np.ndarray, K: np.ndarray | None) -> Camera:
        """Camera of an image (H, W, 3) with K (3, 3) float64 or None."""
        return cls(image.shape[:2], None if K is None else K.tobytes())


class History:
    """The previous network-size image (1, 3, h, w), the state of the graph, and when and by which
    camera they were made. max_gap_s: across a longer gap nothing is remembered.
    """

    def __init__(self, max_gap_s: float = MAX_GAP_S) -> None:
        self.max_gap_s = max_gap_s
        self._frames, self._last_of_kind = 0, {}  # kind of reason -> number of its last frame
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.image: Tensor | None = None
        self.state: Any = None
        self.camera: Camera | None = None
        self.stamp_ns: int | None = None

    def follow(self, camera: Camera, stamp_ns: int | None) -> str:
        """Clear the history where the next frame does not follow it; returns why, empty if it does.

        It does not after another image size, another K, a stamp that did not advance or jumped
        ahead by more than max_gap_s.
        """
        reason = self._break(camera, stamp_ns)
        self._frames += 1
        if reason:
            # A camera that never sets its stamps, or whose stamps jitter, would otherwise fill the
            # log at its frame rate. Reasons that differ in numbers only are of one kind.
            kind = re.sub(r"[\d.]+", "#", reason)
            since = self._frames - self._last_of_kind.get(kind, -math.inf)
            self._last_of_kind[kind] = self._frames
            logger.log(
                logging.DEBUG if since <= AGAIN else logging.WARNING, "%s: history reset", reason
            )
            self.clear()
        return reason

    def advance(self, image: Tensor, state: Any, camera: Camera, stamp_ns: int | None) -> None:
        """Remember this frame as the previous one."""
        self.image, self.state, self.camera, self.stamp_ns = image, state, camera, stamp_ns

    def _break(self, camera: Camera, stamp_ns: int | None) -> str:
        last = self.camera
        if last is None:
            return ""
        if last.size != camera.size:
            (rows, cols), (new_rows, new_cols) = last.size, camera.size
            return f"image size changed from {cols}x{rows} to {new_cols}x{new_rows}"
        if last.K != camera.K:
            return "K changed"
        if self.stamp_ns is None or stamp_ns is None:
            return ""
        step = (stamp_ns - self.stamp_ns) / 1e9
        if step == 0:
            return "the stamp did not advance"
        if step < 0:
            return f"the stamp jumped back by {-step:.3f} s"
        return f"the stamp jumped ahead by {step:.3f} s" if step > self.max_gap_s else ""


def check_image(image: np.ndarray) -> None:
    """ValueError unless the image is uint8 (H, W, 3)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image is {found}: the predictor takes uint8 RGB, values 0 to 255")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image has shape {image.shape}: the predictor takes (H, W, 3) RGB; "
            "convert grey or RGBA first"
        )
    if min(image.shape[:2]) < 1:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise ValueError(f"image of size {size} is empty: check the camera driver")
