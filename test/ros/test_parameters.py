"""Parameters as a user meets them: documented, limited, rejected with the reason."""

import pytest
import yaml

pytest.importorskip("rclpy")
from dyndepth_core.data.collect_options import parse_crop  # noqa: E402
from dyndepth_ros import parameters  # noqa: E402
from dyndepth_ros.collect_parameters import CollectConfig  # noqa: E402
from dyndepth_ros.parameters import NodeConfig, choices, explain, limits, validate  # noqa: E402

FIELDS = NodeConfig.model_fields
ALL = [*FIELDS.items(), *CollectConfig.model_fields.items()]


@pytest.mark.parametrize("field", [f for _, f in ALL], ids=[name for name, _ in ALL])
def test_every_parameter_explains_itself(field):
    text = explain(field)
    assert len(field.description) > 15
    assert text.endswith(parameters.WHEN[field.json_schema_extra["applies"]])
    if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
        low, high = limits(field)
        assert low <= field.default <= high and f"range: {low:g} to {high:g}" in text
    for choice in choices(field):
        assert choice in text


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"device": "gpu"}, "parameter device is 'gpu'.*auto, cpu, cuda"),
        ({"assumed_scale": -1.0}, "parameter assumed_scale is -1.0.*0.001 to 1000"),
        ({"image_transport": "h264"}, "parameter image_transport is 'h264'.*raw"),
        ({"color_near": 50.0, "color_far": 20.0}, "color_near 50 must be less than color_far 20"),
        ({"colour_far": 20.0}, "parameter colour_far"),
    ],
)
def test_bad_values_are_refused_with_the_reason(values, reason):
    with pytest.raises(ValueError, match=reason):
        validate(NodeConfig, values)


def test_every_bad_value_is_named_at_once():
    with pytest.raises(ValueError, match="device.*; parameter max_range"):
        validate(NodeConfig, {"device": "gpu", "max_range": -3.0})


def test_parameter_file_holds_the_defaults_and_explains_each():
    text = parameters.parameter_file(NodeConfig, "depth_node")
    values = yaml.safe_load(text)["/**/depth_node"]["ros__parameters"]
    assert values == NodeConfig().model_dump()
    assert all(type(values[name]) is type(FIELDS[name].default) for name in values)  # 1.0, not 1
    for field in FIELDS.values():
        assert f"# {explain(field)}\n" in text


def test_crop_and_folder_of_the_collect_node():
    assert parse_crop("0.1,30, 0,0") == (0.1, 30, 0, 0) and parse_crop(" ") == (0, 0, 0, 0)
    for bad in ("1,2", "1,2,3,x", "-1,0,0,0", "nan,0,0,0"):
        with pytest.raises(ValueError, match="parameter crop.*four numbers, none negative"):
            validate(CollectConfig, {"crop": bad})
    with pytest.raises(ValueError, match="parameter out is ' ': give a folder"):
        validate(CollectConfig, {"out": " "})
    with pytest.raises(ValueError, match="would hold nothing"):
        validate(CollectConfig, {"before": 0.0, "after": 0.0})
