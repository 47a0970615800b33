"""Messages of any type, as the bytes that travel: their class, their stamp."""

from __future__ import annotations

import importlib
import struct


def message_class(kind: str) -> type:
    """Class of a message type such as sensor_msgs/msg/Image; ImportError where it is missing."""
    package, folder, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.{folder}"), name)


def cdr_stamp_ns(data: bytes) -> int | None:
    """Stamp (ns) of serialised CDR that begins with a std_msgs/Header; None if implausible."""
    if len(data) < 12:
        return None
    order = "<" if data[1] & 1 else ">"  # second byte of the encapsulation: 1 = little endian
    sec, nanosec = struct.unpack_from(f"{order}iI", data, 4)
    return sec * 1_000_000_000 + nanosec if nanosec < 1_000_000_000 else None
