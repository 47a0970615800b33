"""Parameters of the collect node, and what of them the core's collecting takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import field_validator, model_validator

from dyndepth_core.data.collect_options import parse_crop
from dyndepth_ros.parameters import ParameterModel, option

if TYPE_CHECKING:
    from dyndepth_core.data.collect import CollectOptions
    from dyndepth_core.data.live import LiveSettings


class CollectConfig(ParameterModel):
    """Parameters of the collect node."""

    out: str = option(
        "collected", "Folder of the recordings, as `dyndepth train --data` takes it; one that the "
        "node filled before is added to.",
    )  # fmt: skip
    mode: Literal["request", "trigger", "continuous"] = option(
        "trigger", "When it records; request: when ~/save_last is called, trigger: also when "
        "trigger_residual or trigger_moving say so, continuous: always.",
        applies="now",
    )  # fmt: skip
    before: float = option(
        5.0, "How much of what came before the moment belongs to a clip.",
        unit="s", applies="now", ge=0.0, le=600.0,
    )  # fmt: skip
    after: float = option(
        5.0, "How much of what comes after the moment belongs to a clip.",
        unit="s", applies="now", ge=0.0, le=600.0,
    )  # fmt: skip
    buffer_mb: float = option(
        512.0, "Memory of the frames that wait for a moment, as they came, and again as much of "
        "those that wait for the disk.",
        unit="MB", ge=1.0, le=1e5,
    )  # fmt: skip
    rate: float = option(
        10.0, "Frames kept per second, by their stamps; 0: all.", unit="Hz", ge=0.0, le=1000.0
    )
    size: str = option(
        "", "Size the images are stored in, HxW; empty: their own.",
        unit="px", pattern=r"^(\d{1,5}x\d{1,5})?$",
    )  # fmt: skip
    crop: str = option(
        "", "What is cut off before that, 'top,bottom,left,right' of the rectified image (bonnet, "
        "sky): pixels, or shares of it below 1; empty: nothing.",
    )  # fmt: skip
    checks: bool = option(
        True, "Leave out blurred, badly exposed and repeated frames, tag those of a standing "
        "vehicle, as dyndepth collect does.",
    )  # fmt: skip
    image_transport: Literal["auto", "raw", "compressed"] = option(
        "auto", "Which of `image` and `image/compressed` is read; auto: the one that is published, "
        "raw first.",
    )  # fmt: skip
    rectify: Literal["auto", "always", "never"] = option(
        "auto", "Remove lens distortion by camera_info; auto: unless the image topic's name says "
        "that it is rectified (image_rect).",
    )  # fmt: skip
    camera_info_timeout: float = option(
        2.0, "How long images wait for a camera_info before they are kept without: such a "
        "recording is trained with --intrinsics video.",
        unit="s", applies="now", ge=0.0, le=60.0,
    )  # fmt: skip
    odometry: Literal["auto", "odometry", "twist", "none"] = option(
        "auto", "What is stored beside the images; odometry: nav_msgs/Odometry on `odom`, twist: "
        "geometry_msgs/TwistStamped on `twist`, auto: whichever comes, Odometry first.",
    )  # fmt: skip
    trigger_residual: float = option(
        2.5, "A clip is kept when what optical flow leaves between two images is this many times "
        "its median of the last minute (light, glare, spray, things out of nowhere); 0: never.",
        applies="now", ge=0.0, le=1000.0,
    )  # fmt: skip
    trigger_moving: float = option(
        0.05, "A clip is kept when at least this share of depth_node/motion/mask moves, three "
        "masks in a row; 0: never, and depth_node need not compute them.",
        unit="of the image", applies="now", ge=0.0, le=1.0,
    )  # fmt: skip
    cooldown: float = option(
        60.0, "After a clip the triggers are deaf for so long; ~/save_last is not.",
        unit="s", applies="now", ge=0.0, le=86400.0,
    )  # fmt: skip
    max_total: float = option(
        20.0, "Nothing is added to `out` when it holds this much.",
        unit="GB", applies="now", ge=0.0, le=1e6,
    )  # fmt: skip
    min_free: float = option(
        5.0, "Nothing is recorded while its disk has less room than this.",
        unit="GB", applies="now", ge=0.0, le=1e6,
    )  # fmt: skip

    @field_validator("crop")
    @classmethod
    def _is_crop(cls, text: str) -> str:
        parse_crop(text)
        return text

    @field_validator("out")
    @classmethod
    def _is_named(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("give a folder")
        return text

    @model_validator(mode="after")
    def _lasts(self) -> CollectConfig:
        if self.before + self.after == 0:
            raise ValueError("before and after are both 0 s: a clip would hold nothing; raise one")
        return self


def collect_options(config: CollectConfig) -> CollectOptions:
    """What to take of a camera; ValueError for a size or crop that cannot be."""
    from dyndepth_core.data.collect import CollectOptions

    size = tuple(int(side) for side in config.size.split("x")) if config.size else None
    checks = {} if config.checks else {"blur": 0.0, "exposure": 0.0, "standing_mps": 0.0}
    return CollectOptions(
        rate_hz=config.rate, size=size, crop=parse_crop(config.crop),
        duplicates=not config.checks, **checks,
    )  # fmt: skip


def live_settings(config: CollectConfig) -> LiveSettings:
    """What may change at run time."""
    from dyndepth_core.data.live import LiveSettings

    return LiveSettings(
        before_s=config.before, after_s=config.after, cooldown_s=config.cooldown,
        max_total=config.max_total * 1e9, min_free=config.min_free * 1e9,
    )  # fmt: skip
