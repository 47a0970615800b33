"""A camera's focal length from point tracks alone, and how well they determine it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dyndepth_core.geometry import bundle
from dyndepth_core.geometry.bundle import Observations, Prior, State

FIELD = (0.35, 2.8)  # focal lengths tried, in image widths (longer sides): 110 to 20 degrees
GRID = 11
ASPECT, CENTRE = 0.02, 0.03  # standard deviations beforehand: log fx / fy; of the mean side
CORRELATED = 5.0  # observations of one track count as a fifth
SYSTEMATIC = 2.0  # errors that all windows share (drift of tracks), over those that differ
LENS = 0.01  # no lens is a pinhole: least standard deviation, of f and of the mean side
FIRST_NOISE = 0.3  # pixels, until it is known
DIRECTIONS = 60


def stack(
    windows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, int]], points: int
) -> Observations:
    """Windows (points (N, 2), seen (M, N, 2), valid (M, N), number of frames before), padded:
    frames before the middle fill the first half, nearest first, those after it the second.

    At most `points` points of each, those seen most often.
    """
    half = max(max(w[3], len(w[1]) - w[3]) for w in windows)
    shape = len(windows), 2 * half, points
    out = Observations(
        np.zeros((shape[0], points, 2)), np.zeros((*shape, 2)), np.zeros(shape, bool)
    )
    for k, (middle, seen, valid, before) in enumerate(windows):
        best = np.sort(np.argsort(-valid.sum(0), kind="stable")[:points])
        n = len(best)
        out.points[k, :n] = middle[best]
        for side, part in ((0, slice(0, before)), (half, slice(before, None))):
            rows = len(seen[part])
            out.seen[k, side : side + rows, :n] = seen[part][:, best]
            out.valid[k, side : side + rows, :n] = valid[part][:, best]
    return out


def first_motions(data: Observations, camera: np.ndarray, noise: float) -> State:
    """Motions and points of every window from nothing: the two nearest frames by the best of many
    directions of translation, the others one by one, each starting from a steady motion.
    """
    windows, frames = data.valid.shape[:2]
    half = frames // 2
    R = np.tile(np.eye(3), (windows, frames, 1, 1))
    t, rho = np.zeros((windows, frames, 3)), np.zeros(data.points.shape[:2])
    for k in range(windows):
        first = half if data.valid[k, half].any() else 0
        turn, t[k, first], rho[k] = _pair(
            data.points[k], data.seen[k, first], data.valid[k, first], camera
        )
        R[k, first] = bundle.exp_rotation(turn)
        other = half - first
        R[k, other] = R[k, first].T
        t[k, other] = -R[k, other] @ t[k, first]
    state = State(R, t, rho, camera)
    rank = np.arange(frames) % half
    for last in range(half):
        if last:
            for j in (last, half + last):
                R1, t1 = state.R[:, j - 1], state.t[:, j - 1]
                if last > 1:
                    R0, t0 = state.R[:, j - 2], state.t[:, j - 2]
                else:
                    R0, t0 = np.eye(3)[None], np.zeros((1, 3))
                step = R1 @ R0.swapaxes(-1, -2)
                state.R[:, j] = step @ R1
                state.t[:, j] = (step @ (t1 - t0)[..., None])[..., 0] + t1
        active = replace(data, valid=data.valid & (rank <= last)[:, None])
        state, _ = bundle.fit_motions(active, state, 3 * noise, 5)
    return state


def _pair(
    points: np.ndarray, seen: np.ndarray, valid: np.ndarray, camera: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation (3,), translation (3,) of length 1 and inverse depths (N,) of a small motion.

    Flow of a ray (x, y): B w + rho A t (Longuet-Higgins and Prazdny 1980). Across A t it holds no
    depth and is linear in w: for each of many t a least-squares problem, reweighted (Jepson and
    Heeger 1992 in their spirit).
    """
    focal = bundle.focals(camera)
    ray = (points - camera[2:]) / focal
    flow = (seen - points) / focal
    x, y = ray.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    B = np.stack((np.stack((-x * y, 1 + x**2, -y), -1), np.stack((-1 - y**2, x * y, x), -1)), 1)
    A = np.stack((np.stack((one, zero, -x), -1), np.stack((zero, one, -y), -1)), 1)
    i = np.arange(DIRECTIONS) + 0.5
    z, turn = i / DIRECTIONS, np.pi * (1 + 5**0.5) * i
    t = np.stack((np.cos(turn) * np.sqrt(1 - z**2), np.sin(turn) * np.sqrt(1 - z**2), z), -1)
    At = np.einsum("nij,dj->dni", A, t)
    across = np.stack((-At[..., 1], At[..., 0]), -1)
    across /= np.linalg.norm(across, axis=-1, keepdims=True) + 1e-9
    C, c = np.einsum("dni,nij->dnj", across, B), np.einsum("dni,ni->dn", across, flow)
    weight, scale = np.broadcast_to(valid.astype(float), c.shape), 1.0 / focal.mean()
    for _ in range(8):
        H = np.einsum("dn,dni,dnj->dij", weight, C, C, optimize=True) + 1e-9 * np.eye(3)
        w = np.linalg.solve(H, np.einsum("dn,dni,dn->di", weight, C, c)[..., None])[..., 0]
        error = np.einsum("dni,di->dn", C, w) - c
        weight = valid / (1 + (error / scale) ** 2)
    best = (np.log1p((error / scale) ** 2) * valid).sum(1).argmin()
    w, At = w[best], At[best]
    rho = ((flow - B @ w) * At).sum(1) / ((At**2).sum(1) + 1e-9)
    sign = 1.0 if (weight[best] * np.sign(rho)).sum() >= 0 else -1.0
    return w, sign * t[best], np.maximum(sign * rho, 0)


@dataclass(frozen=True)
class Estimate:
    """camera (4,): theta of `bundle`; sigma (4,): one standard deviation of log f, log fx / fy, cx
    and cy (pixels); noise of a track's coordinate in pixels; windows whose motions were found.
    """

    camera: np.ndarray
    sigma: np.ndarray
    noise: float
    windows: int


def estimate(
    data: Observations, size: tuple[int, int], noise: float = FIRST_NOISE
) -> Estimate | None:
    """Focal length, aspect and centre of images of size (H, W) from their tracks; None where no
    window's motions are found.

    A scan over focal lengths finds the lowest minimum; from there everything is fitted together.
    sigma is the larger of two: what the noise gives, and what the windows disagree (each window's
    gradient is one draw); then, for f, wide enough for every focal length of the scan that the
    tracks do not refute. A camera that only turns, without moving, is the weak case: depth is then
    free to take up what bends the image.
    """
    height, width = size
    grid = np.log(max(height, width)) + np.linspace(*np.log(FIELD), GRID)
    mean = np.array((0.0, 0.0, (width - 1) / 2, (height - 1) / 2))
    states, costs = _scan(data, grid, mean, noise)
    best = int(costs.sum(1).argmin())
    noise = track_noise(data, states[best])
    good, rigid = rigid_points(data, states[best], noise)
    if not good.any():
        return None
    data = Observations(data.points[good], data.seen[good], (data.valid & rigid[:, None])[good])
    noise = min(noise, track_noise(data, _part(states[best], good)))
    states = [_part(s, good) for s in states]

    side = (height + width) / 2
    spread = np.array((np.inf, ASPECT, CENTRE * side, CENTRE * side))
    known = CORRELATED / spread**2
    found, lowest = bundle.fit_camera(data, states[best], noise, Prior(mean, known), 30)
    H, g = bundle.reduced(bundle.linearise(data, found, noise, np.zeros(len(data.points))))
    inverse = np.linalg.inv(H.sum(0) + np.diag(known))
    scores = len(g) / max(len(g) - 1, 1) * np.einsum("ki,kj->ij", g, g)
    between = inverse @ (scores + CORRELATED * np.diag(known)) @ inverse
    variance = np.maximum(np.diag(between), CORRELATED * np.diag(inverse))
    sigma = np.sqrt(np.minimum(SYSTEMATIC**2 * variance, spread**2))
    sigma = np.maximum(sigma, LENS * np.array((1, 1, side, side)))

    temper = SYSTEMATIC**2 * variance[0] / inverse[0, 0]
    held = np.where(np.isinf(spread), np.inf, known)
    for x, state in zip(grid, states, strict=True):
        _, cost = bundle.fit_camera(data, state, noise, Prior(np.array((x, *mean[1:])), held), 6)
        refuted = np.sqrt(2 * max(cost - lowest, 0) / temper)  # in standard deviations
        if refuted < 3:
            sigma[0] = max(sigma[0], abs(x - found.camera[0]) / max(refuted, 0.5))
    return Estimate(found.camera, sigma, noise, int(good.sum()))


def _scan(
    data: Observations, grid: np.ndarray, mean: np.ndarray, noise: float
) -> tuple[list[State], np.ndarray]:
    """Motions and points at every focal length of the grid, and costs (GRID, B): some from nothing,
    all from those of their neighbours, up and down.
    """
    states: list[State | None] = [None] * len(grid)
    costs = np.full((len(grid), len(data.points)), np.inf)

    def offer(i: int, state: State, steps: int) -> None:
        state, cost = bundle.fit_motions(data, _at_focal(state, grid[i]), noise, steps)
        old = states[i]
        if old is not None:
            better = cost < costs[i]
            state = State(
                np.where(better[:, None, None, None], state.R, old.R),
                np.where(better[:, None, None], state.t, old.t),
                np.where(better[:, None], state.rho, old.rho),
                state.camera,
            )
        states[i], costs[i] = state, np.minimum(cost, costs[i])

    for i in range(1, len(grid), 3):
        camera = np.array((grid[i], *mean[1:]))
        offer(i, first_motions(data, camera, noise), 8)
    for order in (range(1, len(grid)), range(len(grid) - 2, -1, -1)):
        step = order.step
        for i in order:
            if states[i - step] is not None:
                offer(i, states[i - step], 6)
    return states, costs


def track_noise(data: Observations, state: State) -> float:
    """Standard deviation of a coordinate in pixels, from the median distance (Rayleigh)."""
    squares = bundle.errors(data, state)[data.valid]
    used = 1 - (data.valid.any(1).sum() + 6 * data.valid.any(2).sum()) / (2 * data.valid.sum())
    return float(np.clip(np.sqrt(np.median(squares) / (2 * np.log(2) * max(used, 0.1))), 0.05, 1.0))


def rigid_points(data: Observations, state: State, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Windows (B,) bool whose motions were found, because half of their points fit, and points (B,
    N) bool that move with the world.
    """
    errors = np.sqrt(bundle.errors(data, state))
    fits = (errors < 4 * noise) & data.valid
    rigid = 2 * fits.sum(1) >= data.valid.sum(1)
    return 2 * fits.sum((1, 2)) >= data.valid.sum((1, 2)), rigid


def _part(state: State, windows: np.ndarray) -> State:
    return State(state.R[windows], state.t[windows], state.rho[windows], state.camera)


def _at_focal(state: State, log_focal: float) -> State:
    """The state with another focal length; rotations about x and y and sideways translations are
    scaled so that the images move about alike.
    """
    ratio = np.exp(state.camera[0] - log_focal)
    skew = state.R - state.R.swapaxes(-1, -2)
    turn = 0.5 * np.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), -1)
    sine = np.minimum(np.linalg.norm(turn, axis=-1, keepdims=True), 1)
    turn = turn * np.where(sine > 1e-9, np.arcsin(sine) / np.maximum(sine, 1e-9), 1)
    turn = turn * (ratio, ratio, 1)
    camera = np.array((log_focal, *state.camera[1:]))
    t = state.t * (ratio, ratio, 1)
    return State(bundle.exp_rotation(turn), t, state.rho, camera)
