"""How long the depth node takes from a camera's stamp to publishing, as a process over real DDS."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from dyndepth_core.evaluation.timing import Gate, Row
from dyndepth_ros import qos
from dyndepth_ros.conversions import ImageWriter, camera_info_message
from dyndepth_ros.diagnostics import WINDOW_S
from dyndepth_ros.outputs import TOPICS
from dyndepth_ros.processes import Processes, isolated_environment, own_domain

VGA = (480, 640)
MODEL_SIZE = (192, 640)
PAUSE_S = 0.02  # a camera waits between frames; back to back the node would only fight the sender
START_WAIT_S = 0.3  # shorter than the gap in stamps across which motion is forgotten
START_PATIENCE_S = 120.0
FRAME_PATIENCE_S = 30.0
OVERHEAD_MS = 15.0
DEPTH_RESULTS = ("depth", "points")


def measure(device: torch.device) -> Row:
    """The row `node` of `dyndepth benchmark`: VGA images in, depth and cloud at model size out."""
    return measure_node(device, VGA, "model", seconds=WINDOW_S + 4.0)


def measure_full_size(device: torch.device) -> Row:
    """The row `node_vga`: the same with depth and cloud at the camera's own 640x480."""
    return measure_node(device, VGA, "input", seconds=WINDOW_S + 4.0)


def measure_node(
    device: torch.device, size: tuple[int, int], output_size: str, seconds: float
) -> Row:
    """Run depth_node for `seconds`, one image at a time, and read its own /diagnostics.

    Raises ValueError with the end of the node's log when it gives no depth.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        own_domain() as domain,
        joined(isolated_environment(domain)) as env,
        Processes(Path(folder), env) as children,
    ):
        model = random_model(Path(folder) / "resnet18.safetensors")
        children.start(
            "depth_node",
            "dyndepth_ros.depth_node",
            model=model,
            device=str(device),
            output_size=output_size,
            threads=torch.get_num_threads(),
        )
        camera = Camera(domain, [frame(size)])
        try:
            camera.listen(DEPTH_RESULTS)
            frames, _ = camera.drive(children, seconds)
            values = camera.latencies(children)
        finally:
            camera.close()
    return _row(values, size, output_size, frames, device)


def _row(
    values: dict[str, str],
    size: tuple[int, int],
    output_size: str,
    frames: int,
    device: torch.device,
) -> Row:
    latency = {p: float(values[f"latency_p{p}_ms"]) for p in (50, 95, 99)}
    network = {p: float(values[f"network_p{p}_ms"]) for p in (50, 95)}
    out = MODEL_SIZE if output_size == "model" else size
    row = Row(
        work="depth_node, header stamp to published depth and cloud",
        input=f"rgb8 {size[1]}x{size[0]} in, {out[1]}x{out[0]} out, ResNet-18"
        f" {MODEL_SIZE[1]}x{MODEL_SIZE[0]}, {frames} frames one at a time",
        timer="stamp, DDS, decoding, network, depth and cloud, publish",
        precision="fp16" if device.type == "cuda" else "fp32",
        ms=latency[50],
        others={
            "latency p95": latency[95],
            "latency p99": latency[99],
            "network p50": network[50],
            "network p95": network[95],
        },
    )
    row.gates.append(Gate("p95 beyond the network's", latency[95] - network[95], OVERHEAD_MS))
    return row


def random_model(path: Path, seed: int = 0) -> Path:
    """Write a ResNet-18 with random weights: the time does not depend on what it has learned."""
    from dyndepth_core.inference.model_file import save_model
    from dyndepth_core.inference.model_meta import ModelMeta
    from dyndepth_core.methods.depth_pose_graph import DepthPoseGraph

    torch.manual_seed(seed)
    graph = DepthPoseGraph(
        encoder="resnet18", decoder_channels=(16, 32, 64, 128, 256), canonical_focal=500.0,
        min_depth=0.1, max_depth=100.0,
    )  # fmt: skip
    meta = ModelMeta(
        method="monodepth",
        architecture=graph.architecture,
        input_size=MODEL_SIZE,
        canonical_focal=500.0,
        depth_range=(0.1, 100.0),
    )
    save_model(path, graph, meta)
    return path


@contextlib.contextmanager
def joined(env: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of this process, too: its camera has to be on the node's graph."""
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield env
    finally:
        os.environ.clear()
        os.environ.update(before)


def frame(size: tuple[int, int]) -> tuple[Image, CameraInfo]:
    """An image of noise (H, W) and its camera_info, sharing one header."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    focal = 0.8 * size[1]
    K = np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])
    return messages(pixels, K)


def messages(pixels: np.ndarray, K: np.ndarray) -> tuple[Image, CameraInfo]:
    """Image and camera_info of rgb8 pixels (H, W, 3), sharing one header."""
    image = ImageWriter("rgb8").write(Header(frame_id="camera_optical_frame"), pixels)
    return image, camera_info_message(image.header, K, pixels.shape[:2])


class Camera:
    """Publishes its images in turn, each when the results of the one before have come."""

    def __init__(self, domain: int, frames: Sequence[tuple[Image, CameraInfo]]) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("benchmark_camera", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._images = self._node.create_publisher(Image, "image", qos.result_output())
        self._infos = self._node.create_publisher(CameraInfo, "camera_info", qos.result_output())
        self._frames = itertools.cycle(frames)
        self._awaited: dict[str, Subscription] = {}
        self._came: set[str] = set()
        self._silent = time.monotonic()
        self._diagnostics: dict[str, str] = {}
        self._node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.result_output(10)
        )

    def listen(self, results: Sequence[str]) -> None:
        """Subscribe to these of outputs.TOPICS, and to no others; a frame is answered by all."""
        for subscription in self._awaited.values():
            self._node.destroy_subscription(subscription)
        self._awaited = {name: self._subscribe(name) for name in results}

    def drive(
        self, children: Processes, seconds: float, pause: float = PAUSE_S
    ) -> tuple[int, float]:
        """Send images for `seconds` after the first results, each `pause` s after those of the one
        before: how many were answered, in how many seconds.
        """
        self._silent = time.monotonic()
        # Until the node listens, images are sent again and again.
        while not self._ask(children, START_WAIT_S, START_PATIENCE_S):
            pass
        frames, began = 0, time.monotonic()
        while frames == 0 or time.monotonic() - began < seconds:
            frames += self._ask(children, FRAME_PATIENCE_S / 3, FRAME_PATIENCE_S)
            time.sleep(pause)
        return frames, time.monotonic() - began

    def latencies(self, children: Processes) -> dict[str, str]:
        """What the node says of its latency on /diagnostics."""
        if not self._spin_until(lambda: "network_p95_ms" in self._diagnostics, FRAME_PATIENCE_S):
            raise ValueError(f"depth_node reports no latency:\n{children.tail('depth_node')}")
        return self._diagnostics

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _ask(self, children: Processes, wait: float, patience: float) -> bool:
        """Send an image and wait for its results; False when they do not all come within `wait` s.

        ValueError with the end of the node's log when none have come for `patience` s.
        """
        self._came.clear()
        image, info = next(self._frames)
        image.header.stamp = info.header.stamp = self._node.get_clock().now().to_msg()
        self._infos.publish(info)
        self._images.publish(image)
        if self._spin_until(lambda: self._came >= self._awaited.keys(), wait):
            self._silent = time.monotonic()
            return True
        children.check()
        if time.monotonic() - self._silent > patience:
            missing = ", ".join(sorted(self._awaited.keys() - self._came))
            raise ValueError(f"depth_node gives no {missing}:\n{children.tail('depth_node')}")
        return False

    def _subscribe(self, name: str) -> Subscription:
        topic, kind = TOPICS[name]
        # as bytes: unpacking a cloud would take the time of the node on the same cores
        return self._node.create_subscription(
            kind, topic.replace("~", "depth_node"), lambda _: self._came.add(name), 1, raw=True
        )

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self._diagnostics = {pair.key: pair.value for pair in msg.status[0].values}

    def _spin_until(self, done, patience: float) -> bool:
        end = time.monotonic() + patience
        while not done():
            if time.monotonic() > end:
                return False
            self._executor.spin_once(0.05)
        return True
