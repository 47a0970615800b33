"""The sc_depth method: geometry consistency, the self-discovered mask, what the truth costs."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scenes import camera, drive, write_recording
from tiny import FOCAL, tiny_config, truth

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.geometry.se3 import invert_T
from dyndepth_core.losses.consistency import depth_inconsistency, self_discovered_mask
from dyndepth_core.methods import build_graph, get_method
from dyndepth_core.methods.pairs import Comparison, Pairs
from dyndepth_core.methods.sc_depth.objective import SCPredictions

POSES = drive(12, sway=0.0)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, POSES, camera(FOCAL))
    return Recording(path)


def make(geometry=0.5, mean_over="valid", **objective):
    """With the paper's weight and mean of the geometry consistency."""
    info = get_method("sc_depth")
    objective |= {"geometry": geometry, "mean_over": mean_over}
    plain = tiny_config()
    config = SimpleNamespace(
        data=plain.data,
        network=plain.network,
        objective=info.config_class(**objective),
    )
    torch.manual_seed(0)
    return info.objective_class(config, ["drive"], FOCAL).eval()


def draw(recording, batch_size=4):
    return SampleSource([recording], tiny_config().data, batch_size, 0, False).batch(0)


def whole_truth(objective, sample, recording, depth_error=1.0, src_error=1.0):
    """Right predictions, but for factors on all depths and on those of the sources."""
    right = truth(objective, sample, recording, POSES, depth_error, depth_error)
    ways = []
    for step in (-1, 1):
        moved = replace(sample, index=sample.index + step)
        error = depth_error * src_error
        ways.append(truth_disp(objective, moved, recording, error))
    return SCPredictions(
        right.disps, right.T_src_tgt, right.K, right.depth_scale, torch.stack(ways, 1)
    )


def truth_disp(objective, sample, recording, factor):
    depth = torch.stack([torch.tensor(recording.depth(int(i))) for i in sample.index + 1])[:, None]
    low, high = 1 / objective.network.max_depth, 1 / objective.network.min_depth
    return (1 / (depth * factor) - low) / (high - low)


# -- geometry consistency --------------------------------------------------------------------------


def wall_and_box():
    """A wall at 10, the camera 1 nearer in b; in b a box at 6 hides rows 20 to 40 of it."""
    size = (1, 1, 64, 96)
    depth_b = torch.full(size, 9.0)
    depth_b[..., 20:40, 30:60] = 6.0
    T_b_a = torch.eye(4)[None].clone()
    T_b_a[0, 2, 3] = -1.0
    image = torch.rand((1, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    K = torch.tensor([[[80.0, 0, 47.5], [0, 80.0, 31.5], [0, 0, 1]]])
    return Pairs(image, image, torch.full(size, 10.0), depth_b, T_b_a, K)


def test_inconsistency_and_mask_on_a_box_that_moved():
    """|9 - 6| / (9 + 6) = 0.2 on the box, 0 on the wall."""
    found = wall_and_box().compare(0.85)
    # pixel p of a falls on c + (p - c) 10 / 9 of b
    inside = found.inconsistency[0, 0, 24:36, 35:55]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.2))
    assert self_discovered_mask(found.inconsistency)[0, 0, 30, 45].item() == pytest.approx(0.8)
    wall = found.inconsistency[..., :16, :] * found.valid[..., :16, :]
    assert wall.max() < 1e-6
    # what leaves the image is not judged
    assert found.valid[0, 0, 0].sum() == 0 and found.valid[0, 0, 31, 10:80].all()


def test_inconsistency_is_bounded_symmetric_and_free_of_scale():
    z, depth = torch.tensor([-4.0, 1e-9, 2.0, 50.0]), torch.tensor([3.0, 3.0, 3.0, 3.0])
    found = depth_inconsistency(z, depth)
    assert (found >= 0).all() and (found < 1).all()
    assert found[2].item() == pytest.approx(0.2)
    torch.testing.assert_close(depth_inconsistency(depth, z)[2:], found[2:])
    torch.testing.assert_close(depth_inconsistency(7 * z, 7 * depth)[2:], found[2:])


def test_the_mask_carries_no_gradient():
    z = torch.tensor([2.0], requires_grad=True)
    assert not self_discovered_mask(depth_inconsistency(z, torch.tensor([3.0]))).requires_grad


# -- the loss --------------------------------------------------------------------------------------


def test_the_truth_is_consistent_and_a_scale_of_its_own_per_frame_is_not(recording):
    objective, sample = make(automask=False), draw(recording)

    def geometry(**errors):
        predictions = whole_truth(objective, sample, recording, **errors)
        return objective.losses(sample, predictions, 1.0).terms["geometry"].item()

    assert (right := geometry()) < 0.5 * 0.03  # occluded pixels and depth edges remain
    assert geometry(depth_error=1.2) == pytest.approx(right, rel=0.05)  # one scale for all is free
    # a source 10 % deeper: D_diff = 0.1 / 2.1, there and back
    assert geometry(src_error=1.1) == pytest.approx(0.5 * 0.1 / 2.1 + right, rel=0.25)
    wrong, errors = whole_truth(objective, sample, recording, src_error=1.5), {}
    for mask in (False, True):  # 1 - D_diff = 0.8
        own = make(automask=False, self_discovered=mask)
        errors[mask] = own.losses(sample, wrong, 1.0).terms["photometric"].item()
    assert errors[True] == pytest.approx(0.8 * errors[False], rel=0.03)


def test_both_directions_are_judged_each_in_its_own_plane(recording):
    objective, sample = make(automask=False, both_ways=True), draw(recording, 2)
    predictions = whole_truth(objective, sample, recording)
    pairs = objective._pairs(sample, predictions)
    assert pairs.image_a.shape[0] == 2 * sample.dt.numel()
    half = sample.dt.numel()
    assert torch.equal(pairs.image_a[:half], pairs.image_b[half:])
    assert torch.equal(pairs.depth_b[:half], pairs.depth_a[half:])
    torch.testing.assert_close(pairs.T_b_a[half:], invert_T(pairs.T_b_a[:half]))
    found = pairs.compare(0.85)
    assert found.error[half:].mean() < 0.03 and found.error[:half].mean() < 0.03
    least = found.least(*sample.dt.shape)
    assert len(least.error) == 2 + half
    torch.testing.assert_close(least.error[2:], found.error[half:])


def comparison(error, identity, valid):
    """Maps of 2 sources of one tgt with 1 x 3 pixels; inconsistency 0.1 and 0.2."""
    error, identity, valid = (torch.tensor(x).view(2, 1, 1, 3) for x in (error, identity, valid))
    inconsistency = torch.tensor([0.1, 0.2]).view(2, 1, 1, 1).expand(2, 1, 1, 3)
    return Comparison(error, identity, inconsistency, valid, error.expand(2, 3, 1, 3))


def test_each_pixel_is_judged_by_the_source_that_sees_it_best():
    found = comparison(
        [[0.3, 0.1, 0.5], [0.2, 0.0, 0.6]], [[0.4, 0.4, 0.9], [0.25, 0.5, 0.1]],
        [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]],
    ).least(1, 2)  # fmt: skip
    # the second source, the first because the second does not see it, the first
    assert found.error.flatten().tolist() == pytest.approx([0.2, 0.1, 0.5])
    assert found.inconsistency.flatten().tolist() == pytest.approx([0.2, 0.1, 0.1])
    assert found.warped[:, 1].flatten().tolist() == pytest.approx([0.2, 0.1, 0.5])
    assert found.valid.flatten().tolist() == [1, 1, 1]
    # automask: the best unwarped source explains the last pixel better
    assert found.identity.flatten().tolist() == pytest.approx([0.25, 0.4, 0.1])
    assert found.automask(noise=False).valid.flatten().tolist() == [1, 1, 0]


def test_one_source_says_for_all_how_consistent_depth_is():
    pair = comparison([[0.3] * 3, [0.2] * 3], [[0.9] * 3] * 2, [[1.0] * 3, [1.0, 0.0, 1.0]])
    for lender, expected in ((0, [0.1, 0.1, 0.1]), (1, [0.2, 0.0, 0.2])):
        found = pair.consistent_with(lender, 1, 2)
        for source in found.inconsistency:
            assert source.flatten().tolist() == pytest.approx(expected)
        assert found.error is pair.error and found.valid is pair.valid


def test_in_training_one_drawn_source_is_asked_for_its_depth(recording):
    """Source 1 has 1.5 times the depth of tgt and source 0: what a step sees is drawn."""
    sample, terms = draw(recording), {}
    for lender in (0, 1, None):
        objective = make(automask=False, self_discovered=False)
        predictions = whole_truth(objective, sample, recording)
        wrong = truth_disp(objective, replace(sample, index=sample.index + 1), recording, 1.5)
        disps = torch.stack((predictions.src_disps[:, 0], wrong), 1)
        if lender is not None:  # as predict leaves them
            disps = disps[:, lender : lender + 1].expand(-1, 2, -1, -1, -1)
        predictions = replace(predictions, src_disps=disps, lender=lender)
        terms[lender] = objective.losses(sample, predictions).terms["geometry"].item()
    # (1.5 - 1) / (1.5 + 1), where source 1 sees the pixel
    assert terms[1] == pytest.approx(0.2 * objective.config.geometry, rel=0.15)
    assert terms[0] < 0.1 * terms[1]
    assert terms[0] < terms[None] < terms[1]
    for lenders, asked in (("one", {len(sample.dt)}), ("all", {2 * len(sample.dt)})):
        objective, seen = make(lenders=lenders, lending=1).train(), []
        objective.depth_net.register_forward_pre_hook(
            lambda _, images, seen=seen: seen.append((len(images[0]), torch.is_grad_enabled()))
        )
        drawn = {objective.predict(sample).lender for _ in range(20)}
        assert drawn == ({0, 1} if lenders == "one" else {None})
        assert {n for n, grad in seen if not grad} == asked
        assert {n for n, grad in seen if grad} == {len(sample.dt)}


def test_sources_are_asked_once_depth_is_no_guess(recording):
    """Before, all depths agree, every pixel is believed, and the depth network sees tgt alone."""
    objective, sample, seen = make(lending=1).train(), draw(recording, 2), []
    objective.depth_net.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    torch.manual_seed(0)
    start = objective.config.consistent_from
    before, after = (objective.predict(sample, start + d) for d in (-0.01, 0.01))
    assert before.src_disps is None and after.src_disps is not None and seen == [2, 2, 2]
    terms = objective.losses(sample, before, start - 0.01)
    assert terms.terms["geometry"] == 0 and (terms.maps["consistency"] == 1).all()
    assert objective.losses(sample, after, start + 0.01).terms["geometry"] > 0
    objective = make(lending=0.25).train()  # nor in every step, and outside a training never
    assert 5 <= sum(objective.predict(sample).src_disps is not None for _ in range(60)) <= 25
    assert all(objective.eval().predict(sample).src_disps is None for _ in range(20))
    assert type(objective.config).going_on()["consistent_from"] == 0


def test_a_pixel_weighs_the_same_however_few_are_valid(recording):
    """Over all pixels the losses are those over the valid ones times their share."""
    sample, found = draw(recording), {}
    sample.src[..., :48] = sample.tgt[:, None, ..., :48]  # of 96, as if it moved with the camera
    for mean_over in ("valid", "all"):
        objective = make(mean_over=mean_over)
        found[mean_over] = objective.losses(sample, whole_truth(objective, sample, recording))
    assert 0.3 < (share := found["all"].maps["automask"].mean().item()) < 0.7
    over_all, over_valid = (found[k].terms for k in ("all", "valid"))
    for term, factor in {"photometric": share, "geometry": share, "smoothness": 1}.items():
        assert over_all[term].item() == pytest.approx(factor * over_valid[term].item(), rel=1e-4)


def test_a_pixel_no_source_sees_is_not_judged():
    found = comparison([[0.1] * 3, [0.2] * 3], [[1.0] * 3] * 2, [[0.0] * 3] * 2).least(1, 2)
    assert found.valid.sum() == 0 and found.mean_error() == 0


def test_sources_lend_their_depth_or_learn_it(recording):
    sample = draw(recording, 2)
    for both in (False, True):
        objective = make(both_ways=both, lending=1).train()
        disps = objective.predict(sample, 1.0).src_disps
        assert disps.shape == (2, 2, 1, 64, 96) and disps.requires_grad == both
    one, both = make(automask=False), make(automask=False, both_ways=True)
    predictions = whole_truth(one, sample, recording)
    assert [len(o._pairs(sample, predictions).image_b) for o in (one, both)] == [4, 8]


def test_terms_add_up_follow_their_weights_and_reach_every_network(recording):
    sample = draw(recording, 2)
    one = make(smoothness=0.1)
    terms, twice = one(sample, 1.0), make(geometry=0.4, smoothness=0.2)(sample, 1.0)
    assert set(terms.terms) == {"photometric", "geometry", "smoothness"}
    torch.testing.assert_close(terms.total, sum(terms.terms.values()))
    for name in ("geometry", "smoothness"):
        torch.testing.assert_close(twice.terms[name], 2 * terms.terms[name])
    assert "pyramid" in one(sample, 0.2).terms
    terms.total.backward()
    for net in (one.depth_net, one.pose_net):
        assert all(p.grad is not None for p in net.parameters())
    assert {k: m.shape[1] for k, m in terms.maps.items()} == {
        "depth": 1, "error": 1, "automask": 1, "warped": 3, "consistency": 1
    }  # fmt: skip


def test_depth_waits_for_motion(recording):
    objective, sample = make(pose_first=0.1), draw(recording, 2)
    objective(sample, 0.05).total.backward()
    assert all(p.grad is None for p in objective.depth_net.parameters())
    assert any(p.grad is not None for p in objective.pose_net.parameters())


def test_validation_prefers_the_truth(recording):
    objective, sample = make(), draw(recording)
    predictions = whole_truth(objective, sample, recording)
    objective.with_refined_motion = objective.predict = lambda *_: predictions
    right = objective.validation(sample)
    predictions.disps = {0: truth_disp(objective, sample, recording, 1.2)}
    assert objective.validation(sample) > 2 * right


def test_the_graph_carries_the_name_of_the_method(recording):
    graph = make().inference_graph()
    assert graph.architecture["method"] == "sc_depth"
    assert type(build_graph(graph.architecture)) is type(graph) is type(graph.depth_only())


def test_smoothness_is_that_of_the_papers_image_whatever_the_size():
    """A slope of depth across 416 columns costs what the same slope costs across 832."""
    objective = make()
    ramps = [torch.linspace(1, 3, w).expand(1, 1, 64, w) for w in (416, 832)]
    small, large = (objective._smoothness(d, torch.zeros(1, 3, 64, d.shape[-1])) for d in ramps)
    assert large.item() == pytest.approx(2 / 2 / 831, rel=1e-3)  # step over mean, per pixel
    assert small.item() == pytest.approx(large.item(), rel=5e-3)
    edge = torch.zeros(1, 3, 64, 832)
    edge[..., 416:] = 0.225  # one standard deviation
    jump = (ramps[1] > 2).float() + 1
    flat, at_edge = (objective._smoothness(jump, i).item() for i in (0 * edge, edge))
    assert at_edge == pytest.approx(flat / torch.e, rel=1e-5)
