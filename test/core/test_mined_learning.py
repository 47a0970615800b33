"""What the stages of mined_supervision learn, on scenes whose truth is known exactly."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scenes import SIZE, camera, pose
from street import Board, view

from dyndepth_core.config import load
from dyndepth_core.evaluation.mined import found_objects
from dyndepth_core.methods import get_method
from dyndepth_core.methods.follow import SegmentSample, with_maps
from dyndepth_core.methods.mined_supervision.alignment import AlignmentObjective, CropSource, judge
from dyndepth_core.methods.mined_supervision.crops import crop_object, unit_shape
from dyndepth_core.methods.mined_supervision.objective import (
    UNIT,
    LabelledSample,
    PlainPredictions,
)
from dyndepth_core.methods.mined_supervision.objects import ObjectObjective, ObjectSample
from dyndepth_core.methods.mined_supervision.scene import frozen
from dyndepth_core.methods.mined_supervision.segment import (
    BORDER,
    LIKELY,
    UNSURE,
    SegmentObjective,
    looks,
)

SMALL = (
    "data.size=64,96", "network.encoder=resnet18", "network.pose_encoder=resnet18",
    "network.width=0.125", "network.decoder_channels=8,8,8,16,16", "network.pretrained=false",
    "network.min_depth=1", "network.max_depth=40", "network.pose_align=false",
)  # fmt: skip
NETWORK = SimpleNamespace(encoder="resnet18", width=0.125, pretrained=False, weights=None)


def scene(*overrides):
    """Networks that have learned nothing, frozen."""
    config = load(overrides=[*SMALL, *overrides], method="mined_supervision")
    torch.manual_seed(0)
    info = get_method("mined_supervision")
    return frozen(info.objective_class(config, ["street"], float(camera()[0, 0, 0])))


def learn(objective, batch, steps, lr=3e-3):
    groups = [
        {"params": [p], "lr": lr * objective.lr_factors.get(name.split(".")[0], 1.0)}
        for name, p in objective.named_parameters()
        if p.requires_grad
    ]
    optimiser = torch.optim.Adam(groups)
    objective.train()
    for step in range(steps):
        sample = batch(step)
        terms = objective.losses(sample, objective.predict(sample, 1.0), 1.0)
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
    return objective.eval()


def moving_sample(unit):
    """A slanted board that drives off sideways and ahead, seen by a driving camera; T_start is its
    true motion in lengths of 1 / unit metres."""
    boards = [Board(-0.3, 4.2, width=2.6, height=1.9, slope=0.8, step=(0.12, 0.1))]
    cameras = [pose(x=0.02 * i, z=0.2 * i) for i in (-1, 0, 1)]
    images, depths, ids = zip(
        *(view(boards, T, i) for T, i in zip(cameras, (-1, 0, 1), strict=True)), strict=True
    )
    motions = []
    for i, T in ((-1, cameras[0]), (1, cameras[2])):
        moved = torch.eye(4, dtype=torch.float64)
        moved[:3, 3] = i * torch.tensor((0.12, 0.0, 0.1), dtype=torch.float64)
        found = torch.linalg.inv(T[0]) @ moved @ cameras[1][0]
        found[:3, 3] *= unit
        motions.append(found)
    src = torch.stack((images[0], images[2]), 1).float()
    masks = [torch.from_numpy((x == 1).astype(np.float32))[None, None] for x in ids]
    sample = ObjectSample(
        images[1].float(), src, images[1].float(), src, camera().float(), torch.tensor([True]),
        torch.tensor([[-0.1, 0.1]]), torch.tensor([0]), torch.tensor([False]), torch.tensor([0]),
        mask=masks[1], src_masks=torch.cat((masks[0], masks[2]), 1),
        T_start=torch.stack(motions)[None].float(),
    )  # fmt: skip
    return sample, depths[1].float(), masks[1] > 0


def off_by_shape(depth, truth, inside):
    ratio = depth[inside] / truth[inside]
    return float((ratio / ratio.median() - 1).abs().mean())


def test_the_object_stage_finds_the_depth_of_a_moving_object_up_to_one_factor():
    sample, truth, inside = moving_sample(unit=2.8)
    assert truth[inside].max() / truth[inside].min() > 1.5
    torch.manual_seed(1)
    objective = ObjectObjective(scene())
    before = off_by_shape(objective.predict(sample).depth.detach(), truth, inside)
    learn(objective, lambda step: sample, 60)
    found = objective.predict(sample)
    assert off_by_shape(found.depth.detach(), truth, inside) < min(0.04, 0.5 * before)
    # the factor is that of the motion it was given
    ratio = float((found.depth.detach() / truth)[inside].median())
    assert ratio == pytest.approx(2.8, rel=0.1)
    assert objective.validation(sample) < 0.7 * ObjectObjective(scene()).eval().validation(sample)


def crops(count, seed, raised=0.0):
    """Crops of boards anywhere on the road, true depth, masks without the lowest part `raised`."""
    rng, table = np.random.default_rng(seed), []
    for _ in range(count):
        x, z = rng.uniform(-2.5, 2.5), rng.uniform(3.5, 12)
        board = Board(x, z, rng.uniform(1.2, 2.4), rng.uniform(1.0, 1.8), paint=rng.integers(3, 9))
        image, depth, ids = view([board], pose(pitch=rng.uniform(-0.03, 0.03)))
        mask = torch.from_numpy((ids == 1).astype(np.float32))
        if mask.sum() < 30:
            continue
        rows = mask.any(1).nonzero()
        mask[rows[-1] + 1 - int(raised * len(rows)) :] = 0
        unit = rng.uniform(0.1, 10)  # of the scene: scales are ratios
        depth = depth[0, 0].float() * unit
        grow = 1 + 0.1 * torch.linspace(-1, 1, SIZE[1])[None]  # of the object stage: not exact
        rows = torch.arange(SIZE[0])[:, None].expand(SIZE)
        ground = (mask == 0) & (rows > 40)
        shape = unit_shape(depth * grow, mask)
        table.append(crop_object(image[0].float(), depth, shape, mask, ground, mask > 1))
    numbers = ("reference", "scene", "contact")
    return {
        "x": np.stack([c.x.numpy() for c in table]).astype(np.float16),
        "dynamic": np.zeros(len(table), bool),
        "apart": np.ones(len(table), np.float32),
        **{k: np.array([getattr(c, k) for c in table], np.float32) for k in numbers},
    }


def test_scales_learned_from_standing_objects_fit_others_within_a_tenth():
    """Of what is raised, as over bumpers, where it ends tells too far a place."""
    training, others = crops(160, 0, raised=0.2), crops(40, 1, raised=0.2)
    source = SimpleNamespace(config=None, seed=0, train=True, batch_size=2, names=["street"])
    torch.manual_seed(0)
    objective = AlignmentObjective(NETWORK)
    draws = CropSource(source, training)
    before = judge(objective.eval(), others)
    learn(objective, draws.batch, 150, lr=2e-3)
    after = judge(objective, others)
    assert before["learned_off_static"] > 0.15 and before["contact_off_static"] > 0.15
    assert after["learned_off_static"] < 0.1
    assert judge(None, crops(40, 1))["contact_off_static"] < 0.1


def test_only_objects_that_surely_stand_beside_road_teach_scales():
    table = crops(6, 2)
    table["dynamic"][0], table["reference"][1] = True, np.nan
    table["contact"][2], table["contact"][3] = 1.5 * table["scene"][2], np.nan
    table["apart"][3:5] = np.nan, 1.4
    source = SimpleNamespace(config=None, seed=0, train=False, batch_size=2, names=["street"])
    found = CropSource(source, table)
    assert len(found) == len(table["x"]) - 3  # what stands nowhere may still teach
    assert len(found.standing["x"]) == len(table["x"]) - 2
    ratio = np.abs(np.log(table["contact"] / table["scene"]))
    off = judge(None, found.standing)["contact_off_static"]
    assert off == pytest.approx(ratio[[2, 5]].mean())  # of those that stand where they seem to
    table["apart"][2] = 0.6
    off = judge(None, CropSource(source, table).standing)["contact_off_static"]
    assert off == pytest.approx(ratio[5])


def test_scales_are_positive_and_follow_the_unit_of_the_scene():
    table = crops(4, 3)
    torch.manual_seed(0)
    objective = AlignmentObjective(NETWORK).eval()
    torch.nn.init.normal_(objective.net.head[-1].weight, std=3.0)
    x, reference = torch.from_numpy(table["x"]).float(), torch.from_numpy(table["reference"])
    with torch.no_grad():
        one, ten = objective.scale(x, reference), objective.scale(x, 10 * reference)
    assert (one > 0).all() and torch.allclose(ten, 10 * one)


def test_a_network_that_has_learned_nothing_finds_nothing():
    torch.manual_seed(0)
    objective = SegmentObjective(NETWORK).eval()
    assert objective.calibrate([squares(0)[0]]) < 0.1
    nowhere = np.zeros(SIZE, bool)
    with torch.no_grad():
        assert looks(objective, squares(0)[0].tgt[:1], nowhere, nowhere, 0.01).max() == 0


def squares(seed, batch=4):
    """Images of striped squares; half of them are mined, all of them look alike, and round spots
    that never are. Returns the sample and where squares are."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    images = rng.uniform(0.4, 0.6, (batch, 3, height, width)).astype(np.float32)
    ids, squares_ = np.zeros((2, batch, height, width), np.float32)
    for b in range(batch):
        for k in range(4):
            size = int(rng.integers(12, 18))
            top, left = 4 + (k % 2) * 30, 4 + (k // 2) * 46
            top, left = top + int(rng.integers(0, 8)), left + int(rng.integers(0, 20))
            place = slice(top, top + size), slice(left, left + size)
            if k == 3:  # a spot
                images[(b, slice(None), *place)] = 0.1
                continue
            stripes = (np.arange(size) % 4 < 2).astype(np.float32)
            images[(b, slice(None), *place)] = stripes[None, :, None]
            squares_[(b, *place)] = k + 1
            if rng.random() < 0.5:
                ids[(b, *place)] = k + 1
    image = torch.from_numpy(images)
    none = image[:, None, :][:, :0]
    sample = SegmentSample(
        image, none, image, none, camera(batch=batch), torch.ones(batch, dtype=torch.bool),
        torch.zeros(batch, 0), *(torch.zeros(batch, dtype=torch.long) for _ in range(3)),
        ids=torch.from_numpy(ids)[:, None], low=torch.zeros(batch, 1, height, width),
    )  # fmt: skip
    return sample, squares_


def test_what_looks_like_what_moves_is_found_although_it_stands():
    torch.manual_seed(0)
    objective = SegmentObjective(NETWORK)
    learn(objective, lambda step: squares(step)[0], 160, lr=5e-3)
    sure = objective.calibrate([squares(1000 + k)[0] for k in range(4)])
    assert 0.3 < sure < 0.8  # half of the squares are mined
    assert objective.threshold == pytest.approx(LIKELY * sure)
    sample, truth = squares(2000)
    with torch.no_grad():
        logit, way = objective.predict(sample)
    found = (logit.sigmoid() > objective.threshold)[:, 0].numpy()
    standing = (truth > 0) & (sample.ids[:, 0].numpy() == 0)
    assert standing.any()
    assert found[standing[:, ::2, ::2]].mean() > 0.8
    assert found[truth[:, ::2, ::2] == 0].mean() < 0.1


def test_what_may_be_an_object_hardly_teaches_that_it_is_none():
    ids, low_ = torch.zeros(2, 1, 1, 32, 32)
    ids[..., :16, :], low_[..., 16:] = 1, 1  # mined above; on the right something may stand
    sample = replace(squares(0, 1)[0], ids=ids, low=low_)
    objective, way = SegmentObjective(NETWORK), torch.zeros(1, 2, 16, 16)
    off = torch.zeros(1, 1, 16, 16)
    count = (16 * 8, (8 - BORDER) * 8, (8 - BORDER) * 8)  # mined, on the left, on the right
    for place, weight in ((slice(0, 8), 1.0), (slice(8, 16), UNSURE)):
        logit = off.clone()
        logit[:, :, 8 + BORDER :, place] = 5.0
        found = objective.losses(sample, (logit, way)).terms["moves"].item()
        total = count[0] + count[1] + UNSURE * count[2]
        expected = math.log(2) + (math.log1p(math.exp(5)) - math.log(2)) * weight * count[1] / total
        assert found == pytest.approx(expected, rel=1e-4)


def test_an_object_is_found_where_half_of_both_is_shared():
    truth, moves = np.zeros((20, 100), np.uint8), np.zeros((20, 100), bool)
    ids = np.zeros_like(truth)
    truth[0:4, 0:10], moves[0:4, 0:6] = 1, True  # most of it moves
    ids[0:4, 0:5] = 3  # half of it, nothing else
    truth[10:14, 0:10] = 2
    ids[10:14, 0:4] = 1  # less than half
    truth[10:14, 50:60] = 4
    ids[8:18, 50:60] = 2  # all of it and more than as much again
    truth[0:2, 90:95] = 5  # too small to count
    assert list(found_objects(ids, truth, moves)) == [
        ("moving", True), ("standing", False), ("standing", False),
    ]  # fmt: skip


def test_two_of_three_steps_with_labels_teach_the_depth_network_alone():
    net = scene().requires_grad_(True).train()
    sample, truth, _ = moving_sample(unit=1.0)
    nothing, all_ = torch.zeros_like(truth), torch.ones_like(truth)
    sample = with_maps(
        LabelledSample, sample, hint=truth, sure=all_, label=truth, weight=nothing, drift=nothing,
        motion=sample.T_start, sky=nothing, beside=nothing,
    )  # fmt: skip

    def predict(seed):
        torch.manual_seed(seed)
        return net.predict(sample)

    plain = [isinstance(predict(seed), PlainPredictions) for seed in range(60)]
    assert 0.5 < np.mean(plain) < 0.8
    whole, alone = (net.losses(sample, predict(plain.index(kind))) for kind in (False, True))
    assert set(alone.terms) == {"label", "hints", "unit", "sky"} < set(whole.terms)
    off = (predict(plain.index(True)).depth / truth).log()
    expected = (off - off.median()).abs().mean().item()  # in any unit
    assert alone.terms["hints"].item() == pytest.approx(expected, rel=1e-4)
    assert alone.terms["unit"].item() == pytest.approx(UNIT * off.mean().abs().item(), rel=1e-4)
    alone.total.backward()
    assert all(p.grad is None for p in net.motion_net.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in net.depth_net.parameters())
    net.eval()
    assert not any(isinstance(predict(seed), PlainPredictions) for seed in range(20))
