"""The contracts that hold every method: Objective (training), InferenceGraph (vehicle), MethodInfo
(registry).
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from dyndepth_core.data.sample import Sample
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.networks.depth_net import NetworkConfig

PLUGINS = ("motion_aware",)  # packages beside those of the methods that export PLUGIN
SPEED_THRESHOLD = "moving_speed"  # units of depth per second; what is faster is dynamic


@dataclass
class Predictions:
    """What the networks say about a sample; a method subclasses it.

    disps: {scale: (B, 1, H / 2^s, W / 2^s)} in (0, 1); T_src_tgt (B, S, 4, 4); K (B, 3, 3) in
    pixels at network size;
    depth_scale (B,): depth at the camera's focal length over depth at the canonical one, f / f0.
    """

    disps: dict[int, Tensor]
    T_src_tgt: Tensor
    K: Tensor
    depth_scale: Tensor


@dataclass
class LossTerms:
    """A scalar to minimise, its named parts (scalars, already weighted) and maps for pictures and
    health checks.

    maps: depth (B, 1, H, W), warped (B, 3, H, W), error (B, 1, H, W), automask (B, 1, H, W) in {0,
    1}; of trainings that keep what they began with silent, see losses/distillation.py.
    """

    total: Tensor
    terms: dict[str, Tensor]
    maps: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Sample and networks -> predictions and named loss terms; the networks are submodules, the
    loop knows neither.
    """

    # True where a step may leave parameters without a gradient; only several devices must know.
    partial_gradients = False

    lr_factors: dict[str, float] = {}  # learning rate of submodules over that of the training

    def predict(self, sample: Sample, progress: float) -> Predictions:
        """Run the networks; progress in [0, 1] is the share of the training done."""
        raise NotImplementedError

    def losses(self, sample: Sample, predictions: Predictions, progress: float) -> LossTerms:
        """Score the predictions against the images of the sample."""
        raise NotImplementedError

    def validation(self, sample: Sample) -> Tensor:
        """Score without ground truth that chooses the best checkpoint: 0-dim, lower is better,
        noise-free.
        """
        raise NotImplementedError

    def thresholds(self, batches: Iterable[Sample]) -> dict[str, float]:
        """Thresholds of the trained model, found without ground truth on images it was not trained
        on, where there are any: {name: value in units of the training}.
        """
        return {}

    def adopt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a model file, perhaps of another method, under the names they have here."""
        return weights

    def began(self) -> None:
        """Called once the weights of the model file that the training begins with are in."""

    def inference_graph(self) -> InferenceGraph:
        """The part that runs on the vehicle, with the current weights."""
        raise NotImplementedError

    def forward(self, sample: Sample, progress: float) -> LossTerms:
        """predict, then losses; one call, so that data-parallel wrappers see every gradient."""
        return self.losses(sample, self.predict(sample, progress), progress)


class InferenceGraph(nn.Module):
    """Pure tensors, the only thing that is saved, exported and run on the vehicle.

    `architecture` (JSON-able) rebuilds the module through `build_graph`; its `units` multiplies
    depth and translations, whose unit a training without metric scale is free to choose.
    """

    architecture: dict[str, Any]
    previous_for_depth = False  # depth, not only motion, is better with the previous image
    max_gap_s: float | None = None  # seconds; an older image tells nothing; None: the usual

    def deployed(self) -> InferenceGraph:
        """The graph without what only further training needs; itself where there is nothing."""
        return self

    def arms(self) -> dict[str, InferenceGraph]:
        """Parts of the graph that an evaluation holds beside it: {name: graph}, weights shared."""
        return {}

    def depth_only(self) -> InferenceGraph:
        """The graph without what only motion needs; itself where there is nothing to leave out."""
        return self

    def forward(
        self, image: Tensor, previous_image: Tensor | None, K: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """image, previous_image (B, 3, H, W) in [0, 1], K (B, 3, 3) of that image size, state of
        the last call.

        Returns depth (B, 1, H, W), residual (B, 3, H, W) or None, T_src_tgt (B, 4, 4) (src:
        previous_image) or None, state. A fourth map of the residual: how likely something moves,
        where the network says so.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class MethodInfo:
    """What a method's package exports as METHOD."""

    name: str
    config_class: type[BaseModel]
    objective_class: type[Objective]
    graph_class: type[InferenceGraph]
    # with the method's own defaults and fields
    data_class: type[DataConfig] = DataConfig
    network_class: type[NetworkConfig] = NetworkConfig
    # (config) -> the StageInfos of stage.py, the last of which saves the model; None: one training
    stages: Callable[[Any], Sequence[Any]] | None = None
    # the method of a training from one of its models where none is named; None: the same
    goes_on_as: str | None = None


@dataclass(frozen=True)
class PluginInfo:
    """What a plug-in's package exports as PLUGIN: apply(method) -> the method with it. The model
    that comes out is one of the method; ValueError when it is none that the plug-in fits.
    """

    name: str
    apply: Callable[[MethodInfo], MethodInfo]


def method_names() -> list[str]:
    """Names of the methods that exist, discovered by folder."""
    package = importlib.import_module("dyndepth_core.methods")
    found = {m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg}
    return sorted(found - {*PLUGINS})


@functools.cache
def get_method(name: str, plugin: str | None = None) -> MethodInfo:
    """Find a method by name, with a plug-in if one is named; ValueError lists what there is."""
    if name not in method_names():
        raise ValueError(f"method {name!r} is not one of {method_names()}")
    info = importlib.import_module(f"dyndepth_core.methods.{name}").METHOD
    if plugin is None:
        return info
    if plugin not in PLUGINS:
        raise ValueError(f"plug-in {plugin!r} is not one of {list(PLUGINS)}")
    return importlib.import_module(f"dyndepth_core.methods.{plugin}").PLUGIN.apply(info)


def build_graph(architecture: dict[str, Any]) -> InferenceGraph:
    """Rebuild an InferenceGraph (fresh weights) from its architecture; ValueError when it is not
    one of ours.
    """
    if not isinstance(architecture, dict) or "method" not in architecture:
        raise ValueError(
            "model file: its architecture names no method; it was not written by dyndepth, or is "
            "damaged"
        )
    graph_class = get_method(architecture["method"]).graph_class
    arguments = {k: v for k, v in architecture.items() if k != "method"}
    try:
        return graph_class(**arguments)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc']))} {e['msg']}" for e in error.errors())
        raise ValueError(
            f"model file: architecture does not fit {architecture['method']}: {'; '.join(faults)}"
        ) from error
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"model file: architecture {arguments} does not fit {architecture['method']}: {error}"
        ) from error
