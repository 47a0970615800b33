"""A small random monodepth model for the tests of inference; quick to build, not able to see."""

from pathlib import Path

import torch

from dyndepth_core.inference.model_file import ModelMeta, save_model
from dyndepth_core.methods import build_graph

SIZE = (64, 96)
FOCAL = 60.0
ARCHITECTURE = {
    "method": "monodepth",
    "encoder": "resnet18",
    "decoder_channels": [4, 4, 8, 8, 8],
    "canonical_focal": FOCAL,
    "min_depth": 0.5,
    "max_depth": 80.0,
    "width": 0.125,
    "pose_encoder": "resnet18",
}


def small_graph(seed=0):
    """Random weights, but batch norms with statistics that a fold has to get right."""
    torch.manual_seed(seed)
    graph = build_graph(ARCHITECTURE).eval()
    for module in graph.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return graph


def small_meta(**changes) -> ModelMeta:
    fields = {
        "method": "monodepth",
        "architecture": ARCHITECTURE,
        "input_size": SIZE,
        "canonical_focal": FOCAL,
        "depth_range": (0.5, 80.0),
        "license": "Apache-2.0",
        "provenance": {"seed": 3, "steps": 20, "config": {"lr": 1e-4}},
    }
    return ModelMeta(**{**fields, **changes})


def save_small_model(path: Path, **changes) -> Path:
    save_model(path, small_graph(), small_meta(**changes))
    return path
