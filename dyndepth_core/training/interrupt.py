"""What Ctrl-C and SIGTERM mean during a training."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

log = logging.getLogger(__name__)


class Abort(BaseException):
    """A second Ctrl-C. Not KeyboardInterrupt: Lightning would end the whole process on that."""


class StopSignals:
    """Context in which Ctrl-C or SIGTERM sets `requested`, and a second Ctrl-C raises Abort (once).

    Outside the main thread, where Python allows no signal handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._presses = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        """Lightning's own answer to a SIGTERM while it started, a SystemExit after the step that
        `requested` ended with a checkpoint, goes no further: a process that has other work would
        take it for the end of one job and begin the next.
        """
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return self.requested and kind is not None and issubclass(kind, SystemExit)

    def install(self) -> None:
        """Take the signals (again: Lightning puts its own handler of SIGTERM in when it starts)."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.signal(number, self._handle)
            self._before.setdefault(number, handler)

    def _handle(self, number: int, _: Any) -> None:
        self._presses += number == signal.SIGINT
        if self._presses == 2:
            self._presses += 1  # a third one must not break the clean-up
            raise Abort
        if not self.requested:
            log.warning("stopping after this step, with a checkpoint; Ctrl-C again to stop now")
        self.requested = True
