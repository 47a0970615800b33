"""Reading what is left of damaged rosbag2 files: a killed recorder, a full disk, flipped bytes.

The indexed readers of `rosbags` refuse such files as a whole; these walk them from the front and
say where they lost something.
"""

from __future__ import annotations

import logging
import sqlite3
import struct
import zlib
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dyndepth_core.data.unpacking import MAX_UNPACKED, unzstd

logger = logging.getLogger(__name__)

MCAP_MAGIC = b"\x89MCAP0\r\n"
MAX_FAILED_ROWS = 64  # rows in a row: the rest of the table is gone
MAX_STAMP = (1 << 63) - 1  # ns: times are kept in 64 bits with a sign
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F


class TopicInfo(NamedTuple):
    """A topic of a bag, its message type (sensor_msgs/msg/Image), its number of messages.

    latched: late subscribers got its last message (transient local), as far as the bag says.
    """

    name: str
    type: str
    count: int
    latched: bool = False


class RawMessage(NamedTuple):
    """A serialised message with the time (ns) at which the recorder received it."""

    topic: str
    type: str
    bag_ns: int
    data: bytes


class Damage:
    """Collects, once each, what was wrong with a file and where; also goes to the log.

    shown: names of temporary copies, and of the files they are of, which are named instead.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.shown: dict[str, str] = {}

    def named(self, text: str) -> str:
        """A text about a copy as one about its file: the same in every run."""
        for copy, file in self.shown.items():
            text = text.replace(copy, file)
        return text

    def note(self, text: str) -> None:
        """Remember and log one fault."""
        text = self.named(text)
        if text not in self.notes:
            self.notes.append(text)
            logger.warning("%s", text)

    def note_stamp(self, path: Path) -> None:
        """Remember, once per file, that it has messages of later than MAX_STAMP."""
        self.note(f"{path}: messages with a bag time beyond {MAX_STAMP} ns are left out")


class SqliteSalvage:
    """Rows of a .db3 file that can still be read, in the order of recording."""

    def __init__(self, path: Path, damage: Damage) -> None:
        self.path, self._damage = path, damage
        wal = path.with_name(path.name + "-wal")
        mode = "mode=ro" if wal.exists() and wal.stat().st_size else "immutable=1"
        try:
            uri = f"{path.resolve().as_uri()}?{mode}"
            # A replay opens the file in one thread and reads it in another, never in both.
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
            # Without this SQLite refuses a file shorter than its header says, however readable.
            self._db.execute("PRAGMA writable_schema=ON")
            rows = self._db.execute("SELECT id, name, type FROM topics").fetchall()
        except sqlite3.Error as error:
            if str(error).startswith("unable to open"):  # its log, say: nothing is damaged
                raise OSError(
                    f"{path}: {error}; can files be made beside it, and are few others open?"
                ) from error
            raise ValueError(
                f"{path}: nothing can be read from this sqlite3 bag file ({error})"
            ) from error
        self._topics = {
            key: (name, kind)
            for key, name, kind in rows
            if isinstance(name, str) and isinstance(kind, str)
        }

    def topics(self) -> list[TopicInfo]:
        """Topics with the number of readable messages (reads the whole file)."""
        return _count(self.messages(None), self._topics.values())

    def messages(
        self, names: Collection[str] | None, start: int | None = None, stop: int | None = None
    ) -> Iterator[RawMessage]:
        """Messages of the named topics (None: all) with start <= bag time < stop (ns)."""
        last, failed, good, odd = -1, 0, 0, None
        while failed < MAX_FAILED_ROWS:
            try:
                query = (
                    "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"
                )
                for key, topic, stamp, data in self._db.execute(query, (last,)):
                    last, failed, good = key, 0, good + 1
                    name, kind = self._topics.get(topic, (None, ""))
                    if name is None:
                        continue
                    # SQLite keeps whatever was put in, whatever the column's type says.
                    if not isinstance(stamp, int) or not isinstance(data, bytes):
                        odd = key if odd is None else odd
                        self._damage.note(
                            f"{self.path}: message {odd} is damaged (its time or its data is of "
                            "the wrong type); such messages are left out"
                        )
                    elif _wanted(name, stamp, names, start, stop):
                        yield RawMessage(name, kind, stamp, data)
                break
            except sqlite3.Error as error:
                if failed == 0:
                    self._damage.note(f"{self.path}: damaged after message {good} ({error})")
                failed, last = failed + 1, last + 1

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class McapSalvage:
    """Messages of an .mcap file read from the front; damaged chunks are left out."""

    def __init__(self, path: Path, damage: Damage) -> None:
        self.path, self._damage = path, damage
        self._channels: dict[int, tuple[str, str]] = {}
        self._schemas: dict[int, str] = {}
        with path.open("rb") as file:
            if file.read(8) != MCAP_MAGIC:
                raise ValueError(f"{path}: not an MCAP file (its first bytes are wrong)")

    def topics(self) -> list[TopicInfo]:
        """Topics with the number of readable messages (reads the whole file)."""
        messages = list((m.topic, m.type) for m in self.messages(None))
        return _count(messages, self._channels.values())

    def messages(
        self, names: Collection[str] | None, start: int | None = None, stop: int | None = None
    ) -> Iterator[RawMessage]:
        """Messages of the named topics (None: all) with start <= bag time < stop (ns)."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            file.seek(len(MCAP_MAGIC))
            yield from self._records(file, size, 0, names, start, stop)

    def _records(
        self,
        file: BinaryIO,
        size: int,
        base: int,
        names: Collection[str] | None,
        start: int | None,
        stop: int | None,
    ) -> Iterator[RawMessage]:
        """Walk records up to `size`; `base` is the byte at which `file` begins (for reports)."""
        while (at := file.tell()) + 9 <= size:
            code, length = struct.unpack("<BQ", file.read(9))
            if code == 0 or (code == _DATA_END and base == 0):
                return
            body = file.read(min(length, size - at - 9))
            if len(body) < length:
                self._damage.note(
                    f"{self.path}: ends in the middle of a record at byte {base + at}"
                )
                if code != _CHUNK:
                    return
            try:
                if code == _SCHEMA:
                    (key,) = struct.unpack_from("<H", body)
                    self._schemas[key] = _string(body, 2)[0]
                elif code == _CHANNEL:
                    key, schema = struct.unpack_from("<HH", body)
                    self._channels[key] = (_string(body, 4)[0], self._schemas.get(schema, ""))
                elif code == _MESSAGE:
                    key, _, stamp = struct.unpack_from("<HIQ", body)
                    name, kind = self._channels.get(key, (None, ""))
                    if stamp > MAX_STAMP:
                        self._damage.note_stamp(self.path)
                    elif name is not None and _wanted(name, stamp, names, start, stop):
                        yield RawMessage(name, kind, stamp, body[22:])
                elif code == _CHUNK:
                    if base:
                        raise ValueError("a chunk within a chunk")
                    inner = self._open_chunk(body, len(body) < length)
                    yield from self._records(
                        inner, inner.getbuffer().nbytes, at, names, start, stop
                    )
            except (ValueError, struct.error, EOFError) as error:
                self._damage.note(f"{self.path}: record at byte {base + at} is damaged: {error}")
        if file.tell() < size:
            self._damage.note(
                f"{self.path}: {size - file.tell()} stray bytes at byte {base + file.tell()}"
            )

    def _open_chunk(self, body: bytes, truncated: bool) -> BytesIO:
        """Decompress a chunk; a complete one must pass its checksum."""

        _, _, size, crc = struct.unpack_from("<QQQI", body)
        method, at = _string(body, 28)
        packed = body[at + 8 :]
        if size > MAX_UNPACKED:
            raise ValueError(f"it says that it unpacks to {size} bytes")
        if method == "":
            data = packed
        elif method == "zstd":
            data = unzstd(packed, size)
        elif method == "lz4":
            from lz4.frame import LZ4FrameDecompressor

            try:
                data = LZ4FrameDecompressor().decompress(packed, size + 1)
            except RuntimeError as error:
                raise ValueError(str(error)) from error
        else:
            raise ValueError(f"compression '{method}' is unknown")
        if not truncated and (len(data) != size or (crc and zlib.crc32(data) != crc)):
            raise ValueError("its checksum or size is wrong, so its messages are left out")
        return BytesIO(data)

    def close(self) -> None:
        """Nothing is held open between reads."""


def _string(body: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, at)
    return body[at + 4 : at + 4 + length].decode(errors="replace"), at + 4 + length


def _wanted(
    name: str, stamp: int, names: Collection[str] | None, start: int | None, stop: int | None
) -> bool:
    return (
        (names is None or name in names)
        and (start is None or stamp >= start)
        and (stop is None or stamp < stop)
    )


def _count(messages: Iterator, known: Collection[tuple[str, str]]) -> list[TopicInfo]:
    counts: dict[tuple[str, str], int] = {}
    for message in messages:
        key = (message[0], message[1])
        counts[key] = counts.get(key, 0) + 1
    return [TopicInfo(name, kind, counts.get((name, kind), 0)) for name, kind in known]
