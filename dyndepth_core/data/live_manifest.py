"""The manifest of a folder that clips are added to, one after the other, over many runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dyndepth_core.data.collect import CollectOptions, CollectReport
from dyndepth_core.data.writer import PART, replace_file

TOOL = "dyndepth collect_node"
CLIP = re.compile(r"\d{8}-\d{6}-[a-z]+(-\d+)?_\d{3,}")  # what LiveCollector calls its clips


class LiveManifest:
    """`<root>/manifest.json`: the clips, and SHA-256 of every file of theirs.

    Sums are made of a clip's files when it ends, and of what a killed run left when this begins.
    Raises ValueError when root holds the recordings of something else.
    """

    def __init__(self, root: Path, options: CollectOptions) -> None:
        self._root, self._options = root, options
        root.mkdir(parents=True, exist_ok=True)
        self._clips: list[dict[str, Any]] = []
        self._files: dict[str, str] = {}
        self._read()
        self._adopt()
        self.total = self._bytes()

    @property
    def clips(self) -> int:
        """How many clips it lists."""
        return len(self._clips)

    def fault(
        self, max_total: float, min_free: float, clip: Collection[str] = (), clip_bytes: int = 0
    ) -> str:
        """Why no more may be written, empty when it may; limits in bytes.

        clip: folders of the clip in the making, which is not listed yet, of clip_bytes. A total
        that is reached is measured anew, because clips may have been deleted.
        """
        full = self.total + clip_bytes >= max_total
        if full and (self._root / "manifest.json").is_file():  # else the disk itself may be away
            self.total = self._bytes(clip)
            self._drop_missing()
        if self.total + clip_bytes >= max_total:
            return f"{self._root} has reached max_total, {max_total / 1e9:g} GB"
        try:
            free = shutil.disk_usage(self._root).free
        except OSError as error:
            return f"{self._root}: {error.strerror}; is its disk still there?"
        if free < min_free:
            return f"{free / 1e9:.1f} GB free at {self._root}, min_free is {min_free / 1e9:g}"
        return ""

    def _bytes(self, without: Collection[str] = ()) -> int:
        """Bytes below the folder, some of its folders left out; files may be deleted meanwhile."""
        total = 0
        for folder, inner, names in os.walk(self._root):
            if folder == str(self._root):
                inner[:] = [name for name in inner if name not in without]
            for name in names:
                with suppress(OSError):
                    total += os.stat(os.path.join(folder, name)).st_size
        return total

    def free_name(self, name: str) -> str:
        """`name`, or with a number behind it where a clip of that name is there."""
        candidate, number = name, 1
        while any(self._root.glob(f"{candidate}_[0-9]*")):
            number += 1
            candidate = f"{name}-{number}"
        return candidate

    def add(self, report: CollectReport, name: str, reason: str, moment_ns: int) -> None:
        """List a clip that is complete."""
        folders = [sequence["name"] for sequence in report.sequences]
        added = self._hash(folders)
        self.total += sum((self._root / inner).stat().st_size for inner in added)
        entry = {"name": name, "reason": reason, "moment_ns": moment_ns, **report.as_dict()}
        self._clips.append(entry)
        self._write()

    def _hash(self, folders: list[str]) -> list[str]:
        found = []
        for path in sorted(p for f in folders for p in (self._root / f).rglob("*") if p.is_file()):
            if not path.name.endswith(PART):
                inner = str(path.relative_to(self._root))
                self._files[inner] = hashlib.sha256(path.read_bytes()).hexdigest()
                found.append(inner)
        return found

    def _read(self) -> None:
        path = self._root / "manifest.json"
        if not path.exists():
            return
        try:
            info = json.loads(path.read_text())
            tool, self._clips, self._files = info["tool"], info["clips"], info["files"]
            if not all(isinstance(clip, dict) for clip in [*self._clips]) or not all(
                isinstance(text, str) for pair in self._files.items() for text in pair
            ):
                raise ValueError("clips or files are none")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path}: not one of {TOOL} ({error!r}); give another folder as `out`"
            ) from error
        if tool != TOOL:
            raise ValueError(f"{path}: of {tool}; give another folder as `out`")
        self._drop_missing()

    def _drop_missing(self) -> None:
        """List no file any more that somebody deleted."""
        self._files = {f: s for f, s in self._files.items() if os.path.exists(self._root / f)}

    def _adopt(self) -> None:
        """List what a run that was killed left, complete but for the sums."""
        known = {inner.split("/")[0] for inner in self._files}
        left = [p.parent.name for p in sorted(self._root.glob("*/frames.csv"))]
        for name in [n for n in left if n not in known]:
            images = [p for p in (self._root / name / "images").glob("*") if p.suffix != PART]
            if not images and CLIP.fullmatch(name):  # killed at its beginning
                shutil.rmtree(self._root / name)
            if not any(p.suffix == ".jpg" for p in images):  # of somebody else
                continue
            self._hash([name])
            sequences = [{"name": name}]
            self._clips.append({"name": name, "reason": "interrupted", "sequences": sequences})
        if self._clips:
            self._write()

    def _write(self) -> None:
        try:
            tool = version("dyndepth")
        except PackageNotFoundError:
            tool = "not installed"
        info = {
            "tool": TOOL,
            "version": tool,
            "parameters": asdict(self._options),
            "frames": sum(clip.get("kept", 0) for clip in self._clips),
            "clips": self._clips,
            "files": dict(sorted(self._files.items())),
        }
        text = json.dumps(info, indent=1) + "\n"
        replace_file(self._root / "manifest.json", text.encode(), durable=True)
