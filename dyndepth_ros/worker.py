"""One thread for all work on frames; the newest frame wins, tasks run between frames."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Worker:
    """Runs `handle(frame)` on its own thread with the newest frame given; older ones are dropped.

    `handle` must not raise; what it cannot work with it reports itself.
    """

    def __init__(self, name: str) -> None:
        self._handle: Callable[[Any], None] | None = None
        self._condition = threading.Condition()
        self._frame: Any = None
        self._busy = False
        self._tasks: deque[tuple[Callable[[], Any], Future]] = deque()
        self._stopped = False
        # A daemon, so that a network stuck in a driver call cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def start(self, handle: Callable[[Any], None]) -> None:
        """Frames given from now on go to `handle`."""
        with self._condition:
            self._handle, self._frame = handle, None

    def pause(self) -> None:
        """Drop the waiting frame and return when no frame is being handled any more."""
        with self._condition:
            self._handle, self._frame = None, None
        self.call(lambda: None).result()

    def give(self, frame: Any) -> bool:
        """Hand over a frame; returns False when an older one had to be dropped for it."""
        with self._condition:
            kept = self._frame is None
            if self._handle is not None:
                self._frame = frame
                self._condition.notify_all()
            return kept

    def call(self, task: Callable[[], Any]) -> Future:
        """Run `task` on the thread before the next frame; its result or error is in the future."""
        future: Future = Future()
        with self._condition:
            if self._stopped:
                future.set_exception(RuntimeError("the worker has been stopped"))
                return future
            self._tasks.append((task, future))
            self._condition.notify_all()
        return future

    def wait_idle(self, timeout: float) -> bool:
        """Return when no frame waits or is being handled; False when that took over `timeout` s."""
        with self._condition:
            return self._condition.wait_for(
                lambda: self._stopped or not self._busy and self._frame is None, timeout
            )

    def stop(self, timeout: float = 5.0) -> bool:
        """End the thread after what it is doing; False when that took longer than `timeout` s."""
        with self._condition:
            self._stopped, self._frame = True, None
            self._condition.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                self._condition.wait_for(
                    lambda: self._stopped or self._tasks or self._frame is not None
                )
                if self._stopped:
                    for _, future in self._tasks:
                        future.cancel()
                    return
                task = self._tasks.popleft() if self._tasks else None
                if task is None:
                    frame, self._frame, handle = self._frame, None, self._handle
                    self._busy = True
            if task is None:
                if handle is not None:
                    handle(frame)
                continue
            work, future = task
            try:
                future.set_result(work())
            except BaseException as error:  # the caller of result() decides
                future.set_exception(error)
