"""Recording doubles of the launch names our launch files use, for machines without `launch`.

They evaluate a launch file as `ros2 launch` does and keep what it would start, as real argument
vectors; the test that runs the real `ros2 launch` beside them shows that they do not lie.
"""

import importlib.util
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import yaml


@dataclass
class DeclareLaunchArgument:
    """An argument with its default, text and choices."""

    name: str
    default_value: str
    description: str
    choices: list[str] | None = None


@dataclass
class LaunchConfiguration:
    """The value an argument has in a context."""

    name: str

    def perform(self, context: "Launched") -> str:
        return context.values[self.name]


@dataclass
class OpaqueFunction:
    """A function of the context that returns more entities."""

    function: object


@dataclass
class SetEnvironmentVariable:
    """A variable for every node after it."""

    name: str
    value: str


@dataclass
class Shutdown:
    """The end of everything the launch file started."""

    reason: str


@dataclass
class LogInfo:
    """A line for the user."""

    msg: str


@dataclass
class PythonLaunchDescriptionSource:
    """Another launch file."""

    path: str


@dataclass
class IncludeLaunchDescription:
    """Another launch file with arguments."""

    source: PythonLaunchDescriptionSource
    launch_arguments: object = ()


@dataclass
class LaunchDescription:
    """A list of entities."""

    entities: list


@dataclass
class Node:
    """A process of a ROS package."""

    package: str
    executable: str
    name: str | None = None
    namespace: str = ""
    parameters: list = field(default_factory=list)
    remappings: list = field(default_factory=list)
    arguments: list = field(default_factory=list)
    output: str = "log"
    on_exit: Shutdown | None = None
    sigterm_timeout: str = "5"  # as launch: s after SIGINT, and until SIGKILL after that
    sigkill_timeout: str = "5"
    env: dict = field(default_factory=dict)

    def parameter(self, name: str) -> object:
        """The value given in the last dictionary, None where the launch file gives none."""
        given = [p[name] for p in self.parameters if isinstance(p, dict) and name in p]
        return given[-1] if given else None

    def command(self, prefix: Path, folder: Path) -> list[str]:
        """The argument vector, as launch_ros builds it; parameter files are written to folder."""
        words = [str(prefix / "lib" / self.package / self.executable), *self.arguments]
        words.append("--ros-args")
        if self.name:
            words += ["-r", f"__node:={self.name}"]
        if self.namespace:
            words += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        for index, values in enumerate(self.parameters):
            path = values
            if isinstance(values, dict):
                path = folder / f"{self.executable}_{index}.yaml"
                path.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
            words += ["--params-file", str(path)]
        for pair in self.remappings:
            words += ["-r", ":=".join(pair)]
        return words


@dataclass
class Launched:
    """What a launch file declared and would start; also the context its functions see."""

    given: dict[str, str]
    values: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, DeclareLaunchArgument] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def node(self, executable: str) -> Node | None:
        return next((n for n in self.nodes if n.executable == executable), None)

    def visit(self, entity: object) -> None:
        if isinstance(entity, DeclareLaunchArgument):
            assert not self.nodes, f"{entity.name} is declared after a node was started"
            value = self.given.get(entity.name, entity.default_value)
            if entity.choices and value not in entity.choices:
                raise RuntimeError(f"{entity.name}:={value} is not one of {entity.choices}")
            self.arguments[entity.name], self.values[entity.name] = entity, value
        elif isinstance(entity, OpaqueFunction):
            for inner in entity.function(self):
                self.visit(inner)
        elif isinstance(entity, SetEnvironmentVariable):
            self.env[entity.name] = entity.value
        elif isinstance(entity, LogInfo):
            self.notes.append(entity.msg)
        elif isinstance(entity, IncludeLaunchDescription):
            inner = launch(Path(entity.source.path), **dict(entity.launch_arguments))
            self.env |= inner.env
            self.notes += inner.notes
            self.nodes += inner.nodes
        elif isinstance(entity, Node):
            entity.env = dict(self.env)
            self.nodes.append(entity)
        else:
            raise TypeError(f"no double for {entity!r}")


def launch(path: Path, **given: str) -> Launched:
    """Evaluate a launch file with these arguments; unknown ones are an error, as they should be."""
    saved = {n: sys.modules.get(n) for n in MODULES}
    sys.modules.update(MODULES)
    try:
        spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        description = module.generate_launch_description()
        launched = Launched(given)
        for entity in description.entities:
            launched.visit(entity)
    finally:
        for name, old in saved.items():
            sys.modules.pop(name)
            if old is not None:
                sys.modules[name] = old
    unknown = set(given) - set(launched.arguments)
    assert not unknown, f"{path.name} declares no {unknown}"
    return launched


def _module(name: str, *members: type) -> ModuleType:
    module = ModuleType(name)
    for member in members:
        setattr(module, member.__name__, member)
    return module


MODULES = {
    "launch": _module("launch", LaunchDescription),
    "launch.actions": _module(
        "launch.actions",
        DeclareLaunchArgument,
        IncludeLaunchDescription,
        LogInfo,
        OpaqueFunction,
        SetEnvironmentVariable,
        Shutdown,
    ),
    "launch.substitutions": _module("launch.substitutions", LaunchConfiguration),
    "launch.launch_description_sources": _module(
        "launch.launch_description_sources", PythonLaunchDescriptionSource
    ),
    "launch_ros": _module("launch_ros"),
    "launch_ros.actions": _module("launch_ros.actions", Node),
}


def environment(node: Node) -> dict[str, str]:
    """The environment `ros2 launch` would start the node in."""
    return {**os.environ, **node.env}
