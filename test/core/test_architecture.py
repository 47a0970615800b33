"""The house rules that can be read off the sources: who imports whom, how long a file may be."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "dyndepth_core").rglob("*.py"))
ROS = sorted((ROOT / "dyndepth_ros").rglob("*.py"))
ALL = [*CORE, *ROS, *sorted((ROOT / "launch").glob("*.py")), *sorted((ROOT / "test").rglob("*.py"))]
# rclpy and messages belong to dyndepth_ros; the other two raise on import beside a CPU torch.
NOT_IN_CORE = {"rclpy", "cv_bridge", "sensor_msgs", "nav_msgs", "geometry_msgs", "std_msgs"}
NOT_IN_CORE |= {"rosbag2_py", "ament_index_python", "dyndepth_ros", "torchvision", "timm"}
# Absent without a full ROS install: no module may need them to be imported.
NOT_HARD = {"message_filters", "tf2_ros", "image_transport", "sensor_msgs_py", "rosbag2_py"}
NOT_HARD |= {"cv_bridge", "launch", "launch_ros"}
# Which parts of the core each part may import; those not named may import all of them.
ARROWS = {
    "geometry": {"geometry"},
    "networks": {"networks", "geometry"},
    "losses": {"losses", "geometry"},
    "data": {"data", "geometry"},
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path, top_level_only: bool = False) -> list[str]:
    """Absolute names of the modules that `path` imports, anywhere or only when it is imported."""
    tree = ast.parse(path.read_text())
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found: list[str] = []
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            prefix = ".".join(base) + "." if node.level else ""
            module = prefix + (node.module or "")
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return found


def test_the_core_knows_no_ros_and_no_foreign_zoo():
    found = {(name(p), m) for p in CORE for m in imports(p) if m.split(".")[0] in NOT_IN_CORE}
    assert not found


def test_the_nodes_need_no_full_ros_install():
    found = {(name(p), m) for p in ROS for m in imports(p, True) if m.split(".")[0] in NOT_HARD}
    assert not found, "import these inside the function that uses them, if they are there"


def test_arrows_never_go_back():
    parts = {p.name for p in (ROOT / "dyndepth_core").iterdir() if p.is_dir()}
    found = set()
    for path in CORE:
        ours = {m.split(".")[1] for m in imports(path) if m.startswith("dyndepth_core.")}
        allowed = ARROWS.get(path.relative_to(ROOT).parts[1], parts)
        found |= {(name(path), part) for part in (ours & parts) - allowed}
    assert not found


def test_no_file_is_longer_than_300_lines():
    lines = {name(p): len(p.read_text().splitlines()) for p in ALL}
    assert not {n: count for n, count in lines.items() if count > 300}


def test_every_package_of_ours_is_installed():
    """A folder of modules without __init__.py is left out of the wheel silently."""
    folders = {p.parent for p in [*CORE, *ROS]}
    missing = [name(f) for f in folders if not (f / "__init__.py").exists()]
    assert not missing, f"no __init__.py in {missing}"
