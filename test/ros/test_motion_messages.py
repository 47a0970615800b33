"""Messages about motion as a subscriber reads them."""

import numpy as np
import pytest

pytest.importorskip("rclpy")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from visualization_msgs.msg import Marker  # noqa: E402

from dyndepth_core.inference.motion import EgoPath  # noqa: E402
from dyndepth_core.instances.motion import Motion, MovingObject  # noqa: E402
from dyndepth_ros import motion_messages  # noqa: E402
from dyndepth_ros.motion_messages import MotionCloud, ObjectMarkers  # noqa: E402

HEADER = Header(frame_id="eye")
HEADER.stamp.sec, HEADER.stamp.nanosec = 12, 34


def moving(name, velocity=(3.0, 0.0, 4.0), missed=0):
    velocity = np.array(velocity)
    return MovingObject(
        name, np.array([1.0, 0.5, 10.0]), velocity, float(np.linalg.norm(velocity)),
        np.array([2.0, 1.6, 0.5]), (10.0, 11.0, 20.0, 21.0), 1.5, missed,
    )  # fmt: skip


def test_an_arrow_and_a_label_for_every_object():
    message = ObjectMarkers().message(HEADER, [moving(7), moving(9, missed=1)], "m/s")
    assert [(m.ns, m.id) for m in message.markers] == [
        ("velocity", 7), ("speed", 7), ("velocity", 9), ("speed", 9)
    ]  # fmt: skip
    for m in message.markers:
        assert m.header == HEADER and m.action == Marker.ADD and m.pose.orientation.w == 1
        assert 0 < m.lifetime.sec + m.lifetime.nanosec * 1e-9 <= 1
    arrow, label, pale, _ = message.markers
    assert arrow.type == Marker.ARROW and label.type == Marker.TEXT_VIEW_FACING
    start, end = ((p.x, p.y, p.z) for p in arrow.points)
    assert start == (1.0, 0.5, 10.0) and end == (4.0, 0.5, 14.0)  # in a second
    assert min(arrow.scale.x, arrow.scale.y, label.scale.z) > 0
    assert label.text == "#7 5.0 m/s" and label.pose.position.y < 0.5 - 0.8  # above its top
    assert pale.color.a < arrow.color.a == 1


def test_who_has_gone_is_removed_once():
    markers = ObjectMarkers()
    markers.message(HEADER, [moving(1), moving(2)], "m/s")
    second = markers.message(HEADER, [moving(2)], "m/s").markers
    gone = [(m.ns, m.id) for m in second if m.action == Marker.DELETE]
    assert gone == [("velocity", 1), ("speed", 1)] and len(second) == 4
    assert all(m.header == HEADER for m in second)
    third = markers.message(HEADER, [moving(2)], "m/s").markers
    assert all(m.action == Marker.ADD for m in third)
    assert len(markers.message(HEADER, [], "m/s").markers) == 2


def test_an_object_that_stands_has_an_arrow_rviz_can_draw():
    (arrow, _) = ObjectMarkers().message(HEADER, [moving(1, (0.0, 0.0, 0.0))], "m/s").markers
    assert arrow.points[0] != arrow.points[1]


def test_the_cloud_carries_velocity_speed_and_probability():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 4, 4)).astype(np.float32)
    velocity = np.zeros((3, 4, 3), np.float32)
    velocity[1, 2], velocity[2, 3] = (3, 0, 4), np.nan
    probability = rng.uniform(size=(3, 4)).astype(np.float32)
    motion = Motion(velocity, probability, probability > 0.5, np.zeros((3, 4), np.int32))
    message = MotionCloud().write(HEADER, points, motion)
    names = [f.name for f in message.fields]
    assert names == ["x", "y", "z", "rgb", "vx", "vy", "vz", "speed", "dynamic_prob"]
    assert [f.offset for f in message.fields] == [4 * i for i in range(9)]
    assert (message.point_step, message.row_step, message.height) == (36, 144, 3)
    assert message.header == HEADER and not message.is_dense
    read = np.frombuffer(message.data, "<f4").reshape(3, 4, 9)
    np.testing.assert_array_equal(read[..., :4], points)
    np.testing.assert_array_equal(read[1, 2, 4:8], (3, 0, 4, 5))
    np.testing.assert_array_equal(read[..., 8], probability)
    assert np.isnan(read[2, 3, 4:8]).all()


def test_odometry_starts_forwards_and_turns_about_the_vertical():
    """The camera drives 2 m along its axis, then turns 90 degrees to the right."""
    path, T = EgoPath(), np.eye(4)
    T[:3, 3] = 0, 0, 2.0
    path.step(None, 0)
    message = motion_messages.odometry_message(HEADER, "start", path.step(T, 500_000_000))
    assert (message.header.frame_id, message.child_frame_id) == ("start", "eye")
    assert message.header.stamp == HEADER.stamp
    p, q = message.pose.pose.position, message.pose.pose.orientation
    assert (p.x, p.y, p.z) == pytest.approx((2, 0, 0))  # forwards is x
    assert (q.x, q.y, q.z, q.w) == pytest.approx((-0.5, 0.5, -0.5, 0.5))  # REP 103, optical
    twist = message.twist.twist
    assert (twist.linear.x, twist.linear.y, twist.linear.z) == pytest.approx((0, 0, 4))
    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]  # its axis now points along the old x
    message = motion_messages.odometry_message(HEADER, "start", path.step(turned, 10**9))
    p, q = message.pose.pose.position, message.pose.pose.orientation
    assert (p.x, p.y) == pytest.approx((2, 0))
    looks = rotation(q) @ (0, 0, 1)
    np.testing.assert_allclose(looks, (0, -1, 0), atol=1e-9)  # to the right is -y
    assert message.twist.twist.angular.y == pytest.approx(np.pi)  # optical y is down: clockwise
    assert message.pose.covariance[0] >= 1e6 and message.twist.covariance[35] >= 1e6


def rotation(q):
    x, y, z, w = q.x, q.y, q.z, q.w
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 3), st.floats(0, np.pi))
def test_quaternions_are_those_of_the_rotation(axis, angle):
    import cv2

    length = np.linalg.norm(axis)
    vector = np.array(axis) / length * angle if length > 1e-3 else np.array([angle, 0, 0])
    R = cv2.Rodrigues(vector)[0]
    q = motion_messages.quaternion(R)
    np.testing.assert_allclose(rotation(q), R, atol=1e-7)
    assert q.w >= 0
