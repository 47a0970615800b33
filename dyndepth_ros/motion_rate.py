"""What object motion costs the depth node in frames per second, as a process over real DDS."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from sensor_msgs.msg import CameraInfo, Image

from dyndepth_core.data.synthetic import World
from dyndepth_core.evaluation.timing import Gate, Row
from dyndepth_ros.node_latency import DEPTH_RESULTS, VGA, Camera, joined, messages
from dyndepth_ros.outputs import OBJECTS
from dyndepth_ros.processes import Processes, isolated_environment, own_domain

ROUNDS, SECONDS = 4, 5.0
FRAMES = 6  # of a drive, forwards and backwards again
WORLD = 1000
SHARE = 0.5


def measure(device: torch.device) -> Row:
    """The row `node_motion` of `dyndepth benchmark`."""
    return measure_motion(device, VGA, ROUNDS, SECONDS)


def measure_motion(device: torch.device, size: tuple[int, int], rounds: int, seconds: float) -> Row:
    """Drive one depth_node with the bundled motion model in turn with subscribers to depth and
    cloud alone and to all motion topics, too, `seconds` each.

    size: (H, W) of a rendered drive's images, the next one sent when all results of the last one
    have come. Raises ValueError with the end of the node's log when results fail to come.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        own_domain() as domain,
        joined(isolated_environment(domain)) as env,
        Processes(Path(folder), env) as children,
    ):
        children.start(
            "depth_node", "dyndepth_ros.depth_node", device=str(device),
            threads=torch.get_num_threads(),
            allow_relative_velocity=True,  # nobody gives it a scale here
        )  # fmt: skip
        camera = Camera(domain, drive_images(size))
        periods: dict[bool, list[float]] = {False: [], True: []}
        try:
            for _ in range(rounds):
                for motion, its_periods in periods.items():
                    camera.listen((*DEPTH_RESULTS, *OBJECTS) if motion else DEPTH_RESULTS)
                    frames, took = camera.drive(children, seconds, pause=0.0)
                    its_periods.append(1e3 * took / frames)
        finally:
            camera.close()
    alone, with_motion = np.array(periods[False]), np.array(periods[True])
    share = float(np.median(alone / with_motion))
    row = Row(
        work="depth_node with the bundled motion model, a frame with all motion topics",
        input=f"rgb8 {size[1]}x{size[0]} of a rendered drive, one at a time",
        timer="from image to image: DDS, decoding, networks, tracking, all topics, publish",
        precision="fp16" if device.type == "cuda" else "fp32",
        ms=float(np.median(with_motion)),
        others={"depth and cloud alone": float(np.median(alone))},
    )
    row.gates.append(Gate("frame rate, of depth alone", share, SHARE, at_least=True))
    return row


def drive_images(size: tuple[int, int]) -> list[tuple[Image, CameraInfo]]:
    """Messages of a drive through a rendered world and back, for ever in turn."""
    world = World(WORLD, 0, size=size)
    there = [messages(world.render(i).image, world.calib.K) for i in range(FRAMES)]
    return [*there, *there[-2:0:-1]]
