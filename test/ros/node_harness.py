"""A camera that talks to a real depth_node process over real DDS, with bounded waits everywhere."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from dyndepth_ros.conversions import ImageWriter, camera_info_message, stamp_ns

PATIENCE = 150.0  # s; a loaded machine needs 20 to import torch, a broken node never answers
REPEATABLE = (GetState, SetParameters)
OUTPUTS = {
    "depth": ("depth/image", Image),
    "camera_info": ("depth/camera_info", CameraInfo),
    "color": ("depth/color", Image),
    "points": ("points", PointCloud2),
    "scale": ("scale", DiagnosticArray),
}
K = np.array([[90.0, 0, 60.2], [0, 90.0, 41.7], [0, 0, 1]])


def picture(height: int = 84, width: int = 120, seed: int = 0) -> np.ndarray:
    """Smooth random RGB image."""
    small = np.random.default_rng(seed).uniform(0, 255, (6, 8, 3))
    rows, cols = np.linspace(0, 4.999, height), np.linspace(0, 6.999, width)
    r, c = rows.astype(int), cols.astype(int)
    a, b = (rows - r)[:, None, None], (cols - c)[None, :, None]
    top = small[r][:, c] * (1 - b) + small[r][:, c + 1] * b
    low = small[r + 1][:, c] * (1 - b) + small[r + 1][:, c + 1] * b
    return (top * (1 - a) + low * a).astype(np.uint8)


def rgb_message(image: np.ndarray) -> Image:
    return ImageWriter("rgb8").write(Header(), image)


class NodeProcess:
    """A node of ours as its own process; what it logs is kept."""

    def __init__(
        self, tmp: Path, *parameters: str, module: str = "depth_node", names: tuple[str, ...] = ()
    ) -> None:
        """names: remappings, such as image:=/camera/image_raw."""
        command = [sys.executable, "-m", f"dyndepth_ros.{module}", "--ros-args"]
        for parameter in parameters:
            command += ["-p", parameter]
        for name in names:
            command += ["-r", name]
        self._log = tmp / f"node_{time.monotonic_ns()}.log"
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=tmp, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for(self, pattern: str, count: int = 1, timeout: float = PATIENCE) -> str:
        """Wait until a line of the log matches; returns the last such line."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = [line for line in self.log.splitlines() if re.search(pattern, line)]
            if len(found) >= count:
                return found[-1]
            if not self.running:
                break
            time.sleep(0.05)
        raise AssertionError(f"log has not {count} x /{pattern}/:\n{self.log}")

    def count(self, pattern: str) -> int:
        return sum(1 for line in self.log.splitlines() if re.search(pattern, line))

    def wait(self, timeout: float = PATIENCE) -> int:
        return self._process.wait(timeout)

    def interrupt(self, times: int = 1, pause: float = 0.05, timeout: float = PATIENCE) -> int:
        """SIGINT, as often as said; returns the exit code."""
        for i in range(times):
            if i:
                time.sleep(pause)
            if self.running:
                self._process.send_signal(signal.SIGINT)
        return self.wait(timeout)

    def kill(self) -> None:
        if self.running:
            self._process.kill()
            self._process.wait(10)


class Camera:
    """A camera and its user: publishes images, subscribes to results, calls services."""

    def __init__(self, domain: int, outputs: tuple[str, ...] = tuple(OUTPUTS)) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node("test_camera", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._info = self.node.create_publisher(CameraInfo, "camera_info", best_effort)
        self._qos, self._images = best_effort, {}
        self.got: dict[str, list[Any]] = defaultdict(list)
        self._subscriptions = {}
        for name in outputs:
            self.subscribe(name)
        self.listen("diagnostics", DiagnosticArray, "/diagnostics")
        self._stamp = time.time_ns()

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def subscribe(self, name: str, qos: Any = 1) -> None:
        topic, kind = OUTPUTS[name]
        self.listen(name, kind, f"/depth_node/{topic}", qos)

    def listen(self, name: str, kind: type, topic: str, qos: Any = 1) -> None:
        self._subscriptions[name] = self.node.create_subscription(
            kind, topic, self.got[name].append, qos
        )

    def unsubscribe(self, name: str) -> None:
        self.node.destroy_subscription(self._subscriptions.pop(name))
        self.got[name].clear()

    def advertise(self, kind: type = Image) -> Any:
        """Publisher of raw or compressed images, as the only one there is."""
        if kind not in self._images:
            self.close_images(self._qos)
            topic = "image" if kind is Image else "image/compressed"
            self._images = {kind: self.node.create_publisher(kind, topic, self._qos)}
        return self._images[kind]

    def close_images(self, qos: QoSProfile | None) -> None:
        """Stop publishing images; from the next one on they are published with another QoS, None:
        there will be none.
        """
        for publisher in self._images.values():
            self.node.destroy_publisher(publisher)
        self._qos, self._images = qos, {}

    def spin_until(self, done: Any, timeout: float = PATIENCE) -> Any:
        """Spin until `done()` is true; returns what it was at last."""
        end = time.monotonic() + timeout
        while not (result := done()) and time.monotonic() < end:
            self._executor.spin_once(0.05)
        return result

    def send(self, image: Any, info: CameraInfo | None, stamp: int | None = None) -> int:
        """Publish an image, its camera_info before it, with the next stamp or `stamp`, in ns."""
        self._stamp = self._stamp + 50_000_000 if stamp is None else stamp
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(self._stamp, 10**9)
        image.header.frame_id = "camera_optical_frame"
        publisher = self.advertise(type(image))
        if info is not None:
            info.header = image.header
            self._info.publish(info)
        publisher.publish(image)
        return self._stamp

    def ask(
        self, image: Any, info: CameraInfo | None = None, K: np.ndarray = K,
        outputs: tuple[str, ...] = ("depth",), timeout: float = PATIENCE,
    ) -> dict[str, Any]:  # fmt: skip
        """Send an image until all `outputs` with one and the same stamp of ours have come, twice.

        The first answer does not count: its image may have overtaken its camera_info.
        """
        if info is None:
            size = (84, 120) if isinstance(image, CompressedImage) else (image.height, image.width)
            info = camera_info_message(Header(), K, size)
        end, first = time.monotonic() + timeout, True
        sent: set[int] = set()
        for name in outputs:
            self.got[name].clear()
        while time.monotonic() < end:
            sent.add(self.send(image, info))
            if found := self.spin_until(lambda: self._common(outputs, sent), 1.0):
                if not first:
                    return found
                first = False
                sent.clear()
        raise AssertionError(f"no {outputs} within {timeout} s; got {dict(self.counts())}")

    def _common(self, outputs: tuple[str, ...], sent: set[int]) -> dict[str, Any] | None:
        by_stamp = {name: {stamp_ns(m.header.stamp): m for m in self.got[name]} for name in outputs}
        common = sent.intersection(*by_stamp.values())
        return {name: by_stamp[name][max(common)] for name in outputs} if common else None

    def counts(self) -> dict[str, int]:
        return {name: len(messages) for name, messages in self.got.items()}

    def settle(self) -> None:
        """Let what is under way arrive."""
        self.spin_until(lambda: False, 0.5)

    def call(self, kind: type, name: str, request: Any, timeout: float = PATIENCE) -> Any:
        """Call a service. A request that may be repeated is: until the two sides' discovery is
        complete in both directions, DDS drops answers for which it does not know the reader yet.
        """
        client = self.node.create_client(kind, name)
        assert self.spin_until(client.service_is_ready, timeout), f"no service {name}"
        once = kind not in REPEATABLE
        if once:
            self.spin_until(lambda: False, 2.0)
        end = time.monotonic() + timeout
        futures = []
        while not any(future.done() for future in futures) and time.monotonic() < end:
            futures.append(client.call_async(request))
            self.spin_until(
                lambda: any(future.done() for future in futures), timeout if once else 5.0
            )
        answered = [future.result() for future in futures if future.done()]
        self.node.destroy_client(client)
        assert answered, f"service {name} does not answer"
        return answered[0]

    def set(self, **values: Any) -> list[Any]:
        """Set parameters of the node; returns the results."""
        request = SetParameters.Request()
        for name, value in values.items():
            parameter = rclpy.parameter.Parameter(name, value=value).to_parameter_msg()
            assert isinstance(parameter, Parameter)
            assert parameter_value_to_python(parameter.value) == value
            request.parameters.append(parameter)
        return self.call(SetParameters, "/depth_node/set_parameters", request).results

    def status(self, fresh: bool = True) -> tuple[Any, dict[str, str]]:
        """The next /diagnostics of the node: status and its values."""
        if fresh:
            self.got["diagnostics"].clear()
        assert self.spin_until(lambda: self.got["diagnostics"]), "no diagnostics"
        status = self.got["diagnostics"][-1].status[0]
        return status, {pair.key: pair.value for pair in status.values}
