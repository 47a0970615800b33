"""Models swapped while frames flow, over real DDS: every stamp comes out, a bad file is refused."""

import os
import sys
import threading

import pytest
import torch

pytest.importorskip("rclpy")

from dyndepth_ros import hot_swap, node_latency  # noqa: E402
from dyndepth_ros.process import TURN_S, giving_way  # noqa: E402


def test_no_frame_is_lost_over_swaps(monkeypatch, soak):
    """At half the node's rate, but each image after the depth of the one before, so that a busy
    machine loses none either; what it does to the gaps is for `dyndepth benchmark` to say.
    """
    monkeypatch.setattr(node_latency, "MODEL_SIZE", (64, 96))
    monkeypatch.setattr(hot_swap, "RATE_FRAMES", 5)
    frames, swaps = (1000, 10) if soak else (60, 2)
    row = hot_swap.measure_swaps(torch.device("cpu"), (96, 128), frames, swaps, paced=True)
    gates = {gate.name: gate.value for gate in row.gates}
    assert gates["frames lost"] == 0, row.input
    assert gates["swaps done"] == swaps and gates["corrupt files refused"] == 1
    assert f"{frames} stamps in, {frames} out" in row.input


def test_a_thread_that_gives_way_leaves_the_others_as_they_are():
    seen = {}

    def work() -> None:
        with giving_way(3):
            seen["inside"] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            seen["turn"] = sys.getswitchinterval()

    before, turn = os.getpriority(os.PRIO_PROCESS, 0), sys.getswitchinterval()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen["inside"] == min(before + 3, 19)
    assert seen["turn"] == pytest.approx(TURN_S) and sys.getswitchinterval() == turn
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
