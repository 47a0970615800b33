"""What the doctor reads of a bag, however large that is."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from dyndepth_core.data.bag import Bag
from dyndepth_core.data.image_checks import ImageSample
from dyndepth_core.data.odometry import odometry_values

PAIRS = 40  # pairs of neighbouring images that are decoded
WHOLE = 4000  # messages up to which a bag's stamps are all read
SLICES, SLICE_S = 40, 2.0  # of a larger bag: pieces spread over it


class BagSample:
    """Stamps, odometry and some images of one camera of a bag: of a small bag all stamps, of a
    large one those of pieces; images are only decoded in pairs of neighbours.

    stamps, arrivals: of each piece the stamps of the images and when they were recorded, ns;
    unset: how many of these stamps are those of the recorder, because the driver set none;
    odometry_stamps, odometry: as check_odometry takes them; seconds: of the whole bag.
    """

    def __init__(self, bag: Bag, camera: str, count: int, odometry: str | None) -> None:
        self._bag, self._camera, self._odometry = bag, camera, odometry
        topics = bag.topics()
        begin, end = bag.span()
        self.seconds = max(end - begin, 0) / 1e9
        self.sampled = sum(t.count for t in topics.values()) > WHOLE and (
            self.seconds > 2 * SLICES * SLICE_S
        )
        self.images = ImageSample()
        self.stamps: list[np.ndarray] = []
        self.arrivals: list[np.ndarray] = []
        self.unset = 0
        self.odometry_stamps: list[np.ndarray] = []
        self.odometry: list[np.ndarray] = []
        if self.sampled:
            starts = np.linspace(begin, end - SLICE_S * 1e9, SLICES).astype(np.int64)
            for start in starts:
                self._read(int(start), int(start + SLICE_S * 1e9), count)
        else:
            self._read(None, None, max(1, count // PAIRS))

    def _read(self, start: int | None, stop: int | None, every: int) -> None:
        """Stamps of a piece, and the first of every `every` images with its successor."""
        stamps, arrivals, places, values, held = [], [], [], [], None
        names = {self._camera, self._odometry} - {None}
        for raw in self._bag.messages(names, start, stop):
            if raw.topic == self._odometry:
                self._add_odometry(raw, places, values)
                continue
            stamp = header_stamp(raw.data, self._bag.is_ros1)
            if stamp is None:
                continue
            number = len(stamps)
            self.unset += stamp == 0
            stamps.append(stamp or raw.bag_ns)
            arrivals.append(raw.bag_ns)
            if number % every == 0 or held is not None:
                image = self._decode(raw)
                if held is not None:
                    self.images.pair(held, image)
                    image = None
                held = image
        if held is not None:
            self.images.pair(held, None)
        if stamps:
            self.stamps.append(np.array(stamps, np.int64))
            self.arrivals.append(np.array(arrivals, np.int64))
        if places:
            order = np.argsort(places, kind="stable")
            self.odometry_stamps.append(np.array(places, np.int64)[order])
            self.odometry.append(np.array(values, np.float64)[order])

    def _add_odometry(self, raw: Any, places: list[int], values: list[list[float]]) -> None:
        try:
            message = self._bag.deserialize(raw)
        except ValueError:
            return
        places.append(header_stamp(raw.data, self._bag.is_ros1) or raw.bag_ns)
        values.append(odometry_values(message))

    def _decode(self, raw: Any) -> np.ndarray | None:
        try:
            return self._bag.frame(raw).image()
        except ValueError as error:
            self.images.damaged.append(str(error))
            return None


def header_stamp(data: bytes, is_ros1: bool) -> int | None:
    """Stamp in ns of a serialised message that begins with a header; None where it is too short."""
    at, order = (4, "<") if is_ros1 else (4, "<" if data[1:2] != b"\0" else ">")
    if len(data) < at + 8:
        return None
    seconds, nanoseconds = struct.unpack_from(f"{order}II", data, at)
    return seconds * 1_000_000_000 + nanoseconds
