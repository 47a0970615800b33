"""The Kalman filter behind the metric scale: logarithm of the scale and what disturbs its
measurements.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

BY_MODEL, BY_GROUND = np.array([1.0, 0.0, 0.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0])

UNKNOWN = 4.0  # variance of a log scale that nobody knows
DRIFT = 4e-5  # variance per second of driving: a model's scale wanders by 0.6 % a second
DRIFTED = 0.04  # variance beyond which it is not taken to wander on
DELAY = 0.1  # s, standard deviation of the delay that is left after the parameter
# Predicted ego-motion is too long or too short for seconds at a time, by the scene and the speed:
# a thousand frames of one street say little more than one.
WANDER, WANDER_S = 0.15, 2.0  # relative standard deviation, correlation time in s


class Measurement(NamedTuple):
    """z = h x + noise of that variance, at a time in s; noise of the network comes on top."""

    when: float
    z: float
    h: np.ndarray
    variance: float


class LogScale:
    """State x = (log s, delay in s, log of the error of the camera height, log of the error of the
    ego-motion), P its covariance.

    s: metres per unit of model depth. Measurements are z = h x + noise:

    - odometry, z = log(metres moved / predicted units moved), h = (1, -a / v, 0, 1): speeds read a
      delay too late are wrong by -delay a / v, a the acceleration, v the speed;
    - ground plane, z = log(height in metres / height in units), h = (1, 0, 1, 0).

    The error of the ego-motion is a Gauss-Markov process: it returns to 0 with exp(-dt / WANDER_S).
    Update of the linear Kalman filter (Kalman 1960), one scalar measurement at a time.
    """

    def __init__(self, height_error: float) -> None:
        """height_error: standard deviation, relative, of the camera height that was given."""
        self.mean = np.zeros(4)
        self.cov = np.diag([UNKNOWN, DELAY**2, height_error**2, WANDER**2])

    def begin(self, z: float, variance: float, h: np.ndarray) -> None:
        """Start again from one measurement z = h x; delay and camera height stay as learned."""
        for i, variance_of in ((0, UNKNOWN), (3, WANDER**2)):
            self.mean[i] = 0.0
            self.cov[i, :] = self.cov[:, i] = 0.0
            self.cov[i, i] = variance_of
        self.mean[0] = z - h @ self.mean
        self.correct(z, variance, h)

    def surprise(self, z: float, variance: float, h: np.ndarray) -> float:
        """Innovation squared over its variance: chi-square with 1 degree of freedom."""
        return float((z - h @ self.mean) ** 2 / (h @ self.cov @ h + variance))

    def correct(self, z: float, variance: float, h: np.ndarray) -> None:
        """Take a measurement z = h x with noise of that variance."""
        gain = self.cov @ h / (h @ self.cov @ h + variance)
        self.mean = self.mean + gain * (z - h @ self.mean)
        rest = np.eye(4) - np.outer(gain, h)
        # Joseph's form: stays symmetric and positive
        self.cov = rest @ self.cov @ rest.T + variance * np.outer(gain, gain)

    def wait(self, seconds: float) -> None:
        """Let time pass: the error of the ego-motion becomes another."""
        kept = np.exp(-seconds / WANDER_S)
        self.mean[3] *= kept
        self.cov[3, :] *= kept
        self.cov[:, 3] *= kept
        self.cov[3, 3] += (1 - kept**2) * WANDER**2

    def drift(self, seconds: float) -> None:
        """Let that much driving pass: the scale becomes less certain."""
        self.cov[0, 0] += max(0.0, min(DRIFT * seconds, DRIFTED - self.cov[0, 0]))


class Ratios:
    """The latest measurements of one kind."""

    def __init__(self, length: int = 50) -> None:
        self._kept: deque[Measurement] = deque(maxlen=length)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, new: Measurement) -> None:
        """Take one more."""
        self._kept.append(new)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    @property
    def span(self) -> float:
        """Seconds from the first to the last."""
        return self._kept[-1].when - self._kept[0].when if self._kept else 0.0

    @property
    def _logs(self) -> np.ndarray:
        return np.array([one.z for one in self._kept])

    @property
    def median(self) -> float:
        """Median of z."""
        return float(np.median(self._logs))

    @property
    def spread(self) -> float:
        """Robust standard deviation of z, by the median of absolute deviations."""
        return float(1.4826 * np.median(np.abs(self._logs - self.median)))

    @property
    def noise(self) -> float:
        """Robust standard deviation of one z, by the steps between neighbours, so that a change of
        level does not count; 0.3 while there are few.
        """
        if len(self._kept) < 8:
            return 0.3
        return float(np.clip(1.0484 * np.median(np.abs(np.diff(self._logs))), 0.05, 1.0))

    def middle(self) -> Measurement:
        """Their median as one measurement; the variance of a median is pi / 2 that of a mean."""
        variance = np.pi / 2 * self.noise**2 / len(self._kept)
        h = np.median([one.h for one in self._kept], axis=0)
        return Measurement(self._kept[-1].when, self.median, h, variance)
