"""Log lines that a stream of frames cannot turn into a flood, and core's logging sent to ROS."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable
from typing import Any


class Notices:
    """Says each kind of thing once, then at most every `period` s with the count left unsaid."""

    def __init__(
        self, logger: Any, period: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger, self._period, self._clock = logger, period, clock
        self._lock = threading.Lock()
        self._said: dict[str, tuple[float, int]] = {}  # kind -> (when said, times since)

    def warn(self, kind: str, text: str) -> None:
        """Warn, unless this kind was said less than a period ago."""
        count = self._due(kind)
        if count is not None:
            self._logger.warning(text + _more(count, self._period))

    def error(self, kind: str, text: str) -> None:
        """Log an error, unless this kind was said less than a period ago."""
        count = self._due(kind)
        if count is not None:
            self._logger.error(text + _more(count, self._period))

    def once(self, kind: str, text: str) -> None:
        """Warn of this kind a first time, then never again until it is forgotten."""
        with self._lock:
            if kind in self._said:
                return
            self._said[kind] = (math.inf, 0)
        self._logger.warning(text)

    def forget(self, kind: str) -> None:
        """The next notice of this kind is said at once: its cause has gone in between."""
        with self._lock:
            self._said.pop(kind, None)

    def _due(self, kind: str) -> int | None:
        with self._lock:
            when, count = self._said.get(kind, (None, 0))
            now = self._clock()
            if when is not None and now - when < self._period:
                self._said[kind] = (when, count + 1)
                return None
            self._said[kind] = (now, 0)
            return count


def _more(count: int, period: float) -> str:
    return f" ({count} more like this since the last such line)" if count else ""


class CoreLog(logging.Handler):
    """Sends what `dyndepth_core` logs to a node's logger; warnings of one kind are throttled."""

    def __init__(self, logger: Any, notices: Notices) -> None:
        super().__init__(logging.INFO)
        self._ros, self._notices = logger, notices
        self._core = logging.getLogger("dyndepth_core")

    def attach(self) -> CoreLog:
        """Start sending."""
        self._core.addHandler(self)
        self._core.setLevel(logging.INFO)
        self._core.propagate = False
        return self

    def detach(self) -> None:
        """Stop sending."""
        self._core.removeHandler(self)
        self._core.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`; messages that differ in numbers only are of one kind."""
        text = record.getMessage()
        kind = re.sub(r"[\d.]+", "#", text)
        if record.levelno >= logging.ERROR:
            self._notices.error(kind, text)
        elif record.levelno >= logging.WARNING:
            self._notices.warn(kind, text)
        else:
            self._ros.info(text)
