"""Exact visibility of planar convex quads: sample spans, 1/z planes and a z-buffer, all in numpy.

Samples lie on a grid of half pixels: sample (2v + 1, 2u + 1) is the centre of pixel (u, v), so
depth and ids are taken there without blending while colour averages the neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

NEAR = 0.15  # metres


@dataclass(frozen=True)
class Grid:
    """The sample grid of a camera: width, height in samples, focal length, principal point."""

    width: int
    height: int
    f: float
    cx: float
    cy: float

    @staticmethod
    def of(K: np.ndarray, size: tuple[int, int]) -> Grid:
        """K (3, 3) in pixels with square pixels, size (H, W)."""
        return Grid(2 * size[1] + 1, 2 * size[0] + 1, 2 * K[0, 0], 2 * K[0, 2] + 1, 2 * K[1, 2] + 1)

    def linear(self, n: np.ndarray) -> np.ndarray:
        """Vectors n (..., 3) to coefficients (a, b, c): n . ray(i, j) = a j + b i + c."""
        a, b = n[..., 0] / self.f, n[..., 1] / self.f
        return np.stack([a, b, n[..., 2] - a * self.cx - b * self.cy], -1)


@dataclass
class View:
    """A camera: sample grid, rotation and position.

    t is relative to `origin` in the world, which lies within some km of it: samples are float32,
    which a day's drive from the world's origin would know to some cm only.
    """

    grid: Grid
    R: np.ndarray  # world_cam
    t: np.ndarray
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))


@dataclass
class Planes:
    """What a pixel needs of its quad, in sample coordinates: `inv_z` (F, 3) and front-facing."""

    inv_z: np.ndarray
    front: np.ndarray


def setup(verts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outward normals (F, 3) (not unit) and their plane offsets D = N . P0 of quads (F, 4, 3)."""
    normal = np.cross(verts[:, 3] - verts[:, 0], verts[:, 1] - verts[:, 0])
    flat = np.abs(normal).sum(1) < 1e-12
    if flat.any():  # a triangle given as P0 P0 P1 P2
        normal[flat] = np.cross(verts[flat, 3] - verts[flat, 1], verts[flat, 2] - verts[flat, 1])
    return normal, np.einsum("fc,fc->f", normal, verts[:, 0])


def _bounds(verts: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    nxt = np.roll(verts, -1, axis=1)
    z0, z1 = verts[..., 2], nxt[..., 2]
    crossing = (z0 < NEAR) != (z1 < NEAR)
    with np.errstate(all="ignore"):
        share = np.where(crossing, (NEAR - z0) / np.where(crossing, z1 - z0, 1.0), 0.0)
    cut = verts + share[..., None] * (nxt - verts)
    points = np.concatenate([verts, cut], 1)
    ok = np.concatenate([z0 >= NEAR, crossing], 1)
    inv = 1.0 / np.where(ok, np.maximum(points[..., 2], 0.5 * NEAR), 1.0)
    x = points[..., 0] * inv * grid.f + grid.cx
    y = points[..., 1] * inv * grid.f + grid.cy
    big = 1e9
    return (
        np.where(ok, x, big).min(1),
        np.where(ok, x, -big).max(1),
        np.where(ok, y, big).min(1),
        np.where(ok, y, -big).max(1),
    )


def rasterise(verts, grid: Grid, two_sided, holed=None, solid=None):  # noqa: ANN001
    """Visible quad per sample.

    verts (F, 4, 3) float64, corners in the camera frame, two_sided (F,) bool. holed (F,) bool:
    faces of which solid(face, x, y, inv_z) -> (N,) bool tells what is there. Returns inv_z
    (Hs, Ws) float32 (0 = nothing), face (Hs, Ws) int32 (-1 = nothing) and the planes' coefficients
    (F, 3).

    Inside means (P_k x P_k+1) . ray has one sign for all edges k, which holds without clipping;
    1/z = N . ray / (N . P0) is linear in the image.
    """
    count = grid.width * grid.height
    depth = np.zeros(count, np.float32)
    face = np.full(count, -1, np.int32)
    normal, offset = setup(verts)
    safe = np.where(np.abs(offset) < 1e-9, -1e-9, offset)
    inv_z = grid.linear(normal / safe[:, None])
    x0, x1, y0, y1 = _bounds(verts, grid)
    y0 = np.clip(np.ceil(y0 - 1e-3), 0, grid.height).astype(np.int64)
    y1 = np.clip(np.floor(y1 + 1e-3), -1, grid.height - 1).astype(np.int64)
    x0 = np.clip(np.ceil(x0 - 1e-3), 0, grid.width)
    x1 = np.clip(np.floor(x1 + 1e-3), -1, grid.width - 1)
    keep = ((offset < -1e-9) | (two_sided & (np.abs(offset) > 1e-9))) & (y1 >= y0) & (x1 >= x0)
    picked = np.flatnonzero(keep)
    if picked.size == 0:
        return depth.reshape(grid.height, grid.width), face.reshape(grid.height, -1), inv_z

    chosen = verts[picked]
    edges = np.cross(chosen, np.roll(chosen, -1, axis=1))
    edges *= -np.sign(offset[picked])[:, None, None]
    edges = grid.linear(edges)
    # each edge as a bound on x: lower where a > 0, upper where a < 0
    a = edges[..., 0]
    scale = np.abs(edges).sum(-1)
    level = np.abs(a) <= 1e-12 * scale
    inv = np.where(level, 0.0, -1.0 / np.where(level, 1.0, a))
    slope, start = (edges[..., 1] * inv), (edges[..., 2] * inv)

    rows = (y1 - y0 + 1)[picked]
    owner = np.repeat(np.arange(picked.size), rows)
    y = np.arange(owner.size) - np.repeat(np.cumsum(rows) - rows, rows) + y0[picked][owner]
    left = x0[picked][owner]
    right = x1[picked][owner]
    for k in range(4):
        bound = slope[owner, k] * y + start[owner, k]
        lower = (a[:, k] > 0)[owner] & ~level[owner, k]
        upper = (a[:, k] < 0)[owner] & ~level[owner, k]
        np.maximum(left, np.where(lower, bound, -1e9), out=left)
        np.minimum(right, np.where(upper, bound, 1e9), out=right)
    first = np.ceil(left - 1e-3).astype(np.int32)
    length = np.floor(right + 1e-3).astype(np.int32) - first + 1
    some = np.flatnonzero(length > 0)
    first, length = first[some], length[some]
    owner, y = picked[owner[some]], y[some]
    base = (inv_z[owner, 1] * y + inv_z[owner, 2]).astype(np.float32)
    step = inv_z[owner, 0].astype(np.float32)

    starts = np.cumsum(length) - length
    span = np.repeat(np.arange(length.size, dtype=np.int32), length)
    x = np.arange(span.size, dtype=np.int32) + (first - starts.astype(np.int32))[span]
    z = step[span] * x.astype(np.float32) + base[span]  # int32 would make it float64
    pixel = (y * grid.width).astype(np.int32)[span] + x
    if holed is None:
        np.maximum.at(depth, pixel, z)
    else:  # only what is not hidden anyway is worth the look into a texture
        leafy = holed[owner]
        rest = np.flatnonzero(~leafy[span])
        np.maximum.at(depth, pixel[rest], z[rest])
        k = np.flatnonzero(leafy[span] & (z >= depth[pixel]) & (z > 0))
        row = span[k]
        z[k[~solid(owner[row], x[k], y[row], z[k])]] = 0.0
        np.maximum.at(depth, pixel[k], z[k])
    won = np.flatnonzero((z == depth[pixel]) & (z > 0))
    face[pixel[won]] = owner[span[won]]
    return depth.reshape(grid.height, -1), face.reshape(grid.height, -1), inv_z
