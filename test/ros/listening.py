"""A listener on the graph and node processes to listen to, with bounded waits everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor

from dyndepth_ros.conversions import stamp_ns

PATIENCE = 60.0  # seconds, on a machine busy with other tests


class Listener:
    """Hears topics, reliably, in a context of its own."""

    def __init__(self, domain: int, topics: dict[str, type]) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node("listener", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.heard: dict[str, list[Any]] = {name: [] for name in topics}
        for name, kind in topics.items():
            self.node.create_subscription(kind, name, self.heard[name].append, 1000)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def stamps(self, topic: str) -> list[int]:
        """Header stamps of what was heard, ns."""
        return [stamp_ns(m.header.stamp) for m in self.heard[topic]]

    def spin_until(self, done: Callable[[], bool]) -> None:
        """Listen until `done()`; fails after PATIENCE."""
        end = time.monotonic() + PATIENCE
        while not done():
            counts = {name: len(messages) for name, messages in self.heard.items()}
            assert time.monotonic() < end, f"waited {PATIENCE} s: {counts}"
            self._executor.spin_once(timeout_sec=0.05)

    def spin_for(self, seconds: float) -> None:
        """Listen for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.02)


class Children:
    """Node processes; whatever still runs at the end is killed."""

    def __init__(self, domain: int) -> None:
        self._env = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        self._started: list[subprocess.Popen] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()

    def start(self, module: str, **parameters: object) -> subprocess.Popen:
        """Start `python -m module` with ROS parameters; its log comes from `communicate()`."""
        words = [w for k, v in parameters.items() for w in ("-p", f"{k}:={v}")]
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--ros-args", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self._env, start_new_session=True,
        )  # fmt: skip
        self._started.append(process)
        return process


def finish(process: subprocess.Popen, listener: Listener) -> str:
    """Listen until the process has ended by itself; returns its log."""
    listener.spin_until(lambda: process.poll() is not None)
    before = -1  # what is still in the queues: one message per topic is taken at a time
    while before != (before := sum(map(len, listener.heard.values()))):
        listener.spin_for(0.4)
    return process.communicate()[0]
