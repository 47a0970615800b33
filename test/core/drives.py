"""A made-up drive with known scale: what a camera's ego-motion and the vehicle's odometry say."""

import math

import numpy as np
import torch

from dyndepth_core.geometry.se3 import exp_so3, make_T
from dyndepth_core.inference.scale import ScaleState
from dyndepth_core.inference.scale_filter import ScaleFilter, Seen
from dyndepth_core.inference.vehicle_odometry import VehicleOdometry

START_NS, FRAME_S = 1_700_000_000_000_000_000, 0.1
TICK_S = 0.005  # of the true motion
RELATIVE = ScaleState(1.0, math.inf, "relative")
SIZE = (96, 320)
K = np.array([[230.0, 0, 159.5], [0, 230.0, 40.0], [0, 0, 1]])


def city_speed(t):
    """m/s: off, up, down, on; as a car in town, accelerating and braking by up to 2.5 m/s^2."""
    return np.clip(7 + 6 * np.sin(2 * np.pi * t / 15 - 0.9), 0, None) * np.clip(t / 4, 0, 1)


def city_yaw_rate(t):
    """rad/s: bends, and every 20 s a turn at a junction."""
    return 0.1 * np.sin(0.7 * t) + 0.6 * (np.mod(t, 20) > 18)


class Drive:
    """True path of base_link on a plane; odometry messages and ego-motions made of it."""

    def __init__(self, speed, yaw_rate=lambda t: 0 * t, seconds=60.0, arm=(0.0, 0.0), seed=0):
        self.random = np.random.default_rng(seed)
        self.times = np.arange(0, seconds + TICK_S, TICK_S)
        self.speed = np.broadcast_to(speed(self.times), self.times.shape).astype(float)
        self.yaw_rate = np.broadcast_to(yaw_rate(self.times), self.times.shape).astype(float)
        self.heading = self._integral(self.yaw_rate)
        self.x = self._integral(self.speed * np.cos(self.heading))
        self.y = self._integral(self.speed * np.sin(self.heading))
        self.arm = arm

    def _integral(self, rate):
        return np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2 * TICK_S)])

    def at(self, t, *names):
        return [float(np.interp(t, self.times, getattr(self, name))) for name in names]

    def camera(self, t):
        x, y, a = self.at(t, "x", "y", "heading")
        turn = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        return np.array([x, y]) + turn @ self.arm

    def ego_motion(self, t, scale, noise=0.0):
        """T_src_tgt (1, 4, 4) of the frame at t, in units of `scale` metres; noise is relative."""
        metres = np.linalg.norm(self.camera(t) - self.camera(t - FRAME_S))
        length = metres / scale * math.exp(noise * self.random.normal())
        turn = self.at(t, "heading")[0] - self.at(t - FRAME_S, "heading")[0]
        R = exp_so3(torch.tensor([[0.0, -turn, 0.0]]))
        return make_T(R, torch.tensor([[0.0, 0.0, length]]))

    def message(self, t, gain=1.0, noise=0.0, pose=False, speed=True):
        """Values of an odometry message about the moment t."""
        x, y, a, v, w = self.at(t, "x", "y", "heading", "speed", "yaw_rate")
        place = [x, y, 0, 0, 0, math.sin(a / 2), math.cos(a / 2)] if pose else [math.nan] * 7
        v = gain * v + noise * self.random.normal()
        return [*place, v if speed else math.nan, w if speed else math.nan]


def ns(t):
    return START_NS + round(1e9 * t)


def flat_road(height=1.5, pitch=0.0, size=SIZE, matrix=K):
    """Depth (h, w) in metres of a road `height` m below a camera that looks down by `pitch` rad."""
    v, u = np.mgrid[: size[0], : size[1]].astype(float)
    y = (v - matrix[1, 2]) / matrix[1, 1]
    below = y * math.cos(pitch) + math.sin(pitch)
    return np.where(below > height / 80, height / np.where(below > 0, below, 1), 80.0)


def seen(depth, matrix=K):
    """What the filter is shown of a frame."""
    rows, cols = (slice(0, n) for n in depth.shape)
    return Seen(torch.tensor(depth, dtype=torch.float32), torch.tensor(matrix), (rows, cols))


def run(
    drive, scale, prior=RELATIVE, *, odometry=None, message=None, rate=50.0, delay=0.0, drop=0.0,
    network_noise=0.0, shown=None, state=None, start=0.0, end=None, **options,
):  # fmt: skip
    """Drive a filter from `start` to `end` s; returns it and its states, one per frame.

    message: of (drive, moment) to values, None = not sent; delay: s, by which odometry is stamped
    and sent late. shown: depth in metres. state: a filter to go on with.
    """
    odometry = VehicleOdometry() if odometry is None else odometry
    state = state or ScaleFilter(prior, odometry, **options)
    message = message or (lambda drive, t: drive.message(t))
    picture = seen((flat_road() if shown is None else shown) / scale)
    end = drive.times[-1] if end is None else end
    sent, states = start + drive.random.uniform(0, 1 / rate), []
    for i in range(1, round((end - start) / FRAME_S)):
        now = start + i * FRAME_S
        while sent <= now:
            values = message(drive, max(sent - delay, 0.0))
            if values is not None and drive.random.random() >= drop:
                odometry.observe(ns(sent), values)
            sent += 1 / rate
        T = drive.ego_motion(now, scale, network_noise)
        states.append(state.update(ns(now), ns(now - FRAME_S), T, picture))
    return state, states
