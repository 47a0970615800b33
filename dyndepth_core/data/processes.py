"""Jobs spread over processes that end with the first one, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

JOIN_S = 5.0  # a terminated process is gone long before
POLL_S = 0.5


def run_in_processes(
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    workers: int,
    *,
    poll: Callable[[], None] = lambda: None,
    killed: str = "a process was killed (is the memory full?): use fewer processes",
    patience: float = JOIN_S,
    alone: bool = False,
) -> Iterator[Any]:
    """Yield function(job) of all jobs as they are done; in this process with one worker or one job,
    unless each is to be `alone` in one.

    function and jobs must be picklable. poll is called about twice a second. However it is left,
    all workers are gone then; patience: seconds that one is given to end its job. Raises what a job
    raises, ChildProcessError(killed) when a process was killed.
    """
    if not alone and (workers == 1 or len(jobs) < 2):
        yield from map(function, jobs)
        return
    # spawn: forking a process that has threads (BLAS, OpenCV) can deadlock
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_start_worker
    ) as pool:
        others = set(multiprocessing.active_children())
        try:
            waiting = {pool.submit(function, job) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
                poll()
                for job in done:
                    yield job.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            ours = set(multiprocessing.active_children()) - others
            for worker in ours:
                worker.terminate()  # it would end its job first
            for worker in ours:
                worker.join(patience)
            if isinstance(error, BrokenProcessPool):
                raise ChildProcessError(killed) from error
            raise


@contextmanager
def sigterm_as_ctrl_c(stays: str) -> Iterator[None]:
    """While it lasts, SIGTERM raises KeyboardInterrupt, which says what `stays`, so that it too is
    cleaned up after.
    """

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt(f"terminated; {stays}")

    if threading.current_thread() is not threading.main_thread():  # may set no handler
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_worker() -> None:
    """Ctrl-C reaches every process of the terminal; the first one says what there is to say."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()


def _end_with_parent() -> None:
    """However the first process ended, SIGKILL too: nobody waits for this job any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
