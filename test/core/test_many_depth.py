"""The many_depth method: who learns when and from what, what the volume may say, plug-in hooks."""

import pytest
import torch
from many import INFO, draw, make
from pydantic import ValidationError
from scenes import camera, drive, write_recording
from tiny import FOCAL, tiny_config

from dyndepth_core.config import load
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.geometry.se3 import invert_T
from dyndepth_core.methods.many_depth.predictions import StudentPredictions
from dyndepth_core.networks.cost_volume import CostVolume

POSES = drive(12, sway=0.0)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, POSES, camera(FOCAL))
    return Recording(path)


def reached(objective, name):
    return [p.grad is not None for p in getattr(objective, name).parameters()]


# -- who learns when -------------------------------------------------------------------------------


def test_the_student_waits_and_begins_as_a_copy_of_its_teacher(recording):
    objective, sample = make(student_from=0.5, freeze_teacher=0.8), draw(recording)
    early = objective(sample, 0.2)
    assert set(early.terms) == {"photometric", "smoothness", "pyramid"}
    early.total.backward()
    assert all(reached(objective, "depth_net")) and all(reached(objective, "pose_net"))
    assert not any(reached(objective, "student")) and not objective.begun
    graph = objective.inference_graph()  # until then it is its teacher
    with torch.no_grad():
        teacher = graph.arms()["teacher"](sample.tgt, None, sample.K)[0]
        torch.testing.assert_close(graph(sample.tgt, None, sample.K)[0], teacher)
    predictions = objective.predict(sample, 0.5)
    assert objective.begun
    for part in ("encoder.backbone.layer3.0.conv1", "decoder.heads.0"):
        pair = [net.get_submodule(part).weight for net in (objective.depth_net, objective.student)]
        assert torch.equal(*pair)
    terms = objective.losses(sample, predictions, 0.5)
    own = {"photometric", "consistency", "smoothness"}
    assert set(terms.terms) == {*own, "teacher_photometric", "teacher_smoothness"}
    torch.testing.assert_close(terms.total, sum(terms.terms.values()))
    assert {k: m.shape[1] for k, m in terms.maps.items()} == {
        "depth": 1, "error": 1, "automask": 1, "warped": 3
    }  # fmt: skip


def test_a_frozen_teacher_stays_to_the_last_statistic(recording):
    objective, sample = make(student_from=0.0, freeze_teacher=0.6), draw(recording)
    objective(sample, 0.5)
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    objective.range_steps.fill_(1e6)
    terms = objective(sample, 0.6)
    assert set(terms.terms) == {"photometric", "consistency", "smoothness"}
    terms.total.backward()
    assert not any(reached(objective, "depth_net")) and not any(reached(objective, "pose_net"))
    assert all(reached(objective, "student"))
    after = objective.state_dict()
    frozen = ("depth_net.", "pose_net.", "student.nearest", "student.farthest")
    changed = {k for k in before if not torch.equal(before[k], after[k])} - {"range_steps"}
    assert changed and not [k for k in changed if k.startswith(frozen)]
    objective(sample, 0.5)  # and it learns where it is not frozen
    assert any(k.startswith("depth_net.") for k in after if not torch.equal(
        before[k], objective.state_dict()[k]))  # fmt: skip


def test_the_student_teaches_neither_teacher_nor_motion(recording):
    objective, sample = make(student_from=0.0), draw(recording)
    terms = objective(sample, 0.3).terms
    groups = {n: list(getattr(objective, n).parameters()) for n in ("depth_net", "pose_net")}
    student = list(objective.student.parameters())
    own = terms["photometric"] + terms["consistency"] + terms["smoothness"]
    for parameters in groups.values():
        found = torch.autograd.grad(own, parameters, retain_graph=True, allow_unused=True)
        assert all(g is None for g in found)
    teachers = sum(v for k, v in terms.items() if k.startswith("teacher_"))
    found = torch.autograd.grad(teachers, student, retain_graph=True, allow_unused=True)
    assert all(g is None for g in found)
    for parameters in (*groups.values(),):
        found = torch.autograd.grad(teachers, parameters, retain_graph=True)
        assert all(g.isfinite().all() for g in found)
    assert all(g is not None for g in torch.autograd.grad(own, student))


def test_learned_cameras_learn_from_the_teacher_alone(recording):
    config = tiny_config({"intrinsics": "video"})
    config.network = INFO.network_class(**{**config.network.model_dump(), "planes": 4})
    config.objective = INFO.config_class(student_from=0.0, pose_first=0.0)
    objective = INFO.objective_class(config, ["drive"], FOCAL).train()
    data = config.data
    terms = objective(SampleSource([recording], data, 2, 0, False).batch(0), 0.3).terms
    focal = objective.intrinsics.log_focal
    own = terms["photometric"] + terms["consistency"] + terms["smoothness"]
    assert torch.autograd.grad(own, focal, retain_graph=True, allow_unused=True)[0] is None
    assert torch.autograd.grad(terms["teacher_photometric"], focal)[0].abs() > 0


def test_training_lowers_the_loss(recording):
    objective, sample = make(student_from=0.2, freeze_teacher=0.6), draw(recording)
    optimiser = torch.optim.Adam(objective.parameters(), 2e-3)
    scores = []
    for step in range(30):
        torch.manual_seed(step)
        terms = objective(sample, step / 30)
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
        scores.append(terms.terms["photometric"].item())
    assert sum(scores[-5:]) < 0.9 * sum(scores[6:11])
    objective.eval()
    assert objective.validation(sample) < 1


def test_a_student_that_has_not_begun_is_never_the_best(recording):
    objective, sample = make().eval(), draw(recording)
    waits = objective.validation(sample)
    objective.begun.fill_(1)
    begun = objective.validation(sample)
    assert begun < 1 <= waits
    torch.manual_seed(9)
    assert torch.equal(objective.validation(sample), begun)


# -- the range of the planes -----------------------------------------------------------------------


def test_planes_follow_the_teacher_at_the_canonical_focal_length(recording):
    objective = make(range_quantiles=(0.0, 1.0), range_rate=0.25)
    depth = torch.linspace(4.0, 8.0, 64 * 96).view(1, 1, 64, 96)
    objective._adapt_range(torch.cat((depth, depth + 1)))
    assert float(objective.student.nearest) == pytest.approx(0.9 * 4.5)
    assert float(objective.student.farthest) == pytest.approx(1.1 * 8.5, rel=1e-3)
    objective.range_steps.fill_(1000)  # later an exponential mean
    objective._adapt_range(2 * torch.cat((depth, depth + 1)))
    assert float(objective.student.nearest) == pytest.approx(0.9 * 4.5 * 1.25)
    sample = draw(recording)
    sample.K = sample.K * torch.tensor([2.0, 2.0, 1.0])[:, None]  # twice the focal length
    one = make(student_from=0.0)
    one.predict(sample, 0.5)
    other = make(student_from=0.0)
    other.predict(draw(recording), 0.5)
    torch.testing.assert_close(one.student.nearest, other.student.nearest)


def test_one_far_pixel_does_not_stretch_the_planes():
    objective = make()
    depth = torch.full((1, 1, 64, 96), 5.0)
    depth[..., 0, 0] = 1e3
    objective._adapt_range(depth)
    assert float(objective.student.farthest) < 10
    assert float(objective.student.nearest) == pytest.approx(4.5)


def test_a_teacher_that_never_learns_gives_a_range_too(recording):
    objective = make(student_from=0.0, freeze_teacher=0.0)
    objective.predict(draw(recording), 0.0)
    assert objective.range_steps == 1 and objective.student.nearest > 1


# -- augmentation ----------------------------------------------------------------------------------


def test_augmentation_has_its_shares_and_is_the_same_in_every_process():
    objective, index = make(), torch.arange(4000)
    torch.manual_seed(7)
    static, empty = objective.augmentation(index)
    assert static.float().mean() == pytest.approx(0.25, abs=0.03)
    assert empty.float().mean() == pytest.approx(0.25, abs=0.03) and not (static & empty).any()
    torch.manual_seed(7)
    shares = objective.augmentation(index[1::2])
    assert torch.equal(shares[0], static[1::2]) and torch.equal(shares[1], empty[1::2])
    torch.manual_seed(8)
    assert not torch.equal(objective.augmentation(index)[0], static)
    objective.eval()
    assert not any(a.any() for a in objective.augmentation(index))


def test_a_standing_camera_and_a_first_image_are_judged_by_the_teacher_alone(recording):
    objective, sample = make(student_from=0.0), draw(recording, 4)
    flags = torch.tensor([[True, False, False, False], [False, True, False, False]])
    objective.augmentation = lambda index: (flags[0], flags[1])
    found = objective.predict(sample, 0.5).student
    assert found.augmented.tolist() == [True, True, False, False]
    seen = found.volume.seen.flatten(1).any(1)
    assert seen.tolist() == [True, False, True, True]
    mask = found.trusted(1e6).flatten(1).sum(1)
    assert (mask[:2] == 0).all() and (mask[2:] > 0).all()
    # it stood: the image before is this one, jittered alike
    objective.eval().augmentation = lambda index: (flags[0], flags[0] & False)
    found = objective.predict(sample, 0.5)
    feature = objective.student.early(sample.tgt_net)[1]
    T, scale = found.student.T_src_tgt[:, :1], found.depth_scale
    still = objective.student.match(feature, feature[:, None], T, sample.K, scale)
    torch.testing.assert_close(found.student.volume.cost[0], still.cost[0])
    assert (found.student.volume.cost[1] - still.cost[1]).abs().max() > 1e-3


def test_a_camera_that_hardly_moves_has_no_volume(recording):
    objective, sample = make(student_from=0.0), draw(recording)
    with torch.no_grad():
        objective.pose_net.head.bias[3:] = 0
    student = objective.predict(sample, 0.5).student
    assert not student.volume.seen.any() and not student.confident.any()


# -- what is trusted -------------------------------------------------------------------------------


def said(planes, best, teacher, confident=True, augmented=False):
    cost = torch.ones(1, len(planes), 2, 3)
    cost[:, best] = 0
    volume = CostVolume(cost, torch.ones_like(cost, dtype=torch.bool), torch.tensor([planes]))
    return StudentPredictions(
        {}, None, volume, torch.full((1, 1, 2, 3), confident), torch.full((1, 1, 8, 12), teacher),
        torch.tensor([augmented]), None,
    )  # fmt: skip


def test_volume_and_teacher_must_agree_within_the_factor():
    planes = [2.0, 5.0, 8.0]
    for teacher, trusted in ((5.0, 1), (2.6, 1), (9.9, 1), (2.4, 0), (10.1, 0)):
        mask = said(planes, 1, teacher).trusted(2.0)
        assert mask.shape == (1, 1, 8, 12) and (mask == trusted).all()
    assert not said(planes, 1, 5.0, confident=False).trusted(2.0).any()
    assert not said(planes, 1, 5.0, augmented=True).trusted(2.0).any()


def test_true_motion_and_depth_range_make_a_volume_that_knows_the_scene(recording):
    """Features of random weights suffice: the best plane is near the truth."""
    objective = make(network={"planes": 24, "width": 0.5, "inverse_planes": True}).eval()
    sample = draw(recording, 4)
    objective.student.nearest.fill_(3.0)
    objective.student.farthest.fill_(16.0)
    frames = sample.index + 1
    T = torch.cat([invert_T(POSES[i - 1]) @ POSES[i] for i in frames]).float()
    depth = torch.stack([torch.from_numpy(recording.depth(int(i))) for i in frames])[:, None]
    with torch.no_grad():
        early, src = (objective.student.early(x)[1] for x in (sample.tgt, sample.src[:, 0]))
        ones = torch.ones(4)
        volume = objective.student.match(early, src[:, None], T[:, None], sample.K, ones)
    true = depth[..., 2::4, 2::4]
    ratio = volume.best_depth() / true
    seen = volume.confident()
    error, guess = ratio[seen].log().abs(), (true[seen] / true[seen].median()).log().abs()
    assert seen.float().mean() > 0.2
    assert error.median() < 0.5 * guess.median() and error.mean() < 0.7 * guess.mean()


# -- settings --------------------------------------------------------------------------------------


def test_the_fast_variant_is_a_set_of_defaults():
    fast = load(overrides=["network.variant=fast"], method="many_depth").network
    plain = load(method="many_depth").network
    assert (plain.planes, plain.inverse_planes, plain.pose_downscale) == (96, False, 1)
    assert fast.planes < 0.5 * plain.planes and fast.fuse_channels < plain.fuse_channels
    assert fast.match_channels == 8 and fast.pose_downscale == 2
    own = load(overrides=["network.variant=fast", "network.planes=24"], method="many_depth").network
    assert own.planes == 24 and own.match_channels == 8


def test_impossible_settings_are_refused(recording):
    for bad in ({"range_quantiles": (0.5, 0.5)}, {"static_share": 0.7, "empty_share": 0.7},
                {"student_from": 0.8, "freeze_teacher": 0.5}, {"agreement": 1.0}):  # fmt: skip
        with pytest.raises(ValidationError):
            INFO.config_class(**bad)
    with pytest.raises(ValueError, match="earlier"):
        make(offsets=(1,))
