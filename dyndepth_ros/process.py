"""The life of a node's process: clean exit on Ctrl-C, however often, one line on bad arguments."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger

TURN_S = 0.0005  # ten times shorter than Python's own
LEAVE_S = 15.0  # for ROS to let go of everything once the node has closed
LOOK_S = 0.5  # a signal that woke nobody is noticed after it
BAD_START = 2  # exit code: wrong parameter, argument or model; starting it again will not help


def run(name: str, make_node: Callable[[], Any], args: list[str] | None = None) -> int:
    """Spin the node that `make_node` returns until the process is told to end; returns exit code.

    The node may have `start() -> bool` (False: give up, its own log says why) and, called before it
    is destroyed, `close() -> bool` (False: a thread of it cannot be ended). What goes wrong before
    it spins is logged as one line. A process that cannot leave ROS in LEAVE_S says where and ends.
    """
    sys.unraisablehook = _unraisable
    with contextlib.suppress(ValueError, OSError, RuntimeError):  # no stderr to say it on
        faulthandler.enable()  # a crash in native code says where
    try:
        return _run(name, make_node, args)
    except KeyboardInterrupt:  # a second one, in the moment before it is ignored
        return 0


def _unraisable(what: Any) -> None:
    """Ctrl-C in the middle of an import may hit a callback that cannot raise it: rclpy has heard of
    it, too, so there is nothing to say.
    """
    if what.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(what)


def _run(name: str, make_node: Callable[[], Any], args: list[str] | None) -> int:
    node, stage, code, ended = None, "init", 0, True
    try:
        rclpy.init(args=args)
        stage = "start"
        node = make_node()
        if hasattr(node, "start") and not node.start():
            code = BAD_START if rclpy.ok() else 0  # 0: Ctrl-C while it was starting
        else:
            stage = "spin"
            _spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception as error:
        if stage == "init" or (stage == "start" and rclpy.ok()):
            text = str(error) if isinstance(error, ValueError) else f"cannot start: {error}"
            get_logger(name).fatal(text)
            code = BAD_START
        elif rclpy.ok():
            raise
        # else: Ctrl-C took the context away in the middle of a call
    finally:
        # `ros2 launch` sends SIGINT twice: the second must not hit destroy_node.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            ended = node.close() is not False if hasattr(node, "close") else True
        # The middleware may wait for ever for what others hold who died in the same moment; this
        # says where, and needs no lock of the interpreter.
        with contextlib.suppress(ValueError, OSError):  # no stderr to say it on
            faulthandler.dump_traceback_later(LEAVE_S, exit=True)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    if not ended:  # the interpreter would abort while it waits for a thread inside the network
        sys.stderr.flush()
        os._exit(code)
    return code


def _spin(node: Any) -> None:
    """`rclpy.spin`, which may miss that a signal ended ROS while nothing else wakes it; this looks
    again every LOOK_S.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while rclpy.ok():
            executor.spin_once(timeout_sec=LOOK_S)
    finally:
        executor.remove_node(node)
        executor.shutdown()


def way_out(node: Any) -> Callable[[], None]:
    """What a thread of a node calls to end the process.

    The thread that spins takes ROS down, nobody else: `Context.try_shutdown` destroys the node at
    once, while the executor may be about to wait for what it has.
    """

    def leave() -> None:
        raise ExternalShutdownException

    guard = node.create_guard_condition(leave)
    return guard.trigger


@contextlib.contextmanager
def giving_way(nice: int = 5) -> Iterator[None]:
    """For a thread that works beside those that must not wait: its turns with the interpreter's
    lock are short, and (on Linux) the others go first where processors are short.

    The thread stays so much nicer; little, because while it holds the lock the others wait for it.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + nice)
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)  # each call of torch gives the lock away and waits to get it back
    try:
        yield
    finally:
        sys.setswitchinterval(before)
