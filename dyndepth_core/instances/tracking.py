"""Objects over time: which of this frame's components is which object of the frame before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dyndepth_core.instances.components import Component

POSITION_NOISE = 0.05  # of a position, over its distance: relative error of depth
SPEED_NOISE = 0.2  # of a velocity, over its speed: the same error, and what the network misreads
ACCELERATION = 3.0  # of road users, per second, in units of the threshold (about 1 m/s)
GATE = 5.0  # standard deviations within which a component can be the object


@dataclass
class Track:
    """One object: position and velocity (3,) in the axes of the present camera, P (2, 2) their
    covariance along any one axis; pixels, box, size and label of the component seen last; id 0
    until it has been seen often enough.
    """

    position: np.ndarray
    velocity: np.ndarray
    P: np.ndarray
    seen: Component
    box: tuple[float, float, float, float]
    label: int
    id: int = 0
    hits: int = 1
    missed: int = 0
    age_s: float = 0.0


@dataclass
class Tracks:
    """Constant-velocity Kalman filters with an id each, in units of depth and seconds.

    State and noise are alike along all three axes, so that turning the camera changes no
    covariance. birth: consecutive frames something must be seen in before it gets an id; survive:
    frames it may then be missed in. Ids count up from 1 and never come twice.
    """

    birth: int = 3
    survive: int = 3
    alive: list[Track] = field(default_factory=list)
    last_id: int = 0

    def rescale(self, factor: float) -> None:
        """The unit of depth changed: lengths in the new unit are `factor` times those before."""
        for track in self.alive:
            track.position *= factor
            track.velocity *= factor
            track.P *= factor**2
            seen = track.seen  # its size tells how far it may be and how large it is published
            track.seen = replace(
                seen, position=seen.position * factor, velocity=seen.velocity * factor,
                size=seen.size * factor,
            )  # fmt: skip

    def predict(self, T_tgt_src: np.ndarray, dt: float, K: np.ndarray, threshold: float) -> None:
        """Carry all objects over dt seconds into the present camera: X = R (X + V dt) + t, V = R V.

        T_tgt_src (4, 4): coordinates of the camera before to those of the present one, K (3, 3).
        P = F P F^T + a^2 G G^T, F = [1 dt; 0 1], G = [dt^2 / 2; dt], a = ACCELERATION threshold.
        """
        R, t = T_tgt_src[:3, :3], T_tgt_src[:3, 3]
        F, G = np.array([[1.0, dt], [0.0, 1.0]]), np.array([dt**2 / 2, dt])
        Q = (ACCELERATION * threshold) ** 2 * np.outer(G, G)
        for track in self.alive:
            before = track.position
            track.position = R @ (before + track.velocity * dt) + t
            track.velocity = R @ track.velocity
            track.P = F @ track.P @ F.T + Q
            track.box = _move_box(track.box, K, before, track.position)
            track.age_s += dt
        self.alive = [track for track in self.alive if track.position[2] > 0]  # not behind us

    def update(self, components: Sequence[Component], noise: Sequence[float]) -> None:
        """Give each object its component of this frame, nearest pair first; noise: standard
        deviation of each component's speed.
        """
        variances = [
            np.array([
                (POSITION_NOISE * c.position[2]) ** 2,
                sigma**2 + (SPEED_NOISE * np.linalg.norm(c.velocity)) ** 2,
            ])
            for c, sigma in zip(components, noise, strict=True)
        ]  # fmt: skip
        free = set(range(len(components)))
        lost = set(range(len(self.alive)))
        for track, found in _pairs(self.alive, components, variances):
            if track in lost and found in free:
                lost.remove(track)
                free.remove(found)
                self._see(self.alive[track], components[found], variances[found])
        for i in lost:
            self.alive[i].missed += 1
            self.alive[i].label = 0
        self.alive = [t for t in self.alive if t.missed <= (self.survive if t.id else 0)]
        for i in sorted(free, key=lambda i: -components[i].pixels):
            c = components[i]
            track = Track(
                c.position.copy(), c.velocity.copy(), np.diag(variances[i]), c, c.box, c.label
            )
            self.alive.append(track)
            self._name(track)

    def _see(self, track: Track, c: Component, variance: np.ndarray) -> None:
        """x += K (z - x), P = (1 - K) P, K = P (P + diag(variance))^-1."""
        gain = track.P @ np.linalg.inv(track.P + np.diag(variance))
        innovation = np.stack((c.position - track.position, c.velocity - track.velocity))
        change = gain @ innovation
        track.position, track.velocity = track.position + change[0], track.velocity + change[1]
        track.P = (np.eye(2) - gain) @ track.P
        track.seen, track.box, track.label = c, c.box, c.label
        track.hits, track.missed = track.hits + 1, 0
        self._name(track)

    def _name(self, track: Track) -> None:
        if track.id == 0 and track.hits >= self.birth:
            self.last_id += 1
            track.id = self.last_id


def _pairs(
    tracks: Sequence[Track], components: Sequence[Component], variances: Sequence[np.ndarray]
) -> list[tuple[int, int]]:
    """Pairs (track, component) that are possible, the likeliest first.

    d^2 = |dX|^2 / (P00 + s_X^2 + (size / 4)^2) + |dV|^2 / (P11 + s_V^2) <= GATE^2, plus the change
    of apparent size, which tells an object from its fragments: the median point moves within it
    when part of it is hidden.
    """
    if not tracks or not components:
        return []
    X, V = (np.array([getattr(t, name) for t in tracks]) for name in ("position", "velocity"))
    Y, W = (np.array([getattr(c, name) for c in components]) for name in ("position", "velocity"))
    P = np.array([np.diag(t.P) for t in tracks])
    extent = np.array([np.linalg.norm(t.seen.size) for t in tracks]) / 4
    variance = P[:, None] + np.array(variances)[None]
    variance[..., 0] += np.square(extent)[:, None]
    d2 = np.square(X[:, None] - Y[None]).sum(-1) / variance[..., 0]
    d2 += np.square(V[:, None] - W[None]).sum(-1) / variance[..., 1]
    area = [np.log([x.pixels * p[2] ** 2 for x, p in pairs]) for pairs in (
        [(t.seen, t.seen.position) for t in tracks], [(c, c.position) for c in components]
    )]  # fmt: skip
    cost = d2 + np.abs(area[0][:, None] - area[1][None])
    possible = np.argwhere(d2 <= GATE**2)
    order = np.argsort(cost[tuple(possible.T)], kind="stable")
    return [(int(i), int(j)) for i, j in possible[order]]


def _move_box(
    box: tuple[float, float, float, float], K: np.ndarray, before: np.ndarray, now: np.ndarray
) -> tuple[float, float, float, float]:
    """Where a box is seen when what it shows moved from `before` to `now`, both (3,)."""
    if now[2] <= 0:
        return box
    old, new = ((K @ (x / x[2]))[:2] for x in (before, now))
    scale = before[2] / now[2]
    low, high = (new + (np.array(c) - old) * scale for c in (box[:2], box[2:]))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
