"""Textured quads as structure of arrays, and the solids they are built into.

Object frames: x forward, y left, z up, metres. A quad is given clockwise as seen from outside,
top left first; a triangle repeats its first corner.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

ALPHA, TWO_SIDED, CASTER, LEAF, GLOW = 1, 2, 4, 8, 16
Color = tuple[float, float, float]


@dataclass
class Faces:
    """verts (F, 4, 3) f32; tile (F,) i32; u, v (F, 3) repeats per metre; uv0 (F, 2) repeats at the
    origin; tint (F, 3); flags (F,) u8; instance (F,) i32 id or 0; mover (F,) i32, 0 = static."""

    verts: np.ndarray
    tile: np.ndarray
    u: np.ndarray
    v: np.ndarray
    uv0: np.ndarray
    tint: np.ndarray
    flags: np.ndarray
    instance: np.ndarray
    mover: np.ndarray

    def __len__(self) -> int:
        return len(self.verts)

    def take(self, index: np.ndarray) -> Faces:
        """The chosen faces."""
        return Faces(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def moved(self, R: np.ndarray, t: np.ndarray) -> Faces:
        """The same faces after X' = R X + t."""
        u, v = self.u @ R.T, self.v @ R.T
        uv0 = self.uv0 - np.stack([u @ t, v @ t], 1)
        return Faces(
            self.verts @ R.T + t,
            self.tile,
            u,
            v,
            uv0,
            self.tint,
            self.flags,
            self.instance,
            self.mover,
        )

    def tinted(self, mask_value: float, color: Color) -> Faces:
        """Paint: faces whose red tint equals mask_value get the colour."""
        tint = self.tint.copy()
        tint[self.tint[:, 0] == mask_value] = color
        return Faces(**{**self.__dict__, "tint": tint})

    def owned(self, instance: int, mover: int = 0) -> Faces:
        """The same faces belonging to an object."""
        n = len(self)
        return Faces(
            **{
                **self.__dict__,
                "instance": np.full(n, instance, np.int32),
                "mover": np.full(n, mover, np.int32),
            }
        )


def join(parts: list[Faces]) -> Faces:
    """All faces of several sets."""
    return Faces(
        **{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Faces)}
    )


class Builder:
    """Collects quads; tile names are resolved with the atlas' ids."""

    def __init__(self, ids: dict[str, int]):
        self.ids = ids
        self.rows: list[tuple] = []

    def quad(
        self,
        p0,
        p1,
        p2,
        p3,
        tile: str,
        tint: Color = (1.0, 1.0, 1.0),  # noqa: ANN001
        repeat: tuple[float, float] = (1.0, 1.0),
        at: tuple[float, float] = (0.0, 0.0),
        flags: int = 0,
    ) -> None:
        """Corners top left, top right, bottom right, bottom left; `repeat` counts tiles."""
        self.rows.append((p0, p1, p2, p3, self.ids[tile], tint, repeat, at, flags))

    def faces(self) -> Faces:
        """Everything collected so far as one set."""
        rows = self.rows
        verts = np.array([row[:4] for row in rows], np.float64)
        e1, e3 = verts[:, 1] - verts[:, 0], verts[:, 3] - verts[:, 0]
        thin = (e1 * e1).sum(1) < 1e-12  # a triangle: P0 P0 P1 P2
        e1[thin] = verts[thin, 2] - verts[thin, 3]
        repeat = np.array([row[6] for row in rows])
        # the dual basis in the plane: U . e1 = repeat, U . e3 = 0 and the reverse for V
        g11, g13, g33 = (e1 * e1).sum(1), (e1 * e3).sum(1), (e3 * e3).sum(1)
        det = np.maximum(g11 * g33 - g13 * g13, 1e-12)
        u = (g33[:, None] * e1 - g13[:, None] * e3) * (repeat[:, 0] / det)[:, None]
        v = (g11[:, None] * e3 - g13[:, None] * e1) * (repeat[:, 1] / det)[:, None]
        at = np.array([row[7] for row in rows])
        uv0 = at - np.stack([(u * verts[:, 0]).sum(1), (v * verts[:, 0]).sum(1)], 1)
        n = len(rows)
        return Faces(
            verts,
            np.array([row[4] for row in rows], np.int32),
            u,
            v,
            uv0,
            np.array([row[5] for row in rows], np.float32),
            np.array([row[8] for row in rows], np.uint8),
            np.zeros(n, np.int32),
            np.zeros(n, np.int32),
        )

    def ring(self, bottom, top, tiles, tints, repeat=None, at=(0.0, 0.0), flags=0) -> None:  # noqa: ANN001
        """The four sides between two quads; corners go front-left, -right, rear-right, -left.

        tiles, tints: one for all or four (front, right, rear, left); None leaves a side out.
        repeat: metres per repeat (u, v), or None for one repeat per side.
        """
        for k in range(4):
            tile = tiles if isinstance(tiles, str) else tiles[k]
            if tile is None:
                continue
            n = (k + 1) % 4
            p0, p1, p2, p3 = top[n], top[k], bottom[k], bottom[n]
            rep = (1.0, 1.0)
            if repeat is not None:
                rep = (
                    float(np.linalg.norm(np.subtract(p2, p3))) / repeat[0],
                    float(np.linalg.norm(np.subtract(p3, p0))) / repeat[1],
                )
            tint = tints if isinstance(tints[0], float) else tints[k]
            self.quad(p0, p1, p2, p3, tile, tint, rep, at, flags)

    def box(
        self,
        x0,
        x1,
        y0,
        y1,
        z0,
        z1,
        tile="plain",
        tint=(1.0, 1.0, 1.0),
        top="plain",  # noqa: ANN001
        top_tint=None,
        repeat=None,
        at=(0.0, 0.0),
        flags=0,  # noqa: ANN001
    ) -> None:
        """An axis-aligned box without its underside."""
        low, high = _corners(x0, x1, y0, y1, z0), _corners(x0, x1, y0, y1, z1)
        self.ring(low, high, tile, tint, repeat, at, flags)
        if top is not None:
            rep = (1.0, 1.0) if repeat is None else ((y1 - y0) / repeat[0], (x1 - x0) / repeat[0])
            self.lid(high, top, tint if top_tint is None else top_tint, rep, flags)

    def lid(self, corners, tile, tint, repeat=(1.0, 1.0), flags=0) -> None:  # noqa: ANN001
        """A quad seen from above, corners front-left, front-right, rear-right, rear-left."""
        self.quad(*corners, tile, tint, repeat, flags=flags)

    def disc(self, center, radius, side, tile, tint=(1.0, 1.0, 1.0)) -> None:  # noqa: ANN001
        """An alpha-tested disc in the x-z plane, facing y = side."""
        x, y, z = center
        r = radius
        tl, tr = (x + side * r, y, z + r), (x - side * r, y, z + r)
        br, bl = (x - side * r, y, z - r), (x + side * r, y, z - r)
        self.quad(tl, tr, br, bl, tile, tint, flags=ALPHA)


def _corners(x0: float, x1: float, y0: float, y1: float, z: float) -> list[tuple]:
    return [(x1, y1, z), (x1, y0, z), (x0, y0, z), (x0, y1, z)]


corners = _corners


def yaw_matrix(yaw: float) -> np.ndarray:
    """Rotation about z."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
