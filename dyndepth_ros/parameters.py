"""ROS parameters from pydantic models: declared by walking the fields, checked by the model itself.

`python3 -m dyndepth_ros.parameters` prints the parameter file of the depth node with a line of
explanation, unit and range above every value.
"""

from __future__ import annotations

import difflib
import sys
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from dyndepth_core.inference.mount import parse_mount

Applies = Literal["now", "reload", "start"]
WHEN = {
    "now": "can change at run time",
    "reload": "can change at run time, counts from the next ~/reload_model or configure",
    "start": "read at start only",
}

COUNTS = {"now": "", "reload": ", which counts from the next ~/reload_model", "start": ""}
PLAIN = {  # pydantic's words for those who do not read regular expressions
    "string_pattern_mismatch": "not of the form it must have",
}


def option(default: Any, text: str, *, unit: str = "", applies: Applies = "start", **limits: Any):
    """A field that becomes a ROS parameter; `limits` are pydantic's (ge, le, pattern)."""
    extra = {"unit": unit, "applies": applies, "dynamic": applies != "start"}
    return Field(default, description=text, json_schema_extra=extra, **limits)


class ParameterModel(BaseModel):
    """Base of every node's parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class NodeConfig(ParameterModel):
    """Parameters of the depth node."""

    autostart: bool = option(
        True, "Configure and activate at start; false: wait for a lifecycle manager."
    )
    model: str = option(
        "", "Model file (.safetensors) or folder of a run; empty: the bundled model, which knows a "
        "synthetic world only; depth: the bundled one without motion.",
        applies="reload",
    )  # fmt: skip
    device: str = option(
        "auto", "Where the network runs: auto, cpu, cuda or cuda:N.",
        applies="reload", pattern=r"^(auto|cpu|cuda(:\d+)?)$",
    )  # fmt: skip
    precision: Literal["auto", "fp32", "fp16", "bf16"] = option(
        "auto", "Number format of the network; auto: the fastest one the device gains from.",
        applies="reload",
    )  # fmt: skip
    backend: Literal["torch"] = option("torch", "What runs the network.", applies="reload")
    threads: int = option(
        0, "CPU threads of the network; 0: all cores.", ge=0, le=256,
    )  # fmt: skip
    assumed_scale: float = option(
        1.0, "Factor on the depth of a model without metric scale.",
        unit="m per unit of model depth", applies="reload", ge=1e-3, le=1e3,
    )  # fmt: skip
    allow_relative_velocity: bool = option(
        False, "Publish velocities, markers and odometry of a model without metric scale, too: "
        "their m/s are only as right as assumed_scale.",
        applies="now",
    )  # fmt: skip
    publish_odometry: bool = option(
        False, "Offer ~/odometry, the camera's own motion added up; it drifts."
    )
    odometry_frame: str = option(
        "camera_odom", "frame_id of ~/odometry: where the camera was when it started, x forward, "
        "z up as it then looked.",
        applies="now",
    )  # fmt: skip
    odometry: Literal["auto", "odometry", "twist", "none"] = option(
        "auto", "What the scale is learned from, by a model with ego-motion: odometry: "
        "nav_msgs/Odometry on `odom`, twist: geometry_msgs/TwistStamped on `twist`, auto: "
        "whichever comes, Odometry first.",
    )  # fmt: skip
    odometry_delay: float = option(
        0.0, "How much later odometry is stamped than an image of the same moment; what is left is "
        "estimated, up to about 0.2 s.",
        unit="s", ge=-1.0, le=1.0,
    )  # fmt: skip
    odometry_min_speed: float = option(
        1.5, "Odometry below this speed does not change the scale.", unit="m/s", ge=0.1, le=30.0,
    )  # fmt: skip
    base_to_camera: str = option(
        "", "Where the camera sits on the vehicle, 'x y z roll pitch yaw' of its body axes (x "
        "forward, y left, z up) in base_link, the lever arm of odometry; empty: unknown.",
        unit="m and rad",
    )  # fmt: skip
    camera_height: float = option(
        0.0, "Height of the camera above the road, a second source of scale, which costs "
        "ego-motion five times a second; 0: z of base_to_camera, where that is given, else "
        "unknown.",
        unit="m", ge=0.0, le=20.0,
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
        2.0, "How long images wait for a camera_info before focal_fallback counts.",
        unit="s", applies="now", ge=0.0, le=60.0,
    )  # fmt: skip
    focal_fallback: float = option(
        0.0, "Focal length assumed for a camera without camera_info (about 0.5 for a wide lens, "
        "0.8 for a webcam); 0: such a camera gets no depth, because its scale would be a guess.",
        unit="image widths", applies="now", ge=0.0, le=10.0,
    )  # fmt: skip
    output_size: Literal["model", "input"] = option(
        "model", "Size of the published depth: that of the network or that of the camera image.",
        applies="now",
    )  # fmt: skip
    depth_encoding: Literal["32FC1", "16UC1"] = option(
        "32FC1", "Depth as 32FC1 in metres or 16UC1 in millimetres.", applies="now"
    )
    max_range: float = option(
        80.0, "Depth beyond this is published as +Inf (nothing in range).",
        unit="m", applies="now", ge=1.0, le=10000.0,
    )  # fmt: skip
    color_near: float = option(
        4.0, "Depth at the warm end of ~/depth/color.", unit="m", applies="now", ge=0.01, le=1000.0
    )
    color_far: float = option(
        80.0, "Depth at the cold end of ~/depth/color; more than color_near.",
        unit="m", applies="now", ge=0.1, le=10000.0,
    )  # fmt: skip

    @field_validator("base_to_camera")
    @classmethod
    def _is_mount(cls, text: str) -> str:
        parse_mount(text)
        return text

    @model_validator(mode="after")
    def _ordered_colors(self) -> NodeConfig:
        if self.color_near >= self.color_far:
            raise ValueError(
                f"color_near {self.color_near:g} must be less than color_far {self.color_far:g}"
            )
        return self


Config = TypeVar("Config", bound=ParameterModel)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Values of a Literal field, empty for the others."""
    is_literal = typing.get_origin(field.annotation) is Literal
    return typing.get_args(field.annotation) if is_literal else ()


def limits(field: FieldInfo) -> tuple[float, float] | None:
    """(least, greatest) value of a number, None if it has no range."""
    low = [m.ge for m in field.metadata if getattr(m, "ge", None) is not None]
    high = [m.le for m in field.metadata if getattr(m, "le", None) is not None]
    return (low[0], high[0]) if low and high else None


def explain(field: FieldInfo) -> str:
    """One line: what it is, unit, range or choices, when it counts."""
    extra, span = field.json_schema_extra, limits(field)
    parts = [field.description.rstrip(".")]
    if extra["unit"]:
        parts.append(f"unit: {extra['unit']}")
    if span:
        parts.append(f"range: {span[0]:g} to {span[1]:g}")
    if choices(field):
        parts.append(f"one of {', '.join(choices(field))}")
    return "; ".join([*parts, WHEN[extra["applies"]]])


def validate(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Make a config or raise ValueError with one line that names every bad parameter and why."""
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(_fault(e, config_class) for e in error.errors())) from error


def _fault(error: Any, config_class: type[ParameterModel]) -> str:
    reason = PLAIN.get(error["type"], error["msg"].removeprefix("Value error, "))
    if not error["loc"]:
        return reason
    name = str(error["loc"][0])
    field = config_class.model_fields.get(name)
    hint = f" ({explain(field)})" if field else ""
    return f"parameter {name} is {error['input']!r}: {reason}{hint}"


class Parameters:
    """The parameters of one node, declared from a config class; `config` is always valid.

    `on_change(config, names)` is called after a change was accepted. Raises ValueError when a value
    given at start is bad.
    """

    def __init__(
        self,
        node: Any,
        config_class: type[Config],
        on_change: Callable[[Config, set[str]], None] | None = None,
    ) -> None:
        self._class, self._on_change, self._log = config_class, on_change, node.get_logger()
        values = {name: self._declare(node, name) for name in config_class.model_fields}
        self.config: Config = validate(config_class, values)
        self._warn_of_typos(node)
        node.add_on_set_parameters_callback(self._set)

    def _declare(self, node: Any, name: str) -> Any:
        from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
        from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

        field = self._class.model_fields[name]
        descriptor = ParameterDescriptor(
            name=name,
            description=explain(field),
            additional_constraints=" | ".join(choices(field)),
            read_only=not field.json_schema_extra["dynamic"],
            # `ros2 param set ... 40` sends an integer; our own check takes it for 40.0 and says in
            # words what else does not fit
            dynamic_typing=True,
        )
        span = limits(field)
        if span and isinstance(field.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(span[0]), to_value=float(span[1]))
            ]
        elif span:
            descriptor.integer_range = [
                IntegerRange(from_value=int(span[0]), to_value=int(span[1]))
            ]
        try:
            return node.declare_parameter(name, field.default, descriptor).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ValueError(f"parameter {name}: {error} ({explain(field)})") from error

    def _warn_of_typos(self, node: Any) -> None:
        """A misspelt name is silently ignored by ROS; say so when it is close to one of ours."""
        known = list(self._class.model_fields)
        for name in getattr(node, "_parameter_overrides", {}):
            close = difflib.get_close_matches(name, known, n=1)
            if close and name not in known:
                node.get_logger().warning(f"parameter {name} is unknown: is {close[0]} meant?")

    def _set(self, parameters: list[Any]) -> Any:
        from rcl_interfaces.msg import SetParametersResult

        changes = {p.name: p.value for p in parameters if p.name in self._class.model_fields}
        if not changes:
            return SetParametersResult(successful=True)
        try:
            self.config = validate(self._class, {**self.config.model_dump(), **changes})
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for name in changes:
            applies = self._class.model_fields[name].json_schema_extra["applies"]
            self._log.info(f"{name} is now {getattr(self.config, name)!r}{COUNTS[applies]}")
        if self._on_change is not None:
            self._on_change(self.config, set(changes))
        return SetParametersResult(successful=True)


def parameter_file(config_class: type[ParameterModel], node_name: str) -> str:
    """YAML text of a ROS parameter file with every default, its explanation in the line above."""
    import yaml

    lines = [f"/**/{node_name}:", "  ros__parameters:"]
    for name, field in config_class.model_fields.items():
        value = yaml.safe_dump(field.default, default_style=None).splitlines()[0]
        lines += [f"    # {explain(field)}", f"    {name}: {value}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(parameter_file(NodeConfig, "depth_node"))
