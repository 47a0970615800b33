"""Tiles of what stands and moves in the street: surfaces, leaves, cars."""

from __future__ import annotations

import cv2
import numpy as np

from .noise import noise, rgb, u8


def surface_tiles(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Roofs, bark, hedge, fences' planks, plain grained surfaces, distant windows."""
    tiles, n = {}, 256
    tiles["plain"] = u8(rgb((0.92, 0.92, 0.92), noise(rng, 128, [(128, 0.02), (16, 0.02)])))
    roof = noise(rng, n, [(256, 0.1), (32, 0.08), (8, 0.08)])
    roof[::16] -= 0.4
    roof[1::16] -= 0.25
    roof[:, ::16] -= 0.15
    tiles["roof"] = u8(rgb((0.62, 0.60, 0.58), roof))
    bark = noise(rng, n, [(256, 0.15), (64, 0.12)])
    bark += 0.3 * cv2.resize(rng.standard_normal((4, n)).astype(np.float32), (n, n))
    tiles["bark"] = u8(rgb((0.33, 0.27, 0.21), bark))
    hedge = noise(rng, n, [(256, 0.3), (128, 0.3), (32, 0.2), (8, 0.1)])
    tiles["hedge"] = u8(rgb((0.22, 0.33, 0.14), hedge, 0.05 * noise(rng, n, [(32, 1.0)])))
    plank = noise(rng, n, [(256, 0.06), (64, 0.06), (8, 0.05)])
    plank += np.repeat(rng.normal(0, 0.12, 16), n // 16)[None].astype(np.float32)
    plank[:, :: n // 16] -= 0.45
    tiles["plank"] = u8(rgb((0.52, 0.42, 0.32), plank))
    tiles["cloth"] = u8(rgb((0.9, 0.9, 0.9), noise(rng, 128, [(128, 0.08), (32, 0.1), (8, 0.1)])))
    sign = np.full((128, 128, 3), 0.92, np.float32)
    for _ in range(9):
        a, b = rng.integers(8, 110, 2)
        sign[a : a + 5, b : b + int(rng.integers(5, 30))] = 0.15
    tiles["panel"] = u8(sign)
    for k in range(3):  # advertising, posters
        art = rng.uniform(0.1, 0.9, 3) * (1 + noise(rng, 128, [(4, 0.5), (16, 0.3)])[..., None])
        cv2.circle(
            art,
            (int(rng.integers(30, 98)), 60),
            int(rng.integers(14, 40)),
            rng.uniform(0, 1, 3).tolist(),
            -1,
            cv2.LINE_AA,
        )
        for y in range(96, 120, 8):
            art[y : y + 4, 12 : int(rng.integers(40, 118))] = rng.uniform(0, 1)
        tiles[f"poster{k}"] = u8(art)
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
        tiles[f"leaf{k}"], alphas[f"leaf{k}"] = u8(image), alpha
    image = rgb((0.22, 0.29, 0.15), noise(rng, n, [(128, 0.3), (32, 0.25), (8, 0.15)]))
    alpha = np.zeros((n, n), np.uint8)
    edge = np.abs(noise(rng, n, [(4, 0.35), (16, 0.2), (64, 0.12), (128, 0.08)])[0]) * 0.8
    for x in range(n):
        alpha[int(n * min(edge[x], 0.9)) :, x] = 255
    tiles["treeline"], alphas["treeline"] = u8(image), alpha


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
    tiles["carside"] = u8(side)
    for name in ("carfront", "carrear"):
        end = np.full((n, n, 3), 0.9, np.float32) * np.linspace(1.05, 0.78, n)[:, None, None]
        if name == "carfront":
            end[80:130, 70:186] = 0.12
            end[80:130:8, 70:186] = 0.3
            end[120:136, 118:138] = 0.7
        end[170:] *= 0.5
        end[150:153] *= 0.5
        end[196:216, 30:226] *= 0.4
        tiles[name] = u8(end)
    glass = np.ones((n, n, 3), np.float32) * np.array([0.16, 0.19, 0.22])
    glass *= np.linspace(2.4, 0.8, n)[:, None, None]
    for _ in range(5):
        x = int(rng.integers(0, n))
        cv2.line(
            glass, (x, 0), (x - 90, n), (0.42, 0.46, 0.5), int(rng.integers(3, 18)), cv2.LINE_AA
        )
    cv2.rectangle(glass, (70, 140), (100, 255), (0.10, 0.10, 0.11), -1)
    cv2.rectangle(glass, (160, 140), (190, 255), (0.10, 0.10, 0.11), -1)
    frame = glass.copy()
    tiles["glass"] = u8(glass)
    for x in (0, 118, 240):
        frame[:, x : x + 14] = 0.07
    frame[:10], frame[-8:] = 0.07, 0.07
    tiles["sideglass"] = u8(frame)
    tiles["lamp"] = u8(rgb((0.9, 0.9, 0.9), noise(rng, 64, [(8, 0.15), (32, 0.1)])))
    plate = np.full((64, 64, 3), 0.9, np.float32)
    for x in range(6, 58, 9):
        plate[16:48, x : x + int(rng.integers(2, 6))] = 0.12
    tiles["plate"] = u8(plate)
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
    tiles["wheel"], alphas["wheel"] = u8(wheel), alpha
