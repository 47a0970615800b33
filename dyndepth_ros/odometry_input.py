"""The subscription to the vehicle's odometry, `odom` or `twist`, and the scale learned from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node

from dyndepth_core.data.odometry import odometry_values
from dyndepth_core.inference.mount import down_in_camera, parse_mount
from dyndepth_core.inference.odometry_ratio import SILENT_S
from dyndepth_core.inference.scale_filter import ScaleFilter
from dyndepth_core.inference.vehicle_odometry import VehicleOdometry
from dyndepth_ros.conversions import stamp_ns
from dyndepth_ros.image_input import subscribe
from dyndepth_ros.parameters import NodeConfig

DEPTH = 10  # messages that wait: each counts, unlike images


def make_odometry(config: NodeConfig) -> VehicleOdometry | None:
    """What remembers the odometry, by the parameters; None when none is to be read."""
    if config.odometry == "none":
        return None
    return VehicleOdometry(parse_mount(config.base_to_camera), config.odometry_delay)


def attach_scale(predictor: Any, odometry: VehicleOdometry | None, config: NodeConfig) -> None:
    """Let a Predictor learn its scale from what the parameters say is there, if anything."""
    mount = parse_mount(config.base_to_camera)
    height, error = config.camera_height or None, 0.1
    if height is None and mount is not None and mount[2, 3] > 0:
        height, error = float(mount[2, 3]), 0.2  # base_link may be an axle, not the ground
    if odometry is None and height is None:
        return
    predictor.scale_filter = ScaleFilter(
        predictor.scale, odometry, height,
        height_error=error, down=down_in_camera(mount), min_speed=config.odometry_min_speed,
    )  # fmt: skip


class OdometryInput:
    """Feeds a VehicleOdometry; of two sources only one, an Odometry before a TwistStamped, which
    stands in while no Odometry has been received for SILENT_S.

    kind: auto, odometry or twist. The silence is told by the node's clock when messages come, as
    stamps of two drivers may be of two clocks, and a bag that plays slowly is not silent.
    """

    def __init__(
        self,
        node: Node,
        kind: str,
        odometry: VehicleOdometry,
        on_mismatch: Callable[[str], None],
    ) -> None:
        self._node, self._odometry, self._chosen = node, odometry, None
        self._heard_ns = 0  # when the latest message of the chosen kind came
        topics = {"odometry": ("odom", Odometry), "twist": ("twist", TwistStamped)}
        wanted = topics.values() if kind == "auto" else [topics[kind]]
        self._subscriptions = [
            subscribe(node, message, topic, self._take, on_mismatch, DEPTH)
            for topic, message in wanted
        ]

    def stop(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _take(self, message: Odometry | TwistStamped) -> None:
        now = self._node.get_clock().now().nanoseconds
        if type(message) is not self._chosen:
            # a clock that was set back, as by a bag that begins anew, tells nothing of a silence
            if self._chosen is Odometry and 0 <= now - self._heard_ns <= SILENT_S * 1e9:
                return
            text = f"odometry from {type(message).__name__} messages"
            if self._chosen is Odometry:
                self._node.get_logger().warning(f"no Odometry comes any more: {text}")
            else:
                self._node.get_logger().info(text)
            self._chosen = type(message)
            self._odometry.clear()
        self._heard_ns = now
        self._odometry.observe(stamp_ns(message.header.stamp), odometry_values(message))
