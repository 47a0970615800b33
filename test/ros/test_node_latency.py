"""The node's row of the benchmark: a real process, its own latency, a clean end."""

import os

import pytest
import torch

pytest.importorskip("rclpy")

from dyndepth_ros import node_latency  # noqa: E402


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
