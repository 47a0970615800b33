"""The collect node: clips of a live camera, on request, by triggers or all the time, as recordings
to train on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from dyndepth_ros import conversions
from dyndepth_ros.camera_preparation import CameraPreparation
from dyndepth_ros.collect_parameters import CollectConfig, collect_options, live_settings
from dyndepth_ros.image_input import ImageInput, subscribe
from dyndepth_ros.notices import CoreLog, Notices
from dyndepth_ros.odometry_input import OdometryInput
from dyndepth_ros.parameters import Parameters
from dyndepth_ros.process import run
from dyndepth_ros.worker import Worker

QUEUE = 10  # images that wait for the spin thread
SILENCE_S = 5.0
WRITE_S = 20.0  # for what waits for the disk when the node closes; collect.launch.py waits so long
MASK = "depth_node/motion/mask"


class CollectNode(Node):
    """The spin thread only takes messages; one worker thread decodes, buffers and writes."""

    def __init__(self) -> None:
        super().__init__("collect_node")
        self._notices = Notices(self.get_logger())
        self._core_log = CoreLog(self.get_logger(), self._notices).attach()
        self._settings = Parameters(self, CollectConfig)
        self._worker = Worker("collect")
        self._lock = threading.Lock()
        self._waiting = 0  # bytes of the images that the worker has not taken up
        self._dropped: Counter[str] = Counter()
        self._received, self._last_image = 0, time.monotonic()
        self._values: dict[str, str] = {}  # of the worker, for /diagnostics
        self._collector: Any = None
        self._images: ImageInput | None = None
        self._odometry: OdometryInput | None = None
        self._mask: Any = None
        self._saved = self.create_guard_condition(lambda: None)

    @property
    def config(self) -> CollectConfig:
        """The parameters as they are now."""
        return self._settings.config

    def start(self) -> bool:
        """Open the folder and subscribe; False, after an error in the log, when that cannot be."""
        try:
            self._worker.call(self._open).result()
        except (ValueError, OSError) as error:
            text = str(error)
            if isinstance(error, OSError):
                text = f"{error.filename}: {error.strerror}; give a folder to write into as `out`"
            if self.context.ok():
                self.get_logger().fatal(f"cannot collect: {text}")
            return False
        self._info = subscribe(
            self, CameraInfo, "camera_info", self._preparation.camera_info, self._on_mismatch
        )
        self._images = ImageInput(
            self, self.config.image_transport, self._on_image, self._on_mismatch,
            QUEUE, self._on_lost,
        )  # fmt: skip
        self._images.check()
        if self.config.odometry != "none":
            self._odometry = OdometryInput(
                self, self.config.odometry, self._collector.odometry, self._on_mismatch
            )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a paused simulation still reports
        self.create_timer(1.0, self._report, clock=steady)
        self.create_timer(0.25, self._tick, clock=steady)
        # Of its own group, or nothing else would run while it waits for the worker.
        self.create_service(
            Trigger, "~/save_last", self._on_save, callback_group=MutuallyExclusiveCallbackGroup()
        )
        self.get_logger().info(f"{self.config.mode}: recordings go to {self._collector.root}")
        return True

    def _open(self) -> None:
        # Here, because it imports torch: the node is on the graph before.
        from dyndepth_core.data.live import LiveCollector
        from dyndepth_core.data.triggers import FlowResidual, InARow, Unusual

        options = collect_options(self.config)
        root = Path(os.path.abspath(os.path.expanduser(self.config.out)))
        self._collector = LiveCollector(
            root, options, lambda: live_settings(self.config), round(self.config.buffer_mb * 1e6)
        )
        topic = self.resolve_topic_name("image")
        self._preparation = CameraPreparation(
            topic, self.resolve_topic_name("camera_info"), self.config.rectify, options,
            self._notices,
        )  # fmt: skip
        self._flow, self._unusual, self._moving = FlowResidual(), Unusual(), InARow()

    # -- callbacks of the spin thread ----------------------------------------------------------

    def _on_image(self, msg: Any) -> None:
        self._received, self._last_image = self._received + 1, time.monotonic()
        size = len(msg.data)
        with self._lock:
            full = self._waiting + size > self.config.buffer_mb * 1e6 and self._waiting > 0
            self._waiting += 0 if full else size
        if full:
            self._drop("busy", "the disk or the processor is too slow for these images: lower rate")
        else:
            self._worker.call(lambda: self._guarded(self._take, msg, size))

    def _on_lost(self, count: int) -> None:
        with self._lock:
            self._dropped["lost_by_dds"] += count

    def _on_mask(self, msg: Image) -> None:
        self._worker.call(lambda: self._guarded(self._judge_mask, msg))

    def _tick(self) -> None:
        self._images.check()
        wanted = self.config.mode == "trigger" and self.config.trigger_moving > 0
        if wanted and self._mask is None:
            self._mask = subscribe(self, Image, MASK, self._on_mask, self._on_mismatch)
        elif not wanted and self._mask is not None:
            self.destroy_subscription(self._mask)
            self._mask = None
        self._worker.call(lambda: self._guarded(self._collector.drain))

    def _on_mismatch(self, advice: str) -> None:
        self._notices.warn(advice, advice)

    async def _on_save(self, _: Trigger.Request, reply: Trigger.Response) -> Trigger.Response:
        answer: Future = Future()
        self._worker.call(lambda: self._save(answer))
        reply.success, reply.message = await answer
        return reply

    def _drop(self, reason: str, text: str) -> None:
        with self._lock:
            self._dropped[reason] += 1
        self._notices.warn(reason, f"{text}; frame left out ({reason})")

    # -- the worker thread ---------------------------------------------------------------------

    def _guarded(self, work: Any, *arguments: Any) -> None:
        """Whatever is wrong with one message, the node goes on."""
        try:
            work(*arguments)
        except Exception as error:
            if self.context.ok():
                self._notices.error(f"{work.__name__}", f"{work.__name__}: {error!r}; going on")

    def _take(self, msg: Any, size: int) -> None:
        with self._lock:
            self._waiting -= size
        collector, stamp = self._collector, conversions.stamp_ns(msg.header.stamp)
        if not collector.wants(stamp):
            return
        try:
            image = _decode(msg)
        except ValueError as error:
            return self._drop("undecodable", f"an image cannot be decoded: {error}")
        try:
            prepare, is_new = self._preparation(image.shape[:2], self.config.camera_info_timeout)
        except ValueError as error:
            return self._drop("calibration", str(error))
        if prepare is None:
            return self._drop("no_camera_info", "waiting for camera_info")
        if is_new:
            collector.camera(prepare, self._images.topic if self._images else "")
            self._flow.restart()
        from dyndepth_core.data.collect import CameraFrame

        data = np.frombuffer(msg.data, np.uint8)
        collector.take(CameraFrame(stamp, lambda: _decode(msg), data), size)
        if self.config.mode == "continuous":
            collector.go_on()
        elif self.config.mode == "trigger" and self.config.trigger_residual:
            self._judge_residual(prepare(image), stamp)
        collector.drain()

    def _judge_residual(self, image: np.ndarray, stamp: int) -> None:
        factor, value = self.config.trigger_residual, self._flow(image)
        if value is None:
            return
        high = self._unusual(stamp, value, factor)
        median = self._unusual.median
        self._values["residual"] = f"{value:.4f}"
        self._values["residual_median"] = "" if median is None else f"{median:.4f}"
        if high and (name := self._collector.trigger("residual")):
            self.get_logger().info(
                f"saving {name}: photometric residual {value:.3f}, in the last minute {median:.3f}"
            )

    def _judge_mask(self, msg: Image) -> None:
        from dyndepth_core.data.triggers import moving_share

        share = moving_share(conversions.image_to_array(msg))
        self._values["moving_share"] = f"{share:.4f}"
        if self._moving(share, self.config.trigger_moving) and (
            name := self._collector.trigger("moving")
        ):
            self.get_logger().info(f"saving {name}: {100 * share:.0f} % of the image moves")

    def _save(self, answer: Future) -> None:
        try:
            held, going = self._collector.ring.seconds, self._collector.recording
            name = self._collector.save("request")
            text = f"{self._collector.root / name}_000: "
            text += "prolonged" if going == name else f"{held:.1f} s before now"
            answer.set_result((True, f"{text}, and the next {self.config.after:g} s"))
        except Exception as error:
            self.get_logger().error(f"nothing is saved: {error}")
            answer.set_result((False, f"nothing is saved: {error}"))
        self._saved.trigger()  # wakes the spin thread, which then sends the reply

    # -- diagnostics and end -------------------------------------------------------------------

    def _report(self) -> None:
        collector = self._collector
        silent = time.monotonic() - self._last_image
        with self._lock:
            # a copy, which the worker cannot change meanwhile
            dropped = self._dropped + Counter(dict(collector.dropped))
        level, message = DiagnosticStatus.OK, "recording" if collector.recording else "waiting"
        if collector.blocked:
            level, message = DiagnosticStatus.ERROR, f"recording stops: {collector.blocked}"
        elif silent > SILENCE_S:
            level, message = DiagnosticStatus.WARN, f"no image on {self._images.topic}"
            self._notices.warn("silence", f"{message} for {silent:.0f} s")
        values = {
            "mode": self.config.mode,
            "out": str(collector.root),
            "recording": collector.recording,
            "clips": str(collector.manifest.clips),
            "frames_in": str(self._received),
            "frames_written": str(collector.written),
            **{f"dropped_{reason}": str(n) for reason, n in sorted(dropped.items()) if n},
            "buffer_s": f"{collector.ring.seconds:.2f}",
            "buffer_mb": f"{collector.ring.bytes / 1e6:.1f}",
            "total_gb": f"{collector.total() / 1e9:.4f}",
            **dict(self._values),
        }
        name = self.get_fully_qualified_name().lstrip("/")  # as depth_node
        status = conversions.status_message(f"{name}: clips", level, message, values)
        out = DiagnosticArray(status=[status])
        out.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(out)

    def close(self) -> bool:
        """Write what is waiting, end the clip; False when the worker is stuck."""
        if self._collector is not None:
            self._worker.call(lambda: self._guarded(self._collector.close))
            finished = self._worker.call(lambda: None)
            end = time.monotonic() + WRITE_S
            while not finished.done() and time.monotonic() < end:
                time.sleep(0.01)
        self._core_log.detach()
        return self._worker.stop()


def _decode(msg: Any) -> np.ndarray:
    """RGB uint8 (H, W, 3) of an Image or CompressedImage; ValueError when it cannot be."""
    if isinstance(msg, CompressedImage):
        return conversions.compressed_to_rgb(msg)
    return conversions.image_to_rgb(msg)


def main(args: list[str] | None = None) -> int:
    """Entry point of `collect_node`."""
    return run("collect_node", CollectNode, args)


if __name__ == "__main__":
    sys.exit(main())
