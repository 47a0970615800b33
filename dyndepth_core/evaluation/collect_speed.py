"""How many frames a second `dyndepth collect` takes from a raw bag, and whether its memory stays
flat however large the bag is.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2

from dyndepth_core.data.bag import Bag, BagFrame
from dyndepth_core.data.bag_writer import bag_from_recording
from dyndepth_core.data.collect import collect_bag
from dyndepth_core.data.collect_options import CollectOptions, CollectReport
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.synthetic.world import World
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.evaluation.timing import Gate, Row

SIZE = (192, 640)
RENDERED = 60  # different frames in the bag
RUN = 20  # times the bag is repeated within one sequence
PAUSE_NS = 10_000_000_000  # between two sequences
FRAMES_PER_SECOND, GROWTH_MB = 500.0, 50.0
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class RepeatedBag(Bag):
    """A bag whose messages come again and again, later each time: as large as is wanted."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__(path)
        self._times = times

    def frames(
        self,
        topic: str,
        start_ns: int | None = None,
        stop_ns: int | None = None,
        skip: int = 0,
    ) -> Iterator[BagFrame]:
        """The images of a topic `times` times, RUN times without a pause; skip must be 0."""
        shift, number = 0, 0
        for k in range(self._times):
            first = last = step = 0
            for frame in super().frames(topic, start_ns, stop_ns):
                first, step, last = first or frame.bag_ns, frame.bag_ns - last, frame.bag_ns
                number += 1
                yield replace(
                    frame,
                    stamp_ns=frame.stamp_ns + shift,
                    bag_ns=frame.bag_ns + shift,
                    number=number,
                )
            shift += last - first + step + (PAUSE_NS if (k + 1) % RUN == 0 else 0)


def collect(gigabytes: float) -> Row:
    """Collect every frame of a raw mcap of about `gigabytes`, as `dyndepth collect --rate 0` does.

    Sequences are removed when the next one begins, so that the disk holds one at most.
    Raises ValueError where a frame is not kept: the figure would not be that of the work.
    """
    threads = len(os.sched_getaffinity(0))
    cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as the command does
    try:
        with tempfile.TemporaryDirectory(prefix="dyndepth_collect_") as name:
            return _measure(Path(name), gigabytes, threads)
    finally:
        cv2.setNumThreads(cv2_threads)


def _measure(folder: Path, gigabytes: float, threads: int) -> Row:
    bag_path, out = _make_bag(folder), folder / "out"
    per_pass = sum(file.stat().st_size for file in bag_path.glob("*.mcap"))
    times = max(2, round(gigabytes * 1e9 / per_pass))
    warm, report, resident = RENDERED, CollectReport(), []

    def on_frame() -> None:
        if report.frames_in == warm:  # everything is loaded, all buffers are there
            resident.append(_resident_mb())
        if report.frames_in % (RENDERED * RUN) == 1 and len(report.sequences) > 1:
            for old in report.sequences[:-1]:
                shutil.rmtree(out / old["name"], ignore_errors=True)

    with RepeatedBag(bag_path, times) as bag:
        start, busy = time.perf_counter(), time.process_time()
        collect_bag(
            bag, out, "speed", CollectOptions(rate_hz=0), report, on_frame,
            threads=threads, checkpoint=folder / "state.json",
        )  # fmt: skip
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    resident.append(_resident_mb())
    if report.kept != times * RENDERED:
        raise ValueError(f"{report.kept} of {times * RENDERED} frames kept: {report.dropped}")
    rate, growth = report.kept / seconds, resident[-1] - resident[0]
    return Row(
        work="dyndepth collect --rate 0 from a raw mcap",
        input=(
            f"{report.kept} images of {SIZE[1]}x{SIZE[0]} bgr8 with odometry, "
            f"{times * per_pass / 1e9:.1f} GB as the same {per_pass / 1e6:.0f} MB again and again; "
            f"resident memory {resident[0]:.0f} MB after {warm} images, {resident[-1]:.0f} MB at "
            "the end"
        ),
        timer=(
            f"one image: read, decode, judge, JPEG, write, with {threads} threads; no SHA-256 of "
            "bag and recordings"
        ),
        precision="uint8",
        ms=1e3 / rate,
        others={"CPU time of all threads": 1e3 * busy / report.kept},
        gates=[
            Gate("frames a second", rate, FRAMES_PER_SECOND, at_least=True),
            Gate("MB more memory at the end", growth, GROWTH_MB),
        ],
    )


def _make_bag(folder: Path) -> Path:
    world = World(0, 0, SIZE, RENDERED)
    with RecordingWriter(folder / "world", world.calib) as writer:
        for i in range(RENDERED):
            frame = world.render(i)
            writer.add(frame.image, frame.stamp_ns, odometry=frame.odometry)
    return bag_from_recording(Recording(folder / "world"), folder / "bag", encoding="bgr8")


def _resident_mb() -> float:
    """Resident memory of this process; its peak where the system does not say it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
