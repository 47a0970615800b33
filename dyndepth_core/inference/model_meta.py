"""What a model file says of itself: its network, what its depth means, where it comes from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FORMAT = "dyndepth-model"
VERSION = 2  # raise it with every change of the format; older versions stay readable
MAX_FOREBEARS = 200  # models before one in its file; JSON of pydantic is at most 255 deep
PLAIN_VERSION = 1  # of files without packed weights, which older packages read, too


class ModelScale(BaseModel):
    """What a depth of 1 from this model means.

    `variance` is that of the factor which turns the model's depth into metres, as measured when the
    model was made; infinite = not measured (JSON null).
    """

    model_config = ConfigDict(extra="forbid")

    state: Literal["relative", "metric"] = "relative"
    source: str = ""
    variance: float | None = Field(default=None, ge=0)


class _Loose(BaseModel):
    """A later version may write more fields."""

    model_config = ConfigDict(extra="allow")


class _Recording(_Loose):
    name: str
    sha256: str
    trained: list[tuple[int, int]] = []


class _Bag(_Loose):
    name: str
    files: dict[str, str]
    recordings: list[str]


class _Source(_Loose):
    name: str
    sha256: str
    recordings: list[_Recording]
    bags: list[_Bag] | None = None


class _Link(_Loose):
    """What is read of a model's origin, and of that of those it was begun with."""

    sources: list[_Source] | None = None
    data: list[str] | None = None
    dataset_manifest: str = ""
    begun: str | None = Field(default=None, alias="from")
    exported_from: str | None = None
    parent: dict[str, Any] | None = None


class _Parent(_Link):
    sha256: str
    name: str = ""


class Provenance(BaseModel):
    """Where the weights come from; a trainer may add fields of its own."""

    model_config = ConfigDict(extra="allow")

    dataset_manifest: str = ""
    git_revision: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    steps: int | None = None
    date: str = ""

    @model_validator(mode="after")
    def _chain_is_whole(self) -> Provenance:
        """The extra fields of `inference.lineage`, of every model before this one, too."""
        parent, count = _Link(**(self.model_extra or {})).parent, 0
        while parent:
            if (count := count + 1) > MAX_FOREBEARS:
                raise ValueError(f"more than {MAX_FOREBEARS} models before it")
            parent = _Parent(**parent).parent
        return self


class ModelMeta(BaseModel):
    """Everything in a model file that is not a weight.

    input_size: (height, width) pixels. canonical_focal: the focal length in pixels of the
    network-size image at which the network predicts depth. depth_range: (nearest, farthest) depth
    the network can express at that focal length, in its own unit.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: Literal["dyndepth-model"] = FORMAT
    version: int = Field(default=PLAIN_VERSION, ge=1)
    method: str
    architecture: dict[str, Any]
    input_size: tuple[int, int]
    canonical_focal: float = Field(gt=0)
    depth_range: tuple[float, float]
    scale: ModelScale = Field(default_factory=ModelScale)
    thresholds: dict[str, float] = Field(default_factory=dict)
    license: str = ""
    provenance: Provenance = Field(default_factory=Provenance)

    @field_validator("thresholds")
    @classmethod
    def _positive_thresholds(cls, thresholds: dict[str, float]) -> dict[str, float]:
        if wrong := [name for name, value in thresholds.items() if not value > 0]:
            raise ValueError(f"thresholds: {', '.join(wrong)} must be above 0")
        return thresholds

    @field_validator("input_size")
    @classmethod
    def _positive_size(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < 32 or max(size) > 8192 or any(side % 32 for side in size):
            raise ValueError(f"input_size is {size}, both sides must be multiples of 32 up to 8192")
        return size

    @field_validator("depth_range")
    @classmethod
    def _ordered_range(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if not 0 < limits[0] < limits[1]:
            raise ValueError(
                f"depth_range is {limits}: it must be (nearest, farthest), 0 < nearest < farthest"
            )
        return limits

    @model_validator(mode="after")
    def _agrees_with_its_network(self) -> ModelMeta:
        for name in ("method", "canonical_focal"):
            own, network = getattr(self, name), self.architecture.get(name, getattr(self, name))
            if own != network:
                raise ValueError(f"{name} is {own}, but that of its architecture is {network}")
        return self
