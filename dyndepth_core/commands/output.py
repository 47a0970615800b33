"""What `--json FILE` means to every command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

STDOUT = Path("-")


def check_json(path: Path | None) -> None:
    """ValueError, before any work, when figures could not be written to `path`; its folder is
    made.
    """
    if path is None or path == STDOUT:
        return
    if path.is_dir():
        raise ValueError(f"--json {path}: is a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--json {path}: cannot be written there; choose another place")


def write_json(path: Path | None, content: Any) -> None:
    """Write figures to a file; - is stdout, None nowhere. OSError names the file."""
    if path is None:
        return
    text = json.dumps(content, indent=1) + "\n"
    if path == STDOUT:
        sys.stdout.write(text)
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
