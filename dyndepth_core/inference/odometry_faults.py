"""What is wrong with the odometry lately, in words."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection

LATELY = 100  # messages, or frames
JUMPS = "odometry jumps: its speed or its pose changes faster than that of a vehicle"
ITSELF = "odometry contradicts itself: its pose moves otherwise than its twist says"

# Why messages are left out, so that none comes; and what is wrong with those that are taken.
LEFT_OUT = {
    "not_finite": "odometry has no speed and no pose that is a number",
    "absurd_speed": "odometry has speeds that no vehicle has",
}
MESSAGES = {
    "stamp_jumped_back": "stamps of odometry jump back, as of two drivers with two clocks",
    "jump": JUMPS,
}
# Why frames give no scale, as far as odometry is at fault.
FRAMES = {
    "jump": JUMPS,
    "gap": "odometry has gaps: messages are missing, or come too seldom",
    "late": "odometry comes too late after the images",
    "pose_jump": ITSELF,
    "pose_disagrees": ITSELF,
    "odometry_innovation": "odometry contradicts the scale that was measured before",
    "odometry_inconsistent": "odometry contradicts the ego-motion: their ratio is never the same",
}


class Lately:
    """Of what the latest LATELY ones were refused for, what rules; any thread may ask.

    faults: the reasons that count; for any other one nothing is wrong.
    """

    def __init__(self, faults: Collection[str]) -> None:
        self._faults = faults
        self._reasons: deque[str] = deque(maxlen=LATELY)

    def add(self, reason: str) -> None:
        """One more; empty: it was not refused."""
        self._reasons.append(reason if reason in self._faults else "")

    def clear(self) -> None:
        """Forget them: they say nothing about what follows."""
        self._reasons.clear()

    @property
    def reason(self) -> str:
        """The most frequent one where more than half of LATELY are faults, else empty."""
        faults = Counter(reason for reason in list(self._reasons) if reason)
        return faults.most_common(1)[0][0] if 2 * faults.total() > LATELY else ""
