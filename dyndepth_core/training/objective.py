"""A method's objective as a training begins with it."""

from __future__ import annotations

from pathlib import Path

import torch

from ..config import Config
from ..data.sample import SampleSource
from ..inference.model_file import load_model
from ..methods import get_method
from ..methods.base import Objective


def make_objective(
    config: Config, source: SampleSource, start: str | Path | None = None
) -> Objective:
    """The method's objective with seeded initial weights, or with those of the model file
    `start`.
    """
    if start is None:
        return _initial(config, source, config.network.canonical_focal or source.mean_focal())
    graph, meta = load_model(start)
    # its weights predict depth at its own focal length
    focal = config.network.canonical_focal or meta.canonical_focal
    objective = _initial(config, source, focal, pretrained=False)
    given = objective.adopt(graph.state_dict())
    if config.network.pretrained and any(
        ".encoder." in k and k not in given for k in objective.state_dict()
    ):  # a depth-only model: ImageNet is the better start of its pose network
        objective = _initial(config, source, focal)
    own = objective.state_dict()
    wrong = [k for k, v in given.items() if k not in own or own[k].shape != v.shape]
    if wrong:  # another method with the same networks is a start as good as any
        raise ValueError(
            f"--from {start}: its {meta.method} network does not fit this {config.method} "
            f"configuration ({len(wrong)} of {len(given)} weights differ, e.g. {wrong[:2]}); "
            f"give it the same network section: {meta.architecture}"
        )
    objective.load_state_dict({**own, **given})
    objective.began()
    return objective


def _initial(
    config: Config, source: SampleSource, focal: float, pretrained: bool = True
) -> Objective:
    if not pretrained:
        network = config.network.model_copy(update={"pretrained": False})
        config = config.model_copy(update={"network": network})
    torch.manual_seed(config.train.seed)
    return get_method(config.method, config.plugin).objective_class(config, source.names, focal)
