"""What to take from a bag or from live topics, and what became of the frames."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

ALL_CAMERAS = "all"
STAMPS = ("header", "bag")


@dataclass(frozen=True)
class CollectOptions:
    """What to take from a bag.

    image_topic: the camera; None where there is only one, `all`, or several separated by commas.
    rate_hz: frames per second by stamp, 0 = all. size: (H, W) to resize to, None = as it is.
    max_gap_s: a longer silence, or any larger step back in time, begins a new sequence.
    stamp: `header`, or `bag`: the time of recording, where a driver's stamps are not to be trusted.
    start_s, end_s: seconds after the bag's first message; None: to its end.
    crop: what to cut off at top, bottom, left, right of the rectified image; values below 1 are
    shares of the height or width, others whole pixels.
    standing_mps: slower, the frame is tagged `standing` (keep = 0); without odometry the image
    decides. 0: no tags.
    blur: least sharpness relative to the frames before, 0: no frame is too blurred.
    exposure: least share of pixels that are neither black nor white, 0: every exposure is good.
    duplicates: keep frames that equal the one before them byte by byte.
    """

    image_topic: str | None = None
    info_topic: str | None = None
    odom_topic: str | None = None
    rate_hz: float = 10.0
    size: tuple[int, int] | None = None
    max_gap_s: float = 1.0
    stamp: str = "header"
    start_s: float = 0.0
    end_s: float | None = None
    crop: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    standing_mps: float = 0.3
    blur: float = 0.6
    exposure: float = 0.1
    duplicates: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rate_hz <= 1000:
            raise ValueError(f"rate {self.rate_hz} Hz: give 0 (all frames) to 1000")
        if not 0 < self.max_gap_s <= 1e6:
            raise ValueError(f"max gap {self.max_gap_s} s: give more than 0 and at most 1e6")
        if self.size is not None and min(self.size) < 32:
            raise ValueError(f"size {self.size[0]}x{self.size[1]}: both sides must be at least 32")
        if self.stamp not in STAMPS:
            raise ValueError(f"stamp '{self.stamp}': use one of {', '.join(STAMPS)}")
        if not 0 <= self.start_s <= 1e9:
            raise ValueError(f"start {self.start_s} s: give 0 to 1e9 seconds of the bag")
        if self.end_s is not None and not self.start_s < self.end_s <= 1e9:
            raise ValueError(f"end {self.end_s} s: must come after the start, {self.start_s} s")
        if len(self.crop) != 4 or not all(0 <= c <= 16384 for c in self.crop):
            raise ValueError(f"crop {self.crop}: give top,bottom,left,right, none negative")
        if any(c > 1 and c != int(c) for c in self.crop):
            raise ValueError(f"crop {self.crop}: whole pixels, or shares below 1")
        if not 0 <= self.standing_mps <= 5:
            raise ValueError(f"standing speed {self.standing_mps} m/s: give 0 (no tags) to 5")
        for name in ("blur", "exposure"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: give 0 (off) to less than 1")


@dataclass
class CollectReport:
    """What became of the frames of one camera: frames_in = kept + sum of dropped (by reason).

    kept: frames on disk, also those `tagged` (by reason), which are no targets of a training.
    """

    image_topic: str = ""
    odom_topic: str | None = None
    calibration: str = ""
    frames_in: int = 0
    kept: int = 0
    with_odometry: int = 0
    dropped: Counter = field(default_factory=Counter)
    tagged: Counter = field(default_factory=Counter)
    sequences: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: reasons sorted, none that happened to no frame."""
        values = asdict(self)
        for name in ("dropped", "tagged"):
            # not from `asdict`, which makes a Counter of the pairs of a Counter
            values[name] = {k: n for k, n in sorted(getattr(self, name).items()) if n}
        return values

    def restore(self, values: dict[str, Any]) -> None:
        """Take over what `as_dict` gave."""
        for name, value in values.items():
            setattr(self, name, Counter(value) if name in ("dropped", "tagged") else value)


def parse_crop(text: str) -> tuple[float, float, float, float]:
    """CollectOptions.crop from "top,bottom,left,right", nothing for an empty text; ValueError names
    the form.
    """
    try:
        parts = tuple(float(word) for word in text.split(",")) if text.strip() else (0.0,) * 4
    except ValueError:
        parts = ()
    if len(parts) != 4 or not all(0 <= part < 1e5 for part in parts):
        raise ValueError(
            "give top,bottom,left,right, four numbers, none negative, in pixels or shares, for "
            "example 0,120,0,0"
        )
    return parts
