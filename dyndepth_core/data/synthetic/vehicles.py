"""Cars, built once per world; parked and moving ones come from the same list and colours.

Object frame: x forward, y left, z up, origin on the ground below the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .faces import CASTER, GLOW, Builder, Faces, corners

PAINT = -1.0  # red tint that marks a face as painted, see Faces.tinted
PAINT_TINT = (PAINT, 0.0, 0.0)
PAINTS = [
    (0.85, 0.85, 0.84),
    (0.62, 0.63, 0.65),
    (0.35, 0.36, 0.38),
    (0.10, 0.10, 0.11),
    (0.13, 0.20, 0.42),
    (0.55, 0.10, 0.09),
    (0.78, 0.76, 0.70),
    (0.20, 0.33, 0.24),
    (0.45, 0.52, 0.60),
    (0.70, 0.58, 0.20),
    (0.30, 0.10, 0.12),
    (0.22, 0.42, 0.62),
]


@dataclass(frozen=True)
class CarModel:
    """Geometry with unpainted body, and the size that traffic and shadows need (metres)."""

    faces: Faces
    length: float
    width: float
    height: float


def _car(build: Builder, rng: np.random.Generator, kind: str) -> CarModel:
    length, width, height = {
        "hatch": (3.9, 1.70, 1.48),
        "sedan": (4.6, 1.80, 1.45),
        "estate": (4.7, 1.82, 1.52),
        "suv": (4.6, 1.90, 1.72),
        "van": (5.2, 1.98, 2.15),
        "truck": (7.2, 2.35, 3.0),
    }[kind]
    length, width, height = (x * rng.uniform(0.96, 1.05) for x in (length, width, height))
    h, w = length / 2, width / 2
    sill = 0.22
    belt = {"van": 1.15, "truck": 1.25, "suv": 1.05}.get(kind, 0.88)
    nose = {"van": 0.95, "truck": 1.2}.get(kind, 0.74)
    # windscreen foot, roof front, roof rear, rear window foot, as shares of the half length
    a, b, c, d = {
        "hatch": (0.42, 0.10, -0.72, -0.97),
        "sedan": (0.40, 0.10, -0.42, -0.68),
        "estate": (0.42, 0.12, -0.82, -0.98),
        "suv": (0.46, 0.18, -0.80, -0.97),
        "van": (0.78, 0.52, -0.97, -1.0),
        "truck": (0.95, 0.80, 0.28, 0.25),
    }[kind]
    tw = w * (0.80 if kind not in ("van", "truck") else 0.92)
    low, mid = corners(-h, h, -w, w, sill), corners(-h * 0.99, h * 0.97, -w, w, nose)
    build.ring(low, mid, ["carfront", "carside", "carrear", "carside"], PAINT_TINT, flags=CASTER)
    # shoulder: bonnet line up to the belt
    fx, rx = a * h, d * h
    front = [(h * 0.97, w, nose), (h * 0.97, -w, nose)]
    base = corners(rx, fx, -w * 0.97, w * 0.97, belt)
    rear = [(-h * 0.99, -w, nose), (-h * 0.99, w, nose)]
    build.quad(front[0], front[1], base[1], base[0], "plain", PAINT_TINT, flags=CASTER)
    build.quad(base[3], base[2], rear[0], rear[1], "carrear", PAINT_TINT, flags=CASTER)
    build.quad(base[1], front[1], rear[0], base[2], "plain", PAINT_TINT, flags=CASTER)
    build.quad(front[0], base[0], base[3], rear[1], "plain", PAINT_TINT, flags=CASTER)
    roof = corners(c * h, b * h, -tw, tw, height)
    glass = (1.0, 1.0, 1.0)
    side = "sideglass"
    rear_tile, rear_tint = ("carrear", PAINT_TINT) if kind in ("van", "truck") else ("glass", glass)
    build.ring(
        base, roof, ["glass", side, rear_tile, side], [glass, glass, rear_tint, glass], flags=CASTER
    )
    build.lid(roof, "plain", PAINT_TINT, flags=CASTER)
    if kind == "van":  # the load space has no windows
        for s in (-1, 1):
            y0, y1 = s * (w * 0.97 + 0.01), s * (tw + 0.01)
            p = [(c * h, y1, height), (0.1 * h, y1, height), (0.1 * h, y0, belt), (rx, y0, belt)]
            p = p if s < 0 else [p[1], p[0], p[3], p[2]]
            build.quad(*p, "plain", PAINT_TINT)
    if kind == "truck":
        cargo = (0.8, 0.8, 0.78) if rng.random() < 0.5 else tuple(rng.uniform(0.2, 0.7, 3))
        build.box(
            -h,
            0.2 * h,
            -w,
            w,
            0.9,
            height + 0.25,
            "poster0" if rng.random() < 0.3 else "plank",
            cargo,
            "plain",
            flags=CASTER,
        )
    e = 0.008
    for s in (-1, 1):
        y0, y1 = s * w * 0.58, s * w * 0.93
        lo, hi = min(y0, y1), max(y0, y1)
        x = h * 0.98 + e + 0.012
        z0, z1 = nose - 0.2, nose - 0.05
        build.quad(
            (x, hi, z1),
            (x, lo, z1),
            (x + 0.01, lo, z0),
            (x + 0.01, hi, z0),
            "lamp",
            (1.0, 0.98, 0.92),
        )
        x = -h * 0.99 - e - 0.008
        build.quad(
            (x, lo, z1),
            (x, hi, z1),
            (x - 0.01, hi, z0),
            (x - 0.01, lo, z0),
            "lamp",
            (0.75, 0.07, 0.06),
            flags=GLOW,
        )
    x, z0, z1 = -h * 0.995 - e - 0.006, 0.44, 0.55
    build.quad((x, -0.26, z1), (x, 0.26, z1), (x, 0.26, z0), (x, -0.26, z0), "plate")
    x = h * 0.99 + e + 0.006
    build.quad((x, 0.26, z1), (x, -0.26, z1), (x, -0.26, z0), (x, 0.26, z0), "plate")
    r = 0.46 if kind == "truck" else 0.37 if kind in ("van", "suv") else 0.32
    for axle in (0.62 * h, -0.60 * h):
        for s in (-1, 1):
            arch = (axle, s * (w + 0.004), r + 0.01)
            build.disc(arch, r * 1.16, s, "wheel", (0.12, 0.12, 0.12))
            build.disc((axle, s * (w + 0.012), r), r, s, "wheel")
            y0, y1 = sorted((s * (w - 0.01), s * (w - 0.21)))
            build.box(
                axle - 0.7 * r,
                axle + 0.7 * r,
                y0,
                y1,
                0.0,
                2 * r * 0.8,
                "plain",
                (0.07, 0.07, 0.07),
                None,
            )
    return CarModel(build.faces(), length, width, height)


CAR_SHARE = (0.2, 0.17, 0.15, 0.14, 0.14, 0.1, 0.07, 0.03)  # parked and moving alike


def car_models(ids: dict[str, int], rng: np.random.Generator) -> list[CarModel]:
    """The cars of a world; parked and moving ones are drawn from the same list."""
    kinds = ["hatch", "sedan", "estate", "suv", "hatch", "sedan", "van", "truck"]
    return [_car(Builder(ids), rng, kind) for kind in kinds]
