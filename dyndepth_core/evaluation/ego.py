"""Ego-motion against ground-truth poses: trajectory error with one scale per clip, and rotation
error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def chain(T_src_tgt: Sequence[np.ndarray]) -> np.ndarray:
    """Poses (N + 1, 4, 4) T_first_k of a clip from N motions T_{k-1}_k (4, 4), each older frame
    from newer."""
    poses = [np.eye(4)]
    for motion in T_src_tgt:
        poses.append(poses[-1] @ np.asarray(motion, dtype=np.float64))
    return np.stack(poses)


def fit_scale(p: np.ndarray, q: np.ndarray) -> float:
    """Least-squares s of s p = q for positions (N, 3) from the same start; 0 when p stands."""
    energy = float((p * p).sum())
    return float((p * q).sum()) / energy if energy > 0 else 0.0


def track(T_world_cam: Sequence[np.ndarray]) -> np.ndarray:
    """Positions (N, 3) in the frame of the first camera: x right, y down, z ahead."""
    return (np.linalg.inv(T_world_cam[0]) @ np.stack(T_world_cam))[:, :3, 3]


def ego_errors(
    T_src_tgt: Sequence[np.ndarray], T_world_cam: Sequence[np.ndarray]
) -> dict[str, float]:
    """ATE and rotation RPE of one clip: {ate_m, rpe_deg, scale}.

    T_src_tgt: N motions from each frame to the one before it; T_world_cam: N + 1 ground-truth
    poses, metres. Both trajectories start at the first frame; one least-squares scale is applied,
    then ate_m is the root mean square distance of positions, rpe_deg the mean angle of the rotation
    error of single steps (Sturm et al. 2012). Raises ValueError when the lengths do not fit.
    """
    if len(T_world_cam) != len(T_src_tgt) + 1 or len(T_src_tgt) == 0:
        raise ValueError(
            f"ego: {len(T_src_tgt)} motions do not fit {len(T_world_cam)} poses; need N and N + 1"
        )
    truth = np.linalg.inv(T_world_cam[0]) @ np.stack(T_world_cam)
    p, q = chain(T_src_tgt)[:, :3, 3], track(T_world_cam)
    scale = fit_scale(p, q)
    ate = float(np.sqrt(((scale * p - q) ** 2).sum(axis=1).mean()))
    angles = [
        _angle_deg((np.linalg.inv(truth[k]) @ truth[k + 1])[:3, :3].T @ np.asarray(T)[:3, :3])
        for k, T in enumerate(T_src_tgt)
    ]
    return {"ate_m": ate, "rpe_deg": float(np.mean(angles)), "scale": scale}


def _angle_deg(R: np.ndarray) -> float:
    """Rotation angle of R; atan2 of its sine and cosine, exact for small angles where acos is
    not."""
    axis = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    return float(np.degrees(np.arctan2(np.linalg.norm(axis), np.trace(R) - 1.0)))
