"""The camera of a recording: `calib.json`, in pixels, pixel centres at integers."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_SIDE = 16384  # pixels
FOCAL_RANGE = (0.02, 100.0)  # of the longer image side: beyond any lens, so a slip or a wrong unit
DISTORTION_MODELS = ("plumb_bob", "rational_polynomial", "equidistant")


@dataclass(frozen=True)
class Calibration:
    """Intrinsics in pixels of the stored image size; `fx` is None when they are unknown ("learn
    them").

    rectified: the stored images show no lens distortion; a `distortion` beside it only says what
    was removed.
    """

    width: int
    height: int
    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    distortion: dict[str, Any] | None = None
    rectified: bool = True
    source: str = ""

    def __post_init__(self) -> None:
        sides = self.width, self.height
        whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in sides)
        if not (whole and min(sides) >= 1 and max(sides) <= MAX_SIDE):
            raise ValueError(
                f"calibration: image size {self.width}x{self.height}; give width and height in "
                f"pixels, whole numbers from 1 to {MAX_SIDE}"
            )
        given = [v for v in (self.fx, self.fy, self.cx, self.cy) if v is not None]
        if len(given) not in (0, 4):
            raise ValueError(
                "calibration: give all of fx, fy, cx, cy or none of them (none means: learn them)"
            )
        if given and not all(math.isfinite(v) for v in given):
            raise ValueError(
                f"calibration: fx, fy, cx, cy = {given} are not all finite numbers; calibrate the "
                "camera"
            )
        if given and (self.fx <= 0 or self.fy <= 0):
            raise ValueError(
                f"calibration: focal lengths fx={self.fx}, fy={self.fy} must be positive pixels"
            )
        near, far = (side * max(sides) for side in FOCAL_RANGE)
        if given and not (near <= self.fx <= far and near <= self.fy <= far):
            raise ValueError(
                f"calibration: focal lengths fx={self.fx:g}, fy={self.fy:g} cannot be those of an "
                f"image of {self.width}x{self.height}; give pixels, from {near:g} to {far:g}"
            )
        if self.distortion is None:
            return
        if self.distortion.get("model") not in DISTORTION_MODELS:
            raise ValueError(
                f"calibration: distortion model {self.distortion.get('model')!r} is not one of "
                f"{DISTORTION_MODELS}"
            )
        if not all(math.isfinite(c) for c in self.distortion.get("coeffs") or (math.nan,)):
            raise ValueError(
                f"calibration: distortion {self.distortion} needs `coeffs`, a list of finite "
                "numbers"
            )

    @property
    def K(self) -> np.ndarray | None:
        """(3, 3) float64 intrinsics in pixels, None when unknown."""
        if self.fx is None:
            return None
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    @classmethod
    def from_K(cls, K: np.ndarray, width: int, height: int, source: str = "") -> Calibration:
        """Make the calibration of a rectified camera from its (3, 3) matrix."""
        return cls(
            width,
            height,
            float(K[0, 0]),
            float(K[1, 1]),
            float(K[0, 2]),
            float(K[1, 2]),
            source=source,
        )

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a `calib.json`; ValueError names the file and what is wrong in it."""
        path = Path(path)
        try:
            fields = json.loads(path.read_text())
            if not isinstance(fields, dict):
                raise ValueError("write an object, {...} with width, height, fx, fy, cx, cy")
            if missing := [name for name in ("width", "height") if name not in fields]:
                raise ValueError(f"it lacks {' and '.join(missing)}, in pixels")
            fields.setdefault("rectified", not fields.get("distortion"))
            names = set(cls.__dataclass_fields__)
            return cls(**{k: v for k, v in fields.items() if k in names})
        except (TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}: not a valid calib.json ({error})") from error

    def dumps(self) -> str:
        """This calibration as the text of a `calib.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write this calibration as `calib.json`."""
        Path(path).write_text(self.dumps())
