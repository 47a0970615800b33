"""The replay of bags with a time far off and with two message types on one topic."""

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")
from listening import PATIENCE, Children, Listener, finish  # noqa: E402
from rosbags.rosbag2 import StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402
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
