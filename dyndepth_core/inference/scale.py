"""Where the metres come from: the factor on a model's depth, how sure it is, and who says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .model_meta import ModelMeta

ScaleSource = Literal["relative", "checkpoint", "odometry", "ground_plane"]


@dataclass(frozen=True)
class ScaleState:
    """Factor that was applied to the model's depth.

    value: metres per unit of model depth. variance: of that value, infinite = nobody knows. source:
    who says so; `relative` means that no one does and the value was merely assumed, so that depth
    is not in metres.
    """

    value: float
    variance: float
    source: ScaleSource

    @property
    def is_metric(self) -> bool:
        """Whether anything stands behind the metres."""
        return self.source != "relative"


def model_scale(meta: ModelMeta, assumed_scale: float = 1.0) -> ScaleState:
    """Scale known from the model file alone: `checkpoint` of a metric model, else `relative` at the
    assumed factor.

    A metric model already speaks metres (factor 1) and ignores `assumed_scale`. Raises ValueError
    when `assumed_scale` is not a positive finite number.
    """
    if not (math.isfinite(assumed_scale) and assumed_scale > 0):
        raise ValueError(
            f"assumed_scale is {assumed_scale}: it must be a positive number, "
            "metres per unit of model depth"
        )
    if meta.scale.state == "metric":
        variance = math.inf if meta.scale.variance is None else meta.scale.variance
        return ScaleState(1.0, variance, "checkpoint")
    return ScaleState(float(assumed_scale), math.inf, "relative")
