"""Robust bundle adjustment of many short windows that share one unknown pinhole camera.

Every window has a middle frame; its points are the rays of their pixels there, with an inverse
depth rho >= 0 each. Frame j of a window sees X_j = R_j K^-1 (u, v, 1) + rho t_j. The shared camera
is theta = (log f, a, cx, cy): fx = f e^(a/2), fy = f e^(-a/2), in pixels.

All arrays are float64 and padded: B windows, M frames beside the middle one, N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOTION = 6  # axis times angle, then translation
SHARED = 4
RHO_PRIOR, MOTION_PRIOR = 1e-3, 1e-6  # keep what nothing is known of where it is


@dataclass(frozen=True)
class Observations:
    """points (B, N, 2) in the middle frames, seen (B, M, N, 2) in the others, pixels; valid (B, M,
    N) bool.
    """

    points: np.ndarray
    seen: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class State:
    """R (B, M, 3, 3), t (B, M, 3), rho (B, N) >= 0; camera theta (4,)."""

    R: np.ndarray
    t: np.ndarray
    rho: np.ndarray
    camera: np.ndarray


@dataclass(frozen=True)
class Prior:
    """Gaussian on theta: mean (4,) and weight (4,), one over the variance in units of the noise;
    a weight of infinity holds the value.
    """

    mean: np.ndarray
    weight: np.ndarray


def exp_rotation(v: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) from axis times angle (..., 3); Rodrigues."""
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    cross = cross_matrix(v)
    first = np.sinc(angle / np.pi)
    second = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.eye(3) + first * cross + second * (cross @ cross)


def cross_matrix(v: np.ndarray) -> np.ndarray:
    """[v]_x (..., 3, 3) of v (..., 3)."""
    x, y, z = np.moveaxis(v, -1, 0)
    zero = np.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return np.stack([np.stack(row, -1) for row in rows], -2)


def focals(camera: np.ndarray) -> np.ndarray:
    """(fx, fy) of theta."""
    return np.exp(camera[0] + 0.5 * camera[1] * np.array((1.0, -1.0)))


def project(data: Observations, state: State) -> tuple[np.ndarray, ...]:
    """Rays (B, 1, N, 3), turned rays (B, M, N, 3), X_j (B, M, N, 3), pixels (B, M, N, 2)."""
    focal, centre = focals(state.camera), state.camera[2:]
    rays = np.concatenate(((data.points - centre) / focal, np.ones_like(data.points[..., :1])), -1)
    rays = rays[:, None]
    turned = rays @ state.R.swapaxes(-1, -2)
    X = turned + state.rho[:, None, :, None] * state.t[:, :, None]
    depth = np.maximum(X[..., 2:], 0.05)
    return rays, turned, X, X[..., :2] / depth * focal + centre


def errors(data: Observations, state: State) -> np.ndarray:
    """Squared pixel distances (B, M, N); 0 where nothing is seen."""
    pixels = project(data, state)[3]
    return np.where(data.valid, ((pixels - data.seen) ** 2).sum(-1), 0.0)


def robust_cost(squares: np.ndarray, noise: float) -> np.ndarray:
    """Cauchy: sum of log(1 + (r / s)^2) s^2 / 2 per window (B,), over noise^2; s = 2 noise."""
    scale = 2 * noise
    return 0.5 * (scale / noise) ** 2 * np.log1p(squares / scale**2).sum((1, 2))


@dataclass(frozen=True)
class Linear:
    """Normal equations of the windows after the points are eliminated, and what gives the points
    back: A (B, P, P) and b (B, P) over P = 6 M motions and 4 shared values; H_rho (B, N), g_rho
    (B, N), H_mix (B, P, N).
    """

    A: np.ndarray
    b: np.ndarray
    H_rho: np.ndarray
    g_rho: np.ndarray
    H_mix: np.ndarray


def linearise(data: Observations, state: State, noise: float, damping: np.ndarray) -> Linear:
    """Gauss-Newton with weights 1 / (1 + (r / s)^2); damping (B,): Levenberg-Marquardt."""
    rays, turned, X, pixels = project(data, state)
    focal, centre = focals(state.camera), state.camera[2:]
    windows, frames, count = data.valid.shape
    residual = pixels - data.seen
    squares = (residual**2).sum(-1)
    weight = data.valid / (1 + squares / (2 * noise) ** 2) / noise**2
    weight = weight * (X[..., 2] > 0.05)

    depth = np.maximum(X[..., 2], 0.05)
    slope = (pixels - centre) / depth[..., None]
    # d pixel / d X: rows (fx / Z, 0, -px / Z), (0, fy / Z, -py / Z)
    D = np.zeros((*depth.shape, 2, 3))
    D[..., 0, 0], D[..., 1, 1] = focal[0] / depth, focal[1] / depth
    D[..., 2] = -slope
    J = np.empty((windows, frames, count, 2, MOTION + SHARED))
    J[..., :3] = -D @ cross_matrix(turned)
    J[..., 3:6] = D * state.rho[:, None, :, None, None]
    DR = D @ state.R[:, :, None]
    by_ray = DR[..., :2]  # d pixel / d (x, y) of the ray
    ray = np.broadcast_to(rays[..., :2], (*depth.shape, 2))
    moved = -by_ray * ray[..., None, :]
    image = pixels - centre
    J[..., 6] = image + moved.sum(-1)
    J[..., 7] = 0.5 * (image * (1, -1) + moved[..., 0] - moved[..., 1])
    J[..., 8:] = np.eye(2) - by_ray / focal
    J_rho = (D @ state.t[:, :, None, :, None])[..., 0]

    P = frames * MOTION + SHARED
    A, b = np.zeros((windows, P, P)), np.zeros((windows, P))
    weighted = J * weight[..., None, None]
    blocks = np.einsum("bmnri,bmnrj->bmij", weighted, J, optimize=True)
    g = np.einsum("bmnri,bmnr->bmi", weighted, residual, optimize=True)
    mix = np.einsum("bmnri,bmnr->bmin", weighted, J_rho, optimize=True)
    H_mix = np.zeros((windows, P, count))
    for j in range(frames):
        at = slice(MOTION * j, MOTION * (j + 1))
        A[:, at, at] = blocks[:, j, :6, :6]
        A[:, at, -SHARED:] = blocks[:, j, :6, 6:]
        A[:, -SHARED:, at] = blocks[:, j, 6:, :6]
        b[:, at] = -g[:, j, :6]
        H_mix[:, at] = mix[:, j, :6]
    A[:, -SHARED:, -SHARED:] = blocks[:, :, 6:, 6:].sum(1)
    b[:, -SHARED:] = -g[:, :, 6:].sum(1)
    H_mix[:, -SHARED:] = mix[:, :, 6:].sum(1)
    H_rho = (weight[..., None] * J_rho**2).sum((1, 3))
    g_rho = (weight[..., None] * J_rho * residual).sum((1, 3))

    # A point at infinity that would go beyond stays there: it is no unknown.
    free = (state.rho > 0) | (g_rho < 0)
    H_rho = np.where(free, (H_rho + RHO_PRIOR) * (1 + damping[:, None]), np.inf)
    over = H_mix / H_rho[:, None]
    # einsum, not @: the threads that BLAS starts for these small products cost ten times their work
    b = b + np.einsum("bpn,bn->bp", over, g_rho)
    diagonal = np.einsum("bii->bi", A).copy()
    A = A - np.einsum("bpn,bqn->bpq", over, H_mix)
    A += np.einsum("bi,ij->bij", diagonal * damping[:, None], np.eye(P))
    motion = np.arange(P) < P - SHARED
    A += np.diag(MOTION_PRIOR * motion)
    # Gauge: the window's scale is that of its longest translation.
    length = np.linalg.norm(state.t, axis=-1)
    far = length.argmax(1)
    for k in range(windows):
        at = slice(MOTION * far[k] + 3, MOTION * far[k] + 6)
        A[k, at, at] += 1e6 * np.outer(state.t[k, far[k]], state.t[k, far[k]])
    return Linear(A, b, H_rho, g_rho, H_mix)


def moved(state: State, linear: Linear, step: np.ndarray) -> State:
    """The state after a step (B, P) of motions and camera, the points along with it."""
    windows, frames = state.t.shape[:2]
    own = step[:, :-SHARED].reshape(windows, frames, MOTION)
    drho = -(linear.g_rho + np.einsum("bp,bpn->bn", step, linear.H_mix)) / linear.H_rho
    t, rho = state.t + own[..., 3:], np.maximum(state.rho + drho, 0)
    length = np.maximum(np.linalg.norm(t, axis=-1).max(1), 1e-9)
    return State(
        exp_rotation(own[..., :3]) @ state.R,
        t / length[:, None, None],
        rho * length[:, None],
        state.camera + step[0, -SHARED:],
    )


def fit_motions(
    data: Observations, state: State, noise: float, steps: int
) -> tuple[State, np.ndarray]:
    """Levenberg-Marquardt on motions and points at the state's camera, every window by itself.

    Returns the state and the cost (B,) of the windows.
    """
    damping = np.full(len(data.points), 1e-3)
    cost = robust_cost(errors(data, state), noise)
    for _ in range(steps):
        linear = linearise(data, state, noise, damping)
        step = np.zeros(linear.b.shape)
        own = slice(0, -SHARED)
        step[:, own] = np.linalg.solve(linear.A[:, own, own], linear.b[:, own, None])[..., 0]
        new = moved(state, linear, step)
        new_cost = robust_cost(errors(data, new), noise)
        better = new_cost < cost
        state = State(
            np.where(better[:, None, None, None], new.R, state.R),
            np.where(better[:, None, None], new.t, state.t),
            np.where(better[:, None], new.rho, state.rho),
            state.camera,
        )
        gain = np.where(better, cost - new_cost, 0) / np.maximum(cost, 1e-12)
        cost = np.where(better, new_cost, cost)
        damping = np.clip(np.where(better, damping / 5, damping * 8), 1e-7, 1e4)
        if (gain < 1e-5).all() and (damping < 1).all():
            break
    return state, cost


def reduced(linear: Linear) -> tuple[np.ndarray, np.ndarray]:
    """What each window says of the camera alone, its motions and points following: H (B, 4, 4) and
    minus the gradient (B, 4).
    """
    own, cam = slice(0, -SHARED), slice(-SHARED, None)
    rhs = np.concatenate((linear.A[:, own, cam], linear.b[:, own, None]), 2)
    solved = np.linalg.solve(linear.A[:, own, own], rhs)
    H = linear.A[:, cam, cam] - linear.A[:, cam, own] @ solved[..., :SHARED]
    g = linear.b[:, cam] - (linear.A[:, cam, own] @ solved[..., SHARED:])[..., 0]
    return H, g


def fit_camera(
    data: Observations, state: State, noise: float, prior: Prior, steps: int
) -> tuple[State, float]:
    """Levenberg-Marquardt on everything together; returns the state and the cost."""

    def total(state: State) -> float:
        off = state.camera - prior.mean
        held = np.isinf(prior.weight)
        own = 0.5 * (np.where(held, 0, prior.weight) * off**2).sum()
        return float(robust_cost(errors(data, state), noise).sum() + own)

    free = ~np.isinf(prior.weight)
    cost, damping = total(state), 1e-3
    for _ in range(steps):
        linear = linearise(data, state, noise, np.full(len(data.points), damping))
        H, g = reduced(linear)
        off = state.camera - prior.mean
        H, g = H.sum(0)[free][:, free], g.sum(0)[free]
        H = H + np.diag(prior.weight[free])
        g = g - prior.weight[free] * off[free]
        camera = np.zeros(SHARED)
        camera[free] = np.linalg.solve(H, g)
        camera = np.clip(camera, (-0.2, -0.05, -20, -20), (0.2, 0.05, 20, 20))
        own, cam = slice(0, -SHARED), slice(-SHARED, None)
        rhs = linear.b[:, own] - linear.A[:, own, cam] @ camera
        motion = np.linalg.solve(linear.A[:, own, own], rhs[..., None])[..., 0]
        step = np.concatenate((motion, np.tile(camera, (len(motion), 1))), 1)
        new = moved(state, linear, step)
        new_cost = total(new)
        if new_cost < cost:
            gain, state, cost = (cost - new_cost) / cost, new, new_cost
            damping = max(damping / 5, 1e-7)
            if gain < 1e-6:
                break
        else:
            damping *= 8
            if damping > 1e3:
                break
    return state, cost
