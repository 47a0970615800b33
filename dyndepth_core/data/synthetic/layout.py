"""What stands beside the streets: planned per leg, before anything of it is in sight and when all
streets that pass there are known (so that nothing depends on the order of frames), built into faces
per cell of 40 m when a camera comes near."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from . import vehicles
from .buildings import fence, house
from .faces import Faces, join, yaw_matrix
from .streets import CORNER, LATER, Network, Street, kerb_distance
from .terrain import KERB, ground_pose
from .textures import FACADES

_CELL = 40.0


@dataclass
class Item:
    """One planned thing: where, what, and its own seed."""

    kind: str
    x: float
    y: float
    yaw: float
    seed: int
    size: tuple = ()
    instance: int = 0
    raised: bool = True


@dataclass
class Assets:
    """Prefabs shared by all cells of a world."""

    ids: dict[str, int]
    cars: list
    trees: list[Faces]
    furniture: dict[str, list[Faces]]


@dataclass
class Layout:
    """Plans and builds the static world of a network."""

    network: Network
    assets: Assets
    seed: int
    items: dict = field(default_factory=lambda: defaultdict(list))
    built: dict = field(default_factory=dict)  # cells, made anew where they are missing
    _planned: int = 0
    _boxes: list = field(default_factory=list)

    def plan(self, legs: int) -> None:
        """Plan so many legs, but those done before; the network must know LATER more."""
        while self._planned < legs:
            k = self._planned
            rng = np.random.default_rng((self.seed, 77, k))
            self._boxes = self._boxes[-600:]
            self._serial = 400 * k
            street = self.network.legs[k]["street"]
            mine = [c["street"] for c in self.network.crossings if c["street"].leg == k]
            self._near = [s for s in self.network.streets if abs(s.leg - k) <= LATER]
            self._frontage(rng, street, street.lo, street.hi, True)
            for cross in mine:
                self._frontage(rng, cross, cross.lo + 60.0, cross.hi - 60.0, False)
            self._distance(rng, street)
            self._planned += 1

    def _add(self, rng, kind, x, y, yaw, **more) -> None:  # noqa: ANN001, ANN003
        item = Item(kind, float(x), float(y), float(yaw), int(rng.integers(1 << 31)), **more)
        self.items[(int(x // _CELL), int(y // _CELL))].append(item)

    def _at(self, street: Street, t: float, d: float) -> tuple[float, float, float]:
        """World x, y and heading at t along a street, d to the left of its axis direction."""
        pos, slope = street.line(np.array(float(t)))
        heading = np.arctan2(slope, 1.0)
        a, b = t - d * np.sin(heading), float(pos) + d * np.cos(heading)
        if street.axis == 0:
            return a, b, float(heading)
        return b, a, float(np.pi / 2 - heading)

    def _clear(self, x: float, y: float, yaw: float, w: float, h: float, need: float) -> bool:
        """Whether a w x h footprint, probed every 3 m, keeps more than `need` from every kerb."""
        radius = 0.5 * math.hypot(w, h)
        reach = max(need, CORNER)  # farther kerbs decide nothing
        near = [s for s in self._near if s.least_distance(x, y, radius) <= reach]
        if not near:
            return True
        c, s = np.cos(yaw), np.sin(yaw)
        a, b = np.meshgrid(*(np.linspace(-n / 2, n / 2, int(n / 3) + 2) for n in (w, h)))
        return bool((kerb_distance(near, x + c * a - s * b, y + s * a + c * b) > need).all())

    def _free(self, x: float, y: float, w: float, h: float, yaw: float) -> bool:
        """Whether a footprint touches no earlier building; remembers it if so."""
        c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
        a, b = (w * c + h * s) / 2 - 0.3, (w * s + h * c) / 2 - 0.3
        for x0, x1, y0, y1 in self._boxes:
            if x - a < x1 and x + a > x0 and y - b < y1 and y + b > y0:
                return False
        self._boxes.append((x - a, x + a, y - b, y + b))
        return True

    def _frontage(self, rng, street: Street, lo, hi, main: bool) -> None:  # noqa: ANN001
        style = self.network.style
        walk = street.half + street.pavement
        for side in (-1.0, 1.0):
            left = side > 0 if street.axis == 0 else side < 0  # of the street's heading
            density = rng.uniform(0.5, 1.0)
            t = lo
            while t < hi:  # buildings
                width = (
                    float(rng.uniform(8, 20)) if style.storeys[1] > 2 else float(rng.uniform(7, 14))
                )
                if style.name == "works":
                    width *= 2.0
                deep = float(rng.uniform(8, 14))
                back = float(rng.uniform(*style.setback))
                d = side * (walk + back + deep / 2)
                x, y, yaw = self._at(street, t + width / 2, d)
                yaw += np.pi if left else 0.0
                if (
                    rng.random() < 0.93
                    and self._clear(x, y, yaw, width, deep, style.pavement + min(back, 1.0) * 0.6)
                    and self._free(x, y, width, deep, yaw)
                ):
                    storeys = int(rng.integers(style.storeys[0], style.storeys[1] + 1))
                    self._add(rng, "house", x, y, yaw, size=(width, deep, storeys))
                t += width + float(rng.uniform(*style.gap))
            t = lo
            while t < hi and style.setback[1] > 2.0:  # garden walls, fences, hedges
                length = float(rng.uniform(5, 16))
                x, y, yaw = self._at(street, t + length / 2, side * (walk + 0.3))
                if rng.random() < 0.55 and self._clear(
                    x, y, yaw, length, 0.6, style.pavement * 0.8
                ):
                    self._add(rng, "fence", x, y, yaw, size=(length,))
                t += length + float(rng.choice([0.0, 0.0, 3.0, 8.0]))
            for _ in range(int((hi - lo) / 10.0 * style.trees)):
                t = float(rng.uniform(lo, hi))
                near = rng.random() < 0.55
                d = street.half + 0.7 if near else walk + float(rng.uniform(1.0, 18.0))
                x, y, yaw = self._at(street, t, side * d)
                need = 0.5 if near else style.pavement
                if self._clear(x, y, yaw, 0.4, 0.4, need) and not self._inside(x, y, 1.2):
                    self._add(rng, "tree", x, y, float(rng.uniform(0, 6.28)))
            t = lo + float(rng.uniform(0, 20))
            while t < hi:  # posts and boxes at the kerb
                kind = str(rng.choice(["lamp", "sign", "bin", "lamp", "sign", "shelter"]))
                x, y, yaw = self._at(
                    street,
                    t,
                    side * (street.half + (0.5 if kind != "shelter" else street.pavement - 0.8)),
                )
                if kind == "lamp" or kind == "shelter":
                    yaw += np.pi if left else 0.0
                elif left:
                    yaw += np.pi
                room = 0.35 if kind != "shelter" else 0.6
                if self._clear(x, y, yaw, 0.3, 0.3, room) and (
                    kind != "shelter" or rng.random() < 0.4
                ):
                    self._add(rng, kind, x, y, yaw)
                t += float(rng.uniform(7, 26))
            if style.parking > 0 or not main:
                self._parking(rng, street, lo, hi, side, left, density if main else 0.45)

    def outlines(self, x: float, y: float, reach: float = 70.0) -> list[np.ndarray]:
        """Footprints (4, 2) of parked cars near a point."""
        out = []
        cx, cy = int(x // _CELL), int(y // _CELL)
        for i in range(cx - 3, cx + 4):
            for j in range(cy - 3, cy + 4):
                for item in self.items.get((i, j), ()):
                    if item.kind == "car" and np.hypot(item.x - x, item.y - y) < reach + 25.0:
                        car = self.assets.cars[item.size[0]]
                        a, b = car.length / 2, car.width / 2
                        c, s = np.cos(item.yaw), np.sin(item.yaw)
                        q = np.array([(a, b), (a, -b), (-a, -b), (-a, b)])
                        out.append(q @ np.array([[c, s], [-s, c]]) + (item.x, item.y))
        return out

    def _inside(self, x: float, y: float, room: float) -> bool:
        return any(
            x0 - room < x < x1 + room and y0 - room < y < y1 + room
            for x0, x1, y0, y1 in self._boxes
        )

    def _parking(self, rng, street, lo, hi, side, left, density) -> None:  # noqa: ANN001
        others = [s for s in self._near if s is not street]
        if street.half < street.lanes * street.lane + 1.9:
            return
        t = lo
        while t < hi:
            k = int(rng.choice(len(self.assets.cars), p=vehicles.CAR_SHARE))
            length = self.assets.cars[k].length
            x, y, yaw = self._at(street, t + length / 2, side * (street.half - 1.08))
            close = [s for s in others if s.least_distance(x, y, 0.0) <= 9.0]  # saves most time
            away = kerb_distance(close, np.array([x]), np.array([y]))[0]
            if rng.random() < density and away > 9.0:
                if left != (rng.random() < 0.12):
                    yaw += np.pi
                self._serial += 1
                self._add(
                    rng,
                    "car",
                    x,
                    y,
                    yaw + float(rng.normal(0, 0.015)),
                    size=(k,),
                    instance=1 + self._serial % 30000,
                    raised=False,
                )
                t += length + float(rng.uniform(0.6, 1.6))
            else:
                t += float(rng.uniform(1.5, 9.0))

    def _distance(self, rng, street: Street) -> None:  # noqa: ANN001
        """Towers and lines of trees behind the first row."""
        for t in np.arange(street.lo, street.hi, 22.0):
            for side in (-1.0, 1.0):
                d = side * float(rng.uniform(38.0, 170.0))
                x, y, yaw = self._at(street, float(t + rng.uniform(0, 22)), d)
                if rng.random() < 0.45:
                    width, deep = (float(v) for v in rng.uniform(12, 26, 2))
                    if self._clear(x, y, yaw, width, deep, 8.0) and self._free(
                        x, y, width, deep, yaw
                    ):
                        top = 14 if self.network.style.storeys[1] > 3 else 5
                        self._add(
                            rng,
                            "house",
                            x,
                            y,
                            yaw,
                            size=(width, deep, int(rng.integers(2, top))),
                        )
                elif self._clear(x, y, yaw, 30.0, 2.0, 8.0):
                    self._add(rng, "treeline", x, y, yaw + float(rng.normal(0, 0.3)))

    def _build(self, cell: tuple[int, int]) -> tuple[np.ndarray, Faces]:
        origin = np.array([(cell[0] + 0.5) * _CELL, (cell[1] + 0.5) * _CELL, 0.0])
        parts = []
        for item in self.items[cell]:
            rng = np.random.default_rng(item.seed)
            faces = self._make(item, rng)
            z = float(self.network.height(item.x, item.y)) + (KERB if item.raised else 0.0)
            R = yaw_matrix(item.yaw)
            if item.kind == "car":
                R, z = ground_pose(self.network.height, item.x, item.y, item.yaw)
            parts.append(
                faces.moved(R, np.array([item.x, item.y, z]) - origin).owned(item.instance)
            )
        return origin, join(parts)

    def _make(self, item: Item, rng: np.random.Generator) -> Faces:
        assets = self.assets
        if item.kind == "car":
            paint = vehicles.PAINTS[int(rng.integers(len(vehicles.PAINTS)))]
            return assets.cars[item.size[0]].faces.tinted(vehicles.PAINT, paint)
        if item.kind == "tree":
            tree = assets.trees[int(rng.integers(len(assets.trees)))]
            scale = float(rng.uniform(0.7, 1.15))
            return Faces(
                **{
                    **tree.__dict__,
                    "verts": tree.verts * scale,
                    "u": tree.u / scale,
                    "v": tree.v / scale,
                    "tint": tree.tint * np.float32(rng.uniform(0.85, 1.1)),
                }
            )
        if item.kind == "house":
            return house(assets.ids, rng, *item.size, FACADES, self.network.style.name)
        if item.kind in ("fence", "treeline"):
            return fence(assets.ids, rng, item.kind, *item.size)
        options = assets.furniture[item.kind]
        return options[int(rng.integers(len(options)))]

    def visible(self, x: float, y: float, reach: float = 250.0) -> list:
        """(origin, Faces) of every cell within reach."""
        self.plan(self.network.surround(x, y))
        out = []
        cx, cy, r = int(x // _CELL), int(y // _CELL), int(reach // _CELL) + 1
        for i in range(cx - r, cx + r + 1):
            for j in range(cy - r, cy + r + 1):
                if (i, j) not in self.items or np.hypot(i - cx, j - cy) * _CELL > reach + 30.0:
                    continue
                if (i, j) not in self.built:  # all of it is planned, on ground that stays
                    self.built[(i, j)] = self._build((i, j))
                out.append(self.built[(i, j)])
        return out
