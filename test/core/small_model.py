"""A small random monodepth model for the tests of inference; quick to build, not able to see."""

from pathlib import Path

import cv2
import numpy as np
import torch

from dyndepth_core.inference.model_file import ModelMeta, save_model
from dyndepth_core.inference.predictor import Predictor
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


def camera(size, focal=None, cx=None, cy=None):
    rows, cols = size
    focal = cols * 0.7 if focal is None else focal
    cx, cy = (cols - 1) / 2 if cx is None else cx, (rows - 1) / 2 if cy is None else cy
    return np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1.0]])


def picture(size, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


class Probe(torch.nn.Module):
    """A graph whose depth is known, the plane n . X = distance; keeps what it was called with."""

    def __init__(self, normal=(0.1, 0.9, 0.2), distance=1.5):
        super().__init__()
        self.normal, self.distance, self.calls = normal, distance, []
        self.conv = torch.nn.Conv2d(3, 1, 1)

    def forward(self, image, previous, K, state):
        self.calls.append((image, previous, K, state))
        h, w = image.shape[-2:]
        v, u = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        x, y = (u - K[0, 0, 2]) / K[0, 0, 0], (v - K[0, 1, 2]) / K[0, 1, 1]
        nx, ny, nz = self.normal
        depth = self.distance / (nx * x + ny * y + nz)
        return depth[None, None], None, torch.eye(4)[None], (state or 0) + 1


def probe(**options):
    graph = Probe(**options)
    result = Predictor.from_graph(graph, small_meta(), device="cpu")
    result._graph.calls.clear()
    return result
