"""Instance ids of the frames of a recording, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np

from dyndepth_core.data.recording import Recording
from dyndepth_core.instances.motion import Motion


class InstanceSource(Protocol):
    """Says which pixels of a frame belong to which object."""

    def ids(self, i: int) -> np.ndarray | None:
        """Ids of frame i, int32 (h, w), 0 = no object, the same object the same id in every frame;
        None where the source says nothing about this frame.
        """


class RecordedInstances:
    """The files instances/%06d.png of a recording: ground truth, or masks of any other program.

    dynamic_only: only objects of which at least half is marked in dynamic/%06d.png in this frame;
    frames without that file then say nothing.
    """

    def __init__(self, recording: Recording, dynamic_only: bool = False) -> None:
        self.recording, self.dynamic_only = recording, dynamic_only

    def ids(self, i: int) -> np.ndarray | None:
        """See InstanceSource; ValueError when masks and ids differ in size."""
        ids = self.recording.instances(i)
        if ids is None or not self.dynamic_only:
            return ids
        dynamic = self.recording.dynamic(i)
        if dynamic is None:
            return None
        if dynamic.shape != ids.shape:
            raise ValueError(
                f"{self.recording.path}: frame {i} has instances of {ids.shape} and a dynamic mask "
                f"of {dynamic.shape}; make them of one size"
            )
        names, place = np.unique(ids, return_inverse=True)
        place = place.reshape(-1)
        share = np.bincount(place, dynamic.reshape(-1)) / np.bincount(place)
        return np.where(share[place].reshape(ids.shape) >= 0.5, ids, 0).astype(np.int32)


class MovedInstances:
    """What was found by its motion, in frames that are worked on in order, once.

    motion_of: Motion of frame i, None where there is none (the first frame), called for 0, 1, 2 ...
    The ids found are kept, packed.
    """

    def __init__(self, motion_of: Callable[[int], Motion | None]) -> None:
        self._motion_of = motion_of
        self._known: list[np.ndarray | None] = []

    def ids(self, i: int) -> np.ndarray | None:
        """See InstanceSource; works through all frames before i that were not asked for yet."""
        while len(self._known) <= i:
            motion = self._motion_of(len(self._known))
            packed = None
            if motion is not None:
                packed = cv2.imencode(".png", motion.ids.astype(np.uint16))[1]
            self._known.append(packed)
        packed = self._known[i]
        if packed is None:
            return None
        return cv2.imdecode(packed, cv2.IMREAD_UNCHANGED).astype(np.int32)
