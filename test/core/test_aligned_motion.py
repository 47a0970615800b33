"""Ego-motion of trained models, refined to their depth."""

from dataclasses import replace

import pytest
import torch
from scenes import camera, drive, write_recording
from tiny import FOCAL, tiny_config, truth

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.geometry.alignment import refine_motion
from dyndepth_core.geometry.se3 import exp_so3
from dyndepth_core.methods import get_method
from dyndepth_core.methods.sc_depth.objective import SCPredictions

METHODS = ("monodepth", "sc_depth", "residual_motion")
POSES = drive(8)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, POSES, camera(FOCAL))
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


@pytest.mark.parametrize("method", ["monodepth", "sc_depth"])
def test_weights_are_chosen_by_the_motion_the_model_will_say(recording, method):
    """Right depth beside a pose network that turns 0.7 degrees too far is as good as right depth;
    without refinement it is not.
    """
    sample, score = draw(recording, (-1, 1)), {}
    for align in (True, False):
        objective = make(method, (-1, 1), align)
        right = truth(objective, sample, recording, POSES)
        if method == "sc_depth":
            right = SCPredictions(
                **vars(right), src_disps=right.disps[0][:, None].expand(-1, 2, -1, -1, -1)
            )
            objective.config.geometry = 0.0
        wrong = replace(right, T_src_tgt=right.T_src_tgt.clone())
        wrong.T_src_tgt[..., :3, :3] = (
            exp_so3(torch.tensor([[0.0, 0.012, 0.0]])) @ right.T_src_tgt[..., :3, :3]
        )
        for name, found in (("right", right), ("wrong", wrong)):
            objective.predict = lambda *_, found=found: replace(found)
            score[align, name] = objective.validation(sample).item()
    assert score[False, "wrong"] > 1.5 * score[False, "right"]
    assert score[True, "wrong"] == pytest.approx(score[False, "right"], rel=0.1)
