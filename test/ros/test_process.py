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
