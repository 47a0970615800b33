"""Settings of how recordings become training samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator


def _several(value: object) -> object:
    return (value,) if isinstance(value, int) else value


# one is written without a comma: data.source_offsets=1
Integers = Annotated[tuple[int, ...], BeforeValidator(_several)]


class DataConfig(BaseModel):
    """How recordings become training samples."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    size: tuple[int, int] = Field(
        (128, 416), description="network input height and width in pixels, multiples of 32"
    )
    source_offsets: Integers = Field(
        (-1, 1), description="source frames relative to the target, in strides"
    )
    target_rate_hz: float = Field(
        10.0, ge=1e-3, le=1e4, description="frames are taken at about this rate, by stamp (Hz)"
    )
    intrinsics: Literal["given", "pair", "video"] = Field(
        "given", description="K from calib.json, or learned"
    )
    flip: float = Field(0.5, ge=0, le=1, description="share of samples mirrored")
    jitter: float = Field(
        0.5, ge=0, le=1, description="share of samples with changed colours for the networks"
    )
    grey: float = Field(0.15, ge=0, le=1, description="share of the jittered samples turned grey")
    zoom: float = Field(1.3, ge=1, le=4, description="largest random zoom into the image")
    zoom_share: float = Field(0.5, ge=0, le=1, description="share of samples zoomed")
    cache_mb: int = Field(
        3000,
        ge=0,
        description="memory for decoded, resized frames, of all data workers together (MB)",
    )

    base_to_camera: tuple[float, float, float, float, float, float] | None = Field(
        None,
        description="camera in the vehicle: x y z roll pitch yaw (metres, radians; x forward, y "
        "left, z up); without it, turns tell no metres",
    )
    odometry_offset: float = Field(
        0.0, ge=-5, le=5, description="seconds by which odometry lags behind the images"
    )
    camera_height: float | None = Field(
        None, gt=0, le=100, description="height of the camera above the ground (metres)"
    )

    @field_validator("base_to_camera", mode="before")
    @classmethod
    def _as_at_launch(cls, value: object) -> object:
        """Also takes the text that the launch file takes."""
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("size")
    @classmethod
    def _size(cls, size: tuple[int, int]) -> tuple[int, int]:
        # Below 64, 1/32 of it is too small to pad by reflection.
        if size[0] % 32 or size[1] % 32 or min(size) < 64 or max(size) > 8192:
            raise ValueError(
                f"size {size}: height and width must be multiples of 32, from 64 to 8192, e.g. "
                "128,416 or 192,640"
            )
        return size

    @field_validator("source_offsets")
    @classmethod
    def _offsets(cls, offsets: tuple[int, ...]) -> tuple[int, ...]:
        if not offsets or 0 in offsets or len(set(offsets)) != len(offsets):
            raise ValueError(
                f"source_offsets {offsets}: give distinct non-zero frame offsets, e.g. -1,1"
            )
        return offsets
