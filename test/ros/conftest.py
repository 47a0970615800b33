"""A small model for the nodes under test: random weights, a real model file."""

from pathlib import Path

import pytest

MODEL_SIZE = (64, 96)
FOCAL = 60.0


def save_random_model(path: Path, seed: int = 0) -> Path:
    import torch

    from dyndepth_core.inference.model_file import ModelMeta, save_model
    from dyndepth_core.methods import build_graph

    architecture = {
        "method": "monodepth", "encoder": "resnet18", "decoder_channels": [4, 4, 8, 8, 8],
        "canonical_focal": FOCAL, "min_depth": 0.5, "max_depth": 80.0, "width": 0.125,
    }  # fmt: skip
    torch.manual_seed(seed)
    meta = ModelMeta(
        method="monodepth", architecture=architecture, input_size=MODEL_SIZE,
        canonical_focal=FOCAL, depth_range=(0.5, 80.0), license="Apache-2.0",
    )  # fmt: skip
    save_model(path, build_graph(architecture).eval(), meta)
    return path


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "small.safetensors")
