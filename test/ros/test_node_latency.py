"""The node's row of the benchmark: a real process, its own latency, a clean end."""

import os

import pytest
import torch

pytest.importorskip("rclpy")

from dyndepth_ros import motion_rate, node_latency  # noqa: E402


def test_the_node_is_measured_as_a_process(monkeypatch):
    monkeypatch.setattr(node_latency, "MODEL_SIZE", (64, 96))
    before = dict(os.environ)
    row = node_latency.measure_node(torch.device("cpu"), (48, 64), "input", seconds=1.5)
    assert dict(os.environ) == before
    assert "64x48 out" in row.input and "header stamp" in row.work
    assert 0 < row.others["network p50"] < row.ms <= row.others["latency p95"]
    gate = row.gates[0]
    assert gate.limit == 15.0 and not gate.at_least
    assert gate.value == row.others["latency p95"] - row.others["network p95"]


def test_the_rate_with_motion_is_that_of_frames_with_all_motion_topics(monkeypatch):
    asked = []
    listen = node_latency.Camera.listen
    monkeypatch.setattr(
        node_latency.Camera,
        "listen",
        lambda self, names: (asked.append(names), listen(self, names)),
    )
    row = motion_rate.measure_motion(torch.device("cpu"), (48, 64), rounds=2, seconds=0.5)
    assert [set(names) for names in asked] == 2 * [
        {"depth", "points"},
        {"depth", "points", "mask", "velocity", "moving_points", "markers"},
    ]
    assert 0 < row.others["depth and cloud alone"] < row.ms
    gate = row.gates[0]
    assert gate.at_least and gate.limit == 0.5 and 0 < gate.value < 1


def test_a_node_that_fails_is_said_with_what_is_missing(monkeypatch):
    monkeypatch.setattr(node_latency, "START_PATIENCE_S", 2.0)
    monkeypatch.setattr(motion_rate, "DEPTH_RESULTS", ("depth", "odometry"))  # is off by default
    with pytest.raises(ValueError, match=r"gives no .*odometry"):
        motion_rate.measure_motion(torch.device("cpu"), (48, 64), rounds=1, seconds=0.5)
