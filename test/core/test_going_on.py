"""A training that goes on from a model: what it takes from the model, what is said anew, what it
keeps.
"""

from dataclasses import replace

import pytest
import torch
from scenes import camera, drive, write_recording
from small_model import SIZE, small_graph, small_meta

from dyndepth_core.config import load
from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.inference.model_file import find_model, read_meta, save_model
from dyndepth_core.methods.depth_pose import KEEP
from dyndepth_core.methods.residual_motion.config import HINTS
from dyndepth_core.training.going_on import settings_of
from dyndepth_core.training.objective import make_objective
from dyndepth_core.training.schedule import make_optimizer
from dyndepth_core.training.settings import TrainConfig


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
    assert tree.objective.keep == KEEP and load().objective.keep == 0
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
    for name, hints in (("motion", HINTS), ("depth", 0)):  # the latter knows no ego-motion
        path = find_model(name)
        tree, meta = load(base=settings_of(path)), read_meta(path)
        assert tree.method == "residual_motion" and tree.data.size == meta.input_size
        assert tree.objective.hints == hints and (tree.objective.pose_first == 0) is (hints > 0)
        assert tree.train.batch_size == meta.provenance.config["train"]["batch_size"]
        assert tree.network.encoder == meta.architecture["encoder"]


# -- what it keeps ---------------------------------------------------------------------------------

ONES = ("monodepth", "sc_depth", "residual_motion", "many_depth")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """(method, *settings) -> objective and one batch of a training from a small model."""
    folder = tmp_path_factory.mktemp("kept")
    write_recording(folder / "drive", drive(8), camera())
    path = model(folder)

    def begin(method, *settings):
        plain = ("network.pretrained=false", *settings)
        config = load(overrides=plain, base=settings_of(path, method))
        source = SampleSource(open_recordings(folder), config.data, 2, seed=0)
        return make_objective(config, source, path), source.take([(0, 0), (1, 1)])

    return begin


@pytest.mark.parametrize("method", ONES)
def test_every_method_keeps_what_it_began_with(begun, method):
    objective, sample = begun(method)
    own, start = objective.depth_net.state_dict(), objective.start_net.state_dict()
    assert all(torch.equal(own[k], start[k]) for k in own)
    kept = {k: v.clone() for k, v in start.items()}
    optimiser = make_optimizer(objective, TrainConfig(lr=0.01, weight_decay=0.1))
    for _ in range(2):
        found = objective.train()(sample, 0.5)
        assert any(name.endswith("kept") for name in found.terms)
        found.total.backward()
        optimiser.step()
    now = objective.start_net.state_dict()
    assert all(torch.equal(now[k], kept[k]) for k in kept)  # batch statistics, too
    assert any(not torch.equal(v, now[k]) for k, v in objective.depth_net.state_dict().items())
    assert not any("start_net" in k for k in objective.inference_graph().state_dict())
    alone, _ = begun(method, "objective.keep=0")
    assert alone.start_net is None


def test_a_video_that_shows_nothing_cannot_unlearn_the_shape(begun):
    """A camera that stands: no pixel is judged, so that the depth stays as it was, in any unit."""

    def shape(net, image):
        log = net.eval()(image)[0].log()
        return log - log.mean((1, 2, 3), keepdim=True)

    left = {}
    for keep in (0.0, 1.0):
        objective, sample = begun("monodepth", f"objective.keep={keep}", "objective.smoothness=1")
        sample = replace(
            sample, src=sample.tgt[:, None].expand_as(sample.src).clone(),
            src_net=sample.tgt_net[:, None].expand_as(sample.src_net).clone(),
        )  # fmt: skip
        with torch.no_grad():
            before = shape(objective.depth_net, sample.tgt_net)
        optimiser = torch.optim.Adam(objective.depth_net.parameters(), lr=3e-3)
        for _ in range(25):
            optimiser.zero_grad()
            objective.train()(sample, 0.5).total.backward()
            optimiser.step()
        with torch.no_grad():
            left[keep] = (shape(objective.depth_net, sample.tgt_net) - before).abs().mean().item()
    assert left[1.0] < 0.5 * left[0.0], left
