"""Which of two sources of odometry a node listens to, over a real graph and the time of /clock."""

import pytest

pytest.importorskip("rclpy")
from geometry_msgs.msg import TwistStamped  # noqa: E402
from listening import Listener  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402

from dyndepth_core.inference.vehicle_odometry import VehicleOdometry  # noqa: E402
from dyndepth_ros.odometry_input import OdometryInput  # noqa: E402

SECOND = 10**9


class Rig:
    """A node that is told the time and sent odometry."""

    def __init__(self, listener):
        self.listener, self.node, self.odometry = listener, listener.node, VehicleOdometry()
        self.node.set_parameters([Parameter("use_sim_time", value=True)])
        self.input = OdometryInput(self.node, "auto", self.odometry, print)
        topics = {Clock: "/clock", Odometry: "odom", TwistStamped: "twist"}
        self._publishers = {k: self.node.create_publisher(k, t, 10) for k, t in topics.items()}
        for publisher in self._publishers.values():
            listener.spin_until(lambda p=publisher: p.get_subscription_count() > 0)
        listener.spin_for(1.0)  # until they know of each other both ways

    def set_time(self, seconds):
        message, wanted = Clock(), round(seconds * SECOND)
        message.clock.sec, message.clock.nanosec = divmod(wanted, SECOND)
        self._publishers[Clock].publish(message)
        self.listener.spin_until(lambda: self.node.get_clock().now().nanoseconds == wanted)

    def send(self, kind, stamp_ns):
        """A message; returns whether it was taken."""
        message = kind()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, SECOND)
        self._publishers[kind].publish(message)
        for _ in range(20):
            if self.odometry.latest_ns != stamp_ns:
                self.listener.spin_for(0.1)
        return self.odometry.latest_ns == stamp_ns


def test_a_twist_stands_in_for_an_odometry_that_went_silent_and_steps_back(domain_id):
    with Listener(domain_id, {}) as listener:
        rig, stamps = Rig(listener), iter(range(SECOND, 10**12, SECOND))
        rig.set_time(10.0)
        assert rig.send(TwistStamped, next(stamps))  # nothing else has come yet
        assert rig.send(Odometry, next(stamps))
        assert not rig.send(TwistStamped, next(stamps))
        rig.set_time(11.9)
        assert not rig.send(TwistStamped, next(stamps))
        rig.set_time(12.1)  # stamps are those of another clock
        assert rig.send(TwistStamped, next(stamps)) and rig.send(TwistStamped, next(stamps))
        assert rig.send(Odometry, next(stamps))
        assert not rig.send(TwistStamped, next(stamps))
        rig.set_time(3.0)
        assert rig.send(TwistStamped, next(stamps))
