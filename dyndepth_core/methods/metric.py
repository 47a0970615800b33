"""What gives a training metres: odometry, or the height of the camera."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.losses.metric import camera_height, height_loss, log_travel_ratio, travel_loss

MetricSource = Literal["odometry", "camera_height"]


class MetricConfig(BaseModel):
    """Weights of the losses that make a model metric; both 0: the scale stays relative."""

    metric_odometry: float = Field(
        0.0,
        ge=0,
        description="weight of: the camera travels as far as odometry says (e.g. 0.05); 0 = off",
    )
    camera_height: float = Field(
        0.0,
        ge=0,
        description="weight of: the camera is data.camera_height above the ground (e.g. 0.05); "
        "0 = off",
    )


def metric_source(config: Any) -> MetricSource | None:
    """Which of them a training (the whole config tree) has; odometry first. None: neither."""
    if getattr(config.objective, "metric_odometry", 0) > 0:
        return "odometry"
    return "camera_height" if getattr(config.objective, "camera_height", 0) > 0 else None


class MetricScale:
    """The metric losses of a training, in its own unit of length.

    Networks predict disps in (0, 1), so the unit of their depth cannot be a metre: a training has
    `units` metres per unit of its own, and metres are what these losses see.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.height = config.objective, config.data.camera_height
        if self.config.camera_height > 0 and self.height is None:
            raise ValueError(
                f"objective.camera_height {self.config.camera_height:g} needs the height itself: "
                "give data.camera_height in metres above the ground, e.g. data.camera_height=1.5"
            )
        if config.data.intrinsics == "pair":
            raise ValueError(
                "objective.metric_odometry and objective.camera_height give no metres to a model "
                "that learns intrinsics per pair, whose depth knows no focal length; use "
                "data.intrinsics given or video"
            )

    def terms(
        self, units: Tensor, sample: Sample, T_src_tgt: Tensor, depth: Tensor, K: Tensor
    ) -> dict[str, Tensor]:
        """Weighted terms: T_src_tgt (..., B, S, 4, 4), depth (B, 1, H, W) of images with K (B, 3,
        3), both in units of the training; units 0-dim.
        """
        config, found = self.config, {}
        if config.metric_odometry > 0:
            if sample.travel is None:
                raise ValueError(
                    "objective.metric_odometry needs samples that know their travel: make the "
                    "SampleSource with odometry=True"
                )
            loss = travel_loss(units * T_src_tgt[..., :3, 3].float(), sample.travel)
            found["metric_odometry"] = config.metric_odometry * loss
        if config.camera_height > 0:
            loss = height_loss(units * depth.float(), K.float(), self.height)
            found["camera_height"] = config.camera_height * loss
        return found


@torch.no_grad()
def log_metres_per_unit(
    source: MetricSource, sample: Sample, T_src_tgt: Tensor, depth: Tensor, K: Tensor, height: float
) -> Tensor:
    """Log of the metres per unit of depth and translations, by every pair or image that can tell
    (N,); shapes: see MetricScale.terms.
    """
    if source == "odometry":
        found = -log_travel_ratio(T_src_tgt[..., :3, 3].float(), sample.travel).flatten()
    else:
        found = (height / camera_height(depth.float(), K.float())).log()
    return found[found.isfinite()]
