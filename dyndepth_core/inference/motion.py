"""What else moves, and how the camera moved: from the network's output to what users need."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from dyndepth_core.geometry.flow import residual_velocity
from dyndepth_core.instances.motion import Motion, MotionTracker, MovingObject
from dyndepth_core.methods.base import SPEED_THRESHOLD

from .model_meta import ModelMeta
from .output import OutputPlan

USUAL_THRESHOLD = 1.0  # what moves at 1 m/s is dynamic; units of a model are about metres


class MotionReader:
    """Residual translations of the network -> Motion of the image that is handed out."""

    def __init__(self, meta: ModelMeta) -> None:
        self._threshold = meta.thresholds.get(SPEED_THRESHOLD, USUAL_THRESHOLD)
        self._tracker = MotionTracker()

    def clear(self) -> None:
        """Forget the objects seen so far."""
        self._tracker.clear()

    def read(
        self,
        depth: Tensor,
        residual: Tensor,
        T_src_tgt: Tensor,
        plan: OutputPlan,
        stamps_ns: tuple[int, int],
        scale: float,
    ) -> Motion:
        """Motion of one image of the network, size and pixels those of `plan`.

        depth (h, w), residual (3 or 4, h, w), T_src_tgt (4, 4) as the network gives them, see
        InferenceGraph, lengths yet to be multiplied by scale; stamps_ns: of this image (tgt), and
        of the earlier one (src).
        """
        residual, likely = residual[:3], residual[3:]
        seconds = torch.full((1,), (stamps_ns[1] - stamps_ns[0]) / 1e9, device=residual.device)
        field = residual_velocity(residual.float()[None], T_src_tgt.float()[None], seconds)[0]
        field = field * scale
        T = T_src_tgt.to("cpu", torch.float64).numpy()
        T[:3, 3] *= scale
        rows, cols = plan.fit.valid  # objects are found at the size at which the network saw them
        maps = torch.cat((depth.float()[None] * scale, field, likely.float()))
        seen = torch.full_like(maps, torch.nan)
        seen[:, rows, cols] = maps[:, rows, cols]
        host = seen.cpu().numpy()
        velocity = np.ascontiguousarray(host[1:4].transpose(1, 2, 0))
        K = plan.K_network[0].to("cpu", torch.float64).numpy()
        motion = self._tracker.step(
            velocity, host[0], K, T, *stamps_ns, self._threshold * scale,
            host[4] if len(likely) else None,
        )  # fmt: skip
        if plan.output_size == "model":
            return motion
        return _enlarged(motion, field, K, plan)


def _enlarged(motion: Motion, field: Tensor, K: np.ndarray, plan: OutputPlan) -> Motion:
    """Motion of the network-size image with intrinsics K at the plan's size."""
    probability = torch.from_numpy(motion.probability).to(plan.device)
    ids = plan.labels(np.where(motion.mask, motion.ids + 1, 0))  # one image for both
    return Motion(
        plan.field(field).cpu().numpy(),
        plan.field(probability[None])[..., 0].cpu().numpy(),
        ids > 0,
        np.maximum(ids - 1, 0),
        [_with_box(found, K, plan.K) for found in motion.objects],
    )


def _with_box(found: MovingObject, K: np.ndarray, K_out: np.ndarray) -> MovingObject:
    """The same with its box in the pixels of another camera at the same place."""
    scale = np.array([K_out[0, 0] / K[0, 0], K_out[1, 1] / K[1, 1]])
    corners = [
        K_out[:2, 2] + (np.array(c) - K[:2, 2]) * scale for c in (found.box[:2], found.box[2:])
    ]
    return replace(found, box=tuple(float(x) for x in np.concatenate(corners)))


@dataclass(frozen=True)
class EgoState:
    """Where the camera is and how it moves.

    T_start_cam (4, 4): its coordinates to those of the first one. linear, angular (3,): velocity in
    its own axes, units of depth per second and rad/s.
    """

    T_start_cam: np.ndarray
    linear: np.ndarray
    angular: np.ndarray


class EgoPath:
    """Adds up ego-motion from frame to frame; it drifts, as every odometry does."""

    def __init__(self) -> None:
        self._T, self._stamp_ns = np.eye(4), None

    def step(self, T_src_tgt: np.ndarray | None, stamp_ns: int) -> EgoState | None:
        """State at the frame tgt, from its motion to the frame given last; None and a new start
        where that is unknown, or the stamps did not advance.

        T_start_tgt = T_start_src T_src_tgt, velocity t / dt, angular velocity log(R) / dt.
        """
        last, self._stamp_ns = self._stamp_ns, stamp_ns
        if T_src_tgt is None or last is None or stamp_ns <= last:
            self._T = np.eye(4)
            return None
        seconds = (stamp_ns - last) / 1e9
        self._T = self._T @ T_src_tgt
        u, _, v = np.linalg.svd(self._T[:3, :3])  # rounding must not add up
        self._T[:3, :3] = u @ v
        R = T_src_tgt[:3, :3]
        angular = cv2.Rodrigues(R)[0][:, 0] / seconds
        linear = R.T @ T_src_tgt[:3, 3] / seconds
        return EgoState(self._T.copy(), linear, angular)
