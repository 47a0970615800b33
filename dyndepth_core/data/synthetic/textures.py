"""Procedural tiles of the synthetic world: rich at several scales, periodic, drawn from a seed."""

from __future__ import annotations

import cv2
import numpy as np

from .atlas import Atlas
from .noise import noise, rgb, u8
from .object_tiles import car_tiles, leaf_tiles, surface_tiles


def _lines(rng, side, count, jitter, width, amount) -> np.ndarray:  # noqa: ANN001
    """Crack-like wandering lines."""
    out = np.zeros((side, side), np.float32)
    for _ in range(count):
        steps = int(rng.integers(10, 40))
        turn = np.cumsum(rng.normal(0, jitter, steps)) + rng.uniform(0, 6.28)
        pts = rng.uniform(0, side, 2) + np.cumsum(
            np.stack([np.cos(turn), np.sin(turn)], 1) * side / 60, 0
        )
        for dx in (-side, 0, side):
            for dy in (-side, 0, side):
                shifted = ((pts + (dx, dy)) * 16).astype(np.int32).reshape(-1, 1, 2)
                cv2.polylines(out, [shifted], False, float(amount), width, cv2.LINE_AA, 4)
    return out


def ground_tiles(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Asphalt (3 m), road wear (24 m along the street), slabs (2.4 m), grass, gravel, macro."""
    tiles = {}
    n = 512
    warm = rng.uniform(-0.02, 0.03)
    grain = noise(
        rng,
        n,
        [(512, 0.05), (256, 0.045), (128, 0.04), (64, 0.045), (32, 0.05), (16, 0.05), (8, 0.05)],
    )
    grain -= _lines(rng, n, 2, 0.5, 2, 0.25)
    tiles["asphalt"] = u8(rgb((0.40, 0.40, 0.41), grain, warm))
    wear = noise(rng, n, [(256, 0.05), (64, 0.08), (16, 0.09), (4, 0.08)])
    for _ in range(int(rng.integers(3, 8))):  # repaired patches
        x, y = rng.integers(0, n, 2)
        w, h = rng.integers(14, 120, 2)
        wear[y : y + h, x : x + w] += rng.uniform(-0.22, 0.12)
    wear -= _lines(rng, n, int(rng.integers(6, 16)), 0.4, 1, 0.35)
    for _ in range(int(rng.integers(2, 6))):  # manholes, oil
        x, y = (int(k) for k in rng.integers(20, n - 20, 2))
        cv2.circle(wear, (x, y), 7, float(rng.uniform(-0.45, -0.15)), -1, cv2.LINE_AA)
        cv2.circle(wear, (x, y), 7, float(rng.uniform(-0.2, 0.2)), 1, cv2.LINE_AA)
        x, y = (int(k) for k in rng.integers(20, n - 20, 2))
        cv2.ellipse(
            wear,
            (x, y),
            (int(rng.integers(4, 14)), 4),
            float(rng.uniform(0, 180)),
            0,
            360,
            -0.25,
            -1,
            cv2.LINE_AA,
        )
    tiles["wear"] = u8(rgb((0.5, 0.5, 0.5), wear))
    slab = noise(rng, n, [(512, 0.06), (128, 0.07), (32, 0.06), (8, 0.04)])
    across = int(rng.choice([2, 4, 4, 8]))
    step = n // across
    slab += np.kron(rng.normal(0, 0.06, (across, across)), np.ones((step, step))).astype(np.float32)
    slab[::step], slab[1::step] = -0.35, -0.3
    slab[:, ::step], slab[:, 1::step] = -0.35, -0.3
    base = np.array([0.56, 0.54, 0.51]) * rng.uniform(0.85, 1.1, 3)
    tiles["slab"] = u8(rgb(base, slab))
    grass = noise(rng, n, [(512, 0.18), (256, 0.16), (64, 0.14), (16, 0.12), (4, 0.08)])
    tiles["grass"] = u8(rgb((0.30, 0.40, 0.19), grass, noise(rng, n, [(32, 0.04), (8, 0.04)])))
    gravel = noise(rng, n, [(512, 0.16), (128, 0.14), (32, 0.1), (8, 0.06)])
    tiles["gravel"] = u8(rgb((0.50, 0.45, 0.38), gravel))
    macro = noise(rng, n, [(256, 0.06), (64, 0.10), (16, 0.12), (8, 0.1), (4, 0.06)])
    tiles["macro"] = u8(rgb((0.5, 0.5, 0.5), macro))
    cloud = noise(rng, n, [(128, 0.06), (64, 0.09), (32, 0.16), (16, 0.25), (8, 0.35), (4, 0.4)])
    tiles["cloud"] = u8(np.repeat(np.clip(0.5 + 0.4 * cloud, 0, 1)[..., None], 3, -1))
    return tiles


def _wall(rng: np.random.Generator, n: int, kind: int) -> np.ndarray:
    """A wall of 12 m: brick, plaster, concrete panels or cladding."""
    base = (
        np.array(
            [
                (0.52, 0.33, 0.26),
                (0.70, 0.64, 0.54),
                (0.55, 0.55, 0.54),
                (0.62, 0.58, 0.52),
                (0.60, 0.47, 0.36),
            ][kind]
        )
        * rng.uniform(0.8, 1.12)
        * rng.uniform(0.94, 1.05, 3)
    )
    value = noise(rng, n, [(512, 0.05), (128, 0.07), (32, 0.06), (8, 0.06), (4, 0.05)])
    if kind in (0, 4):
        rows = 8 * int(rng.integers(14, 18))
        y = np.arange(n) * rows // n
        x = np.arange(n)
        shift = (y % 2)[:, None] * 3 + x[None]
        brick = (shift // 6) + y[:, None] * 977
        value = (
            value + (np.sin(brick * 12.9898) * 43758.5453 % 1.0).astype(np.float32) * 0.24 - 0.12
        )
        value -= 0.14 * ((shift % 6 == 0) | (np.diff(y, prepend=-1) > 0)[:, None])
    elif kind == 2:
        value[:: n // 4] -= 0.3
        value[:, :: n // 8] -= 0.25
    elif kind == 3:
        value[:: n // 32] -= 0.16
    return rgb(base, value)


def facade(rng: np.random.Generator, n: int = 512) -> np.ndarray:
    """Four storeys by four bays (12 x 12 m), each window a little different."""
    image = _wall(rng, n, int(rng.integers(0, 5)))
    bay = n // 4
    w, h = rng.uniform(0.3, 0.72), rng.uniform(0.42, 0.66)
    frame = rng.choice([0.9, 0.78, 0.25, 0.5]) * np.array([1.0, 0.98, 0.94])
    arch, sill, split = rng.random() < 0.25, rng.random() < 0.7, int(rng.integers(1, 4))
    shutter = rng.random() < 0.3
    color = np.array(rng.uniform(0.15, 0.5, 3))
    for row in range(4):
        for col in range(4):
            x0, x1 = (int(bay * (col + 0.5 + s * w / 2)) for s in (-1, 1))
            y0 = int(bay * (row + 0.18))
            y1 = int(y0 + bay * h)
            cv2.rectangle(image, (x0 - 4, y0 - 4), (x1 + 4, y1 + 4), frame.tolist(), -1)
            image[y0 - 6 : y0 - 4, x0 - 4 : x1 + 5] *= 0.55
            glass = rng.uniform(0.08, 0.30) * np.array([0.85, 0.97, 1.12])
            ramp = np.linspace(rng.uniform(0.9, 2.2), rng.uniform(0.5, 1.0), y1 - y0)
            image[y0:y1, x0:x1] = ramp[:, None, None] * glass
            if rng.random() < 0.5:  # curtain or blind
                part = int((y1 - y0) * rng.uniform(0.2, 0.95))
                cloth = rng.uniform(0.45, 0.8) * rng.uniform(0.85, 1.0, 3)
                folds = 1.0 + 0.12 * np.sin(np.arange(x1 - x0) * rng.uniform(0.4, 1.2))
                image[y0 : y0 + part, x0:x1] = folds[None, :, None] * cloth
            for k in range(1, split):
                x = x0 + (x1 - x0) * k // split
                image[y0:y1, x - 1 : x + 2] = frame
            if split > 1:
                y = y0 + (y1 - y0) * 2 // 5
                image[y - 1 : y + 2, x0:x1] = frame
            image[y0 : y0 + 5, x0:x1] *= 0.45  # reveal in shade
            image[y0:y1, x0 : x0 + 3] *= 0.6
            if sill:
                image[y1 + 4 : y1 + 9, x0 - 8 : x1 + 8] = frame * 0.95
                image[y1 + 9 : y1 + 13, x0 - 7 : x1 + 7] *= 0.6
                run = int(rng.integers(6, 30))  # dirt below the sill
                image[y1 + 9 : y1 + 9 + run, x0:x1] *= rng.uniform(0.82, 0.97)
            if shutter:
                for xa, xb in ((x0 - 20, x0 - 5), (x1 + 6, x1 + 21)):
                    image[y0:y1, max(xa, 0) : xb] = color
                    image[y0:y1:5, max(xa, 0) : xb] *= 0.6
            if arch:
                cv2.ellipse(
                    image,
                    ((x0 + x1) // 2, y0),
                    ((x1 - x0) // 2, 14),
                    0,
                    180,
                    360,
                    (0.9 * frame).tolist(),
                    -1,
                    cv2.LINE_AA,
                )
    if rng.random() < 0.6:  # string courses
        for row in range(4):
            image[row * bay : row * bay + 5] = np.minimum(
                image[row * bay : row * bay + 5] * 1.35, 1
            )
            image[row * bay + 5 : row * bay + 8] *= 0.6
    return u8(image)


def shops(rng: np.random.Generator, n: int = 512) -> np.ndarray:
    """A ground floor of 16 x 4 m: windows, doors, signs (the tile holds four rows of it)."""
    image = np.zeros((n, n, 3), np.float32)
    height = n // 4
    for row in range(4):
        band = image[row * height : (row + 1) * height]
        band[:] = _wall(rng, n, int(rng.integers(0, 5)))[:height] * 0.8
        x = 0
        while x < n - 40:
            width = int(rng.integers(60, 150))
            x1 = min(x + width, n) - 8
            sign = rng.uniform(0.1, 0.85, 3)
            band[8:30, x + 4 : x1] = sign
            for _ in range(int(rng.integers(2, 9))):  # lettering
                a = int(rng.integers(x + 8, max(x1 - 10, x + 9)))
                band[12:26, a : a + int(rng.integers(2, 6))] = 1.0 - 0.8 * sign
            glass = noise(rng, 64, [(8, 0.3), (32, 0.25)])
            glass = cv2.resize(glass, (max(x1 - x - 8, 1), height - 46))[..., None]
            tone = rng.uniform(0.12, 0.4) * rng.uniform(0.8, 1.2, 3)
            band[34 : height - 12, x + 6 : x1 - 2] = np.clip(tone * (1 + glass), 0, 1)
            if rng.random() < 0.5:
                door = int(rng.integers(x + 6, max(x1 - 30, x + 7)))
                band[34:height, door : door + 26] = rng.uniform(0.1, 0.5, 3)
                band[40 : height - 30, door + 5 : door + 21] = 0.2
            band[32:35, x:x1] *= 0.4
            x += width
    return u8(image)


FACADES = 7
_NAMES = """
asphalt wear slab grass gravel macro cloud plain roof bark hedge plank cloth panel poster0 poster1
poster2 facade0 facade1 facade2 facade3 facade4 facade5 facade6 shops leaf0 leaf1 leaf2
treeline carside carfront carrear glass sideglass lamp plate wheel"""
TILE_IDS = {name: k for k, name in enumerate(_NAMES.split())}  # known before any tile is drawn


def make_atlas(rng: np.random.Generator) -> Atlas:
    """Every tile of one world, numbered as in TILE_IDS."""
    tiles, alphas = ground_tiles(rng), {}
    tiles.update(surface_tiles(rng))
    for k in range(FACADES):
        tiles[f"facade{k}"] = facade(rng)
    tiles["shops"] = shops(rng)
    leaf_tiles(rng, tiles, alphas)
    car_tiles(rng, tiles, alphas)
    return Atlas({name: tiles[name] for name in TILE_IDS}, alphas)
