"""Timing that can be believed: variants measured in turn, medians, and what they were measured
on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import cv2
import numpy as np
import torch

MIN_SAMPLE_MS = 10.0


@dataclass(frozen=True)
class Gate:
    """A promise: `value` (ms or a ratio) is at most, or with `at_least` at least, `limit`."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the promise holds here."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Row:
    """One line of the benchmark.

    ms: median of ours; plain_ms: median of the pinned plain variant, None where it is not at hand;
    speedup: median over rounds of plain / ours, of neighbouring measurements; timer: what is inside
    the timer; others: further medians in ms.
    """

    work: str
    input: str
    timer: str
    precision: str
    ms: float
    plain: str = ""
    plain_ms: float | None = None
    speedup: float | None = None
    others: dict[str, float] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)

    def to_json(self) -> dict:
        """As a dict, every gate with its verdict."""
        gates = [{**asdict(g), "kept": g.kept} for g in self.gates]
        return {**asdict(self), "gates": gates}


def interleave(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    settle: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Milliseconds (rounds,) per variant, measured A B A B so that a busy moment hits all alike.

    Every variant first runs once unmeasured. One that takes less than MIN_SAMPLE_MS is repeated
    within a sample. settle: called inside the timer at the end of a sample (synchronise a GPU).
    """
    repeats = {}
    for name, run in variants.items():
        run()
        settle()
        repeats[name] = max(1, min(100, int(MIN_SAMPLE_MS / max(_once(run, 1, settle), 1e-3))))
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            samples[name].append(_once(run, repeats[name], settle))
    return {name: np.array(values) for name, values in samples.items()}


def _once(run: Callable[[], object], repeats: int, settle: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    settle()
    return (time.perf_counter() - start) * 1e3 / repeats


def environment(device: torch.device) -> dict[str, str | int]:
    """What the figures were measured on: processor, device, runtime, threads."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "opencv": cv2.__version__,
        "opencv_threads": cv2.getNumThreads(),
        "python": platform.python_version(),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
