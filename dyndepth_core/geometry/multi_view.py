"""Depth of what stands from several images whose motion is known: plane sweep (Collins 1996) and
semi-global matching (Hirschmueller 2008), with nothing to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

PLANES = 64
WINDOW = 5  # pixels, side of the square whose correlation is the cost
NOISE = 4e-5  # variance of grey levels of 0 to 1 below which a window shows nothing
SMALL, LARGE = 0.08, 0.5  # costs of a step of one plane between neighbours, and of a larger one
EDGE = 15.0  # grey levels of 0 to 1 by whose inverse a large step across an edge costs half
NEAR, FAR = 0.6, 4.0  # planes reach from NEAR of the nearest depth expected to FAR of the farthest
# What is sure of its depth, found on tuning vehicles 43, 45, 46, 47: most of (error of the network
# less error of the hint) x share of the pixels
COST = 0.7  # 1 - correlation at most
UNIQUE = 0.15  # any other depth costs so much more, over the four directions
PARALLAX = 1.0  # pixels by which it moves against what is infinitely far, in any image
FACTOR = 3.0  # between its depth and the one expected
OFF = 2.0  # between that factor and what it usually is there: a network that does not know a camera
# is wrong alike all over the image, but what moves is off by itself. So hints are wrong on half as
# much of what moves, and lose 1 to 5 % of what they gain on what stands.
TAIL = 0.2  # of the log of the factor, beyond which a pixel counts less for what is usual
EVERY = 7  # of the pixels are enough for that


@dataclass(frozen=True)
class MultiView:
    """depth (H, W) float32, in the unit of the motions, everywhere; sure (H, W) bool: where it can
    be believed, of what stands.
    """

    depth: np.ndarray
    sure: np.ndarray


def multi_view_depth(
    tgt: np.ndarray,
    others: Sequence[np.ndarray],
    T: np.ndarray,
    K: np.ndarray,
    expected: np.ndarray,
) -> MultiView:
    """Depth of tgt (H, W) from other images of the same camera K (3, 3), grey, float32 in [0, 1].

    T (S, 4, 4): from tgt to each; expected (H, W): a rough depth, as of a network, in the unit of
    T, which says where to look. Images in which most of tgt is out of view do no harm, nor do
    objects that hide something in some of them: a depth is judged by the better half of those that
    show it.
    """
    near, far = np.quantile(expected, (0.01, 0.95))
    inverse = np.linspace(1 / (FAR * far), 1 / (NEAR * near), PLANES).astype(np.float32)
    costs = plane_costs(tgt, others, T, K, inverse)
    return read_depth(costs, semi_global(costs, tgt), inverse, T, K, expected)[0]


def read_depth(
    costs: np.ndarray, paths: np.ndarray, inverse: np.ndarray, T: np.ndarray, K: np.ndarray,
    expected: np.ndarray,
) -> tuple[MultiView, np.ndarray]:  # fmt: skip
    """What costs (D, H, W) of planes of rising inverse depths (D,), see `plane_costs`, and paths
    (H, W, D), see `semi_global`, say; the others: see `multi_view_depth`. Not sure where that lies
    beyond infinity, as inverse may. And bool (H, W): as sure but for being nearer than expected, as
    what stands close by and a network takes for road, and what comes towards the camera.
    """
    best = paths.argmin(2)
    inner = best.clip(1, len(inverse) - 2)
    below, at, above = (
        np.take_along_axis(paths, (inner + o)[..., None], 2)[..., 0] for o in (-1, 0, 1)
    )
    bend = np.maximum(below - 2 * at + above, 1e-9)
    part = np.where(best == inner, ((below - above) / (2 * bend)).clip(-0.5, 0.5), 0.0)
    found = np.interp(best + part, np.arange(len(inverse)), inverse)
    least = 1e-4 * inverse[-1]
    depth = 1 / np.maximum(found, least)
    cost = np.take_along_axis(costs, best[None], 0)[0]
    sure = (cost < COST) & (uniqueness(paths, best) > UNIQUE) & (parallax(depth, T, K) > PARALLAX)
    sure &= found > least
    factor = np.log(depth / expected)
    about = sure & (np.abs(factor) < np.log(FACTOR))
    off = factor - usual_factor(factor, expected, about)
    nearer = sure & (factor < np.log(FACTOR)) & (off < np.log(OFF))
    about &= np.abs(off) < np.log(OFF)
    return MultiView(depth.astype(np.float32), about), nearer & ~about


def uniqueness(paths: np.ndarray, best: np.ndarray) -> np.ndarray:
    """How much more (H, W) any plane costs that is over three from the best (H, W), the cheapest of
    paths (H, W, D).
    """
    far = np.abs(np.arange(paths.shape[2]) - best[..., None]) > 3
    return np.where(far, paths, np.inf).min(2) - paths.min(2)


def usual_factor(factor: np.ndarray, expected: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """What the log of depth over expected (H, W) usually is at a pixel of such an expected depth:
    linear in log expected and in the row, by least squares over `sure` (H, W), reweighted with
    1 / (1 + (off / TAIL)^2). 0 where nothing is sure.
    """
    y = np.broadcast_to(np.linspace(-0.5, 0.5, len(factor))[:, None], factor.shape)
    z = np.log(expected)
    terms = np.stack((np.ones_like(z), z - z.mean(), y), -1)
    A, b = terms[sure][::EVERY], factor[sure][::EVERY]
    weight, found = np.ones(len(b)), np.zeros(terms.shape[-1])
    for _ in range(8):
        root = np.sqrt(weight)
        found = np.linalg.lstsq(A * root[:, None], b * root, rcond=None)[0]
        weight = 1 / (1 + ((A @ found - b) / TAIL) ** 2)
    return terms @ found


def plane_costs(
    tgt: np.ndarray, others: Sequence[np.ndarray], T: np.ndarray, K: np.ndarray, inverse: np.ndarray
) -> np.ndarray:
    """Costs (D, H, W) in [0, 2] of the planes z = 1 / inverse (D,): 1 - normalised correlation of
    windows, mean over the better half of the images that show them; 1 where none does. The other
    arguments: see `multi_view_depth`.
    """
    height, width = tgt.shape
    unseen = np.float32(9.0)
    mean, variance = _moments(tgt)
    K_inv = np.linalg.inv(K)
    y, x = np.mgrid[:height, :width]
    corners = np.array([(u, v, 1.0) for u in (0, width - 1) for v in (0, height - 1)])
    costs = np.empty((len(inverse), height, width), np.float32)
    for plane, best in zip(inverse, costs, strict=True):
        own = []
        for image, T_s in zip(others, T, strict=True):
            H = K @ (T_s[:3, :3] + np.outer(T_s[:3, 3], (0.0, 0.0, plane))) @ K_inv
            warped = cv2.warpPerspective(
                image, H, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT, borderValue=-1e3,
            )  # fmt: skip
            outside = warped < -0.01
            if (corners @ H[2]).min() <= 0:  # the plane is behind that camera there
                outside |= H[2, 0] * x + H[2, 1] * y + H[2, 2] <= 0
            warped[outside] = 0.5
            mean_w, variance_w = _moments(warped)
            cost = 1 - (_mean(warped * tgt) - mean_w * mean) / np.sqrt(variance * variance_w)
            cost[outside] = unseen
            own.append(cost)
        _better_half(own, unseen, best)
    return costs


def _better_half(costs: list[np.ndarray], unseen: np.float32, out: np.ndarray) -> None:
    """out (H, W): mean of the smaller half, rounded up, of the costs (H, W) below `unseen`; 1 where
    there are none. Overwrites the costs; so many times faster than np.sort along a short axis.
    """
    shown = np.sum([cost < unseen for cost in costs], 0, dtype=np.int8)
    total = 0.0
    out.fill(1.0)
    for k in range((len(costs) + 1) // 2):
        for j in range(len(costs) - 1, k, -1):
            smaller = np.minimum(costs[j - 1], costs[j])
            np.maximum(costs[j - 1], costs[j], out=costs[j])
            costs[j - 1] = smaller
        total = total + costs[k]
        np.copyto(out, total / np.float32(k + 1), where=(shown + 1) // 2 == k + 1)


def semi_global(costs: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Costs of paths (H, W, D) that end at each pixel, sum over four directions, from costs
    (D, H, W): L(p, d) = C(p, d) + min(L(q, d), L(q, d +- 1) + SMALL, min L(q) + large) - min L(q),
    q the pixel before; a large step costs less across edges of grey (H, W).
    """
    total = 0.0
    for axis in (0, 1):
        step = np.abs(np.diff(grey, axis=axis, prepend=grey.take([0], axis)))
        large = np.maximum(1.2 * SMALL, LARGE / (1 + EDGE * step)).astype(np.float32)
        volume = np.ascontiguousarray(np.moveaxis(costs.transpose(1, 2, 0), axis, 0))
        large = np.ascontiguousarray(np.moveaxis(large, axis, 0))
        found = _paths(volume, large)
        found += _paths(volume[::-1], np.roll(large[::-1], 1, 0))[::-1]
        total = total + np.moveaxis(found, 0, axis)
    return total


def parallax(depth: np.ndarray, T: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Pixels (H, W), the most of the images, between where a point of depth (H, W) is seen and
    where it would be if it were infinitely far away; T (S, 4, 4), K (3, 3).
    """
    height, width = depth.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(np.float64)
    rays = np.linalg.inv(K) @ np.stack((x, y, np.ones_like(x)))
    most = np.zeros(height * width)
    for T_s in T:
        far = K @ T_s[:3, :3] @ rays
        seen = far + K @ T_s[:3, 3:] / depth.reshape(-1)
        moved = far[:2] / far[2] - seen[:2] / np.maximum(seen[2], 1e-6)
        most = np.maximum(most, np.hypot(*moved))
    return most.reshape(height, width)


def _paths(costs: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Along the first axis of costs (N, L, D); large (N, L)."""
    out = np.empty_like(costs)
    out[0] = before = costs[0]
    for n in range(1, len(costs)):
        least = before.min(1, keepdims=True)
        best = np.minimum(before, least + large[n, :, None])
        np.minimum(best[:, 1:], before[:, :-1] + SMALL, out=best[:, 1:])
        np.minimum(best[:, :-1], before[:, 1:] + SMALL, out=best[:, :-1])
        out[n] = before = costs[n] + (best - least)
    return out


def _mean(image: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(image, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_REPLICATE)


def _moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the window around each pixel."""
    mean = _mean(image)
    return mean, np.maximum(_mean(image * image) - mean * mean, 0) + NOISE
