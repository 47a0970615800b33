"""From faces to samples: culling, visibility, texture, light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .atlas import Atlas
from .faces import ALPHA, GLOW, LEAF, TWO_SIDED, Faces
from .light import ShadowMap, Weather
from .raster import View, rasterise, setup


@dataclass
class Hits:
    """Visible objects: 1/z and face index per sample (-1 = none), and what shading needs."""

    inv_z: np.ndarray
    face: np.ndarray
    planes: np.ndarray  # (F, 3) 1/z coefficients
    normal: np.ndarray  # (F, 3) unit, world
    coef: np.ndarray  # (F, 2, 3) texture axes in sample coordinates
    start: np.ndarray  # (F, 2) texture coordinates at the camera
    faces: Faces


def gather(sets: list[tuple[np.ndarray, Faces]], view: View) -> Faces:
    """Faces in view of all sets (origin, faces), moved to the camera's position (world axes)."""
    from .faces import join

    grid, picked = view.grid, []
    for origin, faces in sets:
        shift = origin - view.origin - view.t
        centre = faces.verts.mean(1) + shift
        radius = np.abs(faces.verts - faces.verts.mean(1, keepdims=True)).sum(2).max(1)
        cam = centre @ view.R
        z = cam[:, 2]
        near = np.maximum(z, 1.0)
        wide_x = max(grid.cx, grid.width - grid.cx) / grid.f
        wide_y = max(grid.cy, grid.height - grid.cy) / grid.f
        keep = (
            (z > -radius)  # a sphere reaches a side of the view, a slanted plane, from farther off
            & (np.abs(cam[:, 0]) < wide_x * near + math.hypot(1.0, wide_x) * radius)
            & (np.abs(cam[:, 1]) < wide_y * near + math.hypot(1.0, wide_y) * radius)
            & (radius * grid.f > 0.6 * near)
        )
        index = np.flatnonzero(keep)
        if index.size:
            part = faces.take(index)
            part.verts = part.verts + shift
            part.uv0 = part.uv0 - np.stack([part.u @ shift, part.v @ shift], 1)
            picked.append(part)
    return join(picked)


def trace(faces: Faces, view: View, atlas: Atlas) -> Hits:
    """Visible face per sample; faces in world axes relative to the camera."""
    grid, R = view.grid, view.R
    verts = faces.verts @ R
    coef = np.stack([grid.linear(faces.u @ R), grid.linear(faces.v @ R)], 1)
    start = faces.uv0
    alpha = (faces.flags & ALPHA) > 0
    size = np.abs(coef[:, :, :2]).max((1, 2)).astype(np.float32)
    coef32, start32 = coef.astype(np.float32), (start - np.floor(start)).astype(np.float32)

    def solid(f, x, y, z):  # noqa: ANN001, ANN202
        depth, xs, ys = 1.0 / z, x.astype(np.float32), y.astype(np.float32)
        c = coef32[f]
        u = depth * (c[:, 0, 0] * xs + c[:, 0, 1] * ys + c[:, 0, 2]) + start32[f, 0]
        v = depth * (c[:, 1, 0] * xs + c[:, 1, 1] * ys + c[:, 1, 2]) + start32[f, 1]
        return atlas.opaque(faces.tile[f], u, v, depth * size[f])

    inv_z, face, planes = rasterise(verts, grid, (faces.flags & TWO_SIDED) > 0, alpha, solid)
    normal, offset = setup(verts)
    normal *= np.where((offset > 0) & ((faces.flags & TWO_SIDED) > 0), -1.0, 1.0)[:, None]
    length = np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return Hits(inv_z, face, planes, (normal / length) @ R.T, coef32, start32, faces)


def face_light(hits: Hits, weather: Weather) -> tuple[np.ndarray, np.ndarray]:
    """Ambient and direct light (F, 3) each, before shadows."""
    faces, normal = hits.faces, hits.normal
    up = normal[:, 2:3]
    ambient = weather.ambient * (0.78 + 0.22 * up + 0.06 * normal[:, :1])
    direct = np.maximum(normal @ weather.sun, 0.0)[:, None] * weather.sun_color
    leaf = ((faces.flags & LEAF) > 0)[:, None]
    direct = np.where(leaf, 0.55 * weather.sun_color, direct)
    ambient = np.where(leaf, 0.85 * weather.ambient, ambient)
    glow = ((faces.flags & GLOW) > 0)[:, None]
    ambient = np.where(glow, 0.9, ambient)
    return ambient.astype(np.float32), direct.astype(np.float32)


def object_colors(
    hits: Hits, index: np.ndarray, view: View, atlas: Atlas, weather: Weather, shadow: ShadowMap
) -> np.ndarray:
    """Colours (N, 3) in 0..1 of the object samples at flat indices."""
    grid = view.grid
    f = hits.face.ravel()[index]
    inv = hits.inv_z.ravel()[index]
    z = 1.0 / inv
    j = (index % grid.width).astype(np.float32)
    i = (index // grid.width).astype(np.float32)
    px, py = (hits.planes[:, k].astype(np.float32)[f] for k in (0, 1))
    uv, steps = [], []
    for axis in (0, 1):
        a, b, c = (np.ascontiguousarray(hits.coef[:, axis, k])[f] for k in range(3))
        along = z * (a * j + b * i + c)
        uv.append(along + np.ascontiguousarray(hits.start[:, axis])[f])
        steps.append((z * (a - along * px), z * (b - along * py)))
    tile = hits.faces.tile[f]
    (uj, ui), (vj, vi) = steps
    size_i, size_j = np.sqrt(ui * ui + vi * vi), np.sqrt(uj * uj + vj * vj)
    rho = np.maximum(np.minimum(size_i, size_j), 0.5 * np.maximum(size_i, size_j))
    flip = size_j > size_i
    au, av = np.where(flip, uj, ui) * 0.25, np.where(flip, vj, vi) * 0.25
    color = atlas.sample(tile, uv[0] + au, uv[1] + av, rho)
    color += atlas.sample(tile, uv[0] - au, uv[1] - av, rho)
    rays = (view.R / np.array([grid.f, grid.f, 1.0])[None]).astype(np.float32)
    off = view.R @ np.array([-grid.cx / grid.f, -grid.cy / grid.f, 1.0])
    point = []
    normal = hits.normal.astype(np.float32)
    lift = np.float32(0.22)
    for axis in range(3):
        ray = rays[axis, 0] * j + rays[axis, 1] * i + np.float32(off[axis])
        point.append(
            ray * z + np.float32(view.t[axis]) + lift * np.ascontiguousarray(normal[:, axis])[f]
        )
    ambient, direct = face_light(hits, weather)
    lit = shadow.lit(*point)
    tint = hits.faces.tint.astype(np.float32) / 510.0
    color *= (ambient * tint)[f] + lit[:, None] * (direct * tint)[f]
    return color
