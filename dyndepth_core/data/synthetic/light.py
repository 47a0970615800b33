"""Sun, sky, shadows and the sensor."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .atlas import Atlas

_TEXEL = 0.14  # metres per shadow texel
_SIDE = 1024
_SNAP = 16.0  # the static shadow map is drawn anew when the camera has moved this far


@dataclass(frozen=True)
class Weather:
    """Light of one clip; colours are linear factors."""

    sun: np.ndarray  # unit vector to the sun
    sun_color: np.ndarray
    ambient: np.ndarray
    horizon: np.ndarray
    zenith: np.ndarray
    clouds: float
    haze: float  # metres to 1/e
    gain: float
    drift: float
    noise: float
    wind: np.ndarray


def draw_weather(rng: np.random.Generator) -> Weather:
    """Clear, fair or overcast, at any hour of the day."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(16, 62))
    sun = np.array(
        [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
    )
    overcast = rng.random() < 0.3
    warm = np.array([1.06, 1.0, 0.90]) if elevation < 0.6 else np.array([1.02, 1.0, 0.96])
    strength = rng.uniform(0.05, 0.25) if overcast else rng.uniform(0.75, 1.05)
    ambient = np.array([0.96, 1.0, 1.06]) * (
        rng.uniform(0.75, 0.95) if overcast else rng.uniform(0.38, 0.55)
    )
    horizon = np.array([0.80, 0.84, 0.88]) * rng.uniform(0.92, 1.1)
    zenith = np.array([0.66, 0.69, 0.73]) if overcast else np.array([0.30, 0.48, 0.78])
    return Weather(
        sun,
        strength * warm,
        ambient,
        horizon,
        zenith * rng.uniform(0.9, 1.1),
        float(rng.uniform(0.5, 1.0) if overcast else rng.uniform(0.1, 0.8)),
        float(np.exp(rng.uniform(np.log(350), np.log(2500)))),
        float(rng.uniform(0.88, 1.12)),
        float(rng.uniform(0.0, 0.07)),
        float(rng.uniform(0.003, 0.014)),
        rng.uniform(0, 1, 2),
    )


def sky(weather: Weather, atlas: Atlas, direction: np.ndarray) -> np.ndarray:
    """Colours (N, 3) in 0..1 of world directions (N, 3)."""
    up = np.maximum(direction[:, 2] / np.linalg.norm(direction, axis=1), 0.0)
    blend = np.sqrt(up)[:, None]
    color = weather.horizon + blend * (weather.zenith - weather.horizon)
    reach = 0.16 / np.maximum(direction[:, 2], 0.02)
    u = direction[:, 0] * reach + weather.wind[0]
    v = direction[:, 1] * reach + weather.wind[1]
    rho = (0.012 * reach).astype(np.float32)
    tile = atlas.ids["cloud"]
    value = atlas.sample(tile, u.astype(np.float32), v.astype(np.float32), rho)
    cover = np.clip((value[:, :1] / 255.0 - 0.75 + 0.5 * weather.clouds) * 2.2, 0, 1)
    cover *= np.clip(up * 9.0, 0, 1)[:, None] * 0.9
    cloud = np.array([0.97, 0.97, 0.98]) * (0.72 + 0.28 * value[:, :1] / 255.0)
    color = color + cover * (cloud - color)
    cosine = direction @ weather.sun / np.linalg.norm(direction, axis=1)
    glow = np.maximum(cosine, 0.0)[:, None] ** 24 * 0.25 * weather.sun_color
    return (color + glow).astype(np.float32)


class ShadowMap:
    """Heights of what blocks the sun, over the plane z = 0 seen along the sun's direction.

    A point (x, y, z) maps to (x, y) - z * sun_xy / sun_z; it is in shadow where the map is higher.
    """

    def __init__(self, sun: np.ndarray):
        self.slope = sun[:2] / sun[2]
        self.static = np.zeros((_SIDE, _SIDE), np.float32)
        self.map = self.static
        self.dark = np.zeros((_SIDE, _SIDE), np.uint8)
        self.origin = np.zeros(2)  # in the world, of the points that are asked for
        self.corner = np.array([np.nan, np.nan])

    def window(self, x: float, y: float, heading: float, z: float) -> bool:
        """Place the window ahead of the camera; True when static casters must be drawn anew."""
        middle = np.array([x + 44.0 * np.cos(heading), y + 44.0 * np.sin(heading)])
        middle = np.round((middle - z * self.slope) / _SNAP) * _SNAP
        corner = middle - 0.5 * _SIDE * _TEXEL
        if np.array_equal(corner, self.corner):
            self.map = self.static.copy()
            return False
        self.corner = corner
        self.static = np.full((_SIDE, _SIDE), -1e4, np.float32)
        self.map = self.static
        return True

    def freeze(self) -> None:
        """What is drawn from here on belongs to this frame only."""
        self.static, self.map = self.map, self.map.copy()

    def cast(self, verts: np.ndarray) -> None:
        """Draw casters (F, 4, 3) in world metres."""
        ab = (verts[..., :2] - verts[..., 2:] * self.slope - self.corner) / _TEXEL
        low = np.floor(ab.min(1)).astype(int) - 1
        high = np.ceil(ab.max(1)).astype(int) + 2
        inside = (high > 0).all(1) & (low < _SIDE).all(1)
        # only what lies in the window is drawn: the shadow of a tower is longer than the window
        low, high = np.maximum(low, 0), np.minimum(high, _SIDE)
        fixed = np.round((ab - low[:, None]) * 16).astype(np.int32)
        e1, e2 = ab[:, 1] - ab[:, 0], ab[:, 2] - ab[:, 0]
        e3 = ab[:, 3] - ab[:, 0]
        use2 = np.abs(e1[:, 0] * e3[:, 1] - e1[:, 1] * e3[:, 0]) < np.abs(
            e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
        )
        f = np.where(use2[:, None], e2, e3)
        dz1 = verts[:, 1, 2] - verts[:, 0, 2]
        dzf = np.where(use2, verts[:, 2, 2], verts[:, 3, 2]) - verts[:, 0, 2]
        det = e1[:, 0] * f[:, 1] - e1[:, 1] * f[:, 0]
        for k in np.flatnonzero(inside & (np.abs(det) > 1e-3)):
            (x0, y0), (x1, y1) = low[k], high[k]
            w, h = x1 - x0, y1 - y0
            mask = np.zeros((h, w), np.uint8)
            cv2.fillConvexPoly(mask, fixed[k], 255, cv2.LINE_8, 4)
            gx = (dz1[k] * f[k, 1] - dzf[k] * e1[k, 1]) / det[k]
            gy = (dzf[k] * e1[k, 0] - dz1[k] * f[k, 0]) / det[k]
            base = verts[k, 0, 2] + gx * (x0 - ab[k, 0, 0]) + gy * (y0 - ab[k, 0, 1])
            plane = (base + gx * np.arange(w))[None] + (gy * np.arange(h))[:, None]
            top = verts[k, :, 2].max()
            target = self.map[y0:y1, x0:x1]
            np.maximum(target, np.minimum(plane, top), out=target, where=mask > 0)

    def contact(self, outlines: list[np.ndarray]) -> None:
        """Darken the ground below cars and people: outlines (4, 2) in world x, y at road level."""
        self.dark[:] = 0
        polys = [np.round((o - self.corner) / _TEXEL * 16).astype(np.int32) for o in outlines]
        for poly in polys:
            cv2.fillConvexPoly(self.dark, poly, 255, cv2.LINE_AA, 4)
        if polys:
            self.dark = cv2.blur(self.dark, (5, 5))

    def _fetch(self, image: np.ndarray, x: np.ndarray, y: np.ndarray, border: float, mode: int):  # noqa: ANN202
        count = x.size
        if count == 0:
            return np.zeros(0, image.dtype)
        rows = -(-count // 512)
        pad = rows * 512 - count
        if pad:
            x, y = np.pad(x, (0, pad)), np.pad(y, (0, pad))
        out = cv2.remap(
            image,
            x.reshape(rows, 512),
            y.reshape(rows, 512),
            mode,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=border,
        )
        return out.reshape(-1)[:count]

    def lit(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Share of the sun (N,) at points, softened over about two texels."""
        slope, corner = np.float32(self.slope), np.float32(self.corner - self.origin)
        a = ((x - z * slope[0] - corner[0]) / _TEXEL).astype(np.float32)
        b = ((y - z * slope[1] - corner[1]) / _TEXEL).astype(np.float32)
        out = np.zeros(x.shape, np.float32)
        for da, db in ((-0.6, -0.25), (0.25, -0.6), (0.6, 0.25), (-0.25, 0.6)):
            out += self._fetch(self.map, a + da, b + db, -1e4, cv2.INTER_NEAREST) <= z
        return out * 0.25

    def open(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Share of the sky (N,) seen from the ground at x, y."""
        corner = np.float32(self.corner - self.origin)
        a = ((x - corner[0]) / _TEXEL).astype(np.float32)
        b = ((y - corner[1]) / _TEXEL).astype(np.float32)
        return 1.0 - self._fetch(self.dark, a, b, 0, cv2.INTER_LINEAR).astype(np.float32) * (
            0.75 / 255
        )
