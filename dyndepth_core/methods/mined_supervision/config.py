"""Settings of the mined_supervision method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dyndepth_core.methods.residual_motion.config import ResidualMotionConfig


class Shares(BaseModel):
    """Shares of the training's steps and minutes; what is shared by rounds is divided among them.

    They need not add up to 1: only their proportions count.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    scene: float = Field(
        0.4, ge=0, description="depth and motion of the scene; 0 = as the model of --from is"
    )
    slots: float = Field(0.05, gt=0, description="what moves as one, where grouping is slots")
    segment: float = Field(0.1, gt=0, description="what looks like something that moves")
    objects: float = Field(0.07, gt=0, description="shape and motion of objects (all rounds)")
    alignment: float = Field(0.02, gt=0, description="scale of objects (all rounds)")
    final: float = Field(0.41, gt=0, description="the network with the labels (all rounds)")

    def of(self, stage: str, rounds: int, unused: Sequence[str] = ()) -> float:
        """Share of a stage in one of its rounds; unused: stages that do not take place."""
        whole = sum(value for name, value in self if name not in unused)
        each = 0.0 if stage in unused else getattr(self, stage) / whole
        return each if stage in ("scene", "slots", "segment") else each / rounds


class MinedSupervisionConfig(ResidualMotionConfig):
    """Of the scene and of what is mined from it."""

    masks: Literal["mined", "files", "oracle"] = Field(
        "mined",
        description="objects: mined from motion; instances/ of the recordings (any program's "
        "masks); oracle: also what moves from dynamic/, for comparison only",
    )
    grouping: Literal["components", "slots"] = Field(
        "components",
        description="objects among what is mined: connected parts; or slots of a network that is "
        "taught to draw flow and depth of what moves, as published",
    )
    slot_size: Literal[32, 64, 128] = Field(
        128, description="side of the images that slots see, pixels; 32 where there is no GPU"
    )
    slot_width: int = Field(64, ge=4, le=512, description="channels of slots and their network")
    rounds: int = Field(1, ge=1, le=10, description="times that labels are made and learned from")
    shares: Shares = Field(default_factory=Shares)
    min_area: float = Field(
        0.005, gt=0, lt=0.5, description="share of the image that an object must fill"
    )
    moving_share: float = Field(
        0.5, gt=0, le=1, description="share of an object's pixels that moves in a dynamic one"
    )
    centre: float = Field(
        0.05, ge=0, lt=1,
        description="middle share of the columns; what touches them counts as dynamic where "
        "parallax says nothing though the camera travels, because straight ahead motion hardly "
        "shows; 0 = off",
    )  # fmt: skip
    lateral_only: bool = Field(
        False, description="residuals without their part along the axis, as published"
    )
    object_smoothness: float = Field(
        0.02, ge=0, description="weight of the smoothness of an object's inverse depth"
    )
    alignment: Literal["learned", "contact"] = Field(
        "learned",
        description="scale of a dynamic object: learned from static ones, or of the road depth "
        "where it stands",
    )
    label: float = Field(0.5, ge=0, description="weight of the labels of what moves")
    hints: float = Field(
        1.0, ge=0,
        description="weight of: the depth of what stands, and the motion, are what several images "
        "show at once, in the training with labels",
    )  # fmt: skip
    final_lr_factor: float = Field(
        1.0, gt=0, description="learning rate of the training with labels over that of the rest"
    )

    @classmethod
    def going_on(cls) -> dict[str, Any]:
        """See StartConfig; the labels say what the images do not."""
        return {**super().going_on(), "keep": 0.0}

    @property
    def unused(self) -> tuple[str, ...]:
        """Stages that would train something which these settings do not ask for."""
        known = (
            (self.grouping == "slots", "slots"),
            (self.masks == "mined", "segment"),
            (self.alignment == "learned", "alignment"),
        )
        return tuple(stage for wanted, stage in known if not wanted)

    @model_validator(mode="after")
    def _check(self) -> MinedSupervisionConfig:
        if self.both_ways:
            raise ValueError("both_ways: labels need the other losses, set it to false")
        if self.foreground != "none":
            raise ValueError("foreground: the masks of this method are `masks`, set it to none")
        if self.grouping == "slots" and self.masks != "mined":
            raise ValueError("grouping: slots part what is mined, set masks to mined")
        return self
