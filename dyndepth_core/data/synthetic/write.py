"""Writes clips of the synthetic world as recordings with ground truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dyndepth_core.data.writer import RecordingWriter

from .world import World


def write_clip(
    path: str | Path,
    world: World,
    frames: int | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> None:
    """Render `frames` frames (default: the world's own number) into a recording at `path`.

    Images are JPEG, everything else exact; `on_frame(i)` is called after frame i is on disk.
    Raises ValueError when no number of frames is known.
    """
    count = world.frames if frames is None else frames
    if not count or count < 1:
        raise ValueError("write_clip: the number of frames is not known, give frames >= 1")
    with RecordingWriter(path, world.calib, image_format="jpg") as writer:
        for i in range(count):
            frame = world.render(i)
            writer.add(
                frame.image,
                frame.stamp_ns,
                depth=frame.depth,
                instances=frame.instances,
                dynamic=frame.dynamic,
                velocity=frame.velocity,
                T_world_cam=frame.T_world_cam,
                odometry=frame.odometry,
            )
            if on_frame is not None:
                on_frame(i)
