"""Settings of a training that goes on from a model: those the model was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import parse_method
from ..inference.model_file import read_meta
from ..methods import get_method
from ..methods.depth_pose import StartConfig

# how images are varied and weights are moved; how long, on what and where is asked anew
DATA = ("flip", "jitter", "grey", "zoom", "zoom_share")
TRAIN = ("batch_size", "optimizer", "lr", "weight_decay")


def settings_of(model: str | Path, method: str | None = None) -> dict[str, Any]:
    """Nested settings for `config.load`: of the method that the model's goes on as (or of `method`,
    METHOD[+PLUGIN]), its networks, image size, losses, augmentation, batch and learning rate;
    without the start that a training from nothing needs. Raises FileNotFoundError or ValueError as
    `read_meta`.
    """
    meta = read_meta(Path(model))
    same = get_method(meta.method).goes_on_as or meta.method
    name, plugin = parse_method(method or same)
    info, before = get_method(name, plugin), meta.provenance.config
    tree: dict[str, Any] = {
        "method": name,
        "plugin": plugin,
        "network": _known(meta.architecture, info.network_class.model_fields),
        "data": _known(_section(before, "data"), DATA),
        "train": _known(_section(before, "train"), TRAIN),
        "objective": {},
    }
    tree["network"].pop("canonical_focal", None)  # goes with the weights
    tree["data"]["size"] = meta.input_size
    if name in (meta.method, same):
        fields = info.config_class.model_fields
        tree["objective"] = _known(_section(before, "objective"), fields)
    has = meta.architecture.get  # a model of depth alone has no motion_net, or no pose_encoder
    if issubclass(info.config_class, StartConfig):
        start = info.config_class.going_on()
        for name in start:  # of a training that went on itself
            tree["objective"].pop(name, None)
        if has("pose_encoder") and has("motion_net", "pose"):
            tree["objective"].update(start)
    return tree


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _known(values: dict[str, Any], names: Any) -> dict[str, Any]:
    """Those of the values that have one of the names."""
    return {key: value for key, value in values.items() if key in names and value is not None}
