"""Procedural tiles of the synthetic world: rich at several scales, periodic, drawn from a seed."""

from __future__ import annotations

import cv2
import numpy as np

from .atlas import Atlas


def noise(rng: np.random.Generator, side: int, octaves: list[tuple[int, float]]) -> np.ndarray:
    """Periodic value noise (side, side): octaves of (cells per side, amplitude)."""
    out = np.zeros((side, side), np.float32)
    for cells, amplitude in octaves:
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        if cells == side:
            out += amplitude * grid
            continue
        step = side // cells
        wide = np.pad(grid, 2, mode="wrap")
        wide = cv2.resize(wide, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        out += amplitude * wide[2 * step : 2 * step + side, 2 * step : 2 * step + side]
    return out


def _rgb(base, value: np.ndarray, warm: np.ndarray | float = 0.0) -> np.ndarray:  # noqa: ANN001
    warmth = np.stack([1.0 + warm * np.ones_like(value), np.ones_like(value),
                       1.0 - warm * np.ones_like(value)], -1)
    return np.asarray(base, np.float32) * (1.0 + value[..., None]) * warmth


def _u8(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 255.0, 0, 255).astype(np.uint8)


def _lines(rng, side, count, jitter, width, amount) -> np.ndarray:  # noqa: ANN001
    """Crack-like wandering lines."""
    out = np.zeros((side, side), np.float32)
    for _ in range(count):
        steps = int(rng.integers(10, 40))
        turn = np.cumsum(rng.normal(0, jitter, steps)) + rng.uniform(0, 6.28)
        pts = rng.uniform(0, side, 2) + np.cumsum(
            np.stack([np.cos(turn), np.sin(turn)], 1) * side / 60, 0)
        for dx in (-side, 0, side):
            for dy in (-side, 0, side):
                shifted = ((pts + (dx, dy)) * 16).astype(np.int32).reshape(-1, 1, 2)
                cv2.polylines(out, [shifted], False, float(amount), width, cv2.LINE_AA, 4)
    return out


def ground_tiles(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Asphalt (3 m), road wear (24 m, in street coordinates), slabs (2.4 m), grass, gravel, macro."""
    tiles = {}
    n = 512
    warm = rng.uniform(-0.02, 0.03)
    grain = noise(rng, n, [(512, 0.05), (256, 0.045), (128, 0.04), (64, 0.045), (32, 0.05), (16, 0.05), (8, 0.05)])
    grain -= _lines(rng, n, 2, 0.5, 2, 0.25)
    tiles["asphalt"] = _u8(_rgb((0.40, 0.40, 0.41), grain, warm))
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
        cv2.ellipse(wear, (x, y), (int(rng.integers(4, 14)), 4), float(rng.uniform(0, 180)),
                    0, 360, -0.25, -1, cv2.LINE_AA)
    tiles["wear"] = _u8(_rgb((0.5, 0.5, 0.5), wear))
    slab = noise(rng, n, [(512, 0.06), (128, 0.07), (32, 0.06), (8, 0.04)])
    across = int(rng.choice([2, 4, 4, 8]))
    step = n // across
    slab += np.kron(rng.normal(0, 0.06, (across, across)), np.ones((step, step))).astype(np.float32)
    slab[::step], slab[1::step] = -0.35, -0.3
    slab[:, ::step], slab[:, 1::step] = -0.35, -0.3
    base = np.array([0.56, 0.54, 0.51]) * rng.uniform(0.85, 1.1, 3)
    tiles["slab"] = _u8(_rgb(base, slab))
    grass = noise(rng, n, [(512, 0.18), (256, 0.16), (64, 0.14), (16, 0.12), (4, 0.08)])
    tiles["grass"] = _u8(_rgb((0.30, 0.40, 0.19), grass, noise(rng, n, [(32, 0.04), (8, 0.04)])))
    gravel = noise(rng, n, [(512, 0.16), (128, 0.14), (32, 0.1), (8, 0.06)])
    tiles["gravel"] = _u8(_rgb((0.50, 0.45, 0.38), gravel))
    macro = noise(rng, n, [(256, 0.06), (64, 0.10), (16, 0.12), (8, 0.1), (4, 0.06)])
    tiles["macro"] = _u8(_rgb((0.5, 0.5, 0.5), macro))
    cloud = noise(rng, n, [(128, 0.06), (64, 0.09), (32, 0.16), (16, 0.25), (8, 0.35), (4, 0.4)])
    tiles["cloud"] = _u8(np.repeat(np.clip(0.5 + 0.4 * cloud, 0, 1)[..., None], 3, -1))
    return tiles


def _wall(rng: np.random.Generator, n: int, kind: int) -> np.ndarray:
    """A wall of 12 m: brick, plaster, concrete panels or cladding."""
    base = np.array([(0.52, 0.33, 0.26), (0.70, 0.64, 0.54), (0.55, 0.55, 0.54), (0.62, 0.58, 0.52),
                     (0.60, 0.47, 0.36)][kind]) * rng.uniform(0.8, 1.12) * rng.uniform(0.94, 1.05, 3)
    value = noise(rng, n, [(512, 0.05), (128, 0.07), (32, 0.06), (8, 0.06), (4, 0.05)])
    if kind in (0, 4):
        rows = 8 * int(rng.integers(14, 18))
        y = np.arange(n) * rows // n
        x = np.arange(n)
        shift = (y % 2)[:, None] * 3 + x[None]
        brick = (shift // 6) + y[:, None] * 977
        value = value + (np.sin(brick * 12.9898) * 43758.5453 % 1.0).astype(np.float32) * 0.24 - 0.12
        value -= 0.14 * ((shift % 6 == 0) | (np.diff(y, prepend=-1) > 0)[:, None])
    elif kind == 2:
        value[:: n // 4] -= 0.3
        value[:, :: n // 8] -= 0.25
    elif kind == 3:
        value[:: n // 32] -= 0.16
    return _rgb(base, value)


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
                image[y1 + 9 : y1 + 9 + run, x0 : x1] *= rng.uniform(0.82, 0.97)
            if shutter:
                for xa, xb in ((x0 - 20, x0 - 5), (x1 + 6, x1 + 21)):
                    image[y0:y1, max(xa, 0) : xb] = color
                    image[y0:y1:5, max(xa, 0) : xb] *= 0.6
            if arch:
                cv2.ellipse(image, ((x0 + x1) // 2, y0), ((x1 - x0) // 2, 14), 0, 180, 360,
                            (0.9 * frame).tolist(), -1, cv2.LINE_AA)
    if rng.random() < 0.6:  # string courses
        for row in range(4):
            image[row * bay : row * bay + 5] = np.minimum(image[row * bay : row * bay + 5] * 1.35, 1)
            image[row * bay + 5 : row * bay + 8] *= 0.6
    return _u8(image)


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
    return _u8(image)


def surface_tiles(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Roofs, bark, hedge, fences' planks, plain grained surfaces, distant windows."""
    tiles, n = {}, 256
    tiles["plain"] = _u8(_rgb((0.92, 0.92, 0.92), noise(rng, 128, [(128, 0.02), (16, 0.02)])))
    roof = noise(rng, n, [(256, 0.1), (32, 0.08), (8, 0.08)])
    roof[::16] -= 0.4
    roof[1::16] -= 0.25
    roof[:, ::16] -= 0.15
    tiles["roof"] = _u8(_rgb((0.62, 0.60, 0.58), roof))
    bark = noise(rng, n, [(256, 0.15), (64, 0.12)])
    bark += 0.3 * cv2.resize(rng.standard_normal((4, n)).astype(np.float32), (n, n))
    tiles["bark"] = _u8(_rgb((0.33, 0.27, 0.21), bark))
    hedge = noise(rng, n, [(256, 0.3), (128, 0.3), (32, 0.2), (8, 0.1)])
    tiles["hedge"] = _u8(_rgb((0.22, 0.33, 0.14), hedge, 0.05 * noise(rng, n, [(32, 1.0)])))
    plank = noise(rng, n, [(256, 0.06), (64, 0.06), (8, 0.05)])
    plank += np.repeat(rng.normal(0, 0.12, 16), n // 16)[None].astype(np.float32)
    plank[:, :: n // 16] -= 0.45
    tiles["plank"] = _u8(_rgb((0.52, 0.42, 0.32), plank))
    tiles["cloth"] = _u8(_rgb((0.9, 0.9, 0.9), noise(rng, 128, [(128, 0.08), (32, 0.1), (8, 0.1)])))
    sign = np.full((128, 128, 3), 0.92, np.float32)
    for _ in range(9):
        a, b = rng.integers(8, 110, 2)
        sign[a : a + 5, b : b + int(rng.integers(5, 30))] = 0.15
    tiles["panel"] = _u8(sign)
    for k in range(3):  # advertising, posters
        art = rng.uniform(0.1, 0.9, 3) * (1 + noise(rng, 128, [(4, 0.5), (16, 0.3)])[..., None])
        cv2.circle(art, (int(rng.integers(30, 98)), 60), int(rng.integers(14, 40)),
                   rng.uniform(0, 1, 3).tolist(), -1, cv2.LINE_AA)
        for y in range(96, 120, 8):
            art[y : y + 4, 12 : int(rng.integers(40, 118))] = rng.uniform(0, 1)
        tiles[f"poster{k}"] = _u8(art)
    return tiles


def leaf_tiles(rng: np.random.Generator, tiles: dict, alphas: dict) -> None:
    """Clusters of leaves with transparent gaps; two broad-leaved ones and a conifer's."""
    n = 256
    for k in range(3):
        hue = np.array([(0.30, 0.42, 0.15), (0.36, 0.40, 0.14), (0.17, 0.30, 0.17)][k])
        hue = hue * rng.uniform(0.85, 1.25, 3)
        image = np.ones((n, n, 3), np.float32) * hue * 0.45
        alpha = np.zeros((n, n), np.uint8)
        for _ in range(420):
            r = np.sqrt(rng.random()) * 0.44
            a = rng.uniform(0, 6.28)
            x, y = int(n * (0.5 + r * np.cos(a))), int(n * (0.5 + r * np.sin(a)))
            color = hue * rng.uniform(0.45, 1.6) * (1.25 - 0.6 * y / n)
            axes = (int(rng.integers(5, 12)), int(rng.integers(2, 6)))
            turn = float(rng.uniform(0, 180)) if k < 2 else float(rng.uniform(60, 120))
            cv2.ellipse(image, (x, y), axes, turn, 0, 360, color.tolist(), -1, cv2.LINE_AA)
            cv2.ellipse(alpha, (x, y), axes, turn, 0, 360, 255, -1)
        tiles[f"leaf{k}"], alphas[f"leaf{k}"] = _u8(image), alpha
    image = _rgb((0.22, 0.29, 0.15), noise(rng, n, [(128, 0.3), (32, 0.25), (8, 0.15)]))
    alpha = np.zeros((n, n), np.uint8)
    edge = np.abs(noise(rng, n, [(4, 0.35), (16, 0.2), (64, 0.12), (128, 0.08)])[0]) * 0.8
    for x in range(n):
        alpha[int(n * min(edge[x], 0.9)) :, x] = 255
    tiles["treeline"], alphas["treeline"] = _u8(image), alpha


def car_tiles(rng: np.random.Generator, tiles: dict, alphas: dict) -> None:
    """Body sides, fronts, rears, glass, wheels; paint is white here and tinted per car."""
    n = 256
    side = np.full((n, n, 3), 0.92, np.float32)
    side *= np.linspace(1.06, 0.72, n)[:, None, None]
    side *= (1 + noise(rng, n, [(64, 0.02), (8, 0.04)]))[..., None]
    for x in (70, 128, 186):
        side[10:210, x : x + 2] *= 0.45
    side[70:76] *= 0.85
    side[66:70] *= 1.07
    for x in (84, 142):
        side[50:56, x : x + 16] *= 0.55
    side[212:] *= 0.45
    tiles["carside"] = _u8(side)
    for name in ("carfront", "carrear"):
        end = np.full((n, n, 3), 0.9, np.float32) * np.linspace(1.05, 0.78, n)[:, None, None]
        if name == "carfront":
            end[80:130, 70:186] = 0.12
            end[80:130:8, 70:186] = 0.3
            end[120:136, 118:138] = 0.7
        end[170:] *= 0.5
        end[150:153] *= 0.5
        end[196:216, 30:226] *= 0.4
        tiles[name] = _u8(end)
    glass = np.ones((n, n, 3), np.float32) * np.array([0.16, 0.19, 0.22])
    glass *= np.linspace(2.4, 0.8, n)[:, None, None]
    for _ in range(5):
        x = int(rng.integers(0, n))
        cv2.line(glass, (x, 0), (x - 90, n), (0.42, 0.46, 0.5), int(rng.integers(3, 18)), cv2.LINE_AA)
    cv2.rectangle(glass, (70, 140), (100, 255), (0.10, 0.10, 0.11), -1)
    cv2.rectangle(glass, (160, 140), (190, 255), (0.10, 0.10, 0.11), -1)
    frame = glass.copy()
    tiles["glass"] = _u8(glass)
    for x in (0, 118, 240):
        frame[:, x : x + 14] = 0.07
    frame[:10], frame[-8:] = 0.07, 0.07
    tiles["sideglass"] = _u8(frame)
    tiles["lamp"] = _u8(_rgb((0.9, 0.9, 0.9), noise(rng, 64, [(8, 0.15), (32, 0.1)])))
    plate = np.full((64, 64, 3), 0.9, np.float32)
    for x in range(6, 58, 9):
        plate[16:48, x : x + int(rng.integers(2, 6))] = 0.12
    tiles["plate"] = _u8(plate)
    wheel = np.full((n, n, 3), 0.07, np.float32)
    wheel *= (1 + noise(rng, n, [(64, 0.2)]))[..., None]
    cv2.circle(wheel, (128, 128), 84, (0.55, 0.56, 0.58), -1, cv2.LINE_AA)
    cv2.circle(wheel, (128, 128), 66, (0.22, 0.22, 0.23), -1, cv2.LINE_AA)
    for k in range(5):
        a = k * 1.2566
        end = (int(128 + 78 * np.cos(a)), int(128 + 78 * np.sin(a)))
        cv2.line(wheel, (128, 128), end, (0.6, 0.61, 0.63), 18, cv2.LINE_AA)
    cv2.circle(wheel, (128, 128), 18, (0.4, 0.4, 0.42), -1, cv2.LINE_AA)
    alpha = np.zeros((n, n), np.uint8)
    cv2.circle(alpha, (128, 128), 124, 255, -1)
    tiles["wheel"], alphas["wheel"] = _u8(wheel), alpha


def make_atlas(rng: np.random.Generator, facades: int = 7) -> Atlas:
    """Every tile of one world."""
    tiles, alphas = ground_tiles(rng), {}
    tiles.update(surface_tiles(rng))
    for k in range(facades):
        tiles[f"facade{k}"] = facade(rng)
    tiles["shops"] = shops(rng)
    leaf_tiles(rng, tiles, alphas)
    car_tiles(rng, tiles, alphas)
    return Atlas(tiles, alphas)
