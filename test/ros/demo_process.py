"""`dyndepth demo` as a process of its own, and the processes it starts."""

import os
import subprocess
import sys
from pathlib import Path

FRAMES = 6


def start_demo(out: Path, *words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "dyndepth_core.cli", "demo", "--out", out, *words]
    return subprocess.Popen(
        [str(w) for w in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "DEMO_UNDER_TEST": str(out)},
    )  # fmt: skip


def output_of(process: subprocess.Popen) -> str:
    """All it printed, once it has ended; one that does not is not left running."""
    try:
        return process.communicate(timeout=280)[0]
    finally:
        process.kill()


def children_of(out: Path) -> dict[int, str]:
    """{pid: command line} of all nodes that the demo writing to `out` started, by its mark."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "dyndepth_ros." in line and f"DEMO_UNDER_TEST={out}" in (
                folder / "environ"
            ).read_bytes().decode(errors="replace").split("\0"):
                found[int(folder.name)] = line
        except OSError:  # ended meanwhile
            continue
    return found
