"""Cars, pedestrians, trees and street furniture, built once per world and placed many times.

Object frames: x forward, y left, z up, origin on the ground below the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .faces import ALPHA, CASTER, GLOW, LEAF, TWO_SIDED, Builder, Faces, corners, join

PAINT = -1.0  # red tint that marks a face as painted, see Faces.tinted
PAINT_TINT = (PAINT, 0.0, 0.0)
PAINTS = [
    (0.85, 0.85, 0.84), (0.62, 0.63, 0.65), (0.35, 0.36, 0.38), (0.10, 0.10, 0.11),
    (0.13, 0.20, 0.42), (0.55, 0.10, 0.09), (0.78, 0.76, 0.70), (0.20, 0.33, 0.24),
    (0.45, 0.52, 0.60), (0.70, 0.58, 0.20), (0.30, 0.10, 0.12), (0.22, 0.42, 0.62),
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
        "hatch": (3.9, 1.70, 1.48), "sedan": (4.6, 1.80, 1.45), "estate": (4.7, 1.82, 1.52),
        "suv": (4.6, 1.90, 1.72), "van": (5.2, 1.98, 2.15), "truck": (7.2, 2.35, 3.0),
    }[kind]
    length, width, height = (x * rng.uniform(0.96, 1.05) for x in (length, width, height))
    h, w = length / 2, width / 2
    sill = 0.22
    belt = {"van": 1.15, "truck": 1.25, "suv": 1.05}.get(kind, 0.88)
    nose = {"van": 0.95, "truck": 1.2}.get(kind, 0.74)
    # windscreen foot, roof front, roof rear, rear window foot, as shares of the half length
    a, b, c, d = {
        "hatch": (0.42, 0.10, -0.72, -0.97), "sedan": (0.40, 0.10, -0.42, -0.68),
        "estate": (0.42, 0.12, -0.82, -0.98), "suv": (0.46, 0.18, -0.80, -0.97),
        "van": (0.78, 0.52, -0.97, -1.0), "truck": (0.95, 0.80, 0.28, 0.25),
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
    build.ring(base, roof, ["glass", side, rear_tile, side], [glass, glass, rear_tint, glass],
               flags=CASTER)
    build.lid(roof, "plain", PAINT_TINT, flags=CASTER)
    if kind == "van":  # the load space has no windows
        for s in (-1, 1):
            y0, y1 = s * (w * 0.97 + 0.01), s * (tw + 0.01)
            p = [(c * h, y1, height), (0.1 * h, y1, height), (0.1 * h, y0, belt), (rx, y0, belt)]
            p = p if s < 0 else [p[1], p[0], p[3], p[2]]
            build.quad(*p, "plain", PAINT_TINT)
    if kind == "truck":
        cargo = (0.8, 0.8, 0.78) if rng.random() < 0.5 else tuple(rng.uniform(0.2, 0.7, 3))
        build.box(-h, 0.2 * h, -w, w, 0.9, height + 0.25, "poster0" if rng.random() < 0.3 else
                  "plank", cargo, "plain", flags=CASTER)
    e = 0.008
    for s in (-1, 1):
        y0, y1 = s * w * 0.58, s * w * 0.93
        lo, hi = min(y0, y1), max(y0, y1)
        x = h * 0.98 + e + 0.012
        z0, z1 = nose - 0.2, nose - 0.05
        build.quad((x, hi, z1), (x, lo, z1), (x + 0.01, lo, z0), (x + 0.01, hi, z0), "lamp",
                   (1.0, 0.98, 0.92))
        x = -h * 0.99 - e - 0.008
        build.quad((x, lo, z1), (x, hi, z1), (x - 0.01, hi, z0), (x - 0.01, lo, z0), "lamp",
                   (0.75, 0.07, 0.06), flags=GLOW)
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
            build.box(axle - 0.7 * r, axle + 0.7 * r, y0, y1, 0.0, 2 * r * 0.8, "plain",
                      (0.07, 0.07, 0.07), None)
    return CarModel(build.faces(), length, width, height)


CAR_SHARE = (0.2, 0.17, 0.15, 0.14, 0.14, 0.1, 0.07, 0.03)  # parked and moving alike


def car_models(ids: dict[str, int], rng: np.random.Generator) -> list[CarModel]:
    """The cars of a world; parked and moving ones are drawn from the same list."""
    kinds = ["hatch", "sedan", "estate", "suv", "hatch", "sedan", "van", "truck"]
    return [_car(Builder(ids), rng, kind) for kind in kinds]


LIMBS = ("body", "leg_left", "leg_right", "arm_left", "arm_right")


def pedestrian_parts(ids: dict[str, int], rng: np.random.Generator) -> dict[str, Faces]:
    """Rigid parts of a person of about 1.7 m; limbs hang from their joint at the origin."""
    shirt, trousers = tuple(rng.uniform(0.08, 0.85, 3)), tuple(rng.uniform(0.06, 0.5, 3))
    skin = tuple(np.array([0.75, 0.55, 0.43]) * rng.uniform(0.5, 1.15))
    hair = tuple(np.array([0.25, 0.18, 0.12]) * rng.uniform(0.3, 2.0))
    body = Builder(ids)
    body.box(-0.13, 0.13, -0.21, 0.21, 0.80, 1.42, "cloth", shirt, "cloth", flags=CASTER)
    body.box(-0.06, 0.06, -0.06, 0.06, 1.42, 1.48, "plain", skin, None)
    body.box(-0.10, 0.10, -0.085, 0.085, 1.46, 1.64, "plain", skin, None, flags=CASTER)
    body.box(-0.12, 0.06, -0.10, 0.10, 1.58, 1.72, "cloth", hair, "cloth", hair)
    if rng.random() < 0.4:
        body.box(-0.30, -0.13, -0.15, 0.15, 0.95, 1.38, "cloth", tuple(rng.uniform(0.05, 0.6, 3)))
    parts = {"body": body.faces()}
    for side in ("left", "right"):
        leg, arm = Builder(ids), Builder(ids)
        leg.box(-0.085, 0.085, -0.085, 0.085, -0.84, 0.0, "cloth", trousers, None, flags=CASTER)
        leg.box(-0.09, 0.17, -0.08, 0.08, -0.84, -0.75, "plain", (0.12, 0.11, 0.10))
        arm.box(-0.06, 0.06, -0.055, 0.055, -0.48, 0.03, "cloth", shirt, "cloth")
        arm.box(-0.05, 0.05, -0.045, 0.045, -0.60, -0.48, "plain", skin, None)
        parts[f"leg_{side}"], parts[f"arm_{side}"] = leg.faces(), arm.faces()
    return parts


JOINTS = {"body": (0, 0, 0), "leg_left": (0, 0.1, 0.84), "leg_right": (0, -0.1, 0.84),
          "arm_left": (0, 0.27, 1.36), "arm_right": (0, -0.27, 1.36)}


def trees(ids: dict[str, int], rng: np.random.Generator, count: int = 6) -> list[Faces]:
    """Trunk, a few boughs and a crown of leaf quads; the last is a conifer."""
    out = []
    for k in range(count):
        build = Builder(ids)
        conifer = k == count - 1
        height = rng.uniform(5.0, 10.5)
        r, foot = rng.uniform(0.12, 0.24), rng.uniform(1.8, 2.8)
        build.ring(corners(-r, r, -r, r, -0.3), corners(-r * 0.5, r * 0.5, -r * 0.5, r * 0.5,
                   height * 0.7), "bark", (1.0, 1.0, 1.0), (0.8, 1.6), flags=CASTER)
        spread = height * rng.uniform(0.22, 0.34)
        tile = "leaf2" if conifer else f"leaf{k % 2}"
        for _ in range(20 if not conifer else 16):
            if conifer:
                share = rng.random()
                size = spread * (1.15 - share) * 0.9
                z = foot * 0.7 + share * (height - foot * 0.7)
                off = rng.normal(0, 0.15, 2) * spread * (1 - share)
            else:
                size = spread * rng.uniform(0.45, 0.75)
                direction = rng.normal(size=3)
                direction *= rng.uniform(0.3, 0.8) / np.linalg.norm(direction)
                z = (foot + height) / 2 + direction[2] * (height - foot) / 2
                off = direction[:2] * spread
            axis = rng.normal(size=3) * (1.0, 1.0, 0.5)
            axis /= np.linalg.norm(axis)
            right = np.cross(axis, (0, 0, 1.0))
            right /= np.linalg.norm(right)
            up = np.cross(right, axis)
            centre = np.array([*off, z])
            shade = float(np.clip(0.62 + 0.55 * (z - foot) / (height - foot), 0.55, 1.2))
            shade *= rng.uniform(0.85, 1.15)
            e1, e2 = right * size, up * size
            build.quad(centre - e1 + e2, centre + e1 + e2, centre + e1 - e2, centre - e1 - e2,
                       tile, (shade, shade, shade), flags=ALPHA | TWO_SIDED | LEAF | CASTER)
        out.append(build.faces())
    return out


def lamp_post(ids: dict[str, int], rng: np.random.Generator) -> Faces:
    """A post with an arm over the road (towards +y)."""
    build, height = Builder(ids), rng.uniform(5.5, 8.5)
    tint = tuple(np.full(3, rng.uniform(0.2, 0.6)))
    build.box(-0.07, 0.07, -0.07, 0.07, 0.0, height, "plain", tint, None, flags=CASTER)
    build.box(-0.12, 0.12, -0.12, 0.12, 0.0, 1.0, "panel", tint)
    build.box(-0.05, 0.05, 0.0, 1.6, height - 0.1, height, "plain", tint)
    build.box(-0.12, 0.12, 1.1, 1.8, height - 0.22, height - 0.08, "lamp", (0.85, 0.85, 0.8))
    return build.faces()


def sign_post(ids: dict[str, int], rng: np.random.Generator) -> Faces:
    """A traffic sign facing -x, or a pair of them."""
    build, z = Builder(ids), rng.uniform(1.9, 2.4)
    build.box(-0.035, 0.035, -0.035, 0.035, 0.0, z + 0.6, "plain", (0.55, 0.55, 0.56), None,
              flags=CASTER)
    for _ in range(int(rng.integers(1, 3))):
        s, x = rng.uniform(0.28, 0.42), -0.05
        tint = [(0.75, 0.1, 0.1), (0.1, 0.22, 0.6), (0.9, 0.9, 0.9), (0.9, 0.75, 0.1)]
        color = tint[int(rng.integers(0, 4))]
        build.quad((x, s, z + s), (x, -s, z + s), (x, -s, z - s), (x, s, z - s), "panel", color)
        build.quad((-x, -s, z + s), (-x, s, z + s), (-x, s, z - s), (-x, -s, z - s), "plain",
                   (0.5, 0.5, 0.5))
        z -= 2 * s + 0.04
    return build.faces()


def signal(ids: dict[str, int]) -> Faces:
    """A traffic light facing -x."""
    build = Builder(ids)
    build.box(-0.06, 0.06, -0.06, 0.06, 0.0, 3.2, "plain", (0.25, 0.27, 0.26), None, flags=CASTER)
    build.box(-0.16, 0.10, -0.16, 0.16, 2.3, 3.25, "plain", (0.09, 0.10, 0.09), "plain")
    for k, tint in enumerate([(0.25, 0.9, 0.4), (0.35, 0.27, 0.06), (0.9, 0.15, 0.1)]):
        z = 2.46 + 0.3 * k
        build.quad((-0.17, 0.1, z + 0.1), (-0.17, -0.1, z + 0.1), (-0.17, -0.1, z - 0.1),
                   (-0.17, 0.1, z - 0.1), "lamp", tint)
    return build.faces()


def shelter(ids: dict[str, int], rng: np.random.Generator) -> Faces:
    """A bus shelter, open towards +y."""
    build = Builder(ids)
    tint = (0.3, 0.34, 0.36)
    build.box(-2.0, 2.0, -0.7, 0.7, 2.35, 2.5, "plain", tint, flags=CASTER)
    for x in (-1.95, 1.95):
        for y in (-0.65, 0.6):
            build.box(x - 0.05, x + 0.05, y - 0.05, y + 0.05, 0.0, 2.35, "plain", tint, None)
    build.box(1.85, 2.0, -0.65, 0.5, 0.3, 2.2, f"poster{int(rng.integers(0, 3))}")
    build.box(-1.7, 1.6, -0.68, -0.62, 0.4, 2.2, "glass", (2.0, 2.1, 2.2))
    build.box(-1.2, 1.2, -0.5, -0.1, 0.42, 0.5, "plank")
    return build.faces()


def bin_box(ids: dict[str, int], rng: np.random.Generator) -> Faces:
    """A waste bin, cabinet or advertising column."""
    build, tint = Builder(ids), tuple(rng.uniform(0.15, 0.6, 3))
    w, h = rng.uniform(0.2, 0.5), rng.uniform(0.9, 2.2)
    tile = "panel" if h < 1.5 else f"poster{int(rng.integers(0, 3))}"
    build.box(-w, w, -w * 0.7, w * 0.7, 0.0, h, tile, tint if h < 1.5 else (1.0, 1.0, 1.0),
              flags=CASTER)
    return build.faces()


def furniture(ids: dict[str, int], rng: np.random.Generator) -> dict[str, list[Faces]]:
    """All kinds of street furniture by name."""
    return {
        "lamp": [lamp_post(ids, rng) for _ in range(2)],
        "sign": [sign_post(ids, rng) for _ in range(3)],
        "signal": [signal(ids)],
        "shelter": [shelter(ids, rng)],
        "bin": [bin_box(ids, rng) for _ in range(4)],
    }


__all__ = ["CarModel", "JOINTS", "LIMBS", "PAINT", "PAINTS", "car_models", "furniture", "join",
           "pedestrian_parts", "trees"]
