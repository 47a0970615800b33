"""The replay of bags with a time far off, two message types on one topic, or latched messages that
lie before the start; and of one whose listener comes late.
"""

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")
from listening import PATIENCE, Children, Listener, finish  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from rosbags.interfaces import (  # noqa: E402
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

START, STEP, COUNT = 10**18, 10**8, 6
STAMPS = [START + i * STEP for i in range(COUNT)]
TOPIC, HEADER, VECTOR = "/beat", "std_msgs/msg/Header", "geometry_msgs/msg/Vector3"
STORE = get_typestore(Stores.ROS2_HUMBLE)


def header(stamp: int):
    time = STORE.types["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9))
    return HEADER, STORE.types[HEADER](time, "beat")


def play(path, domain_id, messages):
    """Replay (bag time, (type, message)) on TOPIC; returns the stamps heard, log, exit code."""
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {}
        for bag_ns, (kind, message) in messages:
            if kind not in topics:
                topics[kind] = writer.add_connection(TOPIC, kind, typestore=STORE)
            writer.write(topics[kind], bag_ns, STORE.serialize_cdr(message, kind))
    with Listener(domain_id, {TOPIC: Header}) as listener, Children(domain_id) as children:
        words = {"bag": path, "wait": PATIENCE}
        process = children.start("dyndepth_ros.bag_replay_node", **words)
        log = finish(process, listener)
        heard = [m.stamp.sec * 10**9 + m.stamp.nanosec for m in listener.heard[TOPIC]]
    assert process.returncode == 0, log
    return heard, log


@pytest.mark.parametrize("flip", [2**58, 2**61, -(2**58)])
def test_a_recording_time_years_away_is_not_waited_for(tmp_path, domain_id, flip):
    times = [*STAMPS[:-1], STAMPS[-1] + flip]
    messages = [(t, header(s)) for t, s in zip(times, STAMPS, strict=True)]
    heard, log = play(tmp_path / "bag", domain_id, messages)
    assert sorted(heard) == STAMPS and log.count("skipped (a pause, or a damaged time)") == 1, log


def test_messages_of_another_type_are_not_published_as_the_topics_own(tmp_path, domain_id):
    other = VECTOR, STORE.types[VECTOR](1.0, 2.0, 3.0)
    messages = [(s, header(s)) for s in STAMPS]
    messages[2:2] = [(STAMPS[2] - 1, other), (STAMPS[2] - 1, other)]
    heard, log = play(tmp_path / "bag", domain_id, messages)
    assert heard == STAMPS, log
    assert log.count(f"its messages of type {VECTOR} are left out") == 1, log


LATCHED = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
    QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False,
)  # fmt: skip


def write(path, topics):
    """A bag of {topic: (QoS profiles, bag times)}; stamps are those times."""
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, (qos, times) in topics.items():
            to = writer.add_connection(topic, HEADER, typestore=STORE, offered_qos_profiles=qos)
            for time in times:
                writer.write(to, time, STORE.serialize_cdr(header(time)[1], HEADER))


def stamps(messages):
    return [m.stamp.sec * 10**9 + m.stamp.nanosec for m in messages]


def test_latched_messages_of_before_the_start_come_first_and_to_those_who_come_late(
    tmp_path, domain_id
):
    early = [START + i for i in range(30)]  # as of 30 nodes, each with its own transform
    write(tmp_path / "bag", {"/fixed": ([LATCHED], early), TOPIC: ([], STAMPS)})
    with (
        Listener(domain_id, {TOPIC: Header, "/fixed": Header}) as listener,
        Children(domain_id) as children,
    ):
        words = {"bag": tmp_path / "bag", "start": 0.35, "rate": 0.01, "wait": PATIENCE}
        children.start("dyndepth_ros.bag_replay_node", **words)
        listener.spin_until(lambda: listener.heard[TOPIC])
        assert stamps(listener.heard[TOPIC]) == STAMPS[4:5]
        assert stamps(listener.heard["/fixed"]) == early
        late = []
        qos = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        listener.node.create_subscription(Header, "/fixed", late.append, qos)
        listener.spin_until(lambda: len(late) == 30)
        assert stamps(late) == early


def test_it_waits_for_the_topics_that_are_named_but_not_for_ever(tmp_path, domain_id):
    """Others, as RViz, subscribe while the node that counts still loads."""
    write(tmp_path / "bag", {TOPIC: ([], STAMPS)})
    kinds = {TOPIC: Header, "/clock": Clock}
    with Listener(domain_id, kinds) as listener, Children(domain_id) as children:
        words = {"bag": tmp_path / "bag", "wait_topics": "eye/info", "wait": PATIENCE}
        process = children.start("dyndepth_ros.bag_replay_node", **words)
        listener.spin_until(lambda: listener.heard["/clock"])
        listener.spin_for(4.0)
        assert not listener.heard[TOPIC]
        listener.node.create_subscription(Header, "/eye/info", print, 1)  # which is not in the bag
        log = finish(process, listener)
        assert stamps(listener.heard[TOPIC]) == STAMPS and "playing anyway" not in log, log
        short = {"bag": tmp_path / "bag", "wait_topics": "/eye/info,/x", "wait": 2.0}
        log = finish(children.start("dyndepth_ros.bag_replay_node", **short), listener)
        assert "nobody subscribed to /x yet: playing anyway" in log, log
