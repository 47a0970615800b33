"""A training that goes on from a model: what it takes from the model, what is said anew."""

import pytest
from small_model import SIZE, small_graph, small_meta

from dyndepth_core.config import load
from dyndepth_core.inference.model_file import find_model, read_meta, save_model
from dyndepth_core.training.going_on import settings_of


def model(tmp_path, config=None):
    meta = small_meta()
    graph = small_graph()
    meta.provenance.config = config or {}
    path = tmp_path / "model.safetensors"
    save_model(path, graph, meta)
    return path


BEFORE = {
    "objective": {"smoothness": 0.007, "pose_first": 0.1, "of_a_newer_version": 1},
    "data": {"zoom": 1.7, "camera_height": 3.0, "intrinsics": "video", "size": [128, 416]},
    "train": {"lr": 5e-5, "batch_size": 7, "steps": 9, "minutes": 3.0, "seed": 4, "device": "cuda"},
}


def test_what_the_model_was_trained_with_is_the_default(tmp_path):
    tree = load(base=settings_of(model(tmp_path, BEFORE)))
    assert tree.method == "monodepth" and tree.data.size == SIZE
    assert (tree.network.encoder, tree.network.width) == ("resnet18", 0.125)
    assert tree.network.decoder_channels == (4, 4, 8, 8, 8)
    assert (tree.objective.smoothness, tree.data.zoom) == (0.007, 1.7)
    assert (tree.train.lr, tree.train.batch_size) == (5e-5, 7)
    # how it began is behind it
    assert (tree.objective.pose_first, tree.objective.pyramid) == (0.0, 1)
    # how long, on what, where: as without a model
    plain = load()
    for section, names in {
        "train": ("steps", "minutes", "seed", "device"),
        "data": ("camera_height", "intrinsics"),
        "network": ("canonical_focal",),
    }.items():
        for name in names:
            assert getattr(getattr(tree, section), name) == getattr(getattr(plain, section), name)


def test_the_file_and_the_command_line_win_over_the_model(tmp_path):
    base = settings_of(model(tmp_path, BEFORE))
    (tmp_path / "c.yaml").write_text("train: {lr: 0.5}\ndata: {zoom: 1.1}\n")
    tree = load(tmp_path / "c.yaml", ["data.zoom=1.2", "objective.pyramid=3"], base=base)
    assert (tree.train.lr, tree.train.batch_size) == (0.5, 7)
    assert (tree.data.zoom, tree.objective.pyramid) == (1.2, 3)


def test_another_method_takes_the_networks_but_not_the_losses(tmp_path):
    tree = load(base=settings_of(model(tmp_path, BEFORE), "residual_motion"), method=None)
    assert tree.method == "residual_motion" and tree.network.width == 0.125
    assert tree.objective.smoothness == load(method="residual_motion").objective.smoothness
    assert tree.objective.burn_in == (0.0, 0.02)
    with pytest.raises(ValueError, match="did you mean sc_depth"):
        settings_of(model(tmp_path), "sc_dept")


def test_a_model_without_motion_still_needs_the_start(tmp_path):
    path = tmp_path / "depth.safetensors"
    graph = small_graph().depth_only()
    meta = small_meta(architecture=graph.architecture)
    save_model(path, graph, meta)
    tree, plain = load(base=settings_of(path)), load()
    assert tree.objective == plain.objective and tree.objective.pose_first > 0
    assert tree.network.pose_encoder == plain.network.pose_encoder


def test_the_bundled_models_say_all_that_goes_on_needs():
    for name, method in (("motion", "residual_motion"), ("depth", "monodepth")):
        path = find_model(name)
        tree, meta = load(base=settings_of(path)), read_meta(path)
        assert tree.method == method and tree.data.size == meta.input_size
        assert tree.train.batch_size == meta.provenance.config["train"]["batch_size"]
        assert tree.network.encoder == meta.architecture["encoder"]
