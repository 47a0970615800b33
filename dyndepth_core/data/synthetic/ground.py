"""The ground: graded planes and kerbs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .raster import View, rasterise
from .streets import Network, Street, kerb_distance
from .terrain import KERB

REACH = 260.0


def cells(network: Network, x: float, y: float) -> np.ndarray:
    """Quads (F, 4, 3) of road level around x, y, seen from above; each is exactly planar because
    the height is a sum of two piecewise linear profiles."""
    breaks = []
    for profile, centre in zip(network.profiles, (x, y), strict=True):
        knots, slope = profile.knots, profile.slope
        change = np.concatenate([[True], np.abs(np.diff(slope)) > 1e-9])
        inner = knots[change & (np.abs(knots - centre) < REACH)]
        breaks.append(np.concatenate([[centre - REACH], inner, [centre + REACH]]))
    bx, by = breaks
    hx, hy = network.profiles[0](bx), network.profiles[1](by)
    x0, y0 = (a.ravel() for a in np.meshgrid(np.arange(bx.size - 1), np.arange(by.size - 1)))

    def corner(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return np.stack([bx[i], by[j], hx[i] + hy[j]], -1)

    quads = [corner(x0 + 1, y0 + 1), corner(x0 + 1, y0), corner(x0, y0), corner(x0, y0 + 1)]
    return np.stack(quads, 1)


@dataclass
class Ground:
    """Visible ground samples: flat index, 1/z, x, y, z in the view's frame and the 1/z plane."""

    index: np.ndarray
    inv_z: np.ndarray
    plane: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    dist: np.ndarray  # signed distance to the kerb
    side: np.ndarray  # bool: the upright face of a kerb


def visible(
    network: Network,
    streets: list[Street],
    view: View,
    objects: np.ndarray,
) -> Ground:
    """Cast the ground; streets are in the view's frame, objects (Hs, Ws) is 1/z of all else."""
    grid, R, t, world_t = view.grid, view.R, view.t, view.t + view.origin
    quads = cells(network, world_t[0], world_t[1])
    flat = np.zeros(len(quads), bool)
    rays = (R / np.array([grid.f, grid.f, 1.0])[None]).astype(np.float32)
    off = R @ np.array([-grid.cx / grid.f, -grid.cy / grid.f, 1.0])

    def cast(lift: float):  # noqa: ANN202
        shifted = quads + np.array([0.0, 0.0, lift]) - world_t
        return rasterise(shifted @ R, grid, flat)

    high, high_cell, high_plane = cast(KERB)
    low, low_cell, low_plane = cast(0.0)
    index = np.flatnonzero(np.maximum(high, low).ravel() > objects.ravel())
    j = (index % grid.width).astype(np.float32)
    i = (index // grid.width).astype(np.float32)
    dx = rays[0, 0] * j + rays[0, 1] * i + np.float32(off[0])
    dy = rays[1, 0] * j + rays[1, 1] * i + np.float32(off[1])
    dz = rays[2, 0] * j + rays[2, 1] * i + np.float32(off[2])
    zh = 1.0 / np.maximum(high.ravel()[index], 1e-6)
    zl = 1.0 / np.maximum(low.ravel()[index], 1e-6)
    tx, ty = np.float32(t[0]), np.float32(t[1])
    dist_high = kerb_distance(streets, tx + dx * zh, ty + dy * zh)
    depth, cell, plane = zh, high_cell.ravel()[index], high_plane
    side = np.zeros(index.size, bool)
    crest = np.zeros(index.size, bool)
    below = np.flatnonzero(dist_high < 0)
    if below.size:
        zb = zl[below]
        dist_low = kerb_distance(streets, tx + dx[below] * zb, ty + dy[below] * zb)
        k = below[dist_low > 0]
        rays = np.stack([dx[k], dy[k], dz[k]])
        zh[k], crest[k] = _beyond_crest(network, world_t, rays, zh[k], zl[k])
        k = np.flatnonzero(crest)
        dist_high[k] = kerb_distance(streets, tx + dx[k] * zh[k], ty + dy[k] * zh[k])
        still = dist_high[below] < 0
        below, zb, dist_low = below[still], zb[still], dist_low[still]
    dist = dist_high.copy()
    if below.size:
        kerb = dist_low > 0
        share = np.where(
            kerb, dist_high[below] / np.minimum(dist_high[below] - dist_low, -1e-6), 1.0
        )
        depth = zh.copy()
        depth[below] = zh[below] + share * (zb - zh[below])
        dist[below] = np.where(kerb, 0.0, dist_low)
        side[below] = kerb
    chosen = plane[np.maximum(cell, 0)].astype(np.float32)
    lower = (dist < 0) | crest
    chosen[lower] = low_plane[np.maximum(low_cell.ravel()[index[lower]], 0)]
    inv = 1.0 / depth
    good = (inv > objects.ravel()[index]) & (depth < 1e5)
    k = np.flatnonzero(good)
    depth = depth[k]
    return Ground(
        index[k],
        inv[k],
        chosen[k],
        tx + dx[k] * depth,
        ty + dy[k] * depth,
        np.float32(t[2]) + dz[k] * depth,
        dist[k],
        side[k],
    )


def _beyond_crest(network, t, rays, near, far):  # noqa: ANN001, ANN202
    """Rays (3, N) of a camera at t are a kerb's height above the road at depth near, and on it at
    far. Over a crest they rise above that height in between, and what they pass until they are back
    is air, not the side of a kerb: returns the depth where they are back, and where that is so.
    """

    def above(z):  # noqa: ANN001, ANN202
        return t[2] + rays[2] * z - network.height(t[0] + rays[0] * z, t[1] + rays[1] * z)

    between = (near + share * (far - near) for share in (0.2, 0.4, 0.6, 0.8))
    crest = far > 1e5  # no ground there
    for z in between:
        crest |= above(z) > KERB + 0.01
    last = 0.01 * far
    back = far - last * KERB / np.maximum(above(far - last), KERB)
    return np.where(crest, np.maximum(np.where(far > 1e5, far, back), near), near), crest
