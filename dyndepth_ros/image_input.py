"""The subscription to a camera's images, raw or compressed, whichever is published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from dyndepth_ros import qos

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

SUFFIX = "/compressed"
TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}


def subscribe(
    node: Node,
    kind: type,
    topic: str,
    callback: Callable[[Any], None],
    on_mismatch: Callable[[str], None],
    depth: int = 1,
    on_lost: Callable[[int], None] | None = None,
) -> Any:
    """Best-effort subscription to the newest `depth` messages that explains a QoS mismatch.

    on_lost: told how many messages DDS lost on their way, where it can tell.
    """
    resolved = node.resolve_topic_name(topic)

    def create(**more: Any) -> Any:
        events = SubscriptionEventCallbacks(
            incompatible_qos=lambda event: on_mismatch(
                qos.advice(resolved, False, event.last_policy_kind)
            ),
            **more,
        )
        return node.create_subscription(
            kind, topic, callback, qos.sensor_input(depth),
            event_callbacks=events, qos_overriding_options=qos.overridable(),
        )  # fmt: skip

    if on_lost is None:
        return create()
    try:
        return create(message_lost=lambda event: on_lost(event.total_count_change))
    except UnsupportedEventTypeError:
        return create()


def choose(
    transport: str, topic: str, compressed_topic: str, published: dict[str, set[type]]
) -> tuple[str, type]:
    """Topic and message type to subscribe to.

    published: {topic: types somebody publishes there}. In `auto` raw images win; a compressed topic
    given as `image` is recognised by its type. Without any publisher yet: raw, unless the name says
    compressed.
    """
    options = [(topic, Image), (compressed_topic, CompressedImage), (topic, CompressedImage)]
    if transport != "auto":
        wanted = Image if transport == "raw" else CompressedImage
        options = [option for option in options if option[1] is wanted]
    for name, kind in options:
        if kind in published.get(name, ()):
            return name, kind
    if topic.endswith(SUFFIX) and transport != "raw":
        return topic, CompressedImage
    return options[0]


class ImageInput:
    """Subscribes to `image` or `image/compressed`; `check`, called often, follows the publisher."""

    def __init__(
        self,
        node: Node,
        transport: str,
        callback: Callable[[Any], None],
        on_mismatch: Callable[[str], None],
        depth: int = 1,
        on_lost: Callable[[int], None] | None = None,
    ) -> None:
        """depth, on_lost: as `subscribe`; more than 1 image where each counts."""
        self._node, self._transport = node, transport
        self._depth, self._on_lost = depth, on_lost
        self._callback, self._on_mismatch = callback, on_mismatch
        self._raw = node.resolve_topic_name("image")
        self._compressed = node.resolve_topic_name("image" + SUFFIX)
        if self._compressed == node.resolve_topic_name("image" + SUFFIX, only_expand=True):
            self._compressed = self._raw + SUFFIX  # a remapped `image` takes its transport along
        self._subscription: Any = None
        self._choice: tuple[str, type] | None = None

    @property
    def topic(self) -> str:
        """Name of the topic read now."""
        return self._choice[0] if self._choice else self._raw

    @property
    def publishers(self) -> int:
        """How many publish on the topic read now."""
        return self._node.count_publishers(self.topic)

    def check(self) -> None:
        """Subscribe, or change over where the images come by another way than the one chosen."""
        published = {name: self._types(name) for name in {self._raw, self._compressed}}
        if self._choice and self._choice[1] in published.get(self._choice[0], ()):
            return
        choice = choose(self._transport, self._raw, self._compressed, published)
        if choice == self._choice:
            return
        self.stop()
        self._subscription = subscribe(
            self._node, choice[1], choice[0], self._callback, self._on_mismatch,
            self._depth, self._on_lost,
        )  # fmt: skip
        self._choice = choice
        self._node.get_logger().info(f"images from {choice[0]} ({choice[1].__name__})")

    def stop(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription, self._choice = None, None

    def _types(self, topic: str) -> set[type]:
        found = {info.topic_type for info in self._node.get_publishers_info_by_topic(topic)}
        return {TYPES[name] for name in found if name in TYPES}
