"""Motions in mined_supervision: those of objects, where what was mined of them is off, and
residuals in the image plane alone; what a camera that crawls says of them.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scenes import camera, pose
from small_model import small_meta
from test_mined_learning import learn, moving_sample, scene

from dyndepth_core.geometry.se3 import compose, invert_T
from dyndepth_core.geometry.warp import correspond
from dyndepth_core.inference.model_file import load_model, save_model
from dyndepth_core.methods.follow import with_maps
from dyndepth_core.methods.mined_supervision.config import MinedSupervisionConfig
from dyndepth_core.methods.mined_supervision.masks import growth, label_objects
from dyndepth_core.methods.mined_supervision.objective import LabelledSample
from dyndepth_core.methods.mined_supervision.objects import ObjectObjective


def test_a_wrong_motion_of_an_object_is_corrected():
    """By 4 cm and a degree from image to image, which are two pixels."""
    sample, depth, inside = moving_sample(unit=1.0)
    truth, wrong = sample.T_start, pose(x=0.02, y=0.03, pitch=math.radians(-1))[0].float()
    sample.T_start = compose(torch.stack((invert_T(wrong[None])[0], wrong))[None], truth)

    def off(T):
        """Pixels between where T and the truth put the object's points, by pair."""
        found, true = (
            correspond(depth.expand(2, -1, -1, -1), x[0], camera(batch=2).float()).pixels
            for x in (T, truth)
        )
        return (found - true).norm(dim=1)[:, inside[0, 0]].mean(1)

    start = off(sample.T_start)
    torch.manual_seed(1)
    objective = ObjectObjective(scene())
    learn(objective, lambda step: sample, 60)
    found = objective.predict(sample)
    T, unit = found.T_src_tgt.detach(), (found.depth.detach() / depth)[inside].median()
    T[..., :3, 3] /= unit  # depth and motion are right up to one factor
    assert (off(T) < 0.4 * start).all()


@pytest.fixture(scope="module")
def networks():
    """The same weights, with residuals as they are and without their part along the axis."""
    found = (scene(f"objective.lateral_only={flag}") for flag in (False, True))
    return SimpleNamespace(**dict(zip(("free", "flat"), found, strict=True)))


def test_residuals_without_their_part_along_the_axis_are_those_of_the_training(networks):
    sample, _, _ = moving_sample(unit=1.0)
    for net in (networks.free, networks.flat):
        net.train()
    free, flat = (n.predict(sample, 1.0).residual for n in (networks.free, networks.flat))
    for net in (networks.free, networks.flat):
        net.eval()
    assert (free[:, 2] != 0).any() and (free[:, :2] != 0).any()
    assert torch.equal(flat[:, :2], free[:, :2]) and (flat[:, 2] == 0).all()


def test_residuals_without_their_part_along_the_axis_do_not_learn_a_drift_along_it(networks):
    sample, depth, _ = moving_sample(unit=1.0)
    nothing, all_ = torch.zeros_like(depth), torch.ones_like(depth)
    sample = with_maps(
        LabelledSample, sample, hint=depth, sure=all_, label=depth, weight=all_, drift=-all_,
        motion=sample.T_start, sky=nothing, beside=nothing,
    )  # fmt: skip
    free, flat = (
        n.losses(sample, n.predict(sample)).terms["drift"] for n in (networks.free, networks.flat)
    )
    assert free > 0 == flat


def test_the_model_file_says_residuals_without_their_part_along_the_axis(networks, tmp_path):
    sample, _, _ = moving_sample(unit=1.0)
    found = {}
    for name, net in vars(networks).items():
        graph, path = net.inference_graph(), tmp_path / f"{name}.safetensors"
        meta = small_meta(
            method="mined_supervision", architecture=graph.architecture,
            canonical_focal=graph.canonical_focal, depth_range=(1.0, 40.0),
        )  # fmt: skip
        save_model(path, graph, meta)
        graph, meta = load_model(path)
        assert meta.architecture["lateral_only"] == (name == "flat")
        found[name] = graph(sample.tgt, sample.src[:, 0], sample.K)
    (depth, free, T, _), (flat_depth, flat, flat_T, _) = found["free"], found["flat"]
    assert torch.equal(depth, flat_depth) and torch.equal(T, flat_T)
    assert (free[:, 2] != 0).any() and (flat[:, 2] == 0).all()
    assert (free[:, :2] != 0).any() and torch.equal(flat[:, :2], free[:, :2])


@pytest.mark.parametrize(("step", "moves"), [(0.02, False), (0.2, True)])
def test_before_a_camera_that_crawls_neither_the_middle_nor_parallax_tells(step, moves):
    """20 x 20 pixels on a road 1 m below, at the lower edge of the image 2 m away: over three
    images of 0.02 m what stands there grows by 0.6 pixels, of 0.2 m by 6.
    """
    ids, none = np.zeros((40, 80), np.uint8), np.zeros((40, 80), bool)
    ids[10:30, 30:50] = 1
    rows = np.arange(40.0)[:, None].repeat(80, 1)
    road, motion = (rows - 19.5) / 39, np.tile(np.eye(4), (2, 1, 1))
    motion[:, 2, 3] = step, -step
    grows = growth(motion, road)
    assert np.sqrt(400) * grows == pytest.approx(20 * 3 * step / 2)

    def label(apparent, moving=none):
        config, apparent = MinedSupervisionConfig(), np.full(road.shape, apparent)
        found = label_objects(ids, moving, none, apparent, road, config, grows)
        assert found["centre"].all()
        return found["dynamic"].tolist(), found["apart"].tolist()

    assert label(np.nan)[0] == [moves]
    assert label(0.5 * (30 - 19.5) / 39) == ([moves], [pytest.approx(2)])  # as if twice as far
    assert label(np.nan, ids > 0)[0] == [True]
    assert growth(motion, 0 * road) == 0
