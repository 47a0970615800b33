"""How much memory a stage takes."""

from __future__ import annotations

from pathlib import Path

import torch

PROC = Path("/proc/self")
PEAKS = ("peak_mb", "peak_gpu_mb")


def restart_peaks() -> None:
    """`peaks` are of what comes after this; where the system cannot forget, of the process."""
    try:
        (PROC / "clear_refs").write_text("5")  # proc(5): resets VmHWM
    except OSError:
        pass
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peaks() -> dict[str, float]:
    """Highest resident memory of this process, without its data workers, and highest memory of
    tensors on the GPU where there is one, MB; what the system does not say is not there.
    """
    found = {}
    try:
        lines = (PROC / "status").read_text().splitlines()
        kib = next(int(x.split()[1]) for x in lines if x.startswith("VmHWM:"))
        found["peak_mb"] = kib * 1.024e-3
    except (OSError, StopIteration):
        pass
    if torch.cuda.is_initialized():
        found["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return {name: round(value, 1) for name, value in found.items()}
