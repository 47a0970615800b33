"""What lies on the ground: asphalt, markings, slabs, grass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .atlas import Atlas
from .ground import Ground
from .raster import Grid
from .streets import Network, Street

PERIOD = 2664.0  # metres: a multiple of the period of every texture and dash below


@dataclass(frozen=True)
class Paint:
    """How a world's roads are marked."""

    center: str  # dashed, solid, double, none
    edges: bool
    zebra: float
    bays: bool
    tone: float
    yellow: bool
    wear: float


def draw_paint(rng: np.random.Generator) -> Paint:
    """Markings of one world."""
    return Paint(
        str(rng.choice(["dashed", "dashed", "solid", "double", "none"])),
        bool(rng.random() < 0.5),
        float(rng.uniform(0, 1)),
        bool(rng.random() < 0.5),
        float(rng.uniform(0.62, 0.88)),
        bool(rng.random() < 0.2),
        float(rng.uniform(0, 0.6)),
    )


def albedo(
    ground: Ground,
    network: Network,
    streets: list[Street],
    atlas: Atlas,
    paint: Paint,
    grid: Grid,
    R: np.ndarray,
    shade: tuple[float, ...],
) -> np.ndarray:
    """Colours (N, 3) in 0..1; footprints come from the exact derivatives of x and y per sample."""
    z = 1.0 / ground.inv_z
    rays = (R / np.array([grid.f, grid.f, 1.0])[None]).astype(np.float32)
    i = (ground.index // grid.width).astype(np.float32)
    j = (ground.index % grid.width).astype(np.float32)
    off = R @ np.array([-grid.cx / grid.f, -grid.cy / grid.f, 1.0])
    foot = []
    for row in (0, 1):
        along = rays[row, 0] * j + rays[row, 1] * i + np.float32(off[row])
        a = z * (rays[row, 0] - along * z * ground.plane[:, 0])
        b = z * (rays[row, 1] - along * z * ground.plane[:, 1])
        foot.append((a, b))
    (xj, xi), (yj, yi) = foot
    wide_i, wide_j = xi * xi + yi * yi, xj * xj + yj * yj
    flip = wide_j > wide_i
    major = np.sqrt(np.maximum(wide_i, wide_j))
    minor = np.sqrt(np.minimum(wide_i, wide_j))
    ax, ay = np.where(flip, xj, xi), np.where(flip, yj, yi)
    tile = _tiles(ground, network, atlas)
    period = np.where(tile == atlas.ids["slab"], 2.4, 3.0).astype(np.float32)
    taps = 3
    rho = np.maximum(minor, major / taps) / period
    u, v = ground.x / period, ground.y / period
    color = 0.0
    for k in range(taps):  # along the long axis of the footprint
        shift = (k - (taps - 1) / 2) / taps / period
        color = color + atlas.sample(tile, u + shift * ax, v + shift * ay, rho)
    color = color * (1.0 / (taps * 255.0))
    macro = atlas.sample(
        atlas.ids["macro"],
        ground.x / 37.0,
        ground.y / 37.0,
        np.maximum(minor, 0.5 * major) / 37.0,
    )[:, 0]
    color *= (macro * (2 / 255.0) * 0.6 + 0.4)[:, None]
    on_road = np.flatnonzero(ground.dist < 0)
    if on_road.size:
        color[on_road] = _road(
            ground, on_road, color[on_road], streets, atlas, paint, foot, major, minor, shade
        )
    kerb = (ground.dist >= 0) & (ground.dist < 0.16)
    color[kerb] = color[kerb] * 0.4 + 0.34
    color[ground.side] *= 0.72
    return color


def _tiles(ground: Ground, network: Network, atlas: Atlas) -> np.ndarray:
    style, ids = network.style, atlas.ids
    tile = np.full(ground.dist.shape, ids["slab"])
    tile[ground.dist < 0] = ids["asphalt"]
    tile[ground.dist > style.pavement] = ids[style.verge]
    tile[ground.dist > style.pavement + 22.0] = ids["grass"]
    return tile


def _road(ground, k, color, streets, atlas, paint, foot, major, minor, shade):  # noqa: ANN001, ANN202
    x, y = ground.x[k], ground.y[k]
    (xj, xi), (yj, yi) = foot
    best = np.full(k.size, 1e3, np.float32)
    t, d = np.zeros((2, k.size), np.float32)
    owner = np.zeros(k.size, np.int32)
    away = np.full((len(streets), k.size), 1e3, np.float32)
    for n, street in enumerate(streets):
        ts, ds = street.local(x, y)
        away[n] = np.abs(ds) - street.half
        mine = away[n] < best
        best = np.where(mine, away[n], best)
        t, d, owner = np.where(mine, ts, t), np.where(mine, ds, d), np.where(mine, n, owner)
    away[owner, np.arange(k.size)] = 1e3
    other = away.min(0)
    wear = atlas.sample(
        atlas.ids["wear"],
        t / 24.0,
        d / 24.0 + 0.5,
        np.maximum(minor[k], 0.4 * major[k]) / 24.0,
    )[:, 0] * (2 / 255.0)
    half = np.array([s.half for s in streets], np.float32)[owner]
    lane = np.array([s.lane for s in streets], np.float32)[owner]
    lanes = np.array([s.lanes for s in streets], np.float32)[owner]
    axis = np.array([s.axis for s in streets])[owner]
    color = color * (wear * shade[0])[:, None]
    track = np.abs(np.abs((np.abs(d) % lane) - lane / 2) - 0.75)  # wheel tracks
    color *= (1.0 - 0.10 * np.clip(1 - track / 0.5, 0, 1))[:, None]
    # footprints across and along the street
    fx = np.abs(xj[k]) + np.abs(xi[k])
    fy = np.abs(yj[k]) + np.abs(yi[k])
    fd = np.maximum(np.where(axis == 0, fy, fx), 1e-3)
    ft = np.maximum(np.where(axis == 0, fx, fy), 1e-3)

    def band(value, centre, width, blur):  # noqa: ANN001, ANN202
        low = np.clip((value - (centre - width / 2)) / blur + 0.5, 0, 1)
        return low * np.clip(((centre + width / 2) - value) / blur + 0.5, 0, 1)

    def dashes(value, period, on, blur):  # noqa: ANN001, ANN202
        phase = value % period
        wave = band(phase, on / 2, on, blur) + band(phase, on / 2 + period, on, blur)
        return np.where(blur > period, on / period, np.minimum(wave, 1.0))

    free = np.clip((other - 1.0) / np.maximum(ft, 0.05), 0, 1)
    lines = np.zeros(k.size, np.float32)
    if paint.center == "dashed":
        lines = band(d, 0.0, 0.14, fd) * dashes(t, 9.0, 3.5, ft)
    elif paint.center == "solid":
        lines = band(d, 0.0, 0.14, fd)
    elif paint.center == "double":
        lines = band(np.abs(d), 0.16, 0.13, fd)
    lines = np.maximum(
        lines, np.where(lanes > 1, band(np.abs(d), lane, 0.13, fd) * dashes(t, 9.0, 3.0, ft), 0.0)
    )
    edge = lanes * lane
    if paint.edges:
        lines = np.maximum(lines, band(np.abs(d), edge - 0.05, 0.12, fd))
    if paint.bays:
        ticks = band(np.abs(d), (edge + half) / 2, half - edge, fd) * dashes(t, 6.0, 0.12, ft)
        lines = np.maximum(lines, np.where(half - edge > 1.5, ticks, 0.0))
    lines = lines * np.clip(free * (other > 4.6), 0, 1)
    if paint.zebra > 0.4:
        stripes = dashes(d, 1.0, 0.5, fd) * band(other, 2.4, 2.6, ft)
        lines = np.maximum(lines, stripes * (np.abs(d) < edge + 0.2))
    # the stop line lies before the crossing: right-hand traffic
    side = np.where(axis == 0, -1.0, 1.0)
    ahead = np.zeros(k.size, np.float32)
    near = away.argmin(0)
    for n, street in enumerate(streets):
        ts = (x if street.axis == 1 else y) - street.offset
        ahead = np.where(near == n, np.sign(ts), ahead)
    stop = band(other, 4.4, 0.4, ft) * (d * ahead * side < 0) * (np.abs(d) < edge)
    lines = np.maximum(lines, stop)
    lines = lines * np.clip(1.0 - paint.wear * (1.6 - wear * 1.0), 0.25, 1.0) * 0.95
    white = np.array([1.0, 1.0, 0.97]) * paint.tone
    if paint.yellow and paint.center in ("solid", "double"):
        white = np.array([0.95, 0.75, 0.2]) * paint.tone
    return color + lines[:, None] * (white.astype(np.float32) * (0.6 + 0.4 * wear[:, None]) - color)
