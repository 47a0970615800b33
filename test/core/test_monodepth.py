"""The monodepth method: what it predicts, what its loss says of the truth, that it learns."""

import json
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from scenes import camera, drive, write_recording
from tiny import FOCAL, tiny_config, tiny_objective, truth

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.methods import build_graph, get_method, method_names
from dyndepth_core.networks.depth_net import DepthNet, NetworkConfig, disp_to_depth

POSES = drive(12, sway=0.0)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, POSES, camera(FOCAL))
    return Recording(path)


def draw(recording, config=None, batch_size=2, train=False):
    return SampleSource([recording], (config or tiny_config()).data, batch_size, 0, train)


# -- predictions ----------------------------------------------------------------------------------


class Watch(torch.nn.Module):
    """A pose network that notes its inputs and says how far apart in time they are."""

    intrinsics = None

    def forward(self, first, second):
        self.first, self.second = first, second
        T = torch.eye(4).repeat(len(first), 1, 1)
        T[:, 0, 3] = (second - first).mean((1, 2, 3))
        T[:, 2, 3] = 1
        return T, None


@pytest.mark.parametrize("dt", [(-0.1, 0.1), (0.1, -0.1), (-0.2, -0.1), (0.1,)])
def test_pairs_run_forward_in_time_and_the_past_is_inverted(recording, dt):
    """Images are as bright as their time is late, so that the network sees how time runs."""
    objective, sample = tiny_objective(), draw(recording).batch(0)
    objective.pose_net = watch = Watch()
    when = torch.tensor([dt, dt])
    tgt = torch.full_like(sample.tgt, 0.5)
    src = (0.5 + when)[..., None, None, None].expand(2, len(dt), *tgt.shape[1:])
    sample = replace(sample, tgt_net=tgt, src_net=src, src=src, tgt=tgt, dt=when)
    T = objective.predict(sample).T_src_tgt
    assert (watch.second > watch.first).all()
    expected = torch.eye(4).repeat(2, len(dt), 1, 1)
    expected[..., 0, 3] = when  # T_second_first for the future, its inverse for the past
    expected[..., 2, 3] = when.sign()
    torch.testing.assert_close(T, expected)


def test_the_networks_see_the_jittered_images_the_loss_the_real_ones(recording):
    config = tiny_config(data={"jitter": 1.0})
    objective, sample = tiny_objective(config), draw(recording, config, train=True).batch(0)
    plain = replace(sample, tgt_net=sample.tgt, src_net=sample.src)
    assert not torch.allclose(objective.predict(sample).disps[0], objective.predict(plain).disps[0])
    predictions = objective.predict(plain)
    a, b = (objective.losses(s, predictions).total for s in (sample, plain))
    assert torch.equal(a, b)


def test_depth_follows_the_focal_length(recording):
    """A camera of twice the focal length sees the same picture at twice the distance."""
    objective, sample = tiny_objective(), draw(recording).batch(0)
    sample.K[1] = camera(2 * FOCAL)[0]
    predictions = objective.predict(sample)
    torch.testing.assert_close(predictions.depth_scale, torch.tensor([1.0, 2.0]))
    sample.K_known[:] = False
    assert (objective.predict(sample).depth_scale == 1).all()
    graph = objective.inference_graph()
    image, K = sample.tgt[:1], camera(FOCAL).float()
    near, far = graph(image, None, K)[0], graph(image, None, camera(3 * FOCAL).float())[0]
    torch.testing.assert_close(far, 3 * near)
    assert near.min() > 2 and near.max() < 20


def test_an_untrained_network_leaves_room_for_what_is_near():
    """The unit of length settles at the depth training starts from: a tenth of it must be
    expressible, and so must thirty times as much.
    """
    torch.manual_seed(0)
    defaults = NetworkConfig()
    net = DepthNet("efficientnet_lite0", defaults.decoder_channels, (0, 1)).eval()
    with torch.no_grad():
        for disp in net(torch.rand(2, 3, 64, 96)).values():
            depth = disp_to_depth(disp, defaults.min_depth, defaults.max_depth)
            assert 10 * defaults.min_depth < depth.min() and depth.max() < defaults.max_depth / 30


# -- the loss -------------------------------------------------------------------------------------


def test_the_truth_costs_next_to_nothing_and_any_error_more(recording):
    objective = tiny_objective(tiny_config(automask=False))
    sample = draw(recording, batch_size=4).batch(0)

    def cost(**factors):
        predictions = truth(objective, sample, recording, POSES, **factors)
        return objective.losses(sample, predictions).terms["photometric"].item()

    right, still = cost(), cost(motion_error=0.0)
    assert right < 0.02 and right < 0.12 * still
    for factor in (0.8, 1.25):
        assert cost(depth_error=factor) > 1.3 * right
        assert cost(motion_error=factor) > 1.3 * right
    # depth and motion share an unknown scale
    assert cost(depth_error=1.25, motion_error=1.25) == pytest.approx(right, rel=0.02)


def test_a_static_camera_masks_everything_and_its_depth_gets_no_gradient(recording):
    objective, sample = tiny_objective(tiny_config(smoothness=0.0)), draw(recording).batch(0)
    sample = replace(sample, src=sample.tgt[:, None].expand_as(sample.src))
    predictions = truth(objective, sample, recording, POSES)
    disp = predictions.disps[0].requires_grad_()
    terms = objective.losses(sample, predictions)
    assert terms.maps["automask"].sum() == 0 and terms.total == 0
    terms.total.backward()
    assert disp.grad.abs().sum() == 0


def test_the_automask_keeps_what_the_motion_explains(recording):
    objective, sample = tiny_objective(), draw(recording, batch_size=4).batch(0)
    terms = objective.losses(sample, truth(objective, sample, recording, POSES))
    assert terms.maps["automask"].mean() > 0.8
    # it is the loss of the smaller error, per pixel
    off = tiny_objective(tiny_config(automask=False))
    all_pixels = off.losses(sample, truth(off, sample, recording, POSES)).terms["photometric"]
    assert terms.terms["photometric"] < all_pixels


def test_terms_add_up_and_maps_are_what_they_say(recording):
    objective, sample = tiny_objective(), draw(recording).batch(0)
    found = objective(sample, 0.5)
    torch.testing.assert_close(found.total, sum(found.terms.values()))
    assert set(found.terms) == {"photometric", "smoothness"}
    assert all(t.shape == () and t > 0 for t in found.terms.values())
    shapes = {"depth": 1, "error": 1, "automask": 1, "warped": 3}
    assert {n: tuple(m.shape) for n, m in found.maps.items()} == {
        n: (2, c, 64, 96) for n, c in shapes.items()
    }
    assert not any(m.requires_grad for m in found.maps.values())
    assert set(found.maps["automask"].unique().tolist()) <= {0.0, 1.0}
    keeping = tiny_objective(tiny_config(keep=0.5))
    keeping.began()
    kept = keeping(sample, 0.5)
    assert set(kept.terms) - set(found.terms) == {"kept"}  # who keeps nothing asks not
    assert set(kept.maps) - set(found.maps) == {"silent"}
    assert not (kept.maps["automask"] * kept.maps["silent"]).any()
    twice = tiny_objective(tiny_config(smoothness=2e-3))(sample, 0.5)
    torch.testing.assert_close(twice.terms["smoothness"], 2 * found.terms["smoothness"])


def test_every_scale_is_judged_and_coarser_ones_are_smoothed_less(recording):
    """A ramp over half the columns has twice the step and half the weight."""
    objective = tiny_objective(tiny_config(scales=(0, 1, 2, 3)))
    sample = draw(recording).batch(0)
    predictions = objective.predict(sample)
    assert sorted(predictions.disps) == [0, 1, 2, 3]
    objective.losses(sample, predictions).total.backward()
    heads = objective.depth_net.decoder.heads
    assert all(heads[str(s)].weight.grad.abs().sum() > 0 for s in range(4))
    ramp = {s: torch.linspace(0.2, 0.4, 96 >> s).expand(2, 1, 64 >> s, 96 >> s) for s in range(4)}
    blank = replace(sample, tgt=torch.zeros_like(sample.tgt))
    whole = objective.losses(blank, replace(predictions, disps=ramp)).terms["smoothness"]
    single = objective.losses(blank, replace(predictions, disps={0: ramp[0]})).terms["smoothness"]
    assert whole.item() == pytest.approx(single.item(), rel=0.05)


def test_validation_is_repeatable_and_blind_to_autocast(recording):
    objective, sample = tiny_objective(), draw(recording).batch(0)
    expected = objective.validation(sample)
    assert expected.shape == () and not expected.requires_grad
    torch.manual_seed(99)
    assert torch.equal(objective.validation(sample), expected)
    predictions = objective.predict(sample)
    objective.predict = lambda *_: replace(predictions)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective.validation(sample), expected)
        score = objective.losses(sample, predictions).terms["photometric"]
    torch.testing.assert_close(score, expected)


@pytest.mark.parametrize("bad", [(), (1, 2), (0, 0), (0, 5), (-1, 0)])
def test_scales_that_no_decoder_has_are_refused(bad):
    with pytest.raises(ValidationError, match="scales"):
        get_method("monodepth").config_class(scales=bad)


# -- the early training ---------------------------------------------------------------------------


def test_smaller_images_judge_the_early_training_and_fade(recording):
    objective, sample = tiny_objective(), draw(recording, batch_size=4).batch(0)
    right = truth(objective, sample, recording, POSES)
    wrong = truth(objective, sample, recording, POSES, motion_error=0.5)
    terms = {p: objective.losses(sample, right, p).terms for p in (0.0, 0.25, 0.5, 1.0)}
    assert all("pyramid" not in terms[p] for p in (0.5, 1.0))
    torch.testing.assert_close(terms[0.25]["pyramid"], terms[0.0]["pyramid"] / 2)
    assert terms[0.0]["photometric"] == terms[1.0]["photometric"]
    assert objective.losses(sample, wrong, 0.0).terms["pyramid"] > 1.3 * terms[0.0]["pyramid"]
    flat = tiny_objective(tiny_config(pyramid=1))
    assert "pyramid" not in flat.losses(sample, right, 0.0).terms


def test_motion_learns_before_depth(recording):
    objective, sample = tiny_objective(tiny_config(pose_first=0.1)), draw(recording).batch(0)
    for progress, learns in ((0.0, False), (0.09, False), (0.1, True), (1.0, True)):
        found = objective.predict(sample, progress)
        assert found.disps[0].requires_grad is learns and found.T_src_tgt.requires_grad
        objective.losses(sample, found, progress).total.backward()
    same = [objective.predict(sample, progress).disps[0] for progress in (0.0, 1.0)]
    assert torch.equal(*same)


# -- the graph that is saved ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "network", "objective"),
    [
        ({}, {}, {}),
        ({}, {"pose_downscale": 2}, {"scales": (0, 1, 2)}),
        ({"intrinsics": "pair"}, {}, {}),
        ({"intrinsics": "video"}, {}, {}),
    ],
)
def test_the_inference_graph_is_the_objective(recording, data, network, objective):
    config = tiny_config(data, network, **objective)
    trained = tiny_objective(config)
    sample = draw(recording, config).batch(0)
    graph = trained.inference_graph()
    with torch.no_grad():
        expected = trained.predict(sample)
        K = expected.K.clone()
        if config.data.intrinsics == "pair":
            K[:, 0, 0] = graph.canonical_focal
        depth, residual, T, state = graph(sample.tgt_net, sample.src_net[:, 0], K)
    torch.testing.assert_close(depth, trained.depth(expected.disps[0], expected.depth_scale))
    torch.testing.assert_close(T, expected.T_src_tgt[:, 0])
    assert residual is None and state is None and not graph.training
    assert graph(sample.tgt, None, K)[2] is None


def test_a_graph_is_rebuilt_from_its_architecture(recording):
    graph = tiny_objective(tiny_config(network={"pose_downscale": 2})).inference_graph()
    rebuilt = build_graph(json.loads(json.dumps(graph.architecture))).eval()
    rebuilt.load_state_dict(graph.state_dict())
    sample = draw(recording).batch(0)
    arguments = sample.tgt, sample.src[:, 0], sample.K
    for a, b in zip(graph(*arguments), rebuilt(*arguments), strict=True):
        assert a is b is None or torch.equal(a, b)
    depth_only = build_graph({**graph.architecture, "pose_encoder": None}).eval()
    depth_only.depth_net.load_state_dict(graph.depth_net.state_dict())
    assert torch.equal(depth_only(*arguments)[0], graph(*arguments)[0])
    assert depth_only(*arguments)[2] is None


@pytest.mark.parametrize(
    "change",
    [
        {"method": "magic"}, {"encoder": "vgg"}, {"colour": 1}, {"decoder_channels": [8, 8]},
        {"decoder_channels": 8}, {"width": "wide"}, {"canonical_focal": None}, {"min_depth": "x"},
    ],
)  # fmt: skip
def test_an_architecture_that_is_not_ours_is_a_clean_error(change):
    architecture = {**tiny_objective().inference_graph().architecture, **change}
    with pytest.raises(ValueError, match="is not one of|does not fit"):
        build_graph(architecture)
    with pytest.raises(ValueError, match="names no method"):
        build_graph({"encoder": "resnet18"})


def test_methods_are_discovered_by_folder():
    assert "monodepth" in method_names()
    assert all(get_method(name).name == name for name in method_names())
    with pytest.raises(ValueError, match="magic.*monodepth"):
        get_method("magic")
