"""Whether frames go on while models are swapped: a camera at half the node's rate, over DDS."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger

from dyndepth_core.evaluation.timing import Gate, Row
from dyndepth_ros import qos
from dyndepth_ros.conversions import stamp_ns
from dyndepth_ros.node_latency import VGA, frame, joined, random_model
from dyndepth_ros.processes import Processes, isolated_environment, own_domain

FRAMES, SWAPS = 1000, 10
RATE_FRAMES = 40  # the node's rate is that of the median
START_PATIENCE_S = 120.0
ANSWER_PATIENCE_S = 60.0
LAST_PATIENCE_S = 10.0


def measure(device: torch.device) -> Row:
    """The row `hot_swap` of `dyndepth benchmark`: 1,000 frames, 10 swaps, one corrupt file."""
    return measure_swaps(device, VGA, FRAMES, SWAPS)


def measure_swaps(
    device: torch.device, size: tuple[int, int], frames: int, swaps: int, paced: bool = False
) -> Row:
    """Send `frames` images (H, W) at half the rate depth_node was measured at, or paced: each after
    the depth of the one before; meanwhile call ~/reload_model `swaps` times, two models in turn,
    and once for a file that is cut short.

    A gap is what lies between two depth images beyond the camera's period. Raises ValueError with
    the end of the node's log when it gives no depth or does not answer.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        own_domain() as domain,
        joined(isolated_environment(domain)) as env,
        Processes(Path(folder), env) as children,
    ):
        models = [random_model(Path(folder) / f"{seed}.safetensors", seed) for seed in (0, 1)]
        corrupt = Path(folder) / "corrupt.safetensors"
        corrupt.write_bytes(models[1].read_bytes()[:-1000])
        children.start(
            "depth_node", "dyndepth_ros.depth_node", model=models[0], device=str(device),
            threads=torch.get_num_threads(),
        )  # fmt: skip
        camera = _Camera(domain, size, children)
        try:
            period = 2 * camera.node_period()
            files = [models[(i + 1) % 2] for i in range(swaps)]
            files.insert(len(files) // 2, corrupt)
            replies = camera.stream(period, frames, files, paced)
        finally:
            camera.close()
    return _row(camera, period, frames, list(zip(files, replies, strict=True)), corrupt, device)


def _row(
    camera: _Camera,
    period: float,
    frames: int,
    replies: list[tuple[Path, Any]],
    corrupt: Path,
    device: torch.device,
) -> Row:
    sent, came = camera.sent, camera.came
    out = 1e3 * np.diff([came[s] for s in sorted(came)])
    into = 1e3 * np.diff([sent[s] for s in sorted(sent)])
    latency = [1e3 * (came[s] - sent[s]) for s in came if s in sent]
    refused = [not reply.success for file, reply in replies if file == corrupt]
    done = [reply.success for file, reply in replies if file != corrupt]
    row = Row(
        work=f"depth_node, {sum(done)} swaps of its model while frames flow",
        input=f"rgb8 {camera.size[1]}x{camera.size[0]} every {1e3 * period:.1f} ms, half the node's"
        f" rate; {frames} stamps in, {len(set(came) & set(sent))} out",
        timer="between two depth images at a subscriber, the longest",
        precision="fp16" if device.type == "cuda" else "fp32",
        ms=float(out.max()),
        others={
            "period": 1e3 * period,
            "between depth images p50": float(np.percentile(out, 50)),
            "between depth images p99": float(np.percentile(out, 99)),
            "between images sent max": float(into.max()),
            "latency p50": float(np.percentile(latency, 50)),
            "latency max": float(max(latency)),
        },
    )
    row.gates = [
        Gate("frames lost", frames - len(set(came) & set(sent)), 0),
        Gate("swaps done", sum(done), len(done), at_least=True),
        Gate("corrupt files refused", sum(refused), 1, at_least=True),
        Gate("longest gap, periods", float(out.max()) / (1e3 * period) - 1, 1.0),
    ]
    return row


class _Camera:
    """Sends images from a thread of its own, takes depth and calls services on the caller's."""

    def __init__(self, domain: int, size: tuple[int, int], children: Processes) -> None:
        self.size, self._children = size, children
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("benchmark_camera", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._images = self._node.create_publisher(Image, "image", qos.result_output())
        self._infos = self._node.create_publisher(CameraInfo, "camera_info", qos.result_output())
        self._image, self._info = frame(size)
        self._node.create_subscription(Image, "depth_node/depth/image", self._on_depth, 100)
        self._set = self._node.create_client(SetParameters, "depth_node/set_parameters")
        self._reload = self._node.create_client(Trigger, "depth_node/reload_model")
        self._sender: threading.Thread | None = None
        self._stop = threading.Event()
        self.sent: dict[int, float] = {}  # stamp (ns) -> when (s)
        self.came: dict[int, float] = {}

    def node_period(self) -> float:
        """Seconds between two depth images of a node that always has another image waiting."""
        ready = self._set.service_is_ready, self._reload.service_is_ready, self._ask
        if not self._spin_until(lambda: all(done() for done in ready), START_PATIENCE_S):
            raise ValueError(f"depth_node gives no depth:\n{self._children.tail('depth_node')}")
        for _ in range(RATE_FRAMES):
            self._ask()
        return float(np.median(np.diff(sorted(self.came.values())[-RATE_FRAMES:])))

    def stream(self, period: float, frames: int, files: list[Path], paced: bool) -> list[Any]:
        """Send `frames` images, one a period, and load `files` in turn; returns the answers."""
        self.sent.clear()
        self.came.clear()
        arguments = period, frames, paced
        self._sender = threading.Thread(target=self._send_all, args=arguments, daemon=True)
        self._sender.start()
        replies, longest = [], period + LAST_PATIENCE_S * paced
        for k, file in enumerate(files):
            due = (k + 0.5) * frames / len(files)
            self._spin_until(lambda due=due: len(self.sent) >= due, frames * longest)
            replies.append(self._load(file))
        self._spin_until(lambda: not self._sender.is_alive(), frames * longest)
        self._spin_until(lambda: set(self.sent) <= set(self.came), LAST_PATIENCE_S)
        return replies

    def _load(self, file: Path) -> Trigger.Response:
        """Name a model file and have it loaded, taking the depth that comes meanwhile."""
        value = Parameter("model", value=str(file)).to_parameter_msg()
        asked = self._set.call_async(SetParameters.Request(parameters=[value]))
        if self._spin_until(asked.done, ANSWER_PATIENCE_S):
            asked = self._reload.call_async(Trigger.Request())
            if self._spin_until(asked.done, ANSWER_PATIENCE_S):
                return asked.result()
        raise ValueError(f"depth_node does not answer:\n{self._children.tail('depth_node')}")

    def _spin_until(self, done: Callable[[], bool], patience: float) -> bool:
        end = time.monotonic() + patience
        while not done():
            self._children.check()
            if time.monotonic() > end:
                return False
            self._executor.spin_once(0.02)
        return True

    def _send_all(self, period: float, frames: int, paced: bool) -> None:
        for _ in range(frames):
            due, stamp = time.monotonic() + period, self._send()
            end = time.monotonic() + LAST_PATIENCE_S
            while paced and stamp not in self.came and time.monotonic() < end:
                if self._stop.wait(0.002):
                    return
            # Never sooner than a period after the last one, however late that was.
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return

    def _send(self) -> int:
        now = self._node.get_clock().now().to_msg()
        self._image.header.stamp = self._info.header.stamp = now
        self.sent[stamp_ns(now)] = time.monotonic()
        self._infos.publish(self._info)
        self._images.publish(self._image)
        return stamp_ns(now)

    def _ask(self) -> bool:
        stamp = self._send()
        return self._spin_until(lambda: stamp in self.came, 2.0)

    def _on_depth(self, msg: Image) -> None:
        self.came[stamp_ns(msg.header.stamp)] = time.monotonic()

    def close(self) -> None:
        """Stop sending, leave the graph."""
        self._stop.set()
        if self._sender is not None:
            self._sender.join()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)
