"""One typed tree of settings per training: loaded from YAML and `--set`, checked field by field,
dumped with comments.
"""

from __future__ import annotations

import difflib
import functools
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, create_model

from .data.settings import DataConfig
from .methods.base import PLUGINS
from .networks.depth_net import NetworkConfig
from .training.settings import TrainConfig

GRAMMAR = "METHOD or METHOD+PLUGIN"

_SHORT = reprlib.Repr()  # a value may be a YAML bomb; a path should stay readable
_SHORT.maxstring = _SHORT.maxother = 200


class Config(BaseModel):
    """Everything that decides the weights of a training, one section per owner."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    method: str = Field("monodepth", description="the published system to train")
    plugin: str | None = Field(None, description="plug-in added to the method; null = none")
    data: DataConfig = Field(default_factory=DataConfig)
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    objective: SerializeAsAny[BaseModel] = Field(
        default_factory=BaseModel, description="the method's own settings"
    )
    train: TrainConfig = Field(default_factory=TrainConfig)

    def __reduce__(self) -> tuple[Callable[..., Config], tuple[Any, ...]]:
        """Other processes do not know the classes that `config_class` made in this one."""
        return from_dict, (self.model_dump(mode="json"),)


def parse_method(text: str) -> tuple[str, str | None]:
    """Split METHOD[+PLUGIN] into its parts; ValueError states the grammar when a name is unknown
    or missing.
    """
    from .methods import method_names

    known = method_names()
    method, plus, plugin = text.strip().partition("+")
    grammar = (
        f"give {GRAMMAR}, METHOD one of {', '.join(known)}, PLUGIN one of {', '.join(PLUGINS)}"
    )
    if method in PLUGINS:
        raise ValueError(
            f"method {text!r}: {method} is a plug-in and cannot be trained alone; {grammar}"
        )
    if method not in known:
        raise ValueError(
            f"method {text!r}: {method or 'nothing'!r} is not a method"
            f"{_nearest(method, known)}; {grammar}"
        )
    if plus and plugin not in PLUGINS:
        raise ValueError(
            f"method {text!r}: {plugin!r} is not a plug-in{_nearest(plugin, PLUGINS)}; {grammar}"
        )
    return method, plugin or None


@functools.lru_cache
def config_class(method: str, plugin: str | None = None) -> type[Config]:
    """The Config whose objective section is the method's own class, with the plug-in's fields."""
    from .methods import get_method

    info = get_method(method, plugin)
    sections = {
        "objective": info.config_class,
        "data": info.data_class,
        "network": info.network_class,
    }
    return create_model(
        f"Config_{method}",
        __base__=Config,
        **{name: (kind, Field(default_factory=kind)) for name, kind in sections.items()},
    )


def load(
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    method: str | None = None,
    base: Mapping[str, Any] | None = None,
) -> Config:
    """Read a configuration: defaults, then `base` (nested), then the YAML file, then `a.b=c`
    overrides, then METHOD[+PLUGIN].

    Raises FileNotFoundError, or ValueError that names each bad field, its value and the remedy.
    """
    tree = _over(base or {}, _read_yaml(Path(path)) if path is not None else {})
    for override in overrides:
        _apply(tree, override)
    if method is not None:
        tree["method"], tree["plugin"] = parse_method(method)
    else:
        parse_method(
            "+".join(str(tree[k]) for k in ("method", "plugin") if tree.get(k)) or "monodepth"
        )
    return from_dict(tree, source=str(path) if path is not None else "")


def from_dict(tree: Mapping[str, Any], source: str = "") -> Config:
    """Check a nested mapping and build the Config of its method; ValueError as `load`."""
    method = str(tree.get("method", Config.model_fields["method"].default))
    plugin = tree.get("plugin")
    cls = config_class(*parse_method(f"{method}+{plugin}" if plugin else method))
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        faults = [_explain(cls, fault) for fault in error.errors()]
        raise ValueError("\n".join([f"{source}: {f}" if source else f for f in faults])) from error


def dump(config: Config) -> str:
    """The configuration as YAML, each field with what it means behind it; `load` reads it back
    unchanged.
    """
    return "".join(f"{line}\n" for line in _lines(config, 0))


def leaves(model: BaseModel | type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of every field that holds a value, e.g. `train.lr`."""
    cls = model if isinstance(model, type) else type(model)
    for name, field in cls.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def difference(a: Config, b: Config) -> list[str]:
    """Fields in which two configurations differ, as `name: value in a, value in b`."""
    flat_a, flat_b = _flat(a.model_dump(mode="json")), _flat(b.model_dump(mode="json"))
    names = sorted(flat_a.keys() | flat_b.keys())
    return [
        f"{n}: {flat_a.get(n)!r}, {flat_b.get(n)!r}"
        for n in names
        if flat_a.get(n) != flat_b.get(n)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found.update(
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such configuration file; leave --config out to use the defaults"
        )
    try:
        tree = yaml.safe_load(path.read_text())
    except RecursionError as error:
        raise ValueError(f"{path}: not a configuration, it is nested too deeply") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: not valid YAML ({' '.join(str(error).split())}); mend it there"
        ) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path}: holds a {type(tree).__name__}, expected sections like `train:` with fields"
        )
    return tree


def _over(base: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `tree` says instead, section by section."""
    merged = {**base, **tree}
    for name in base.keys() & tree.keys():
        if isinstance(base[name], Mapping) and isinstance(tree[name], Mapping):
            merged[name] = _over(base[name], tree[name])
    return merged


def _apply(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(
            f"--set {override!r}: expected section.field=value, e.g. --set train.steps=1000"
        )
    for depth, key in enumerate(keys[:-1]):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ValueError(
                f"--set {override!r}: {'.'.join(keys[: depth + 1])} is a value without fields"
            )
    tree[keys[-1]] = _value(text)


def _value(text: str) -> Any:
    """A value as YAML reads it; `128,416` is a list."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and "," in value:
        return [_value(part) for part in value.split(",")]
    return value


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {found[0]}?" if found else ""


def _explain(cls: type[Config], fault: Mapping[str, Any]) -> str:
    """One pydantic fault in our words: field, value, remedy."""
    path = [str(part) for part in fault["loc"]]
    name = ".".join(path) or "configuration"
    if fault["type"] == "extra_forbidden":
        return f"{name}: no such field{_suggest(cls, path)} (value {_SHORT.repr(fault['input'])})"
    owner, field = cls, None
    for depth, part in enumerate(path):
        if part not in owner.model_fields:
            name = ".".join(path[:depth]) or name  # an element of a list: name the list
            break
        field = owner.model_fields[part]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            owner = field.annotation
    meaning = (
        f" ({name} is: {field.description})" if field is not None and field.description else ""
    )
    if fault["type"] == "value_error":  # one of our own checks: its message already says what to do
        return f"{name}: {fault['ctx']['error']}"
    reason = fault["msg"][:1].lower() + fault["msg"][1:]
    return f"{name}: {_SHORT.repr(fault['input'])} is not allowed: {reason}{meaning}"


def _suggest(cls: type[Config], path: list[str]) -> str:
    known = list(leaves(cls))
    name = ".".join(path)
    same_leaf = [k for k in known if k.rpartition(".")[2] == path[-1]]
    if same_leaf:
        return f", did you mean {same_leaf[0]}?"
    section = (
        [k for k in known if k.startswith(".".join(path[:-1]) + ".")] if len(path) > 1 else known
    )
    shortest = {k.rpartition(".")[2]: k for k in reversed(section)}
    found = difflib.get_close_matches(path[-1], shortest, n=1, cutoff=0.5)
    if found:
        return f", did you mean {shortest[found[0]]}?"
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if found:
        return f", did you mean {found[0]}?"
    return f"; known are {', '.join(section or known)}"


def _lines(model: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            inner = list(_lines(value, depth + 1))
            yield from [f"{indent}{name}:", *inner] if inner else [f"{indent}{name}: {{}}"]
            continue
        plain = model.model_dump(mode="json", include={name})[name]
        text = (
            yaml.safe_dump(plain, default_flow_style=True, width=10_000)
            .removesuffix("...\n")
            .strip()
        )
        comment = f"  # {field.description}" if field.description else ""
        yield f"{indent}{name}: {text}{comment}"
