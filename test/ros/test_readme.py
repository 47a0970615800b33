"""Every command, file, topic and parameter that the README names exists as it says."""

import importlib
import re
import shlex
from importlib import metadata
from pathlib import Path

import launch_doubles as doubles
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)
LINES = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
INLINE = re.findall(r"`((?:make|dyndepth|ros2|pip) [^`]+)`", README)
COMMANDS = [shlex.split(line, comments=True) for line in [*LINES, *INLINE]]
PLACEHOLDER = "COMMAND"


def starting_with(*words: str) -> list[list[str]]:
    return [c for c in COMMANDS if tuple(c[: len(words)]) == words]


def test_it_opens_with_the_two_commands():
    assert [shlex.split(line, comments=True) for line in BLOCKS[0].splitlines()] == [
        ["make", "demo"],
        ["make", "test"],
    ]
    assert README.index(BLOCKS[0]) < 100


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.M))
    named = {c[1] for c in starting_with("make") if "=" not in c[1]}
    assert {"demo", "test", "soak", "lint", "clean"} <= named <= targets


def options(name: str) -> set[str]:
    """Long options of a subcommand of dyndepth."""
    import typer.main

    [point] = metadata.entry_points(group="dyndepth.commands", name=name)
    app = typer.Typer()
    app.command()(point.load())
    command = typer.main.get_command(app)
    return {text for p in command.params for text in [*p.opts, *p.secondary_opts]} | {"--help"}


@pytest.mark.parametrize("name", sorted({c[1] for c in starting_with("dyndepth")} - {PLACEHOLDER}))
def test_commands_exist_with_their_options(name):
    pytest.importorskip("typer")
    known = options(name)
    for command in starting_with("dyndepth", name):
        assert {w for w in command if w.startswith("--")} <= known, command


def test_every_command_is_named():
    registered = {point.name for point in metadata.entry_points(group="dyndepth.commands")}
    assert {c[1] for c in starting_with("dyndepth")} - {PLACEHOLDER} == registered


@pytest.mark.parametrize("command", starting_with("ros2", "launch", "dyndepth"), ids=" ".join)
def test_launch_arguments_exist(command):
    launched = doubles.launch(ROOT / "launch" / command[3])
    assert {word.split(":=")[0] for word in command[4:] if ":=" in word} <= set(launched.arguments)


def test_launch_arguments_in_the_table_exist():
    arguments = doubles.launch(ROOT / "launch/depth.launch.py").arguments
    named = set(re.findall(r"`(\w+):=[^`]*`", README))
    assert named <= set(arguments)
    assert {"image", "camera_info", "model", "device", "bag", "base_to_camera"} <= named


def test_extras_exist():
    text = (ROOT / "setup.cfg").read_text()
    extras = set(re.findall(r"^(\w+) =$", text.split("[options.extras_require]")[1], re.M))
    for command in starting_with("pip", "install"):
        for word in command[2:]:
            if word.startswith("."):
                assert Requirement("x" + word[1:]).extras <= extras, command


def row(name: str, field) -> str:
    """The README's line about one parameter."""
    from dyndepth_ros.parameters import choices, limits

    extra, span = field.json_schema_extra, limits(field)
    allowed = ", ".join(choices(field)) or (f"{span[0]:g} to {span[1]:g}" if span else "")
    unit = f"{allowed} {extra['unit']}".strip()
    default = str(field.default).lower() if isinstance(field.default, bool) else field.default
    text = field.description.rstrip(".")
    return f"| `{name}` | {default} | {unit} | {extra['applies']} | {text} |"


def test_the_parameter_table_is_what_the_node_declares():
    pytest.importorskip("pydantic")
    from dyndepth_ros.parameters import NodeConfig

    rows = [row(name, field) for name, field in NodeConfig.model_fields.items()]
    assert "\n".join(rows) in README, "the table should be:\n" + "\n".join(rows)


def test_the_topic_table_is_what_the_node_publishes():
    pytest.importorskip("rclpy")
    topics = importlib.import_module("dyndepth_ros.outputs").TOPICS
    table = dict(re.findall(r"^\| out \| `([^`]+)` \| (\w+)", README, re.M))
    wanted = {topic: kind.__name__ for topic, kind in topics.values()}
    assert table == {**wanted, "/diagnostics": "DiagnosticArray"}


def test_files_it_names_exist():
    for path in re.findall(r"`((?:config|test|dyndepth_core|dyndepth_ros)/[\w./]*)`", README):
        assert (ROOT / path).exists(), path
