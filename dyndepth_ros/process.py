"""The life of a node's process: clean exit on Ctrl-C, however often, one line on bad arguments."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger

BAD_START = 2  # exit code: wrong parameter, argument or model; starting it again will not help


def run(name: str, make_node: Callable[[], Any], args: list[str] | None = None) -> int:
    """Spin the node that `make_node` returns until the process is told to end; returns exit code.

    The node may have `start() -> bool` (False: give up, its own log says why) and `close()`, called
    before it is destroyed. A ValueError from either construction step is logged as one line.
    """
    try:
        return _run(name, make_node, args)
    except KeyboardInterrupt:  # a second one, in the moment before it is ignored
        return 0


def _run(name: str, make_node: Callable[[], Any], args: list[str] | None) -> int:
    node = None
    try:
        rclpy.init(args=args)
        node = make_node()
        if hasattr(node, "start") and not node.start():
            return BAD_START
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ValueError as error:
        get_logger(name).fatal(str(error))
        return BAD_START
    except Exception as error:
        if node is None and not isinstance(error, InvalidHandle):
            get_logger(name).fatal(f"cannot start: {error}")
            return BAD_START
        if rclpy.ok():
            raise
    finally:
        # `ros2 launch` sends SIGINT twice: the second must not hit destroy_node.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            if hasattr(node, "close"):
                node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
