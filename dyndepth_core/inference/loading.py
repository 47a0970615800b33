"""Loading a model in steps, between which what must not wait goes first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

_between: ContextVar[Callable[[], Any] | None] = ContextVar("between", default=None)


@contextlib.contextmanager
def between_steps(call: Callable[[], Any]) -> Iterator[None]:
    """In this thread, until it ends: `call` before each step, of some 10 ms, of loading a model."""
    token = _between.set(call)
    try:
        yield
    finally:
        _between.reset(token)


def step() -> None:
    """The next step begins; others may go first, see `between_steps`."""
    if (call := _between.get()) is not None:
        call()
