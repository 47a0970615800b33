"""Settings of the plug-in motion_aware."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class MotionAwareConfig(BaseModel):
    """As published: gradient=published gate=1 standing=null."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    temporal: bool = Field(
        True,
        description="temporal hints for the teacher: moving objects at the midpoint of their "
        "sightings",
    )
    gradient: Literal["grid", "published"] = Field(
        "grid",
        description="of a hint: grid: to the depth of the pixel itself; published: to that of the "
        "pixel half a step away",
    )
    gate: float = Field(
        0.95, gt=0, le=1,
        description="Dice cost from which two masks are not of the same object; 1: only masks that "
        "share no pixel are not",
    )  # fmt: skip
    standing: float | None = Field(
        1.25, gt=1,
        description="objects get no hint that a teacher's depth wrong by up to this factor would "
        "explain: they may stand; null: all get one",
    )  # fmt: skip
    distillation: bool = Field(
        True, description="distillation hints: the student imitates whoever explains a pixel best"
    )
    ensemble: bool = Field(
        True, description="the mean of teacher and student may be the best as well"
    )
    balance: bool = Field(
        True,
        description="the weight of the distillation follows how fast it and the rest of the loss "
        "fall; else it is `weight`",
    )
    weight: float = Field(1.0, ge=0, description="weight of the distillation without `balance`")
