"""Pedestrians, trees and street furniture, built once per world and placed many times.

Object frames: x forward, y left, z up, origin on the ground below the middle.
"""

from __future__ import annotations

import numpy as np

from .faces import ALPHA, CASTER, LEAF, TWO_SIDED, Builder, Faces, corners

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


JOINTS = {
    "body": (0, 0, 0),
    "leg_left": (0, 0.1, 0.84),
    "leg_right": (0, -0.1, 0.84),
    "arm_left": (0, 0.27, 1.36),
    "arm_right": (0, -0.27, 1.36),
}


def trees(ids: dict[str, int], rng: np.random.Generator, count: int = 6) -> list[Faces]:
    """Trunk, a few boughs and a crown of leaf quads; the last is a conifer."""
    out = []
    for k in range(count):
        build = Builder(ids)
        conifer = k == count - 1
        height = rng.uniform(5.0, 10.5)
        r, foot = rng.uniform(0.12, 0.24), rng.uniform(1.8, 2.8)
        build.ring(
            corners(-r, r, -r, r, -0.3),
            corners(-r * 0.5, r * 0.5, -r * 0.5, r * 0.5, height * 0.7),
            "bark",
            (1.0, 1.0, 1.0),
            (0.8, 1.6),
            flags=CASTER,
        )
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
            build.quad(
                centre - e1 + e2,
                centre + e1 + e2,
                centre + e1 - e2,
                centre - e1 - e2,
                tile,
                (shade, shade, shade),
                flags=ALPHA | TWO_SIDED | LEAF | CASTER,
            )
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
    build.box(
        -0.035, 0.035, -0.035, 0.035, 0.0, z + 0.6, "plain", (0.55, 0.55, 0.56), None, flags=CASTER
    )
    for _ in range(int(rng.integers(1, 3))):
        s, x = rng.uniform(0.28, 0.42), -0.05
        tint = [(0.75, 0.1, 0.1), (0.1, 0.22, 0.6), (0.9, 0.9, 0.9), (0.9, 0.75, 0.1)]
        color = tint[int(rng.integers(0, 4))]
        build.quad((x, s, z + s), (x, -s, z + s), (x, -s, z - s), (x, s, z - s), "panel", color)
        build.quad(
            (-x, -s, z + s),
            (-x, s, z + s),
            (-x, s, z - s),
            (-x, -s, z - s),
            "plain",
            (0.5, 0.5, 0.5),
        )
        z -= 2 * s + 0.04
    return build.faces()


def signal(ids: dict[str, int]) -> Faces:
    """A traffic light facing -x."""
    build = Builder(ids)
    build.box(-0.06, 0.06, -0.06, 0.06, 0.0, 3.2, "plain", (0.25, 0.27, 0.26), None, flags=CASTER)
    build.box(-0.16, 0.10, -0.16, 0.16, 2.3, 3.25, "plain", (0.09, 0.10, 0.09), "plain")
    for k, tint in enumerate([(0.25, 0.9, 0.4), (0.35, 0.27, 0.06), (0.9, 0.15, 0.1)]):
        z = 2.46 + 0.3 * k
        build.quad(
            (-0.17, 0.1, z + 0.1),
            (-0.17, -0.1, z + 0.1),
            (-0.17, -0.1, z - 0.1),
            (-0.17, 0.1, z - 0.1),
            "lamp",
            tint,
        )
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
    build.box(
        -w, w, -w * 0.7, w * 0.7, 0.0, h, tile, tint if h < 1.5 else (1.0, 1.0, 1.0), flags=CASTER
    )
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
