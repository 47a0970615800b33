"""Messages about motion: cloud with velocities, markers, odometry; pure, without node or graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Quaternion, Vector3
from nav_msgs.msg import Odometry
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from dyndepth_ros.conversions import CloudMessage

CLOUD_FIELDS = ("x", "y", "z", "rgb", "vx", "vy", "vz", "speed", "dynamic_prob")
ARROW_SECONDS = 1.0  # an arrow ends where its object will be by then
LIFETIME_NS = 500_000_000  # of a marker that nothing renews
LEAST_SPEED = 1e-3  # below it an arrow has no direction, and RViz complains
UNKNOWN_VARIANCE = 1e6  # nobody measured it: a filter that fuses this ignores it until told better
# Axes of a body (x forward, y left, z up) in those of an optical frame, as columns.
R_BODY_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


class MotionCloud(CloudMessage):
    """The cloud of `~/motion/points`: CLOUD_FIELDS, float32 each."""

    def __init__(self) -> None:
        super().__init__(CLOUD_FIELDS)

    def write(self, header: Header, points: np.ndarray, motion: Any) -> Any:
        """Return the message; points float32 (h, w, 4) x y z rgb, motion of the same pixels."""
        out = self.points(header, *points.shape[:2])
        out[..., :4] = points
        out[..., 4:7] = motion.velocity
        np.sqrt(np.einsum("ijk,ijk->ij", motion.velocity, motion.velocity), out=out[..., 7])
        out[..., 8] = motion.probability
        return self.message


class ObjectMarkers:
    """An arrow and a label for every moving object, under its own id; remembers which it sent."""

    def __init__(self) -> None:
        self._shown: set[int] = set()

    def message(self, header: Header, objects: Sequence[Any], unit: str) -> MarkerArray:
        """Markers of this frame, and the removal of those of objects that have gone.

        unit: of the speeds, written behind them. Objects that are only predicted are paler.
        """
        out = MarkerArray()
        for found in objects:
            out.markers += [_arrow(header, found), _label(header, found, unit)]
        now = {found.id for found in objects}
        for gone in sorted(self._shown - now):
            out.markers += [
                Marker(header=header, ns=ns, id=gone, action=Marker.DELETE)
                for ns in ("velocity", "speed")
            ]
        self._shown = now
        return out


def _arrow(header: Header, found: Any) -> Marker:
    """From the middle of the object to where it will be in ARROW_SECONDS."""
    end = found.position + ARROW_SECONDS * found.velocity
    if found.speed < LEAST_SPEED:
        end = found.position + np.array([0.0, 0.0, LEAST_SPEED])
    width = 0.1 + 0.02 * float(np.linalg.norm(found.size))
    marker = _marker(header, found, "velocity", Marker.ARROW)
    marker.points = [_point(found.position), _point(end)]
    marker.scale = Vector3(x=width, y=2 * width, z=0.0)  # shaft, head, length of the head by itself
    return marker


def _label(header: Header, found: Any, unit: str) -> Marker:
    """Number and speed, above the object."""
    marker = _marker(header, found, "speed", Marker.TEXT_VIEW_FACING)
    above = np.array([0.0, found.size[1] / 2 + 0.6, 0.0])  # y points down
    marker.pose.position = _point(found.position - above)
    marker.scale.z = 0.7
    marker.text = f"#{found.id} {found.speed:.1f} {unit}"
    return marker


def _marker(header: Header, found: Any, ns: str, kind: int) -> Marker:
    alpha = 0.4 if found.missed else 1.0
    marker = Marker(header=header, ns=ns, id=found.id, type=kind, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.color = ColorRGBA(r=1.0, g=0.55, b=0.1, a=alpha)
    marker.lifetime = Duration(sec=0, nanosec=LIFETIME_NS)
    return marker


def _point(x: np.ndarray) -> Point:
    return Point(x=float(x[0]), y=float(x[1]), z=float(x[2]))


def odometry_message(header: Header, frame: str, ego: Any) -> Odometry:
    """Odometry of an EgoState: pose of the camera's optical frame, the image's, in `frame`, which
    lies where the camera started, x forward, y left, z up as the camera then looked; twist in the
    optical frame. Variances are UNKNOWN_VARIANCE.
    """
    out = Odometry(child_frame_id=header.frame_id)
    out.header.stamp, out.header.frame_id = header.stamp, frame
    out.pose.pose.position = _point(R_BODY_OPTICAL @ ego.T_start_cam[:3, 3])
    out.pose.pose.orientation = quaternion(R_BODY_OPTICAL @ ego.T_start_cam[:3, :3])
    twist = out.twist.twist
    for vector, values in ((twist.linear, ego.linear), (twist.angular, ego.angular)):
        vector.x, vector.y, vector.z = (float(v) for v in values)
    unknown = (UNKNOWN_VARIANCE * np.eye(6)).ravel()
    out.pose.covariance, out.twist.covariance = unknown, unknown.copy()
    return out


def quaternion(R: np.ndarray) -> Quaternion:
    """Of a rotation (3, 3): the eigenvector to the largest eigenvalue of a symmetric 4x4 matrix of
    its entries (Bar-Itzhack 2000), which no angle makes unstable; w >= 0.
    """
    x, y, z = R.T  # columns of R are rows here
    N = np.array([
        [x[0] - y[1] - z[2], y[0] + x[1], z[0] + x[2], y[2] - z[1]],
        [y[0] + x[1], y[1] - x[0] - z[2], z[1] + y[2], z[0] - x[2]],
        [z[0] + x[2], z[1] + y[2], z[2] - x[0] - y[1], x[1] - y[0]],
        [y[2] - z[1], z[0] - x[2], x[1] - y[0], x[0] + y[1] + z[2]],
    ])  # fmt: skip
    q = np.linalg.eigh(N)[1][:, -1]
    q = q * math.copysign(1.0, q[3])
    return Quaternion(x=float(q[0]), y=float(q[1]), z=float(q[2]), w=float(q[3]))
