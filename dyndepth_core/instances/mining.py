"""Masks of moving objects without labels: from the residual motion that a network sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    """Ids (H, W), uint16, at network size of what moves in every frame of a recording; None where
    the graph sees no earlier frame.

    The frames are paired at the rate of the samples. threshold: speed from which something is
    dynamic, in the graph's units of depth per second; K (3, 3) at network size, by default that of
    the recording. ValueError when the graph knows no residual motion.
    """
    recording = source.recordings[video]
    found: list[np.ndarray | None] = [None] * len(recording)
    if len(recording) < 2:
        return found
    stride, _ = frame_stride(recording, source.config.target_rate_hz)
    for first in range(stride):
        tracker = MotionTracker(birth=1)
        for said in walk(graph, source, video, range(first, len(recording), stride), K):
            if said is None or said.velocity is None:
                continue
            velocity = np.ascontiguousarray(said.velocity[0].permute(1, 2, 0).cpu().numpy())
            motion = tracker.step(
                velocity, said.depth[0, 0].cpu().numpy(), said.K, said.T_src_tgt, said.stamp_ns,
                said.previous_ns, threshold, said.likely,
            )  # fmt: skip
            found[said.frame] = motion.ids.astype(np.uint16)  # of all frames: half the memory
    return found


@dataclass(frozen=True)
class Said:
    """What a graph says of one frame of a recording.

    image uint8 (H, W, 3) RGB and K (3, 3) at network size; depth (1, 1, H, W), in the graph's
    units; and of the motion since the frame before, None where there is none to be compared with:
    T_src_tgt (4, 4), float64, src the frame before, and velocity (1, 3, H, W) relative to the
    ground, units of depth per second; likely (H, W), see MotionTracker, None also where the graph
    does not say it. stamp_ns, previous_ns: of the frame and the one before.
    """

    frame: int
    image: np.ndarray
    K: np.ndarray
    depth: torch.Tensor
    T_src_tgt: np.ndarray | None
    velocity: torch.Tensor | None
    likely: np.ndarray | None
    stamp_ns: int
    previous_ns: int


@torch.no_grad()
def walk(
    graph: InferenceGraph,
    source: SampleSource,
    video: int,
    frames: Sequence[int],
    K: np.ndarray | None = None,
) -> Iterator[Said | None]:
    """Frames of a recording, evenly apart, in their order; None for a damaged image. After one and
    after a gap in the stamps nothing is known of the motion. K: see `mine`; ValueError when the
    graph knows no residual motion.
    """
    recording, device = source.recordings[video], next(graph.parameters()).device
    K = source.K(video) if K is None else K
    K_tensor = torch.tensor(K, dtype=torch.float32, device=device)[None]
    stride, period = frame_stride(recording, source.config.target_rate_hz)
    before, state, stamp = None, None, 0
    for frame in frames:
        try:
            pixels = source.frame(video, frame)
        except DamagedImage:
            before = state = None
            yield None
            continue
        image = image_tensor(pixels).to(device)
        now = int(recording.stamps_ns[frame])
        if before is not None and not 0.5 < (now - stamp) / 1e9 / (stride * period) < 2:
            before = state = None
        depth, residual, T, state = graph(image, before, K_tensor, state)
        velocity = likely = T_src_tgt = None
        if before is not None:
            if residual is None:
                raise ValueError(
                    "the model that is to find what moves knows no residual motion: give one "
                    "trained by residual_motion"
                )
            seconds = torch.full((1,), (stamp - now) / 1e9, device=device)
            velocity = residual_velocity(residual[:, :3].float(), T.float(), seconds)
            if residual.shape[1] > 3:
                likely = residual[0, 3].float().cpu().numpy()
            T_src_tgt = T[0].cpu().double().numpy()
        yield Said(frame, pixels, K, depth, T_src_tgt, velocity, likely, now, stamp)
        before, stamp = image, now
