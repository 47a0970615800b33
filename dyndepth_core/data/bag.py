"""Reading rosbag2 (sqlite3, mcap, zstd) and rosbag1 without ROS, as far as a damaged bag allows."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dyndepth_core.data.bag_salvage import Damage, RawMessage, TopicInfo
from dyndepth_core.data.bag_storage import SUFFIXES, StorageFile, storage_files, suffix
from dyndepth_core.data.image_codec import decode, decode_compressed
from dyndepth_core.data.unpacking import unpack_zstd
from dyndepth_core.data.writer import naming

logger = logging.getLogger(__name__)

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


def is_bag(path: str | Path) -> bool:
    """Whether a path names a bag: a file of a bag format or a folder that holds some."""
    path = Path(path)
    return bool(path.is_file() and suffix(path) in SUFFIXES) or (
        path.is_dir() and any(suffix(p) in SUFFIXES for p in path.iterdir())
    )


def bag_name(path: str | Path) -> str:
    """The name of a bag: of its folder or file, without suffixes."""
    return re.sub(r"\.(zstd|db3|mcap|bag)", "", Path(path).resolve().name)


@dataclass(frozen=True)
class BagFrame:
    """An image message of a bag, decoded on demand.

    `stamp_ns`: header stamp (bag time where the driver set none); `bag_ns`: when it was recorded;
    `number`: of its message among those of the topic, counted from 1, damaged ones included.
    """

    stamp_ns: int
    bag_ns: int
    frame_id: str
    encoding: str
    message: Any
    number: int = 0

    def image(self) -> np.ndarray:
        """Decode as uint8 (H, W, 3) RGB; ValueError when encoding, size or bytes are not sound."""
        m = self.message
        if hasattr(m, "format"):
            return decode_compressed(m.data, m.format)
        return decode(m.encoding, m.height, m.width, m.step, bool(m.is_bigendian), m.data)


class Bag:
    """One bag, whatever its format: the path of its folder or of one storage file.

    `problems` lists, with file and place, what could not be read; it grows while reading.
    Raises FileNotFoundError, ValueError when no file of the bag can be read at all, OSError when
    the machine is at fault: no room to unpack, too many open files, no permission.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = bag_name(self.path)
        self._damage = Damage()
        self._temporary = tempfile.TemporaryDirectory(prefix="dyndepth_bag_")
        self.files = storage_files(self.path, self._damage)
        self._parts: list[StorageFile] = []
        failures = []
        for file in self.files:
            try:
                self._parts.append(StorageFile(self._unpacked(file), self._damage))
            except ValueError as error:
                failures.append(self._damage.named(str(error)))
                self._damage.note(str(error))
            except OSError:  # no damage: without this part the bag would only seem to be shorter
                self.close()
                raise
        if not self._parts:
            self.close()
            raise ValueError(f"{self.path}: nothing of this bag can be read. {'; '.join(failures)}")
        self._is_ros1 = suffix(self.files[0]) == ".bag"
        self._ros2_store = _typestore(False)
        self._store = _typestore(True) if self._is_ros1 else self._ros2_store

    @property
    def problems(self) -> list[str]:
        """What was found damaged so far, and where."""
        return self._damage.notes

    def note(self, problem: str) -> None:
        """Add to `problems`, once, and to the log."""
        self._damage.note(problem)

    def topics(self) -> dict[str, TopicInfo]:
        """Topics by name; one that holds several types counts as of the one it has most of."""
        found: dict[tuple[str, str], TopicInfo] = {}
        for part in self._parts:
            for topic in part.topics:
                before = found.get(topic[:2], topic._replace(count=0))
                found[topic[:2]] = topic._replace(
                    count=topic.count + before.count, latched=topic.latched or before.latched
                )
        rising = sorted(found.values(), key=lambda topic: (topic.name, topic.count))
        return {topic.name: topic for topic in rising}

    @property
    def is_ros1(self) -> bool:
        """Whether its messages are ROS 1 bytes."""
        return self._is_ros1

    def span(self) -> tuple[int, int]:
        """Bag time (ns) of the first and the last message; a part without an index is read."""
        spans = []
        for part in self._parts:
            found = part.span()
            if found is None:
                stamps = [m.bag_ns for m in part.messages(None, None, None)]
                found = (min(stamps), max(stamps)) if stamps else None
            spans += [found] if found else []
        return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else (0, 0)

    def messages(
        self,
        names: Collection[str] | None = None,
        start_ns: int | None = None,
        stop_ns: int | None = None,
    ) -> Iterator[RawMessage]:
        """Serialised messages (CDR; ROS 1 bytes for .bag) of the named topics in recorded order.

        start_ns, stop_ns: bag time, start included, stop excluded; names None: every topic.
        """
        for part in self._parts:
            yield from part.messages(names, start_ns, stop_ns)

    def deserialize(self, message: RawMessage) -> Any:
        """Message object of a standard type; ValueError: unknown type or damaged bytes."""
        try:
            if self._is_ros1:
                return self._store.deserialize_ros1(message.data, message.type)
            return self._store.deserialize_cdr(message.data, message.type)
        except Exception as error:  # damaged bytes make the generated readers raise nearly anything
            raise ValueError(
                f"{self.path}: message of {message.topic} ({message.type}) at bag time "
                f"{message.bag_ns} ns cannot be read: {type(error).__name__} {error}"
            ) from error

    def cdr(self, message: RawMessage) -> bytes:
        """The message as ROS 2 sends it; converts ROS 1 bytes."""
        if not self._is_ros1:
            return message.data
        try:
            return bytes(self._ros2_store.ros1_to_cdr(message.data, message.type))
        except Exception as error:  # as above
            raise ValueError(
                f"{self.path}: {message.type} of ROS 1 has no ROS 2 form ({error})"
            ) from error

    def start_ns(self) -> int:
        """Bag time of the first message; ValueError where there is none."""
        first = next(iter(self.messages()), None)
        if first is None:
            raise ValueError(f"{self.path}: holds no message")
        return first.bag_ns

    def objects(
        self, topic: str, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """(bag_ns, message object) of one topic; those damaged or not of its type are only noted in
        `problems`.
        """
        for bag_ns, message, _ in self._numbered(topic, start_ns, stop_ns, 0):
            yield bag_ns, message

    def _numbered(
        self, topic: str, start_ns: int | None, stop_ns: int | None, skip: int
    ) -> Iterator[tuple[int, Any, int]]:
        info = self.topics().get(topic)
        raws = enumerate(self.messages([topic], start_ns, stop_ns), 1)
        for number, raw in islice(raws, skip, None):
            if info is not None and raw.type != info.type:
                self._damage.note(
                    f"{self.path}: topic {topic} holds {info.type}; its messages of type "
                    f"{raw.type or 'unknown'} are left out"
                )
                continue
            try:
                yield raw.bag_ns, self.deserialize(raw), number
            except ValueError as error:
                self._damage.note(str(error))

    def frames(
        self,
        topic: str,
        start_ns: int | None = None,
        stop_ns: int | None = None,
        skip: int = 0,
    ) -> Iterator[BagFrame]:
        """Images of one topic, not decoded yet; without the first `skip` messages (read, so that
        order and faults are those of a reading from the start, but not looked into).
        """
        info = self.topics().get(topic)
        if info is None:
            raise ValueError(f"{self.path}: no topic '{topic}'; it has {', '.join(self.topics())}")
        if info.type not in IMAGE_TYPES:
            raise ValueError(f"{self.path}: topic '{topic}' holds {info.type}, not images")
        for bag_ns, message, number in self._numbered(topic, start_ns, stop_ns, skip):
            yield _frame(bag_ns, message, number)

    def frame(self, message: RawMessage) -> BagFrame:
        """One image message, not decoded yet; ValueError: damaged bytes, or no image."""
        if message.type not in IMAGE_TYPES:
            raise ValueError(f"{self.path}: {message.topic} holds {message.type}, not images")
        return _frame(message.bag_ns, self.deserialize(message))

    def _unpacked(self, file: Path) -> Path:
        """The file itself, or a temporary decompressed copy of `*.zstd` (as much as is there)."""
        if file.suffix != ".zstd":
            return file
        copy = Path(self._temporary.name) / file.stem
        self._damage.shown[str(copy)] = str(file)
        with naming(copy):
            fault = unpack_zstd(file, copy)
        if fault:
            size = copy.stat().st_size
            self._damage.note(f"{file}: damaged after {size} unpacked bytes ({fault})")
        return copy

    def close(self) -> None:
        """Close all files and remove temporary copies."""
        for part in self._parts:
            part.close()
        self._temporary.cleanup()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _frame(bag_ns: int, message: Any, number: int = 0) -> BagFrame:
    stamp = stamp_ns(message.header) or bag_ns
    encoding = message.format if hasattr(message, "format") else message.encoding
    return BagFrame(stamp, bag_ns, message.header.frame_id, encoding, message, number)


def stamp_ns(header: Any) -> int:
    """Header stamp in ns; 0 when the driver set none."""
    stamp = header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _typestore(is_ros1: bool) -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.LATEST)
