"""What rows are trained on: a world without its ground truth."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

SEEN = ("images", "calib.json", "frames.csv")  # of a recording; frames.csv: stamps and odometry
SHARED = ("manifest.json", "splits")  # of a root


def without_truth(data: Path) -> Path:
    """A root beside `data`, of links to what a training may see of its recordings; made anew only
    where it is another, as a training may be reading it.
    """
    blind = data.with_name(f"{data.name}_without_truth")
    recordings = sorted(p.parent.name for p in data.glob("*/images"))
    seen = [*SHARED, *(f"{recording}/{name}" for recording in recordings for name in SEEN)]
    wanted = {  # relative: the whole folder may be moved
        name: os.path.join("../" * (1 + name.count("/")), data.name, name)
        for name in seen
        if (data / name).exists()
    }
    if _links(blind) == wanted:
        return blind
    made = blind.with_name(f".{blind.name}")
    for old in (made, blind):
        shutil.rmtree(old, ignore_errors=True)
    for name, target in wanted.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).symlink_to(target, (data / name).is_dir())
    made.rename(blind)
    return blind


def _links(root: Path) -> dict[str, str]:
    """Where the links below a root lead; empty for a file that is none."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in folders + files):
            if path.is_symlink() or path.is_file():
                own = path.relative_to(root).as_posix()
                found[own] = os.readlink(path) if path.is_symlink() else ""
    return found
