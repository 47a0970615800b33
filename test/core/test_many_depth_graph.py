"""many_depth on the vehicle: the graph, its file, what the Predictor does without a history."""

import json

import numpy as np
import pytest
import torch
from many import draw, make
from scenes import camera, drive, render, write_recording
from tiny import FOCAL

from dyndepth_core.data.recording import Recording
from dyndepth_core.inference.export import export_model
from dyndepth_core.inference.model_file import ModelMeta, load_model, save_model
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.methods import build_graph

SIZE = (64, 96)
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, drive(6, sway=0.0), camera(FOCAL))
    return Recording(path)


def trained(**network):
    """An objective in evaluation mode whose student looks at its volume."""
    objective = make(network=network, student_from=0.0).eval()
    objective.begun.fill_(1)
    torch.nn.init.normal_(objective.student.fuse_out.weight, std=2.0)
    objective.student.adapt(torch.tensor(3.0), torch.tensor(12.0), torch.tensor(1.0))
    return objective


def tensors(sample):
    return sample.tgt_net, sample.src_net[:, 0], sample.K


def meta_of(graph):
    return ModelMeta(
        method="many_depth", architecture=graph.architecture, input_size=SIZE,
        canonical_focal=FOCAL, depth_range=(2.0, 20.0),
    )  # fmt: skip


# -- the graph -------------------------------------------------------------------------------------


def test_the_graph_is_the_objective(recording):
    """With refined motions it meets the depth of the image before, so plain ones are compared."""
    objective, sample = trained(), draw(recording)
    graph = objective.inference_graph()
    graph.architecture["units"] = 3.0
    with torch.no_grad():
        expected = objective.predict(sample)
        depth, residual, T, state = graph(*tensors(sample))
        assert expected.student.confident.any()
        own = objective.depth(expected.student.disps[0], expected.depth_scale)
    torch.testing.assert_close(depth, 3 * own)
    torch.testing.assert_close(T[:, :3, :3], expected.T_src_tgt[:, 0, :3, :3])
    torch.testing.assert_close(T[:, :3, 3], 3 * expected.T_src_tgt[:, 0, :3, 3])
    torch.testing.assert_close(state[0], own)
    assert residual is None and not graph.training
    assert graph.max_gap_s == 0.5  # five times as old as the image before in training at 10 Hz


def test_each_image_goes_through_each_network_once(recording):
    graph, sample = trained().inference_graph(), draw(recording)
    image, before, K = tensors(sample)
    calls = []
    graph.student.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    graph.student.fuse_in.register_forward_hook(lambda *_: calls.append("fuse"))
    graph.depth_net.register_forward_hook(lambda *_: calls.append("teacher"))
    with torch.no_grad():
        first = graph(before, None, K)
        assert first[1] is None and first[2] is None and calls == ["fuse", "decoder"]
        calls.clear()
        depth = graph(image, before, K, first[3])[0]
        assert calls == ["fuse", "decoder"]
        torch.testing.assert_close(depth, graph(image, before, K)[0])


@pytest.mark.parametrize("aligned", [True, False])
def test_a_standing_camera_has_the_depth_of_a_single_image(recording, aligned):
    objective, sample = trained(pose_align=aligned), draw(recording)
    image, before, K = tensors(sample)
    with torch.no_grad():
        graph = objective.inference_graph()
        alone = graph(image, None, K)[0]
        moved = graph(image, before, K)[0]
        assert (moved / alone - 1).abs().max() > 1e-3
        objective.pose_net.head.weight.zero_()
        objective.pose_net.head.bias.zero_()
        still = objective.inference_graph()(image, image, K)
        torch.testing.assert_close(still[0], alone)
        torch.testing.assert_close(still[2], torch.eye(4).expand(2, 4, 4), atol=1e-4, rtol=0)
        # one of a batch may stand while another moves
        mixed = graph.student.match
        seen = []
        graph.student.match = lambda *a: seen.append(mixed(*a)) or seen[-1]
        graph.motion = lambda *a: (torch.eye(4).repeat(2, 1, 1), torch.tensor([True, False]))
        found = graph(image, before, K)[0]
        torch.testing.assert_close(found[1], alone[1])
        assert seen[0].seen[0].any() and (found[0] - alone[0]).abs().max() > 1e-3


def test_arms_are_the_teacher_and_the_student_without_a_volume(recording):
    objective, sample = trained(), draw(recording)
    image, before, K = tensors(sample)
    graph = objective.inference_graph()
    arms = graph.arms()
    assert list(arms) == ["teacher", "empty"]
    assert graph.previous_for_depth and not any(a.previous_for_depth for a in arms.values())
    with torch.no_grad():
        teacher = objective.predict(sample)
        depth, _, T, _ = arms["teacher"](image, before, K)
        torch.testing.assert_close(depth, objective.depth(teacher.disps[0], teacher.depth_scale))
        torch.testing.assert_close(T, teacher.T_src_tgt[:, 0])
        empty, _, T, _ = arms["empty"](image, before, K)
        torch.testing.assert_close(empty, graph(image, None, K)[0])
        torch.testing.assert_close(T, graph(image, before, K)[2])
    for part in (graph.deployed(), graph.depth_only()):
        assert part.depth_net is None and list(part.arms()) == ["empty"]
        with torch.no_grad():
            assert torch.equal(part(image, before, K)[0], graph(image, before, K)[0])


# -- the file --------------------------------------------------------------------------------------


def test_the_file_keeps_network_range_and_teacher(recording, tmp_path):
    graph = trained(planes=10, inverse_planes=True, match_channels=4).inference_graph()
    arguments = tensors(draw(recording))
    save_model(tmp_path / "m.safetensors", graph, meta_of(graph))
    again, meta = load_model(tmp_path / "m.safetensors")
    assert float(again.student.nearest) == 3.0 and float(again.student.farthest) == 12.0
    assert again.architecture == json.loads(json.dumps(graph.architecture)) == meta.architecture
    with torch.no_grad():
        for a, b in zip(graph(*arguments)[::2], again(*arguments)[::2], strict=True):
            assert torch.equal(a, b)
    small = tmp_path / "small.safetensors"
    assert export_model(tmp_path / "m.safetensors", small) < 0.02
    exported, meta = load_model(small)
    assert exported.depth_net is None and not meta.architecture["teacher"]
    with torch.no_grad():
        near = exported(*arguments)[0] / graph(*arguments)[0]
    assert (near - 1).abs().max() < 0.02
    with pytest.raises(ValueError, match="does not fit"):
        build_graph({**graph.architecture, "planes": 1})
    with pytest.raises(ValueError, match="does not fit"):
        build_graph({**graph.architecture, "pose_encoder": None})


def test_a_file_is_a_start_with_or_without_its_teacher():
    objective = trained()
    fresh = make()
    whole = objective.inference_graph()
    for graph, source in ((whole, "depth_net"), (whole.deployed(), "student")):
        found = fresh.adopt(graph.state_dict())
        own = fresh.state_dict()
        assert all(own[k].shape == v.shape for k, v in found.items())
        assert found["begun"] == 1 and found["range_steps"] > 1e6
        expected = getattr(objective, source).encoder.state_dict()
        assert all(torch.equal(found[f"depth_net.encoder.{k}"], v) for k, v in expected.items())
    from tiny import tiny_objective

    mono = tiny_objective().inference_graph().state_dict()
    assert fresh.adopt(mono).keys() == mono.keys()  # its student begins when it is due


# -- the Predictor ---------------------------------------------------------------------------------


def frames(count=4):
    K, pictures = camera(FOCAL), []
    for T in drive(count, sway=0.0):
        image = render(T, K)[0][0].permute(1, 2, 0).numpy()
        pictures.append((image * 255 + 0.5).astype(np.uint8))
    return pictures, K[0].numpy()


@pytest.fixture(scope="module")
def predictors():
    graph = trained(pose_align=True).inference_graph()
    alone = graph.arms()["empty"]
    return [Predictor.from_graph(g, meta_of(graph), device="cpu") for g in (graph, alone)]


def run(predictor, stamps, **options):
    predictor.reset()
    pictures, K = frames(len(stamps))
    return [predictor(p, K, s, **options) for p, s in zip(pictures, stamps, strict=True)]


def differs(a, b):
    return float(np.abs(a.depth / b.depth - 1).max()) > 1e-3


@pytest.mark.parametrize("motion", [False, True])
def test_the_first_frame_and_one_after_a_gap_are_those_of_a_single_image(predictors, motion):
    tenth = SECOND // 10
    for gap, fresh in ((tenth, False), (4 * tenth, False), (6 * tenth, True), (-3 * tenth, True)):
        stamps = [5 * SECOND, 5 * SECOND + tenth, 5 * SECOND + tenth + gap]
        found, alone = (run(p, stamps, motion=motion) for p in predictors)
        assert [differs(a, b) for a, b in zip(found, alone, strict=True)] == [
            False, True, not fresh
        ]  # fmt: skip
        assert bool(found[2].history_reset) == fresh
        if fresh:
            assert "jumped" in found[2].history_reset
        assert (found[1].T_src_tgt is not None) and (found[2].T_src_tgt is None) == fresh


def test_without_stamps_frames_follow_each_other(predictors):
    found, alone = (run(p, [None] * 3) for p in predictors)
    assert [differs(a, b) for a, b in zip(found, alone, strict=True)] == [False, True, True]


def test_after_a_reset_the_first_frame_is_the_first(predictors):
    many, _ = predictors
    first, second = run(many, [0, SECOND // 10])
    many.reset()
    pictures, K = frames(1)
    assert np.array_equal(many(pictures[0], K, SECOND).depth, first.depth)
    assert many.has_ego_motion


def test_a_vehicle_that_stands_has_the_depth_of_single_images():
    objective = trained(pose_align=True)
    with torch.no_grad():
        objective.pose_net.head.weight.zero_()
        objective.pose_net.head.bias.zero_()
    graph = objective.inference_graph()
    (picture,), K = frames(1)
    many, alone = (
        Predictor.from_graph(g, meta_of(graph), device="cpu")
        for g in (graph, graph.arms()["empty"])
    )
    for k in range(3):
        stands, single = (p(picture, K, k * SECOND // 10) for p in (many, alone))
        np.testing.assert_allclose(stands.depth, single.depth, rtol=1e-4)
        assert (stands.T_src_tgt is None) == (k == 0) and not stands.history_reset
