"""From velocities to moving objects: dynamic probability, mask, instances with ids."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from dyndepth_core.geometry.camera import check_K
from dyndepth_core.instances.components import (
    Component,
    connect,
    measure,
    neighbours,
    rims,
)
from dyndepth_core.instances.dynamic import dynamic_probability, speed_limit, speed_noise
from dyndepth_core.instances.tracking import Track, Tracks

MAX_GAP_S = 2.0  # between two frames of one history
HIGH, LOW = 0.6, 0.2  # probabilities from which a mask begins, and to which it then reaches
# A network that says what moves is right more often than the speeds it gives: of what is beside
# something that moves it says some, too. F1 of the mask 0.68 instead of 0.67 at half as many wrong
# pixels with the bundled model (tuning world 14).
LIKELY = 0.5
SEED_SHARE = 0.05  # of a component's pixels that must begin it
MIN_SHARE = 4e-4  # of the image that a component must fill: 12 pixels of 96 x 320
MIN_PIXELS = 6


@dataclass(frozen=True)
class MovingObject:
    """One moving object in one frame.

    position (3,): middle of what is seen of it, optical frame (x right, y down, z forward), units
    of the depth (metres, if that is metric); velocity (3,): relative to the ground, same axes, per
    second; speed: its length; size (3,): extent of what is seen of it along the axes; box (left,
    top, right, bottom): outermost pixels; age_s: seconds since it was first seen; missed: frames
    since it was last seen, position and box are predicted where that is not 0.
    """

    id: int
    position: np.ndarray
    velocity: np.ndarray
    speed: float
    size: np.ndarray
    box: tuple[float, float, float, float]
    age_s: float
    missed: int


@dataclass
class Motion:
    """What moves in one image.

    velocity: float32 (h, w, 3) relative to the ground, in the optical axes of the image, units of
    the depth per second, NaN where unknown; probability: float32 (h, w) that it is dynamic, NaN
    where unknown; mask: bool (h, w), dynamic; ids: int32 (h, w), whose pixel it is, 0 = nobody's
    yet; objects: those with an id.
    """

    velocity: np.ndarray
    probability: np.ndarray
    mask: np.ndarray
    ids: np.ndarray
    objects: list[MovingObject] = field(default_factory=list)


class MotionTracker:
    """Finds moving objects in the velocities of one camera, frame by frame.

    A mask begins where the probability exceeds HIGH and reaches as far as it exceeds LOW: in the
    image within one component, in time wherever the mask of the frame before has moved to; and only
    where a network, if it says so, finds it LIKELY. birth, survive: see Tracks.
    """

    def __init__(self, birth: int = 3, survive: int = 3) -> None:
        if birth < 1 or survive < 0:
            raise ValueError(f"birth {birth}, survive {survive}: give at least 1 and 0 frames")
        self._tracks = Tracks(birth, survive)
        self.clear()

    def clear(self) -> None:
        """Forget all objects; their ids do not come again."""
        self._tracks.alive.clear()
        self._mask: np.ndarray | None = None
        self._stamp_ns: int | None = None
        self._threshold = 0.0

    def step(
        self,
        velocity: np.ndarray,
        depth: np.ndarray,
        K: np.ndarray,
        T_src_tgt: np.ndarray,
        stamp_ns: int,
        src_stamp_ns: int,
        threshold: float,
        likely: np.ndarray | None = None,
    ) -> Motion:
        """Find what moves in this frame, tgt, from the velocities relative to src, an earlier one.

        velocity float32 (h, w, 3) as in Motion, depth float32 (h, w) along z, K (3, 3) of that
        image, T_src_tgt (4, 4) in units of the depth, threshold: speed from which something counts
        as dynamic, per second; when it differs from that of the frame before, so does the unit of
        depth; likely float32 (h, w) in [0, 1]: how likely a network finds it that something moves,
        speed alone decides without. Objects are carried on only if src is the frame seen last.
        Stamps that do not advance or jump by more than MAX_GAP_S give velocities no meaning: then
        nothing moves, and all is forgotten. Raises ValueError for shapes, K, T or a threshold that
        cannot be used.
        """
        _check(velocity, depth, T_src_tgt, threshold)
        K, seconds = check_K(K), (stamp_ns - src_stamp_ns) / 1e9
        if self._stamp_ns != src_stamp_ns or (
            self._mask is not None and self._mask.shape != depth.shape
        ):
            self.clear()
        if not 0 < seconds <= MAX_GAP_S:
            self.clear()
            self._stamp_ns = stamp_ns
            return _nothing(velocity)
        focal, ego = (K[0, 0] + K[1, 1]) / 2, float(np.linalg.norm(T_src_tgt[:3, 3]))
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            speed = np.sqrt(np.einsum("ijk,ijk->ij", velocity, velocity))
            noise = speed_noise(depth, float(focal), ego, seconds)
            limit = speed_limit(noise, threshold)
            probability = dynamic_probability(speed, limit).astype(np.float32, copy=False)
            candidates = (probability >= LOW) & (depth > 0) & np.isfinite(speed)
            if likely is not None:
                candidates &= likely >= LIKELY
                probability = np.minimum(probability, likely)
        rows, cols = np.nonzero(candidates)
        z, moved = depth[rows, cols], velocity[rows, cols]
        points = np.empty((len(z), 3), np.float32)
        points[:, 0] = z * ((cols - K[0, 2]) / K[0, 0])
        points[:, 1] = z * ((rows - K[1, 2]) / K[1, 1])
        points[:, 2] = z
        begins = probability[rows, cols] >= HIGH
        begins |= self._was_dynamic(points - moved * np.float32(seconds), K, T_src_tgt)
        pairs = neighbours(rows, cols)
        labels = connect(rows, cols, pairs, z, moved, limit[rows, cols])
        labels = _kept(labels, begins, depth.size)
        found = measure(labels, rows, cols, points, moved)
        if edges := rims(labels, pairs, found):
            labels[np.isin(labels, list(edges))] = 0
            found = [component for component in found if component.label not in edges]
        self._track(found, noise, K, T_src_tgt, seconds, threshold)
        mask, ids = np.zeros(depth.shape, bool), np.zeros(depth.shape, np.int32)
        mask[rows, cols] = labels > 0
        names = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
        for track in self._tracks.alive:
            names[track.label] = track.id if track.label else 0
        ids[rows, cols] = names[labels]
        self._mask, self._stamp_ns, self._threshold = mask, stamp_ns, threshold
        objects = [_object(track) for track in self._tracks.alive if track.id]
        return Motion(velocity, probability, mask, ids, objects)

    def _was_dynamic(self, points: np.ndarray, K: np.ndarray, T_src_tgt: np.ndarray) -> np.ndarray:
        """Where the points (N, 3), as they were before, still in the axes of now, lay in the mask
        of the frame before.
        """
        if self._mask is None or not len(points):
            return np.zeros(len(points), bool)
        height, width = self._mask.shape
        before = points @ T_src_tgt[:3, :3].T + T_src_tgt[:3, 3]
        front = before[:, 2] > 1e-6
        u, v = (before[front] @ K[:2].T / before[front, 2:]).T
        inside = (np.abs(u - (width - 1) / 2) < width / 2) & (
            np.abs(v - (height - 1) / 2) < height / 2
        )
        front[front] = inside
        near = cv2.dilate(self._mask.view(np.uint8), np.ones((3, 3), np.uint8))
        was = np.zeros(len(points), bool)
        was[front] = near[np.rint(v[inside]).astype(int), np.rint(u[inside]).astype(int)] > 0
        return was

    def _track(
        self, found: list[Component], noise: np.ndarray, K: np.ndarray, T_src_tgt: np.ndarray,
        seconds: float, threshold: float,
    ) -> None:  # fmt: skip
        if self._threshold and self._threshold != threshold:
            self._tracks.rescale(threshold / self._threshold)
        self._tracks.predict(np.linalg.inv(T_src_tgt), seconds, K, threshold)
        sigmas = []
        for component in found:
            left, top, right, bottom = (int(x) for x in component.box)
            middle = noise[(top + bottom) // 2, (left + right) // 2]
            usual = middle if np.isfinite(middle) else 0.0
            sigmas.append(float(np.hypot(usual, threshold / 2)))
        self._tracks.update(found, sigmas)


def _kept(labels: np.ndarray, begins: np.ndarray, pixels: int) -> np.ndarray:
    """Labels (N,) with 0 for components that are too small or that nothing begins."""
    size = np.bincount(labels)
    seeds = np.bincount(labels, begins, len(size))
    keep = (size >= max(MIN_PIXELS, MIN_SHARE * pixels)) & (seeds >= SEED_SHARE * size)
    keep[:1] = False
    return np.where(keep[labels], labels, 0)


def _object(track: Track) -> MovingObject:
    speed = float(np.linalg.norm(track.velocity))
    return MovingObject(
        track.id, track.position.copy(), track.velocity.copy(), speed, track.seen.size.copy(),
        track.box, track.age_s, track.missed,
    )  # fmt: skip


def _nothing(velocity: np.ndarray) -> Motion:
    shape = velocity.shape[:2]
    unknown = np.full(shape, np.nan, np.float32)
    return Motion(velocity, unknown, np.zeros(shape, bool), np.zeros(shape, np.int32))


def _check(
    velocity: np.ndarray, depth: np.ndarray, T_src_tgt: np.ndarray, threshold: float
) -> None:
    if depth.ndim != 2 or velocity.shape != (*depth.shape, 3):
        raise ValueError(
            f"velocity {velocity.shape} and depth {depth.shape}: give (h, w, 3) and (h, w) of the "
            "same image"
        )
    if T_src_tgt.shape != (4, 4) or not np.isfinite(T_src_tgt).all():
        raise ValueError(
            f"T_src_tgt of shape {T_src_tgt.shape}: it must be a finite (4, 4) rigid motion"
        )
    if not 0 < threshold < np.inf:
        raise ValueError(f"threshold {threshold}: give the speed, above 0, from which things move")
