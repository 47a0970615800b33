"""The street network: a staircase route of curved, graded legs, its cross streets, the terrain.

World frame: x east, y north, z up, metres. The route's reference line is the centre line of the
ego's street; `s` runs along it, `d` is to its left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .style import Style
from .terrain import KERB, Profile

CORNER = 5.0  # radius of kerbs at junctions, metres
STEP = 0.5  # metres between samples of the reference line
# Metres, along either axis, from a viewer to the corner where a leg begins of which nothing can be
# seen yet: what stands beside it goes 250 m back from there, and cells up to 320 m are looked at.
AHEAD = 640.0
LATER = 5  # legs after one whose streets may pass where its houses could stand


@dataclass(frozen=True)
class Street:
    """A street along a world axis from lo to hi; `bends` are S-curves (start, length, shift)."""

    axis: int
    offset: float
    bends: tuple[tuple[float, float, float], ...]
    half: float
    pavement: float
    lo: float
    hi: float
    leg: int  # of the route, that it came with
    lanes: int
    lane: float

    def __post_init__(self) -> None:
        for name in ("offset", "lo", "hi"):  # a numpy scalar would make samples float64
            object.__setattr__(self, name, float(getattr(self, name)))

    def moved(self, x: float, y: float) -> Street:
        """The same street in a frame whose origin is at x, y of this one."""
        x, y = float(x), float(y)  # as above
        t, w = (x, y) if self.axis == 0 else (y, x)
        bends = tuple((start - t, length, shift) for start, length, shift in self.bends)
        ends = {"lo": self.lo - t, "hi": self.hi - t}
        return replace(self, offset=self.offset - w, bends=bends, **ends)

    def line(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lateral position of the centre line at t along the axis, and its slope."""
        t = np.asarray(t)
        pos, slope = np.full(t.shape, self.offset, t.dtype), np.zeros(t.shape, t.dtype)
        for start, length, shift in self.bends:
            q = np.clip((t - start) / length, 0.0, 1.0)
            pos = pos + shift * (q * q * q * (10 + q * (6 * q - 15)))
            slope = slope + shift / length * (30 * q * q * (1 - q) * (1 - q))
        return pos, slope

    @cached_property
    def _swing(self) -> tuple[float, float]:
        """Bounds of how far the centre line leaves its offset, and of sqrt(1 + slope^2)."""
        slope = sum(1.875 * abs(shift) / length for _, length, shift in self.bends)
        return sum(abs(bend[2]) for bend in self.bends), math.sqrt(1.0 + slope * slope)

    def least_distance(self, x: float, y: float, radius: float) -> float:
        """A lower bound of the distance to its kerbs from anywhere within radius of a point."""
        t, w = (x, y) if self.axis == 0 else (y, x)
        swing, stretch = self._swing
        aside = (abs(w - self.offset) - radius - swing) / stretch - self.half
        return max(aside, self.lo - t - radius, t - self.hi - radius)

    def within(self, x: float, y: float, reach: float) -> bool:
        """Whether its centre line passes within about reach of a point."""
        t, w = (x, y) if self.axis == 0 else (y, x)
        if not self.lo - reach < t < self.hi + reach:
            return False
        return abs(w - self.offset) < reach + self._swing[0]

    def local(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World x, y to (t along the axis, lateral distance from the centre line)."""
        t, w = (x, y) if self.axis == 0 else (y, x)
        if not self.bends:
            return t, w - np.asarray(self.offset, t.dtype)
        pos, slope = self.line(t)
        return t, (w - pos) / np.sqrt(1.0 + slope * slope)


class Network:
    """The route and every street near it; legs are added as the ego gets there.

    A new leg has its own streets and bends the terrain, beyond where it begins. Whoever looks at
    either calls `surround` first: then nothing of that is in sight, and what is seen from a place
    does not depend on how far the road was known when.
    """

    def __init__(self, rng: np.random.Generator, style: Style, first_leg: float, grade: float):
        self.rng, self.style = rng, style
        self.side = 1.0 if rng.random() < 0.5 else -1.0  # second axis runs north or south
        self.profiles = [Profile(rng, grade), Profile(rng, grade)]
        self.streets: list[Street] = []
        self.crossings: list[dict] = []  # s, street, leg
        self.legs: list[dict] = []
        self.radius = style.half + 5.0
        self.ref = np.zeros((0, 4))  # x, y, heading, curvature
        self._corner = np.array([0.0, 0.0])
        self._first = first_leg
        self._add_leg()

    def direction(self, leg: int) -> np.ndarray:
        """Unit vector of a leg's axis."""
        return np.array([1.0, 0.0]) if leg % 2 == 0 else np.array([0.0, self.side])

    def _add_leg(self) -> None:
        rng, style, k = self.rng, self.style, len(self.legs)
        axis = k % 2
        u = self.direction(k)
        length = self._first if k == 0 else float(rng.uniform(150.0, 420.0))
        start = self._corner
        t0 = start[axis] * u[axis]  # along the direction of travel
        bends, t, shift_sum = [], t0 + 45.0, 0.0
        turn = 1.0 if u[axis] > 0 else -1.0
        while t < t0 + length - 45.0 - 50.0:
            run = float(rng.uniform(50.0, 95.0))
            if t + run > t0 + length - 45.0:
                break
            shift = float(rng.normal(0, 0.07)) * run
            shift = float(np.clip(shift, -0.15 * run, 0.15 * run))
            low = t if turn > 0 else -(t + run)
            bends.append((low, run, shift * turn))
            shift_sum += shift
            t += run + float(rng.uniform(0.0, 40.0))
        other = 1 - axis
        # for an axis walked backwards the S-curves run from the far end: fix the offset there
        offset = start[other] if turn > 0 else start[other] - sum(b[2] for b in bends)
        bends = [tuple(float(v) for v in bend) for bend in bends]  # a numpy scalar makes float64
        lo, hi = sorted((turn * (t0 - 250.0), turn * (t0 + length + 250.0)))
        s0 = self.legs[-1]["s1"] if self.legs else 0.0
        street = Street(
            axis,
            float(offset),
            tuple(bends),
            style.half,
            style.pavement,
            lo,
            hi,
            k,
            style.lanes,
            style.lane,
        )
        end = start + u * length
        end[other] = street.line(np.array(end[axis]))[0]
        self.profiles[other].flatten(float(start[other]), 30.0)
        self.profiles[axis].flatten(float(end[axis]), 14.0)
        self.streets.append(street)
        leg = {"street": street, "index": k, "t0": t0, "t1": t0 + length, "turn": turn, "s0": s0}
        leg["start"] = start
        self.legs.append(leg)
        self._extend_reference(leg, start, end)
        self._add_crossings(leg)
        self._corner = end

    def _extend_reference(self, leg: dict, start: np.ndarray, end: np.ndarray) -> None:
        axis, turn, street = leg["index"] % 2, leg["turn"], leg["street"]
        first = leg["t0"] + (self.radius if leg["index"] else -200.0)
        fine = np.arange(first, leg["t1"] - self.radius, 0.05)
        pos, slope = street.line(turn * fine)
        xy = np.zeros((fine.size, 2))
        xy[:, axis], xy[:, 1 - axis] = turn * fine, pos
        # the corner: an arc of the reference radius from this leg's axis to the next one's
        u, w = self.direction(leg["index"]), self.direction(leg["index"] + 1)
        angle = np.arange(0.0, np.pi / 2, 0.05 / self.radius)
        arc = (
            end
            - self.radius * u
            + self.radius * (np.sin(angle)[:, None] * u + (1 - np.cos(angle))[:, None] * w)
        )
        xy = np.concatenate([xy, arc])
        if len(self.ref):
            xy = np.concatenate([self.ref[-1:, :2], xy])
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
        base = leg["s0"] if len(self.ref) else -200.0
        grid = np.arange(0.0, along[-1], STEP)
        xy = np.stack([np.interp(grid, along, xy[:, k]) for k in (0, 1)], 1)
        whole = np.concatenate([self.ref[:-1, :2], xy]) if len(self.ref) else xy
        step = np.gradient(whole, STEP, axis=0)
        heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        kernel = np.ones(7) / 7
        heading = np.convolve(np.pad(heading, 3, mode="edge"), kernel, "valid")
        curvature = np.gradient(heading, STEP)
        self.ref = np.column_stack([whole, heading, curvature])
        leg["s1"] = base + grid[-1]
        leg["base"] = base

    def _add_crossings(self, leg: dict) -> None:
        rng, style, axis = self.rng, self.style, leg["index"] % 2
        gap = 60.0 if style.name != "open" else 130.0
        t = leg["t0"] + float(rng.uniform(gap * 0.5, gap * 1.4))
        places = []
        if leg["index"] == 0:
            places.append(leg["t0"] - float(rng.uniform(15.0, 80.0)))
        while t < leg["t1"] - 45.0:
            places.append(t)
            t += float(rng.uniform(gap, 2.3 * gap))
        for place in places:
            lanes = 1
            half = lanes * style.lane + float(rng.choice([0.3, 1.2, 2.2]))
            at = leg["turn"] * place
            centre = float(leg["street"].line(np.array(at))[0])
            street = Street(
                1 - axis,
                at,
                (),
                half,
                style.pavement,
                centre - 230.0,
                centre + 230.0,
                leg["index"],
                lanes,
                style.lane,
            )
            self.streets.append(street)
            self.crossings.append(
                {
                    "s": self.s_at(leg, place),
                    "street": street,
                    "leg": leg,
                    "centre": centre,
                    "t": place,
                }
            )

    def s_at(self, leg: dict, t: float) -> float:
        """Route s where a leg passes t (along its direction of travel)."""
        i0 = int(round((leg["base"] + 200.0) / STEP))
        i1 = int(round((leg["s1"] + 200.0) / STEP))
        along = self.ref[i0:i1, leg["index"] % 2] * leg["turn"]
        return float(leg["base"] + STEP * np.searchsorted(along, t))

    def extend(self, s: float) -> None:
        """Make the reference line reach at least s."""
        while self.legs[-1]["s1"] < s + 60.0:
            self._add_leg()

    def surround(self, x: float, y: float) -> int:
        """Know all that can be seen from x, y; returns how many legs something can be seen of."""
        while True:
            for leg in self.legs:
                along = (leg["start"] - (x, y)) * (1.0, self.side)
                if along.max() > AHEAD and leg["index"] + LATER <= len(self.legs):
                    return leg["index"]
            self._add_leg()

    def place(self, s: float, d: float) -> tuple[float, float, float, float]:
        """World x, y, heading and curvature of the reference line, offset by d to the left."""
        k = (s + 200.0) / STEP
        i = int(np.clip(k, 0, len(self.ref) - 2))
        x, y, heading, curvature = self.ref[i] + (k - i) * (self.ref[i + 1] - self.ref[i])
        return x - d * np.sin(heading), y + d * np.cos(heading), heading, curvature

    def height(self, x, y):  # noqa: ANN001, ANN201
        """Road level at world x, y."""
        return self.profiles[0](x) + self.profiles[1](y)

    def footing(self, x: float, y: float) -> float:
        """How high somebody stands who walks at x, y: on a pavement a kerb above the road."""
        dist = float(kerb_distance(self.near(x, y, 20.0), np.array([x]), np.array([y]))[0])
        return float(self.height(x, y)) + KERB * min(max(dist / 0.3 + 0.5, 0.0), 1.0)

    def near(self, x: float, y: float, reach: float = 260.0) -> list[Street]:
        """Streets within reach of a point."""
        return [street for street in self.streets if street.within(x, y, reach)]


def kerb_distance(streets: list[Street], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the nearest kerb, negative on the road; corners are rounded.

    Smooth minimum of two band distances with radius r: min(a, b, r - |max(r - (a, b), 0)|).
    """
    out = np.full(x.shape, 1e3, x.dtype)
    r = CORNER
    for street in streets:
        t, lateral = street.local(x, y)
        dist = np.abs(lateral) - street.half
        over = np.maximum(t - street.hi, street.lo - t)
        dist = np.maximum(dist, over)
        a, b = np.maximum(r - out, 0.0), np.maximum(r - dist, 0.0)
        both = (a > 0) & (b > 0) & (out > 0) & (dist > 0)
        low = np.minimum(out, dist)
        out = np.where(both, np.minimum(low, r - np.sqrt(a * a + b * b)), low)
    return out
