"""Every command, file, topic and parameter that the README and the results name exists as they
say.
"""

import importlib
import itertools
import re
import shlex
from importlib import metadata
from pathlib import Path

import launch_doubles as doubles
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "dyndepth_core/reproduce/results/README.md")
README, RESULTS = (path.read_text() for path in PAGES)
BLOCK = re.compile(r"```sh\n(.*?)```", re.S)
SETTING = r"[A-Z_]+=\S+"  # of the environment, before a command
INLINE = re.compile(rf"`((?:{SETTING} )*(?:make|dyndepth|ros2|pip) [^`]+)`")
PLACEHOLDER = "COMMAND"
NEEDED = {"train": {"--data", "--out"}}  # what a command asks for itself


def commands(page: str) -> list[list[str]]:
    """The words of every command of a page, without the settings before it."""
    lines = [x for block in BLOCK.findall(page) for x in block.replace("\\\n", " ").splitlines()]
    split = [shlex.split(x, comments=True) for x in [*lines, *INLINE.findall(page)] if x.strip()]
    return [[*itertools.dropwhile(re.compile(SETTING).fullmatch, words)] for words in split]


OF_README = commands(README)
COMMANDS = [*OF_README, *commands(RESULTS)]


def starting_with(*words: str) -> list[list[str]]:
    return [c for c in COMMANDS if tuple(c[: len(words)]) == words]


def test_it_opens_with_the_two_commands():
    first = BLOCK.search(README)
    assert commands(first[0]) == [["make", "demo"], ["make", "test"]]
    assert first.start(1) < 100


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.M))
    named = {c[1] for c in starting_with("make") if "=" not in c[1]}
    assert {"demo", "test", "soak", "lint", "clean"} <= named <= targets


def parameters(name: str) -> list:
    """Arguments and options of a subcommand of dyndepth."""
    import typer.main

    [point] = metadata.entry_points(group="dyndepth.commands", name=name)
    app = typer.Typer()
    app.command()(point.load())
    return typer.main.get_command(app).params


def given(command: list[str]) -> set[str]:
    return {word for word in command if word.startswith("--")}


@pytest.mark.parametrize("name", sorted({c[1] for c in starting_with("dyndepth")} - {PLACEHOLDER}))
def test_commands_exist_with_their_options(name):
    pytest.importorskip("typer")
    known = {text for p in parameters(name) for text in [*p.opts, *p.secondary_opts]} | {"--help"}
    for command in starting_with("dyndepth", name):
        assert given(command) <= known, command


@pytest.mark.parametrize("name", sorted({c[1] for c in starting_with("dyndepth")} - {PLACEHOLDER}))
def test_commands_run_as_printed(name):
    """One that is printed with arguments has the options that it needs."""
    pytest.importorskip("typer")
    needed = {p.opts[0] for p in parameters(name) if p.required and p.opts[0].startswith("--")}
    needed |= NEEDED.get(name, set())
    for command in starting_with("dyndepth", name):
        if given(command) == {*command[2:]}:  # options are named, none is given
            continue
        known = {"--data"} if "--resume" in command else set()
        assert needed <= given(command) | known, command


def test_every_command_is_named():
    registered = {point.name for point in metadata.entry_points(group="dyndepth.commands")}
    named = {c[1] for c in OF_README if c[:1] == ["dyndepth"]}
    assert named - {PLACEHOLDER} == registered


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
    words = [word for command in starting_with("pip", "install") for word in command[2:]]
    ours = [found[1] for word in words if (found := re.search(r"(?:^\.|dyndepth)(\[.+\])$", word))]
    assert ours
    for word in ours:
        assert Requirement("x" + word).extras <= extras, word


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


def test_the_table_of_the_collect_node_is_what_it_declares():
    """The rows that are there are right, and every other parameter is named beside them."""
    pytest.importorskip("pydantic")
    from dyndepth_ros.collect_parameters import CollectConfig

    section = README.split("\n## Parameters of collect_node\n")[1].split("\n## ")[0]
    fields = CollectConfig.model_fields
    rows = {found[1]: found[0] for found in re.finditer(r"^\| `(\w+)` .*$", section, re.M)}
    assert rows == {name: row(name, fields[name]) for name in rows} and len(rows) >= 10
    assert set(fields) <= set(re.findall(r"`(\w+)`", section))


def test_the_message_about_qos_is_what_the_node_says():
    pytest.importorskip("rclpy")
    from rclpy.qos import QoSPolicyKind

    from dyndepth_ros.qos import advice

    text = "asks for a durability that this node does not offer"
    assert text in README and text in advice("/depth_node/points", True, QoSPolicyKind.DURABILITY)


def test_the_topic_table_is_what_the_node_publishes():
    pytest.importorskip("rclpy")
    topics = importlib.import_module("dyndepth_ros.outputs").TOPICS
    table = dict(re.findall(r"^\| out \| `([^`]+)` \| (\w+)", README, re.M))
    wanted = {topic: kind.__name__ for topic, kind in topics.values()}
    assert table == {**wanted, "/diagnostics": "DiagnosticArray"}


def test_files_they_name_exist():
    for path in re.findall(
        r"`((?:config|test|dyndepth_core|dyndepth_ros)/[\w./]*)`", README + RESULTS
    ):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text())
    assert links
    for target, anchor in links:
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), anchor


def anchors(page: str) -> set[str]:
    """What links to the headings of a page are called."""
    headings = re.findall(r"^#+ (.*)$", page, re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
