"""Ego-motion refined to the depth, in training and in the graph."""

import pytest
import torch
from scenes import camera, drive, write_recording
from tiny import FOCAL, tiny_config

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.geometry.se3 import exp_so3, make_T
from dyndepth_core.methods import get_method
from dyndepth_core.methods.depth_pose import motion_error

METHODS = ("monodepth", "sc_depth", "residual_motion")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, drive(8), camera(FOCAL))
    return Recording(path)


def make(method, offsets=(-1, 1), align=True):
    config = tiny_config({"source_offsets": offsets}, {"pose_align": align})
    info = get_method(method)
    config.network = info.network_class(**config.network.model_dump())
    config.objective = info.config_class()
    torch.manual_seed(0)
    return info.objective_class(config, ["drive"], FOCAL).eval()


def draw(recording, offsets=(-1, 1)):
    data = tiny_config({"source_offsets": offsets}).data
    return SampleSource([recording], data, 2, 0, False).batch(0)


@pytest.mark.parametrize("method", METHODS)
def test_the_pose_network_learns_the_refined_motion(recording, method):
    objective, sample = make(method), draw(recording)
    terms = objective(sample, 1.0).terms
    assert terms["pose"] > 0
    net = objective.motion_net.pose if method == "residual_motion" else objective.pose_net
    (gradient,) = torch.autograd.grad(terms["pose"], net.head.weight)
    assert gradient.abs().sum() > 0
    assert "pose" not in make(method, align=False)(sample, 1.0).terms


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_refines_as_the_training_does(recording, method):
    objective, sample = make(method, (-1,)), draw(recording, (-1,))
    found = objective.predict(sample, 1.0).T_src_tgt[:, 0]
    graph = objective.inference_graph()
    _, _, T, _ = graph(sample.tgt_net, sample.src_net[:, 0], sample.K)
    torch.testing.assert_close(T, found, atol=1e-4, rtol=1e-3)
    graph.architecture["units"] = 3.0
    three = graph(sample.tgt_net, sample.src_net[:, 0], sample.K)[2]
    torch.testing.assert_close(three[:, :3, 3], 3 * T[:, :3, 3])
    plain = make(method, (-1,), align=False).predict(sample, 1.0).T_src_tgt[:, 0]
    assert (plain - found).abs().max() > 1e-3


def test_translation_follows_the_scale_of_the_depth(recording):
    objective, sample = make("monodepth"), draw(recording)
    depth = torch.full_like(sample.tgt[:, :1], 5.0, requires_grad=True)
    T, _ = objective.aligned(sample, depth, torch.eye(4).repeat(2, 2, 1, 1), sample.K)
    length = T[:, :, :3, 3].norm(dim=-1)
    (gradient,) = torch.autograd.grad(length.sum(), depth)
    # growing depth by a share grows translations by that share
    torch.testing.assert_close((gradient * depth).sum((1, 2, 3)), length.sum(1))


def test_motion_error_by_hand():
    vector = torch.tensor([[0.03, 0.0, 0.0], [0.0, 0.0, 0.0]])
    T = make_T(exp_so3(vector), torch.tensor([[0.0, 0.0, 0.0], [0.0, -0.04, 0.0]]))
    best = torch.eye(4).repeat(2, 1, 1)
    assert motion_error(T, best).item() == pytest.approx((1 + 2) / 6, abs=1e-4)
    assert motion_error(best, best) == 0
