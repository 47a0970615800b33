"""The synthetic camera: a drive through the rendered world as a camera driver would publish it."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Quaternion, Vector3
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from dyndepth_ros.conversions import ImageWriter, camera_info_message
from dyndepth_ros.notices import Notices
from dyndepth_ros.parameters import ParameterModel, Parameters, option
from dyndepth_ros.process import run, way_out
from dyndepth_ros.qos import overridable, result_output
from dyndepth_ros.raw import cdr_stamp_ns, message_class

FRAME_ID = "camera_optical_frame"
QUEUE = 5
SETTLE_S = 0.5
FORGET_EVERY = 1000  # frames; building the surroundings anew takes a moment
FAILED = 1  # exit code
TRUTH = {  # topic -> encoding
    "depth_gt": "32FC1", "dynamic_gt": "mono8", "velocity_gt": "32FC3", "instances_gt": "mono16",
}  # fmt: skip


class CameraConfig(ParameterModel):
    """Parameters of the synthetic camera."""

    seed: int = option(1000, "Seed of the world: streets, cars, light, camera.", ge=0, le=2**31 - 1)
    clip: int = option(0, "Which drive through the worlds of that seed.", ge=0, le=1_000_000)
    width: int = option(640, "Image width.", unit="px", ge=32, le=4096)
    height: int = option(192, "Image height.", unit="px", ge=32, le=4096)
    rate: float = option(10.0, "Frames per second of the camera.", unit="Hz", ge=0.1, le=60.0)
    frames: int = option(0, "How many frames to publish before the process ends; 0: no end.",
                         ge=0, le=10_000_000)  # fmt: skip
    ground_truth: bool = option(
        False,
        "Also publish depth_gt (32FC1, metres, +Inf: sky), dynamic_gt (mono8), velocity_gt "
        "(32FC3, m/s relative to the ground, the camera's optical axes) and instances_gt (mono16, "
        "0: background).",
    )
    wait_for: int = option(
        0, "Begin when this many subscribe to `image`; 0: at once.", ge=0, le=100
    )  # fmt: skip
    pace_topic: str = option(
        "", "Publish a frame only when a message with the stamp of the one before came back on "
        "this topic; empty: at the rate, leaving out what cannot be rendered in time.",
    )  # fmt: skip
    pace_timeout: float = option(
        5.0, "Go on without the message awaited on pace_topic after this long.",
        unit="s", ge=0.1, le=3600.0,
    )  # fmt: skip


class SyntheticCameraNode(Node):
    """Publishes `image`, `camera_info`, `odom` and, on request, the ground truth of TRUTH.

    All of a frame carry one stamp; stamps advance as the rendered motion does, whatever the pace.
    """

    def __init__(self) -> None:
        super().__init__("synthetic_camera_node")
        self.config = Parameters(self, CameraConfig).config
        self._notices = Notices(self.get_logger())
        self._stop, self._back = threading.Event(), threading.Condition()
        self._leave = way_out(self)
        self._came_back = -1
        self._thread: threading.Thread | None = None
        self._image = self._advertise(Image, "image")
        self._info = self._advertise(CameraInfo, "camera_info")
        self._odom = self._advertise(Odometry, "odom")
        truth = TRUTH if self.config.ground_truth else {}
        self._truth = {topic: self._advertise(Image, topic) for topic in truth}
        kinds = {"image": "rgb8", **truth}
        self._writers = {name: ImageWriter(encoding) for name, encoding in kinds.items()}
        self._pace: Any = None
        self.failed = False

    def _advertise(self, kind: type, topic: str) -> Any:
        qos = result_output(QUEUE)
        return self.create_publisher(kind, topic, qos, qos_overriding_options=overridable())

    def start(self) -> bool:
        """Build the world and begin."""
        from dyndepth_core.data.synthetic import World

        c = self.config
        self._world = World(c.seed, c.clip, size=(c.height, c.width), rate_hz=c.rate)
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()
        return True

    def close(self) -> None:
        """Stop publishing."""
        self._stop.set()
        with self._back:
            self._back.notify_all()
        if self._thread is not None:
            self._thread.join(10.0)

    def _run(self) -> None:
        try:
            self._wait_for_the_others()
            self._drive()
        except Exception as error:
            if self.context.ok():  # else: publishing into a graph that is going down
                self.get_logger().fatal(f"{type(error).__name__}: {error}")
                self.failed = True
        if not self._stop.is_set() and self.context.ok():
            for publisher in (self._image, self._info, self._odom, *self._truth.values()):
                publisher.wait_for_all_acked(Duration(seconds=1))
            self._leave()

    def _wait_for_the_others(self) -> None:
        wanted = self.config.wait_for
        while not self._stop.is_set() and self._image.get_subscription_count() < wanted:
            self._stop.wait(0.05)
        end = time.monotonic() + self.config.pace_timeout
        while self.config.pace_topic and not self._stop.is_set() and time.monotonic() < end:
            if self._subscribe_to_pace():
                self._stop.wait(SETTLE_S)  # until the other side knows of it
                return
            self._stop.wait(0.05)

    def _drive(self) -> None:
        c, index, published = self.config, 0, 0
        begin, begin_ns = time.monotonic(), self.get_clock().now().nanoseconds
        self.get_logger().info(f"world seed {c.seed}, clip {c.clip}, {c.width}x{c.height}")
        while not self._stop.is_set() and not (c.frames and published >= c.frames):
            frame = self._world.render(index)
            stamp_ns = begin_ns + round(index * 1e9 / c.rate)
            if not c.pace_topic:  # a frame leaves when its motion has happened
                self._stop.wait(max(0.0, begin + index / c.rate - time.monotonic()))
            if self._stop.is_set():
                return
            self._publish(frame, stamp_ns)
            published += 1
            if published % FORGET_EVERY == 0:
                self._world.forget(index)
            if c.pace_topic:
                self._wait_for_answer(stamp_ns)
                index += 1
            else:
                index = max(index + 1, int((time.monotonic() - begin) * c.rate))

    def _publish(self, frame: Any, stamp_ns: int) -> None:
        """Everything else first, so that the image finds its companions already there."""
        header = Header(frame_id=FRAME_ID)
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        size = frame.image.shape[:2]
        self._info.publish(camera_info_message(header, self._world.calib.K, size))
        self._odom.publish(odometry_message(header, frame.odometry))
        if self._truth:
            values = {
                "depth_gt": np.where(frame.depth > 0, frame.depth, np.float32(np.inf)),
                "dynamic_gt": frame.dynamic.astype(np.uint8) * 255,
                "velocity_gt": frame.velocity,
                "instances_gt": frame.instances,
            }
            for topic, publisher in self._truth.items():
                publisher.publish(self._writers[topic].write(header, values[topic]))
        self._image.publish(self._writers["image"].write(header, frame.image))

    def _wait_for_answer(self, stamp_ns: int) -> None:
        def answered() -> bool:
            return self._came_back >= stamp_ns or self._stop.is_set()

        self._subscribe_to_pace()
        with self._back:
            if not self._back.wait_for(answered, self.config.pace_timeout):
                self._notices.warn("pace", f"no answer on {self.config.pace_topic}: going on")

    def _subscribe_to_pace(self) -> bool:
        """Subscribe when the topic has appeared; only then its type is known."""
        name = self.resolve_topic_name(self.config.pace_topic)
        kinds = dict(self.get_topic_names_and_types()).get(name)
        if self._pace is None and kinds:
            self._pace = self.create_subscription(
                message_class(kinds[0]), name, self._on_answer, result_output(QUEUE), raw=True
            )
        return self._pace is not None

    def _on_answer(self, data: bytes) -> None:
        stamp = cdr_stamp_ns(data)
        if stamp is not None:
            with self._back:
                self._came_back = max(self._came_back, stamp)
                self._back.notify_all()


def odometry_message(header: Header, values: dict[str, float]) -> Odometry:
    """nav_msgs/Odometry of the vehicle (base_link in odom; metres, m/s, rad/s)."""
    message = Odometry(child_frame_id="base_link")
    message.header.stamp, message.header.frame_id = header.stamp, "odom"
    v = values
    message.pose.pose.position = Point(x=v["tx"], y=v["ty"], z=v["tz"])
    message.pose.pose.orientation = Quaternion(x=v["qx"], y=v["qy"], z=v["qz"], w=v["qw"])
    message.twist.twist.linear = Vector3(x=v["speed"], y=0.0, z=0.0)
    message.twist.twist.angular = Vector3(x=0.0, y=0.0, z=v["yaw_rate"])
    return message


def main(args: list[str] | None = None) -> int:
    """Entry point of `synthetic_camera_node`: exit code 0 after the last frame or Ctrl-C."""
    nodes: list[SyntheticCameraNode] = []

    def make() -> SyntheticCameraNode:
        nodes.append(SyntheticCameraNode())
        return nodes[0]

    code = run("synthetic_camera_node", make, args)
    return FAILED if nodes and nodes[0].failed else code


if __name__ == "__main__":
    sys.exit(main())
