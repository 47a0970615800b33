"""Bag time against real time."""

from __future__ import annotations


class Pace:
    """Which bag time it is now: runs at `rate` from the moment of `restart`."""

    def __init__(self, rate: float) -> None:
        self._rate, self._wall, self._bag = rate, 0.0, 0

    def restart(self, bag_ns: int, wall: float) -> None:
        """From wall time `wall` (s) on, the bag time is `bag_ns` and rises."""
        self._wall, self._bag = wall, bag_ns

    def set_rate(self, rate: float, wall: float) -> None:
        """Change the rate without a jump in bag time."""
        if rate != self._rate:
            self.restart(self.bag_ns(wall), wall)
            self._rate = rate

    def bag_ns(self, wall: float) -> int:
        """Bag time at a wall time."""
        return self._bag + int((wall - self._wall) * self._rate * 1e9)

    def until(self, bag_ns: int, wall: float) -> float:
        """Seconds of real time until a bag time."""
        return (bag_ns - self._bag) / 1e9 / self._rate - (wall - self._wall)
