"""What the depth node publishes: only what somebody subscribes to, all with one header."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from dyndepth_core.inference.color import DepthColors
from dyndepth_ros import conversions, motion_messages, qos
from dyndepth_ros.parameters import NodeConfig

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import PublisherEventCallbacks

TOPICS: dict[str, tuple[str, type]] = {
    "depth": ("~/depth/image", Image),
    "camera_info": ("~/depth/camera_info", CameraInfo),
    "points": ("~/points", PointCloud2),
    "color": ("~/depth/color", Image),
    "scale": ("~/scale", DiagnosticArray),
    "mask": ("~/motion/mask", Image),
    "velocity": ("~/motion/velocity", Image),
    "moving_points": ("~/motion/points", PointCloud2),
    "markers": ("~/motion/markers", MarkerArray),
    "odometry": ("~/odometry", Odometry),
}
OBJECTS = frozenset({"mask", "velocity", "moving_points", "markers"})  # need object motion
ODOMETRY_DEPTH = 10  # steps add up: none may be lost to a subscriber that stalls for a moment
IN_METRES = frozenset({"velocity", "moving_points", "markers", "odometry"})  # need m/s


class Outputs:
    """The publishers of a configured node and the buffers of their messages."""

    def __init__(
        self, node: LifecycleNode, on_mismatch: Callable[[str], None], odometry: bool = False
    ) -> None:
        """Advertise; odometry: ~/odometry, too."""
        self._node = node
        self._publishers = {}
        for name, (topic, kind) in TOPICS.items():
            if name == "odometry" and not odometry:
                continue
            resolved = node.resolve_topic_name(topic)
            events = PublisherEventCallbacks(
                incompatible_qos=lambda event, resolved=resolved: on_mismatch(
                    qos.advice(resolved, True, event.last_policy_kind)
                )
            )
            self._publishers[name] = node.create_lifecycle_publisher(
                kind, topic, qos.result_output(ODOMETRY_DEPTH if name == "odometry" else 1),
                event_callbacks=events, qos_overriding_options=qos.overridable(),
            )  # fmt: skip
        encodings = ("32FC1", "16UC1", "rgb8", "mono8", "32FC3")
        self._writers = {e: conversions.ImageWriter(e) for e in encodings}
        self._cloud = conversions.CloudMessage()
        self._moving_cloud = motion_messages.MotionCloud()
        self._markers = motion_messages.ObjectMarkers()
        self._colors = DepthColors()

    def wanted(self) -> frozenset[str]:
        """Names of the outputs that have subscribers now."""
        return frozenset(n for n, p in self._publishers.items() if p.get_subscription_count() > 0)

    def destroy(self) -> None:
        """Take the publishers away."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    def publish_camera_info(self, header: Header, K: np.ndarray, size: tuple[int, int]) -> None:
        """CameraInfo of the depth image."""
        message = conversions.camera_info_message(header, K, size)
        self._publishers["camera_info"].publish(message)

    def publish(
        self,
        wanted: frozenset[str],
        header: Header,
        prediction: Any,
        write_cloud: Callable[[Any, np.ndarray], None],
        config: NodeConfig,
        ego: Any = None,
    ) -> None:
        """Publish the wanted outputs of one frame; `header` is that of the camera's image, ego its
        EgoState. What is wanted but not known of this frame is left out.
        """
        depth = prediction.depth
        beyond = depth > config.max_range
        if "depth" in wanted:
            writer = self._writers[config.depth_encoding]
            pixels = writer.pixels(*depth.shape)
            conversions.fill_depth(pixels, depth, beyond)
            writer.message.header = header
            self._publishers["depth"].publish(writer.message)
        if "camera_info" in wanted:
            self.publish_camera_info(header, prediction.K, depth.shape)
        moving_points = "moving_points" in wanted and prediction.motion is not None
        if "points" in wanted or moving_points:
            points = self._cloud.points(header, *depth.shape)
            write_cloud(prediction, points)
            conversions.erase_points(points, beyond)
            if "points" in wanted:
                self._publishers["points"].publish(self._cloud.message)
            if moving_points:
                cloud = self._moving_cloud.write(header, points, prediction.motion)
                self._publishers["moving_points"].publish(cloud)
        if "color" in wanted:
            if (self._colors.near, self._colors.far) != (config.color_near, config.color_far):
                self._colors = DepthColors(config.color_far, config.color_near)
            picture = self._writers["rgb8"].write(header, self._colors(depth))
            self._publishers["color"].publish(picture)
        if "scale" in wanted:
            scale = prediction.scale
            message = conversions.scale_message(header, scale.value, scale.variance, scale.source)
            self._publishers["scale"].publish(message)
        if prediction.motion is not None:
            self._publish_motion(wanted, header, prediction)
        if "odometry" in wanted and ego is not None:
            message = motion_messages.odometry_message(header, config.odometry_frame, ego)
            self._publishers["odometry"].publish(message)

    def _publish_motion(self, wanted: frozenset[str], header: Header, prediction: Any) -> None:
        motion = prediction.motion
        if "mask" in wanted:
            mask = np.where(motion.mask, np.uint8(255), np.uint8(0))
            self._publishers["mask"].publish(self._writers["mono8"].write(header, mask))
        if "velocity" in wanted:
            image = self._writers["32FC3"].write(header, motion.velocity)
            self._publishers["velocity"].publish(image)
        if "markers" in wanted:
            unit = "m/s" if prediction.scale.is_metric else "m/s?"
            message = self._markers.message(header, motion.objects, unit)
            self._publishers["markers"].publish(message)
