"""The files a bag is stored in: which they are, and how to get messages out of each."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from dyndepth_core.data.bag_salvage import (
    MAX_STAMP,
    Damage,
    McapSalvage,
    RawMessage,
    SqliteSalvage,
    TopicInfo,
)
from dyndepth_core.data.unpacking import MAX_UNPACKED, unzstd

SUFFIXES = (".db3", ".mcap", ".bag")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class StorageFile:
    """One storage file: read by its index while that works, from the front where it does not."""

    def __init__(self, path: Path, damage: Damage) -> None:
        self.path, self._damage = path, damage
        self._salvage: SqliteSalvage | McapSalvage | None = None
        self._reader = None
        with path.open("rb"):  # an OSError here is of the machine, which readers take for damage
            pass
        try:
            self._reader = _open_reader(path)
            found: dict[tuple[str, str], TopicInfo] = {}
            for c in self._reader.connections:
                before = found.get((c.topic, c.msgtype), TopicInfo(c.topic, c.msgtype, 0))
                found[c.topic, c.msgtype] = before._replace(
                    count=before.count + c.msgcount, latched=before.latched or _is_latched(c.ext)
                )
            self.topics = list(found.values())
        except ModuleNotFoundError:  # of rosbags: no damage of the bag
            raise
        except Exception as error:  # apsw, struct, assertions: a damaged index raises anything
            if suffix(path) == ".bag":
                raise ValueError(f"{path}: {error}; try `rosbag reindex` on it") from error
            self._damage.note(f"{path}: its index is damaged ({error}); reading it from the front")
            self.topics = self._rescue().topics()

    def _rescue(self) -> SqliteSalvage | McapSalvage:
        if self._salvage is None:
            kind = SqliteSalvage if suffix(self.path) == ".db3" else McapSalvage
            self._salvage = kind(self.path, self._damage)
        return self._salvage

    def messages(
        self, names: Collection[str] | None, start: int | None, stop: int | None
    ) -> Iterator[RawMessage]:
        """Messages of the named topics (None: all) with start <= bag time < stop (ns)."""
        if self._reader is not None:
            chosen = [c for c in self._reader.connections if names is None or c.topic in names]
            if not chosen:
                return
            try:
                for connection, stamp, data in self._reader.messages(chosen, start, stop):
                    if stamp > MAX_STAMP:
                        self._damage.note_stamp(self.path)
                        continue
                    start = stamp
                    yield RawMessage(connection.topic, connection.msgtype, stamp, _plain(data))
                return
            except Exception as error:  # as above; what follows the damage may still be readable
                self._damage.note(f"{self.path}: damaged after bag time {start} ns ({error})")
                if suffix(self.path) == ".bag":
                    return
                start = None if start is None else start + 1
        for message in self._rescue().messages(names, start, stop):
            try:
                data = _plain(message.data)
            except ValueError as error:
                self._damage.note(
                    f"{self.path}: message at bag time {message.bag_ns} ns is damaged ({error})"
                )
                continue
            yield message._replace(data=data)

    def span(self) -> tuple[int, int] | None:
        """Bag time (ns) of the first and the last message, as far as a sound index says it."""
        if self._reader is None or not sum(t.count for t in self.topics):
            return None
        first, last = int(self._reader.start_time), int(self._reader.end_time)
        return (first, last) if max(first, last) <= MAX_STAMP else None

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
        if self._salvage is not None:
            self._salvage.close()


def suffix(path: Path) -> str:
    """Suffix without a trailing .zstd."""
    return path.with_suffix("").suffix if path.suffix == ".zstd" else path.suffix


def _is_latched(ext: Any) -> bool:
    if hasattr(ext, "latching"):  # ROS 1
        return bool(ext.latching)
    return any(q.durability.name == "TRANSIENT_LOCAL" for q in ext.offered_qos_profiles)


def _plain(data: bytes) -> bytes:
    """Undo per-message compression; a CDR message never begins with zstd's magic number."""
    return unzstd(data, MAX_UNPACKED) if bytes(data[:4]) == _ZSTD_MAGIC else data


def storage_files(path: Path, damage: Damage) -> list[Path]:
    """Files of a bag in recording order."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such bag")
    if path.is_file():
        if suffix(path) not in SUFFIXES:
            raise ValueError(
                f"{path}: not a bag file ({', '.join(SUFFIXES)}) nor the folder of a bag"
            )
        return [path]
    files = [p for p in path.iterdir() if p.is_file() and suffix(p) in SUFFIXES]
    if not files:
        raise ValueError(f"{path}: no bag files ({', '.join(SUFFIXES)}) in this folder")
    if not (path / "metadata.yaml").exists() and not any(p.suffix == ".bag" for p in files):
        damage.note(
            f"{path}: no metadata.yaml (was the recorder killed?); reading the files directly"
        )
    else:
        listed = re.findall(r"^\s*- (\S+\.(?:db3|mcap)(?:\.zstd)?)\s*$", _text(path), re.MULTILINE)
        for name in {Path(entry).name for entry in listed} - {p.name for p in files}:
            damage.note(f"{path}: {name} is listed in metadata.yaml but missing")

    def natural(file: Path) -> list[Any]:  # bag_10 comes after bag_9
        return [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", file.name)]

    return sorted(files, key=natural)


def _text(path: Path) -> str:
    metadata = path / "metadata.yaml"
    return metadata.read_text(errors="replace") if metadata.exists() else ""


def _open_reader(path: Path) -> Any:
    if path.suffix == ".bag":
        from rosbags.rosbag1 import Reader
    else:
        from rosbags.rosbag2 import Reader
    reader = Reader(path)
    reader.open()
    return reader
