"""What `--json FILE` means to every command, and how text from files is shown."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from dyndepth_core.files import write_atomically

STDOUT = Path("-")


def printable(text: object) -> str:
    """Text from a file for a terminal: control characters, which could move its cursor or change
    its title, and bytes that are no UTF-8 are written as escapes; line ends stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in str(text))


def literal(text: object) -> str:
    """`printable`, for a console that reads rich's markup: brackets stay brackets."""
    from rich.markup import escape

    return escape(printable(text))


def check_json(path: Path | None) -> None:
    """ValueError, before any work, when figures could not be written to `path`; its folder is
    made.
    """
    if path is None or path == STDOUT:
        return
    if path.is_dir():
        raise ValueError(f"--json {path}: is a folder; name a file in it")
    if path.name.endswith("calib.json"):
        raise ValueError(f"--json {path}: is the name of a calibration; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    places = [path] if path.exists() else []
    if path.is_file() or not places:  # replaced as a whole, so its folder must take it; no device
        places.append(path.resolve().parent)
    if not all(os.access(place, os.W_OK) for place in places):
        raise ValueError(f"--json {path}: cannot be written there; choose another place")
    if path.is_file() and not _is_json(path):
        raise ValueError(f"--json {path}: is there already and no JSON; choose another name")


def _is_json(path: Path) -> bool:
    """Whether a file may be figures of an earlier run; an empty one is nobody's loss."""
    try:
        with path.open("rb") as file:
            if file.read(1) not in (b"{", b"[", b""):  # do not read a whole bag to find out
                return False
        data = path.read_bytes()
        return not data or isinstance(json.loads(data), (dict, list))
    except (OSError, ValueError, RecursionError):
        return False


def as_json(value: Any) -> Any:
    """The same without NaN and infinity, which JSON does not know: they become null."""
    if isinstance(value, dict):
        return {k: as_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path | None, content: Any) -> None:
    """Write figures to a file, whole or not at all; - is stdout, None nowhere. OSError names
    the file.
    """
    if path is None:
        return
    text = json.dumps(as_json(content), indent=1) + "\n"
    if path == STDOUT:
        sys.stdout.write(text)
    elif path.exists() and not path.is_file():  # a device or a pipe cannot be replaced
        try:
            path.write_text(text)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
    else:
        write_atomically(path.resolve(), text.encode())  # a link stays one
