"""The life of a node's process."""

import os
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


LEAVING = """
import sys, threading
from rclpy.node import Node
from dyndepth_ros import process
class Leaving(Node):
    def __init__(self):
        super().__init__("leaving")
        self._leave, self.own = process.way_out(self), threading.get_ident()
    def start(self):
        self.thread = threading.Thread(target=self._leave)
        self.thread.start()
        return True
    def destroy_node(self):
        print("destroyed", self.context.ok(), threading.get_ident() == self.own)
        super().destroy_node()
sys.exit(process.run("trial", Leaving))
"""


def test_a_thread_that_ends_the_process_leaves_the_end_to_the_one_that_spins(domain_id):
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain_id)}
    command = [sys.executable, "-c", LEAVING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["destroyed", "True", "True"]
