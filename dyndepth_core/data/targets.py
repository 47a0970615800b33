"""Which frames of a recording can be targets, and with which sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dyndepth_core.data.recording import Recording


def find_targets(
    recording: Recording, target_rate_hz: float, source_offsets: Sequence[int]
) -> list[tuple[int, tuple[int, ...]]]:
    """Targets and their sources: a stride that comes nearest to target_rate_hz, and no source
    across a gap in time.
    """
    stamps = recording.stamps_ns.astype(np.float64) / 1e9
    if len(stamps) < 2:
        return []
    stride, period = frame_stride(recording, target_rate_hz)
    found = []
    for i in np.flatnonzero(recording.keep):
        sources = tuple(int(i + o * stride) for o in source_offsets)
        if min(sources) < 0 or max(sources) >= len(recording):
            continue
        gaps = [
            (stamps[s] - stamps[i]) / (o * stride * period)
            for s, o in zip(sources, source_offsets, strict=True)
        ]
        if all(0.5 < g < 2 for g in gaps):
            found.append((int(i), sources))
    return found


def frame_stride(recording: Recording, target_rate_hz: float) -> tuple[int, float]:
    """Frames from one to the next at about target_rate_hz, and seconds from frame to frame."""
    period = float(np.median(np.diff(recording.stamps_ns.astype(np.float64) / 1e9)))
    if period <= 0:
        raise ValueError(f"{recording.path}: stamps do not increase; fix stamp_ns in frames.csv")
    return max(1, round(1 / target_rate_hz / period)), period
