"""The demo's recorder: what the camera sent and what the depth node answered, matched by stamp.

Writes `recording/` (images and ground truth, an ordinary recording), `received/%06d.npz` (depth and
cloud as they arrived, same index; where motion is asked for its mask and velocity, too) and, when
it is told to end, `received.json` and the moving objects, `received/objects.npz`.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_ros.conversions import depth_to_metres, image_to_array, image_to_rgb, stamp_ns
from dyndepth_ros.motion_messages import ARROW_SECONDS
from dyndepth_ros.parameters import ParameterModel, Parameters, option
from dyndepth_ros.process import run
from dyndepth_ros.qos import result_output

TOPICS = {
    "image": ("image", Image),
    "info": ("camera_info", CameraInfo),
    "truth": ("depth_gt", Image),
    "dynamic": ("dynamic_gt", Image),
    "depth": ("depth_node/depth/image", Image),
    "depth_info": ("depth_node/depth/camera_info", CameraInfo),
    "points": ("depth_node/points", PointCloud2),
}
MOTION_TRUTH = {"true_velocity": ("velocity_gt", Image), "instances": ("instances_gt", Image)}
MOTION = {  # the first frame has none, nor has one whose history was reset
    "mask": ("depth_node/motion/mask", Image),
    "velocity": ("depth_node/motion/velocity", Image),
}
MARKERS = "depth_node/motion/markers"
QUEUE = 50
MATCHING = 200  # stamps kept while their messages come in
ENOUGH_S = 30.0  # for the writer to write what is still waiting


class RecorderConfig(ParameterModel):
    """Parameters of the recorder."""

    out: str = option("", "Folder to write to; it must exist.")
    motion: bool = option(False, "Also record what moves, and its ground truth.")


@dataclass
class Parts:
    """The messages of one stamp and when (s) each arrived."""

    messages: dict[str, Any] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)


class Recorder(Node):
    """Takes messages on the spin thread and writes on another, so that arrival times are true."""

    def __init__(self) -> None:
        super().__init__("demo_recorder")
        config = Parameters(self, RecorderConfig).config
        self._out = Path(config.out)
        if not self._out.is_dir():
            raise ValueError(f"parameter out is '{self._out}': it must be a folder")
        (self._out / "received").mkdir(exist_ok=True)
        self._open: dict[int, Parts] = {}
        self._latency_ms: list[float] = []
        self._images: set[int] = set()
        self._answers: set[int] = set()
        self._points: list[int] = []
        self._todo: queue.Queue[tuple[int, Parts] | None] = queue.Queue()
        self._writer: RecordingWriter | None = None
        topics = {**TOPICS, **(MOTION_TRUTH if config.motion else {})}
        self._needed = frozenset(topics)
        topics |= MOTION if config.motion else {}
        self._all = frozenset(topics)
        self._objects: list[np.ndarray] = []
        self._object_stamps: list[int] = []
        self._thread = threading.Thread(target=self._write_all, name="writer")
        self._thread.start()
        for name, (topic, kind) in topics.items():
            self.create_subscription(kind, topic, self._taker(name), result_output(QUEUE))
        if config.motion:
            self.create_subscription(MarkerArray, MARKERS, self._take_markers, result_output(QUEUE))

    def _taker(self, name: str) -> Any:
        return lambda message: self._take(name, message)

    def _take(self, name: str, message: Any) -> None:
        stamp = stamp_ns(message.header.stamp)
        parts = self._open.setdefault(stamp, Parts())
        parts.messages[name] = message
        parts.arrived[name] = time.monotonic()
        if name == "image":
            self._images.add(stamp)
        if name == "depth":
            self._answers.add(stamp)
        if parts.messages.keys() >= self._needed:
            # The node works on one frame after the other: those before will get no motion any more.
            self._put([s for s in self._open if s < stamp])
            if parts.messages.keys() == self._all:
                self._put([stamp])
        if len(self._open) > MATCHING:
            self._open.pop(min(self._open))

    def _put(self, stamps: Iterable[int]) -> None:
        """Have these written, in order, where all is there that a frame needs."""
        for stamp in sorted(stamps):
            if self._open[stamp].messages.keys() >= self._needed:
                self._todo.put((stamp, self._open.pop(stamp)))

    def _take_markers(self, message: MarkerArray) -> None:
        """By the stamps of the markers: the array has none of its own, and may be empty."""
        for stamp, values in marker_objects(message):
            self._object_stamps.append(stamp)
            self._objects.append(values)

    def _write_all(self) -> None:
        while (item := self._todo.get()) is not None:
            self._write(*item)

    def _write(self, stamp: int, parts: Parts) -> None:
        m = parts.messages
        image = image_to_rgb(m["image"])
        truth = depth_to_metres(m["truth"])
        truth = np.where(np.isfinite(truth), truth, 0)  # +Inf is sky: no depth to compare with
        if self._writer is None:
            K = np.array(m["info"].k).reshape(3, 3)
            calib = Calibration.from_K(K, image.shape[1], image.shape[0], "synthetic camera")
            self._writer = RecordingWriter(self._out / "recording", calib)
        points, colors = cloud_arrays(m["points"])
        index = self._writer.count
        motion = {}
        if parts.messages.keys() == self._all and "mask" in m:
            motion["mask"] = image_to_array(m["mask"]) > 127
            motion["velocity"] = image_to_array(m["velocity"])
        temporary = self._out / "received" / "partial.npz"
        np.savez(
            temporary,
            depth=image_to_array(m["depth"]),
            K=np.array(m["depth_info"].k).reshape(3, 3),
            points=points.astype(np.float16),
            colors=colors,
            **motion,
        )
        temporary.replace(self._out / "received" / f"{index:06d}.npz")
        dynamic = image_to_array(m["dynamic"]) > 127
        self._writer.add(
            image, stamp, depth=truth, dynamic=dynamic,
            **{
                key: image_to_array(m[name])
                for key, name in (("velocity", "true_velocity"), ("instances", "instances"))
                if name in m
            },
        )  # fmt: skip
        self._points.append(len(points))
        self._latency_ms.append(1e3 * (parts.arrived["depth"] - parts.arrived["image"]))

    def close(self) -> bool:
        """Write what is still waiting, the objects and the counts; False: it takes too long."""
        self._put(list(self._open))
        self._todo.put(None)
        self._thread.join(ENOUGH_S)
        if self._thread.is_alive():
            self.get_logger().error(f"{self._todo.qsize()} frames not written in {ENOUGH_S:g} s")
            return False
        if self._writer is not None:
            self._writer.close()
        if "mask" in self._all:
            np.savez(
                self._out / "received" / "objects.npz",
                stamps_ns=np.array(self._object_stamps, np.int64),
                objects=np.array(self._objects, np.float64).reshape(-1, 8),
            )
        counts = {
            "frames_in": len(self._images),
            "frames_out": len(self._images & self._answers),
            "recorded": len(self._points),
            "latency_ms": self._latency_ms,
            "points": self._points,
        }
        (self._out / "received.json").write_text(json.dumps(counts) + "\n")
        return True


def cloud_arrays(message: PointCloud2) -> tuple[np.ndarray, np.ndarray]:
    """Valid points (N, 3) float32 and their colours (N, 3) uint8 of an x y z rgb cloud."""
    offsets = {f.name: f.offset for f in message.fields}
    missing = [name for name in ("x", "y", "z", "rgb") if name not in offsets]
    if missing:
        raise ValueError(f"point cloud without field {', '.join(missing)}")
    raw = np.frombuffer(message.data, np.uint8).reshape(message.height, message.row_step)
    raw = raw[:, : message.width * message.point_step].reshape(-1, message.point_step)

    def column(name: str, kind: str) -> np.ndarray:
        at = offsets[name]
        return np.ascontiguousarray(raw[:, at : at + 4]).view(kind)[:, 0]

    points = np.stack([column(name, "<f4") for name in "xyz"], 1)
    packed = column("rgb", "<u4")
    valid = np.isfinite(points).all(1)
    colors = np.stack([packed >> 16, packed >> 8, packed], 1).astype(np.uint8)
    return points[valid], colors[valid]


def marker_objects(message: MarkerArray) -> list[tuple[int, np.ndarray]]:
    """Stamp (ns) and (8,) id, x y z, vx vy vz, 1 if it is only predicted, of every arrow."""
    found = []
    for m in message.markers:
        if (m.ns, m.type, m.action) == ("velocity", Marker.ARROW, Marker.ADD):
            start, end = (np.array([p.x, p.y, p.z]) for p in m.points)
            values = (m.id, *start, *(end - start) / ARROW_SECONDS, m.color.a < 1)
            found.append((stamp_ns(m.header.stamp), np.array(values)))
    return found


def main(args: list[str] | None = None) -> int:
    """Run until told to end."""
    return run("demo_recorder", Recorder, args)


if __name__ == "__main__":
    sys.exit(main())
