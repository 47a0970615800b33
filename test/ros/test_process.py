"""The life of a node's process."""

import subprocess
import sys

import pytest

pytest.importorskip("rclpy")
SCRIPT = """
import sys
from dyndepth_ros import process
class Dying:
    def __del__(self):
        raise {error}("in a place that cannot raise")
def make():
    Dying()
    raise ValueError("this far")
sys.exit(process.run("trial", make))
"""


@pytest.mark.parametrize("error, said", [("KeyboardInterrupt", False), ("OSError", True)])
def test_only_an_interrupt_that_cannot_be_raised_is_passed_over(error, said):
    command = [sys.executable, "-c", SCRIPT.format(error=error)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "this far" in done.stderr
    assert ("Traceback" in done.stderr) is said and ("Exception ignored" in done.stderr) is said


STUCK = """
import sys, threading, rclpy
from dyndepth_ros import process
process.LEAVE_S = 0.5
class Stuck:
    def start(self):
        return False
    def destroy_node(self):
        threading.Event().wait()
sys.exit(process.run("trial", Stuck))
"""


def test_a_process_that_cannot_leave_ros_says_where_and_ends():
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "in destroy_node" in done.stderr
