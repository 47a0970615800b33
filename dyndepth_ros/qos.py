"""Quality of service: best effort in, reliable out, overridable, and advice on mismatch."""

from __future__ import annotations

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions


def _profile(reliability: ReliabilityPolicy, depth: int) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=DurabilityPolicy.VOLATILE,
    )


def sensor_input(depth: int = 1) -> QoSProfile:
    """Best effort and only the newest: connects to every publisher and never lags behind."""
    return _profile(ReliabilityPolicy.BEST_EFFORT, depth)


def result_output(depth: int = 1) -> QoSProfile:
    """Reliable: connects to every subscriber, a default RViz included."""
    return _profile(ReliabilityPolicy.RELIABLE, depth)


def overridable() -> QoSOverridingOptions:
    """Parameters qos_overrides.TOPIC.publisher.reliability and the like."""
    kinds = (
        QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH,
        QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY,
    )  # fmt: skip
    return QoSOverridingOptions(policy_kinds=kinds)


# What each side has to say for the pair to connect: policy -> (publisher's value, subscriber's).
_COMPATIBLE = {
    "reliability": ("reliable", "best_effort"),
    "durability": ("transient_local", "volatile"),
}


def advice(topic: str, is_publisher: bool, kind: QoSPolicyKind | int) -> str:
    """What to change, on which side, when a publisher and a subscriber of `topic` do not connect.

    is_publisher: whether this node is the one that publishes. kind: the policy that does not fit.
    """
    try:
        policy = QoSPolicyKind(kind).name.lower()
    except ValueError:
        policy = "QoS"
    if policy not in _COMPATIBLE:
        other = "subscriber" if is_publisher else "publisher"
        return (
            f"a {other} of {topic} has another {policy} policy, and nothing gets through: change it"
        )
    offered, requested = _COMPATIBLE[policy]
    if is_publisher:
        return (
            f"a subscriber of {topic} asks for a {policy} that this node does not offer, and gets "
            f"nothing. Change the subscriber to {policy} {requested}, or this node by the "
            f"parameter qos_overrides.{topic}.publisher.{policy}: {offered}"
        )
    return (
        f"a publisher of {topic} does not offer the {policy} this node asks for, and nothing of it "
        f"arrives. Change this node by the parameter qos_overrides.{topic}.subscription.{policy}: "
        f"{requested}, or the publisher to {policy} {offered}"
    )
