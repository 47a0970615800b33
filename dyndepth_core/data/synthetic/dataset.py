"""A root of rendered clips with splits and a manifest, by several processes, resumable."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..processes import run_in_processes, sigterm_as_ctrl_c
from ..writer import PART, replace_file, write_manifest, write_splits
from .world import World
from .write import write_clip

MANIFEST = "manifest.json"
RENDERER = 2  # to be raised when the same seed gives other pictures
MAX_SIDE = 4096  # pixels
MAX_CLIPS, MAX_FRAMES = 100_000, 1_000_000
# .synth_<seed>_<clip>.<process>.part; older ones have no process
_PART_NAME = re.compile(r"\.synth_\d+_\d+(?:\.(\d+))?" + re.escape(PART))
KILLED = (
    "a rendering process was killed (is the memory full?): give fewer --workers; complete clips "
    "stay, the same command goes on"
)


def clip_names(seed: int, count: int) -> list[str]:
    """Names of the recordings of a seed."""
    return [f"synth_{seed:03d}_{clip:03d}" for clip in range(count)]


def render_dataset(
    out: Path,
    seed: int,
    splits: Mapping[str, int],
    frames: int,
    size: tuple[int, int],
    workers: int = 2,
    advance: Callable[[int], None] = lambda clips: None,
    camera: str = "car",
) -> None:
    """Render clips (seed, 0), (seed, 1), ... of `frames` frames at size (H, W) into a root.

    splits: number of clips per split, in order; camera: see World. Clips that are there already
    are kept, so that an interrupted call can be given again; advance(n) is called when n more clips
    are there. Raises ValueError when the folder holds anything else. SIGTERM ends it as Ctrl-C.
    """
    count = sum(splits.values())
    if not 1 <= count <= MAX_CLIPS:
        raise ValueError(f"{count} clips: give 1 to {MAX_CLIPS}")
    if not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"{frames} frames per clip: give 1 to {MAX_FRAMES}")
    if min(size) < 16 or max(size) > MAX_SIDE:
        raise ValueError(f"size {size[0]}x{size[1]}: both sides must be 16 to {MAX_SIDE} pixels")
    names = clip_names(seed, count)
    _check_root(out, names)
    todo = [
        (out, name, seed, clip, frames, *size, camera)
        for clip, name in enumerate(names)
        if not (out / name).is_dir()
    ]
    about = {
        "tool": "dyndepth synth", "seed": seed, "clips": len(names), "frames": frames,
        "size": list(size), "camera": camera, "renderer": RENDERER,
    }  # fmt: skip
    _check_settings(out, about)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about) + "\n"  # until it is complete
    replace_file(out / MANIFEST, text.encode(), durable=True)
    advance(len(names) - len(todo))
    _remove_stale_parts(out)
    with sigterm_as_ctrl_c("complete clips stay, the same command goes on"):
        try:
            for _ in run_in_processes(_render, todo, workers, killed=KILLED):
                advance(1)
        finally:
            _remove_stale_parts(out)
    first, lines = 0, {}
    for split, count in splits.items():
        lines[split] = names[first : first + count]
        first += count
    write_splits(out, lines)
    write_manifest(out, about)


def _check_root(out: Path, names: list[str]) -> None:
    """Refuse a folder that holds anything but clips of this very command."""
    known = {*names, "splits", MANIFEST, MANIFEST + PART}
    found = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    strange = [n for n in found if n not in known and not _PART_NAME.fullmatch(n)]
    if strange:
        raise ValueError(
            f"{out} holds other things, or clips of another seed ({', '.join(strange[:3])}): give "
            "a new folder with --out; a training takes several (--data A --data B)"
        )


def _remove_stale_parts(out: Path) -> None:
    """Remove clips left half done by processes that are gone."""
    for path in out.glob(f".synth_*{PART}"):
        match = _PART_NAME.fullmatch(path.name)
        if match and not (match[1] and _is_alive(int(match[1]))):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    try:  # dead, but nobody has asked after it yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def _check_settings(out: Path, about: Mapping[str, Any]) -> None:
    """Refuse to go on with clips that were rendered with other settings."""
    path = out / MANIFEST
    if not path.is_file():
        return
    try:
        old = json.loads(path.read_text())
        old = {"camera": "car", "renderer": 1, **old}
        compared = ("seed", "frames", "size", "camera", "renderer")
        changed = [k for k in compared if old[k] != about[k]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged: delete it if the clips beside it are of this same command, which "
            "then goes on with them; else give a new folder with --out"
        ) from error
    if changed:
        was = ", ".join(f"{k} {old[k]}" for k in changed)
        raise ValueError(f"{out} holds clips of {was}: give a new folder with --out")


def _render(job: tuple) -> str:
    """Render one clip beside its final place and move it there whole."""
    import cv2

    cv2.setNumThreads(1)
    out, name, seed, clip, frames, height, width, camera = job
    partial = out / f".{name}.{os.getpid()}{PART}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_clip(partial, World(seed, clip, (height, width), frames, camera=camera))
        if not (out / name).is_dir():  # else the same command runs twice, with the same result
            partial.rename(out / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return name
