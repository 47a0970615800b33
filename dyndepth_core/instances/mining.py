"""Masks of moving objects without labels: from the residual motion that a network sees."""

from __future__ import annotations

import numpy as np
import torch

from dyndepth_core.data.recording import DamagedImage
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.targets import frame_stride
from dyndepth_core.data.transforms import image_tensor
from dyndepth_core.geometry.flow import residual_velocity
from dyndepth_core.instances.motion import MotionTracker
from dyndepth_core.methods.base import InferenceGraph


@torch.no_grad()
def mine(
    graph: InferenceGraph,
    threshold: float,
    source: SampleSource,
    video: int,
    K: np.ndarray | None = None,
) -> list[np.ndarray | None]:
    """Ids (H, W) at network size of what moves in every frame of a recording; None where the graph
    sees no earlier frame.

    The frames are paired at the rate of the samples. threshold: speed from which something is
    dynamic, in the graph's units of depth per second; K (3, 3) at network size, by default that of
    the recording. ValueError when the graph knows no residual motion.
    """
    recording, device = source.recordings[video], next(graph.parameters()).device
    found: list[np.ndarray | None] = [None] * len(recording)
    if len(recording) < 2:
        return found
    K = source.K(video) if K is None else K
    K_tensor = torch.tensor(K, dtype=torch.float32, device=device)[None]
    stride, period = frame_stride(recording, source.config.target_rate_hz)
    for first in range(stride):
        tracker, before, state, stamp = MotionTracker(birth=1), None, None, 0
        for i in range(first, len(recording), stride):
            try:
                image = image_tensor(source.frame(video, i)).to(device)
            except DamagedImage:
                before = state = None
                continue
            now = int(recording.stamps_ns[i])
            if before is not None and not 0.5 < (now - stamp) / 1e9 / (stride * period) < 2:
                before = state = None
            depth, residual, T, state = graph(image, before, K_tensor, state)
            if before is not None:
                if residual is None:
                    raise ValueError(
                        "the model that is to find what moves knows no residual motion: give one "
                        "trained by residual_motion"
                    )
                seconds = torch.full((1,), (stamp - now) / 1e9, device=device)
                velocity = residual_velocity(residual, T, seconds)[0].permute(1, 2, 0)
                motion = tracker.step(
                    np.ascontiguousarray(velocity.cpu().numpy()), depth[0, 0].cpu().numpy(), K,
                    T[0].double().cpu().numpy(), now, stamp, threshold,
                )  # fmt: skip
                found[i] = motion.ids
            before, stamp = image, now
    return found
