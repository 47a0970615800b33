"""The bag replay node: recorded topics again, with their own stamps and /clock, at any rate."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy
from rosgraph_msgs.msg import Clock

from dyndepth_ros.notices import CoreLog, Notices
from dyndepth_ros.pace import Pace
from dyndepth_ros.parameters import ParameterModel, Parameters, option
from dyndepth_ros.process import run, way_out
from dyndepth_ros.qos import result_output
from dyndepth_ros.raw import message_class

BROKEN_BAG = 1  # exit code: nothing could be replayed
QUEUE = 10  # messages kept for a slow reliable subscriber
LATCHED_QUEUE = 100  # and for late ones: each node of a robot has its own message on /tf_static
LATE_S = 0.5
LOOP_LINE_S = 10.0  # between two lines of the log that say that the bag begins anew
SETTLED_S = 1.0  # without a new subscriber
MAX_GAP_NS = 60 * 10**9  # between two messages; more is a damaged time, or too long to wait for


class ReplayConfig(ParameterModel):
    """Parameters of the bag replay node."""

    bag: str = option("", "rosbag2 folder, .db3, .mcap or ROS 1 .bag file; needed.")
    rate: float = option(
        1.0, "Bag seconds per second of real time.", applies="now", ge=0.01, le=100.0
    )
    start: float = option(
        0.0, "Where in the bag to start, after its first message.", unit="s", ge=0.0, le=1e6
    )
    duration: float = option(
        0.0, "How much of the bag to play; 0: to its end.", unit="s", ge=0.0, le=1e6
    )
    loop: bool = option(
        False, "Begin again at the end, the stamps and /clock going back in time.", applies="now"
    )
    topics: str = option("", "Topics to play, separated by spaces or commas; empty: all.")
    clock_rate: float = option(
        50.0, "How often /clock is published, at least.", unit="Hz", ge=1.0, le=1000.0
    )
    wait: float = option(
        10.0, "Play once someone subscribes, at the latest after this long; 0: at once.",
        unit="s", ge=0.0, le=3600.0,
    )  # fmt: skip
    wait_topics: str = option(
        "", "Topics, separated by spaces or commas, whether of the bag or not, that must have a "
        "subscriber, too, before it plays; empty: any subscriber will do.",
    )  # fmt: skip


class BagReplayNode(Node):
    """Publishes every message of a bag, serialised as it was recorded, when its bag time has come.

    Ends the process at the end of the bag. `failed`: nothing could be played.
    """

    def __init__(self) -> None:
        super().__init__("bag_replay_node")
        self.failed = False
        self._notices = Notices(self.get_logger())
        self._core_log = CoreLog(self.get_logger(), self._notices).attach()
        self._settings = Parameters(self, ReplayConfig)
        self._clock_publisher = self.create_publisher(Clock, "/clock", result_output())
        self._outputs: dict[str, Publisher] = {}
        self._kinds: dict[str, str] = {}
        self._latched: list[str] = []
        self._awaited: list[str] = []
        self._refused: set[tuple[str, str]] = set()  # (topic, type)
        self._stop, self._leave = threading.Event(), way_out(self)
        self._thread: threading.Thread | None = None
        self._bag: Any = None
        self._origin_ns = 0

    @property
    def config(self) -> ReplayConfig:
        """The parameters as they are now."""
        return self._settings.config

    def start(self) -> bool:
        """Open the bag and begin; False, after an error in the log, when that cannot be."""
        try:
            self._open()
        except (ValueError, OSError, ImportError) as error:
            self.get_logger().fatal(str(error))
            self.failed = True
            return False
        self._thread = threading.Thread(target=self._play, name="replay", daemon=True)
        self._thread.start()
        return True

    def _open(self) -> None:
        if not self.config.bag:
            raise ValueError("parameter bag is empty: give a bag, -p bag:=/path/to/bag")
        try:
            from dyndepth_core.data.bag import Bag

            self._bag = Bag(self.config.bag)
        except ModuleNotFoundError as error:
            raise ImportError(f"{error.name} is missing: pip install rosbags") from error
        try:
            self._awaited = [self.resolve_topic_name(n) for n in _words(self.config.wait_topics)]
        except NameValidationException as error:
            raise ValueError(f"parameter wait_topics: {error}") from error
        topics = self._bag.topics()
        wanted = _words(self.config.topics)
        unknown = [name for name in wanted if name not in topics]
        if unknown:
            raise ValueError(
                f"{self.config.bag}: no topic {', '.join(unknown)}; it has {', '.join(topics)}"
            )
        for name in wanted or topics:
            if name != "/clock" and topics[name].count:  # the clock is ours
                self._advertise(name, topics[name].type, topics[name].latched)
        first = next(self._bag.messages(self._outputs), None)
        if first is None:
            raise ValueError(f"{self.config.bag}: no message that can be replayed")
        self._origin_ns = first.bag_ns + round(self.config.start * 1e9)
        if next(self._messages(), None) is None:
            raise ValueError(
                f"{self.config.bag}: no message after start {self.config.start:g} s; it is shorter"
            )

    def _advertise(self, name: str, kind: str, latched: bool) -> None:
        try:
            message = message_class(kind)
        except (ImportError, AttributeError, ValueError):
            self.get_logger().warning(
                f"{name} is not replayed: message type {kind} is not installed"
            )
            return
        qos = result_output(QUEUE)
        if latched or name == "/tf_static":
            qos = result_output(LATCHED_QUEUE)
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            self._latched.append(name)
        self._outputs[name] = self.create_publisher(message, name, qos)
        self._kinds[name] = kind

    def _messages(self) -> Iterator[Any]:
        seconds = self.config.duration
        stop = self._origin_ns + round(seconds * 1e9) if seconds else None
        return self._known(self._bag.messages(self._outputs, self._origin_ns, stop))

    def _known(self, messages: Iterable[Any]) -> Iterator[Any]:
        """Those of the type that their topic is advertised with."""
        for message in messages:
            if message.type == self._kinds[message.topic]:
                yield message
            elif (message.topic, message.type) not in self._refused:
                self._refused.add((message.topic, message.type))
                self.get_logger().warning(
                    f"{message.topic} is replayed as {self._kinds[message.topic]}: its messages of "
                    f"type {message.type or 'unknown'} are left out"
                )

    def _play(self) -> None:
        try:
            self._wait_for_subscribers()
            self.get_logger().info(f"playing {self.config.bag}")
            while not self._stop.is_set():
                self._play_once()
                if not self.config.loop:
                    break
                self.get_logger().info(
                    "end of the bag: from its start again", throttle_duration_sec=LOOP_LINE_S
                )
                self._stop.wait(1 / self.config.clock_rate)  # messages may span no time at all
            self._flush()
        except Exception as error:
            if self.context.ok():  # not merely publishing into a graph that is going down
                self.get_logger().fatal(f"{self.config.bag}: {type(error).__name__} {error}")
                self.failed = True
        if not self._stop.is_set() and self.context.ok():
            self.get_logger().info("end of the bag")
            self._leave()

    def _wait_for_subscribers(self) -> None:
        """Discovery takes a moment, and the first message may be the only one of its kind."""
        begin = since = time.monotonic()
        seen = 0  # subscribers; others are there at once, while the one that counts still loads
        while not self._stop.is_set() and self.config.wait:
            now, before = time.monotonic(), seen
            seen = sum(p.get_subscription_count() for p in self._outputs.values())
            missing = [name for name in self._awaited if not self.count_subscribers(name)]
            since = now if seen != before or missing else since
            if seen and now - since > SETTLED_S:
                return
            if now - begin > self.config.wait:
                where = f" to {', '.join(missing)}" if missing else ""
                self.get_logger().warning(f"nobody subscribed{where} yet: playing anyway")
                return
            self._publish_clock(self._origin_ns)
            self._stop.wait(0.05)

    def _play_once(self) -> None:
        now = self._origin_ns
        self._publish_clock(now)
        if self.config.start and self._latched:  # what a subscriber would have had by then
            for message in self._known(self._bag.messages(self._latched, None, now)):
                self._publish(message)
        pace = Pace(self.config.rate)
        pace.restart(now, time.monotonic())
        for message in self._messages():
            if abs(message.bag_ns - now) > MAX_GAP_NS:
                self._skip_gap(now, message, pace)
                now = message.bag_ns
            self._wait_until(message.bag_ns, pace)
            if self._stop.is_set():
                return
            now = max(now, message.bag_ns)
            self._publish_clock(now)
            self._publish(message)

    def _publish(self, message: Any) -> None:
        try:
            self._outputs[message.topic].publish(self._bag.cdr(message))
        except ValueError as error:
            self._notices.warn(message.topic, f"left out: {error}")

    def _skip_gap(self, now_ns: int, message: Any, pace: Pace) -> None:
        """Go on at once at a message far away in time: one flipped bit may be years."""
        self.get_logger().warning(
            f"{(message.bag_ns - now_ns) / 1e9:.0f} s from bag time {now_ns} ns to the next "
            f"message, of {message.topic}: skipped (a pause, or a damaged time)"
        )
        pace.restart(message.bag_ns, time.monotonic())

    def _wait_until(self, bag_ns: int, pace: Pace) -> None:
        """Sleep until a bag time, keeping /clock alive and following changes of the rate."""
        while not self._stop.is_set():
            wall = time.monotonic()
            pace.set_rate(self.config.rate, wall)
            left = pace.until(bag_ns, wall)
            if left < -LATE_S:
                self._notices.warn(
                    "late", f"too slow for rate {self.config.rate:g}: {-left:.1f} s late"
                )
                pace.restart(bag_ns, wall)
            if left <= 0:
                return
            if left <= 1 / self.config.clock_rate:
                self._stop.wait(left)
            else:
                self._stop.wait(1 / self.config.clock_rate)
                self._publish_clock(min(bag_ns, pace.bag_ns(time.monotonic())))

    def _publish_clock(self, bag_ns: int) -> None:
        sec, nanosec = divmod(bag_ns, 1_000_000_000)
        if not -(2**31) <= sec < 2**31:  # a damaged time that the message cannot hold
            return
        self._clock_publisher.publish(Clock(clock=Time(sec=sec, nanosec=nanosec)))

    def _flush(self) -> None:
        """Let reliable subscribers have the last messages before the process ends."""
        for publisher in self._outputs.values():
            publisher.wait_for_all_acked(Duration(seconds=1))

    def close(self) -> None:
        """Stop playing and close the bag."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)
        if self._bag is not None:
            self._bag.close()
        self._core_log.detach()


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def main(args: list[str] | None = None) -> int:
    """Run until the end of the bag: exit code 0, or 1 when the bag is missing or broken."""
    nodes: list[BagReplayNode] = []

    def make() -> BagReplayNode:
        nodes.append(BagReplayNode())
        return nodes[0]

    code = run("bag_replay_node", make, args)
    return BROKEN_BAG if nodes and nodes[0].failed else code


if __name__ == "__main__":
    sys.exit(main())
