"""From a data set back to the bags it was collected from, by SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dyndepth_core.data.recording import IMAGE_SUFFIXES, Recording


def hashed_files(root: str | Path) -> list[tuple[str, str]]:
    """(name below root, SHA-256) of what makes a data set, in order: images, stamps, calibration
    and splits; ground truth is none of it. A video file is one file with an empty name.
    """
    root = Path(root)
    if root.is_file():
        return [("", hash_file(root))]
    found = sorted(p for p in root.rglob("*") if p.is_file())
    chosen = [
        p
        for p in found
        if p.parent.name in ("images", "splits") or p.name in ("calib.json", "frames.csv")
    ]
    if not any(p.parent.name == "images" for p in chosen):  # a plain folder of images
        chosen = [p for p in found if p in chosen or _is_image_of(p, root)]
    return [(str(p.relative_to(root)), hash_file(p)) for p in chosen]


def _is_image_of(path: Path, root: Path) -> bool:
    return path.parent == root and path.suffix.lower() in IMAGE_SUFFIXES


def combined(files: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 of named files; of a single file without a name its own."""
    files = list(files)
    if len(files) == 1 and not files[0][0]:
        return files[0][1]
    digest = hashlib.sha256()
    for name, sha256 in files:
        digest.update(name.encode() + b"\0" + bytes.fromhex(sha256))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file of any size; OSError names it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def data_record(
    path: str | Path, train: Sequence[Recording] = (), held_out: Sequence[Recording] = ()
) -> dict[str, Any]:
    """What a model file keeps of one `--data`, plain data: {name, sha256, recordings, bags}.

    recordings: {name, sha256, trained, held_out}, the latter two lists of [first, last] stamps in
    ns of the parts given; bags: {name, files: {file: SHA-256}, recordings}, of the manifest that
    `dyndepth collect` left; `tool`, where there is a manifest, and `changed`, how many files are no
    longer what it says, where any are. Raises ValueError when the manifest is damaged.
    """
    path = Path(path)
    files = hashed_files(path)
    record: dict[str, Any] = {"name": path.resolve().name, "sha256": combined(files)}
    parts = {r.path.resolve(): r for r in (*train, *held_out)}
    record["recordings"] = [
        {
            "name": r.name,
            "sha256": _recording_hash(files, path, r),
            "trained": _spans(train, folder),
            "held_out": _spans(held_out, folder),
        }
        for folder, r in parts.items()
    ]
    names = {r["name"] for r in record["recordings"]}
    for folder in (path, path.parent):  # a root, or one recording of it
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        record["tool"] = str(manifest.get("tool", ""))
        record["bags"] = bags_of(manifest, names)
        known = manifest.get("files") or {}
        inner = "" if folder == path else f"{path.name}/"
        changed = sum(known.get(inner + name, sha256) != sha256 for name, sha256 in files)
        if changed:
            record["changed"] = changed
        break
    return record


def _recording_hash(files: Sequence[tuple[str, str]], root: Path, recording: Recording) -> str:
    """The hash of one recording of a root, whatever else lies in the root."""
    if recording.path.resolve() == root.resolve() or root.is_file():
        return combined(files)
    inner = f"{recording.path.resolve().relative_to(root.resolve())}/"
    return combined((name[len(inner) :], sha) for name, sha in files if name.startswith(inner))


def _spans(parts: Sequence[Recording], folder: Path) -> list[list[int]]:
    own = (r for r in parts if r.path.resolve() == folder)
    return [[int(r.stamps_ns.min()), int(r.stamps_ns.max())] for r in own]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest.json of a data set; None without one, ValueError when it is damaged."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    manifest = read_object(path, "delete it")
    try:
        for bag in manifest.get("bags") or ():
            hash(tuple(sequence.get("name") for sequence in bag.get("sequences") or ()))
            hash(tuple(dict(bag.get("bag_files") or {}).values()))
        dict(manifest.get("files") or {})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it") from error
    return manifest


def read_object(path: Path, remedy: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON object of a file that has these keys; ValueError names file, damage and remedy."""
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        if missing := [key for key in keys if key not in found]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    return found


def bags_of(manifest: dict[str, Any], names: Iterable[str]) -> list[dict[str, Any]]:
    """The bags behind the recordings named, with the SHA-256 of their files."""
    names, found = set(names), []
    for bag in manifest.get("bags") or ():
        own = sorted(names & {s.get("name") for s in bag.get("sequences") or ()})
        if own:
            files = dict(bag.get("bag_files") or {})
            found.append({"name": str(bag.get("name", "")), "files": files, "recordings": own})
    return found


def recording_hash(recording: Recording) -> str:
    """SHA-256 of a recording's images, stamps and calibration, as `data_record` holds it."""
    return combined(hashed_files(recording.path))


def bag_hashes(recording: Recording) -> set[str]:
    """SHA-256 of the bag files a recording was collected from; empty where nobody wrote them."""
    manifest = read_manifest(recording.path.parent) or {}
    return {
        sha256 for bag in bags_of(manifest, [recording.name]) for sha256 in bag["files"].values()
    }
