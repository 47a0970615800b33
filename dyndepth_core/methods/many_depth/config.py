"""Settings of the many_depth method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dyndepth_core.methods.monodepth.objective import MonodepthConfig
from dyndepth_core.networks.depth_net import NetworkConfig

FAST = {  # what variant=fast is, where a field is not set itself
    "planes": 16, "inverse_planes": True, "match_channels": 8, "fuse_channels": 32,
    "pose_downscale": 2,
}  # fmt: skip


class ManyDepthNetworkConfig(NetworkConfig):
    """With the cost volume of the student."""

    variant: Literal["faithful", "fast"] = Field(
        "faithful",
        description="fast: for the vehicle, planes=16 inverse_planes=true match_channels=8 "
        "fuse_channels=32 pose_downscale=2 where these are not set",
    )
    planes: int = Field(96, ge=2, le=512, description="depth planes of the cost volume")
    inverse_planes: bool = Field(
        False, description="planes in even steps of the inverse depth; otherwise of the depth"
    )
    match_channels: int = Field(
        0, ge=0, le=512, description="channels of the features that are compared; 0 = all"
    )
    fuse_channels: int = Field(
        64, ge=1, le=1024, description="channels in which features and cost volume meet"
    )
    window: Literal[1, 3, 5, 7, 9] = Field(
        5, description="costs are means over a square of so many feature pixels; 1 as published"
    )
    blend: bool = Field(
        True,
        description="depth is also corrected by what the costs say directly; false as published",
    )  # fmt: skip
    least_seen: float = Field(
        1.0, gt=0, le=1,
        description="share of the planes that must fall into the other image for a pixel to "
        "have a cost volume at all; 1 as published",
    )  # fmt: skip

    @model_validator(mode="after")
    def _variant(self) -> ManyDepthNetworkConfig:
        if self.variant == "fast":
            for name, value in FAST.items():
                if name not in self.model_fields_set:
                    setattr(self, name, value)
        return self


class ManyDepthConfig(MonodepthConfig):
    """Loss of the many_depth method; the teacher has that of monodepth.

    As published: student_from=0 freeze_teacher=0.75 scales=0,1,2,3 range_quantiles=0,1
    pose_first=0 pyramid=1 fuse_lr_factor=1 network.window=1 network.blend=false.
    """

    student_from: float = Field(
        0.35, ge=0, lt=1,
        description="progress at which the student begins, as a copy of its teacher; 0: both from "
        "the start, as published",
    )  # fmt: skip
    freeze_teacher: float = Field(
        0.75, ge=0, le=1, description="progress from which teacher and motion learn no more"
    )
    static_share: float = Field(
        0.25, ge=0, le=1,
        description="share of samples whose cost volume is that of a camera that stands",
    )  # fmt: skip
    empty_share: float = Field(
        0.25, ge=0, le=1, description="share of samples without a cost volume"
    )
    agreement: float = Field(
        2.0, gt=1,
        description="factor within which volume and teacher must agree for the images to judge a "
        "pixel; elsewhere the student follows its teacher",
    )  # fmt: skip
    consistency: float = Field(
        1.0, ge=0, description="weight of |log of student's over teacher's depth| elsewhere"
    )
    fuse_lr_factor: float = Field(
        5.0, gt=0,
        description="learning rate of the layers that see the cost volume, which alone start from "
        "nothing, over that of the rest",
    )  # fmt: skip
    range_rate: float = Field(
        0.01, gt=0, le=1, description="share of a step in the running range of the planes"
    )
    range_quantiles: tuple[float, float] = Field(
        (0.01, 0.9),
        description="quantiles of the teacher's depth in an image that the planes span, with a "
        "tenth to spare; published 0,1, where a single far pixel stretches them all",
    )

    @model_validator(mode="after")
    def _shares(self) -> ManyDepthConfig:
        low, high = self.range_quantiles
        if not 0 <= low < high <= 1:
            raise ValueError(f"range_quantiles {low:g},{high:g}: give two of 0 to 1, e.g. 0.01,0.9")
        if self.static_share + self.empty_share > 1:
            raise ValueError("static_share and empty_share together are more than all samples")
        if self.student_from > self.freeze_teacher:
            raise ValueError(
                f"student_from {self.student_from:g} comes after freeze_teacher "
                f"{self.freeze_teacher:g}: then nobody learns in between"
            )
        return self
