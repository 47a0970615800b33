"""The RViz configuration, held against what RViz knows and the launch file remaps."""

from pathlib import Path

import launch_doubles as doubles
import yaml

ROOT = Path(__file__).resolve().parents[2]

# RViz ignores a key it does not know without a word, so a typo would go unnoticed.
COMMON = {"Class", "Name", "Enabled", "Value"}
DISPLAYS = {
    "Grid": {"Alpha", "Cell Size", "Plane Cell Count", "Color", "Reference Frame"},
    "TF": set(),
    "PointCloud2": {
        "Style", "Size (Pixels)", "Color Transformer", "Topic", "Channel Name", "Use rainbow",
        "Autocompute Intensity Bounds", "Min Intensity", "Max Intensity",
    },
    "MarkerArray": {"Topic"},
    "Image": {"Normalize Range", "Min Value", "Max Value", "Topic"},
}  # fmt: skip
TOPIC = {"Value", "Depth", "History Policy", "Reliability Policy", "Durability Policy"}


def test_rviz_file_has_only_keys_that_rviz_knows():
    config = yaml.safe_load((ROOT / "config/dyndepth.rviz").read_text())
    assert set(config) == {"Panels", "Visualization Manager", "Window Geometry"}
    manager = config["Visualization Manager"]
    assert {"Displays", "Global Options", "Tools", "Views"} <= set(manager)
    assert set(manager["Global Options"]) == {"Fixed Frame", "Frame Rate", "Background Color"}
    for display in manager["Displays"]:
        package, kind = display["Class"].split("/")
        assert package == "rviz_default_plugins"
        assert set(display) <= COMMON | DISPLAYS[kind], display["Name"]
        extra = {"Filter size"} if kind == "PointCloud2" else set()
        assert set(display.get("Topic", {})) <= TOPIC | extra, display["Name"]
        if display["Name"] == "Depth in metres":
            assert display["Normalize Range"] is False and display["Max Value"] == 80


def test_rviz_shows_what_the_launch_file_remaps():
    config = yaml.safe_load((ROOT / "config/dyndepth.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    shown = {d["Topic"]["Value"] for d in displays if "Topic" in d}
    rviz = doubles.launch(ROOT / "launch/depth.launch.py", rviz="true", namespace="n").node("rviz2")
    assert shown == set(dict(rviz.remappings))
