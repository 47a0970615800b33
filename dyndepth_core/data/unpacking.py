"""Undoing the zstd compression of bags: messages and chunks in memory, whole files on disk."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

MAX_UNPACKED = 1 << 30  # bytes of a message or a chunk; a few packed ones can ask for any number
AT_ONCE = 1 << 20  # bytes of a file that are unpacked in memory


def unzstd(data: bytes, limit: int) -> bytes:
    """Decompress one zstd frame, as far as it goes; ValueError when it is damaged, or more than
    `limit` bytes would come out of it.
    """
    zstd = _zstd()
    try:
        found = zstd.ZstdDecompressor().decompress(data, limit + 1)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
    if len(found) > limit:
        raise ValueError(f"more than {limit} bytes would be unpacked")
    return found


def unpack_zstd(source: Path, target: Path) -> str:
    """Decompress a file as far as it goes; returns what was wrong, empty when nothing was."""
    zstd = _zstd()
    decompressor = zstd.ZstdDecompressor()
    with source.open("rb") as packed, target.open("wb") as out:
        while block := packed.read(1 << 18):
            while block:
                if decompressor.eof:  # another frame follows
                    decompressor = zstd.ZstdDecompressor()
                try:
                    out.write(decompressor.decompress(block, AT_ONCE))
                    while not (decompressor.needs_input or decompressor.eof):
                        out.write(decompressor.decompress(b"", AT_ONCE))
                except zstd.ZstdError as error:
                    return str(error)
                block = decompressor.unused_data
    return "" if decompressor.eof else "the file is cut short"


def _zstd() -> ModuleType:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        from backports import zstd
    return zstd
