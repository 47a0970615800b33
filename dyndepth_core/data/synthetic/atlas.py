"""Texture atlas: all tiles and mip levels in one image, sampled for many pixels at once."""

from __future__ import annotations

import cv2
import numpy as np

_PAD = 2  # texels of wrapped border, so that bilinear lookups at a tile's edge see its other side
_ROW = 512  # cv2.remap takes 2-D maps: flat arrays are folded into rows of this length


class Atlas:
    """Square power-of-two RGB tiles (with optional alpha), repeated in both directions.

    Texture coordinates count repeats: u grows to the right, v downwards in the tile.
    """

    def __init__(self, tiles: dict[str, np.ndarray], alphas: dict[str, np.ndarray]):
        self.ids = {name: k for k, name in enumerate(tiles)}
        sizes = np.array([tile.shape[0] for tile in tiles.values()])
        self.size = sizes.astype(np.float32)
        self.levels = (np.log2(sizes).astype(int) - 1).astype(np.int32)  # the last is 4 texels wide
        self.first = np.concatenate([[0], np.cumsum(self.levels)[:-1]]).astype(np.int32)
        blocks, alpha_blocks = [], []
        for name, tile in tiles.items():
            alpha = alphas.get(name)
            for level in range(self.levels[self.ids[name]]):
                side = tile.shape[0] >> level
                blocks.append(cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA))
                alpha_blocks.append(None if alpha is None else _alpha_level(alpha, side))
        self._pack(blocks, alpha_blocks)

    def _pack(self, blocks: list[np.ndarray], alphas: list[np.ndarray | None]) -> None:
        sides = np.array([block.shape[0] for block in blocks])
        width, x, y, shelf = 2200, 0, 0, 0
        place = np.zeros((len(blocks), 2), np.int64)
        for k in np.argsort(-sides, kind="stable"):
            full = sides[k] + 2 * _PAD
            if x + full > width:
                x, y, shelf = 0, y + shelf, 0
            place[k] = x, y
            x, shelf = x + full, max(shelf, full)
        self.image = np.zeros((y + shelf, width, 3), np.uint8)
        self.alpha = np.full((y + shelf, width), 255, np.uint8)
        for (x, y), block, alpha in zip(place, blocks, alphas, strict=True):
            full = block.shape[0] + 2 * _PAD
            wrapped = np.pad(block, ((_PAD, _PAD), (_PAD, _PAD), (0, 0)), mode="wrap")
            self.image[y : y + full, x : x + full] = wrapped
            if alpha is not None:
                self.alpha[y : y + full, x : x + full] = np.pad(alpha, _PAD, mode="wrap")
        self.side = sides.astype(np.float32)
        self.x = (place[:, 0] + _PAD - 0.5).astype(np.float32)
        self.y = (place[:, 1] + _PAD - 0.5).astype(np.float32)

    def _lookup(self, block: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        side = self.side[block]
        x = (self.x[block] + u * side).astype(np.float32, copy=False)
        y = (self.y[block] + v * side).astype(np.float32, copy=False)  # remap misreads float64
        count = x.size
        if count == 0:
            return np.zeros((0, 3), np.uint8)
        rows = -(-count // _ROW)
        if rows * _ROW != count:
            x = np.concatenate([x, np.zeros(rows * _ROW - count, np.float32)])
            y = np.concatenate([y, np.zeros(rows * _ROW - count, np.float32)])
        out = cv2.remap(self.image, x.reshape(rows, _ROW), y.reshape(rows, _ROW), cv2.INTER_LINEAR)
        return out.reshape(-1, 3)[:count]

    def sample(
        self, tile: np.ndarray | int, u: np.ndarray, v: np.ndarray, rho: np.ndarray
    ) -> np.ndarray:
        """Trilinear colours (N, 3) in 0..255; rho is the footprint in repeats per sample."""
        size, levels, first = self.size[tile], self.levels[tile], self.first[tile]
        lod = np.log2(np.maximum(rho * size, 1.0))
        lod = np.minimum(lod, (levels - 1).astype(np.float32))
        low = lod.astype(np.int32)
        u = u - np.floor(u)
        v = v - np.floor(v)
        fine = self._lookup(first + low, u, v).astype(np.float32)
        coarse = self._lookup(first + np.minimum(low + 1, levels - 1), u, v)
        fine += (lod - low.astype(np.float32))[:, None] * (coarse - fine)
        return fine

    def opaque(self, tile: np.ndarray, u: np.ndarray, v: np.ndarray, rho: np.ndarray) -> np.ndarray:
        """Whether the nearest texel of the nearest mip level is opaque; (N,) bool."""
        lod = np.log2(np.maximum(rho * self.size[tile], 1.0)) + 0.5
        block = self.first[tile] + np.minimum(lod.astype(np.int32), self.levels[tile] - 1)
        side = self.side[block]
        x = self.x[block] + (u - np.floor(u)) * side + 0.5
        y = self.y[block] + (v - np.floor(v)) * side + 0.5
        return self.alpha[y.astype(np.int32), x.astype(np.int32)] > 127


def _alpha_level(alpha: np.ndarray, side: int) -> np.ndarray:
    """Shrink a mask but keep its covered share, or leaves would vanish in the distance."""
    small = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA)
    if side == alpha.shape[0]:
        return small
    share = float((alpha > 127).mean())
    threshold = float(np.quantile(small, 1.0 - share)) if 0 < share < 1 else 127.0
    return np.where(small > min(threshold, 254.0), 255, 0).astype(np.uint8)
