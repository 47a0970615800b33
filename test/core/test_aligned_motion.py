"""Ego-motion of trained models, refined to their depth."""

import pytest
import torch
from scenes import camera, drive, write_recording
from tiny import FOCAL, tiny_config

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.geometry.alignment import refine_motion
from dyndepth_core.methods import get_method

METHODS = ("monodepth", "sc_depth", "residual_motion")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, drive(8), camera(FOCAL))
    return Recording(path)


def make(method, offsets, align=True):
    config = tiny_config({"source_offsets": offsets}, {"pose_align": align})
    info = get_method(method)
    config.network = info.network_class(**config.network.model_dump())
    config.objective = info.config_class()
    torch.manual_seed(0)
    return info.objective_class(config, ["drive"], FOCAL).eval()


def draw(recording, offsets):
    data = tiny_config({"source_offsets": offsets}).data
    return SampleSource([recording], data, 2, 0, False).batch(0)


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_refines_what_the_network_says(recording, method):
    objective, sample = make(method, (-1,)), draw(recording, (-1,))
    says = objective.predict(sample, 1.0).T_src_tgt[:, 0]
    graph = objective.inference_graph()
    images = sample.tgt_net, sample.src_net[:, 0]
    depth, _, T, _ = graph(*images, sample.K)
    refined = refine_motion(*images, depth, says, sample.K)
    torch.testing.assert_close(T, refined, atol=1e-4, rtol=1e-3)
    assert (T - says).abs().max() > 1e-3
    graph.architecture["units"] = 3.0
    three = graph(*images, sample.K)[2]
    torch.testing.assert_close(three[:, :3, 3], 3 * T[:, :3, 3], atol=1e-5, rtol=1e-3)
    plain = make(method, (-1,), align=False)
    T = plain.inference_graph()(*images, sample.K)[2]
    torch.testing.assert_close(T, plain.predict(sample, 1.0).T_src_tgt[:, 0])
