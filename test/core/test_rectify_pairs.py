"""Rotation rectification of SC-Depth V2: what turning an image does, what the losses ask for."""

from types import SimpleNamespace

import pytest
import torch
from scenes import camera, pose, render, write_recording
from tiny import FOCAL, tiny_config

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.geometry.se3 import exp_so3, invert_T, make_T
from dyndepth_core.methods import build_graph, get_method
from dyndepth_core.methods.sc_depth.rectify import (
    Rectified,
    RectifyNet,
    draw_rotations,
    rectify,
    rotate,
    rotation_losses,
)

TURN = torch.tensor([[0.02, -0.05, 0.03]], dtype=torch.float64)


def make(videos=("walk",), **objective):
    info, plain = get_method("sc_depth"), tiny_config()
    config = SimpleNamespace(
        data=plain.data,
        network=plain.network,
        objective=info.config_class(**objective),
    )
    torch.manual_seed(0)
    return info.objective_class(config, list(videos), FOCAL).eval()


def turned_view():
    """An image, the same place seen by a camera turned by TURN, and K."""
    T_world_tgt, K = pose(), camera(FOCAL)
    T_src_tgt = torch.eye(4, dtype=torch.float64)[None].clone()
    T_src_tgt[:, :3, :3] = exp_so3(TURN)
    tgt, _ = render(T_world_tgt, K)
    src, _ = render(T_world_tgt @ invert_T(T_src_tgt), K)
    return tgt, src, K


def test_a_source_turned_back_is_the_target():
    tgt, src, K = turned_view()
    found, seen = rotate(src, TURN, K)
    error = (found - tgt).abs().mean(1, keepdim=True)[seen]
    assert 0.8 < seen.double().mean() < 1.0
    assert error.mean() < 0.004 < 0.1 < (src - tgt).abs().mean()
    same, everywhere = rotate(src, torch.zeros_like(TURN), K)
    torch.testing.assert_close(same, src)
    assert everywhere.all()


def test_images_turn_by_exact_pixels_under_autocast():
    _, src, K = (x.float() for x in turned_view())
    turn = TURN.float()
    expected, everywhere = rotate(src, turn, K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, seen = rotate(src, turn, K)
        half, _ = rotate(src.bfloat16(), turn, K.bfloat16())
    assert torch.equal(found, expected) and torch.equal(seen, everywhere)
    assert half.dtype == torch.float32
    assert rotate(src.double(), TURN, K.double())[0].dtype == torch.float64


def test_the_earlier_image_goes_first_whichever_is_the_target():
    torch.manual_seed(0)
    net = RectifyNet("resnet18", 0.125).eval()
    torch.nn.init.normal_(net.net.head.weight, std=0.3)
    tgt, src = torch.rand(2, 3, 3, 64, 96).unbind(0)
    past = torch.tensor([True, False, True])
    rotation = net(tgt, src, past)
    assert rotation.abs().min() > 1e-5
    torch.testing.assert_close(net(src, tgt, ~past), -rotation)


class Known(torch.nn.Module):
    """Answers with given rotations, one call after the other."""

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.asked = list(answers), []

    def forward(self, tgt, src, past):
        self.asked.append((tgt, src))
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("first", "left", "triplet"),
    [
        (0.08, 0.02, 0.0),  # 0.02 - 0.08 + 0.05 < 0
        (0.08, 0.05, 0.02),
        (0.01, 0.004, 0.004),  # the margin is 0.01 here
    ],
)
def test_the_triplet_asks_that_little_rotation_is_left(first, left, triplet):
    rot = torch.tensor([[first, -first, first]])
    image, K = torch.rand(1, 3, 64, 96), camera(FOCAL).float()
    net = Known(torch.full((1, 3), left), rot)
    rectified = Rectified(rot, image, image, torch.ones(1, 1, 64, 96, dtype=torch.bool))
    losses = rotation_losses(net, image, image, rectified, K, torch.tensor([False]), rot)
    assert losses["triplet"].item() == pytest.approx(triplet, abs=1e-7)


def test_a_known_rotation_is_to_be_found_again():
    """rot1 of 0.03 rad is taken; the answer is off by 0.01 in one of three components."""
    tgt, src, K = (x.float() for x in turned_view())
    rot = torch.tensor([[0.03, -0.03, 0.03]])
    net = Known(torch.zeros(1, 3), rot + torch.tensor([[0.01, 0, 0]]))
    rectified = Rectified(rot, src, src, torch.ones(1, 1, 64, 96, dtype=torch.bool))
    losses = rotation_losses(net, tgt, src, rectified, K, torch.tensor([True]), 0 * rot)
    assert losses["known"].item() == pytest.approx(0.01 / 3, rel=1e-5)
    turned, source = net.asked[1]
    assert torch.equal(source, src) and torch.equal(turned, rotate(src, rot, K)[0])


def test_the_network_learns_rotations_from_images_it_turns_itself():
    """Who always says "none" stays at the mean of what is drawn, 0.025."""
    torch.manual_seed(0)
    net = RectifyNet("resnet18", 0.25).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    poses = [pose(x=0.3 * i, y=0.1 * (i % 3), yaw=0.1 * (i % 4)) for i in range(16)]
    images = torch.cat([render(T, camera(FOCAL))[0] for T in poses]).float()
    K = camera(FOCAL).float().expand(16, 3, 3)
    errors = []
    for _ in range(80):
        rectified = Rectified(torch.zeros(16, 3), images, images, torch.ones(16, 1, 64, 96) > 0)
        past = torch.zeros(16, dtype=torch.bool)
        drawn = draw_rotations(torch.arange(16))
        loss = rotation_losses(net, images, images, rectified, K, past, drawn)["known"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert sum(errors[:10]) / 10 > 0.022 and sum(errors[-10:]) / 10 < 0.019


def walk(count=6):
    """Steps of 10 cm, each turned by a degree or two."""
    return [
        pose(x=0.1 * i, z=0.02 * i, pitch=0.02 * (-1) ** i, yaw=0.03 * (i % 2))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "walk"
    write_recording(path, walk(), camera(FOCAL))
    return SampleSource([Recording(path)], tiny_config().data, 4, 0, False).batch(0)


def test_true_rotations_leave_pairs_of_pure_translation(sample):
    objective = make(rectify=True, automask=False, both_ways=True)
    T = torch.stack([
        torch.cat([invert_T(walk()[int(i) + 1 + o]) @ walk()[int(i) + 1] for o in (-1, 1)])
        for i in sample.index
    ]).float()  # fmt: skip
    R = T[..., :3, :3].flatten(0, 1)
    rotation = ((R - R.mT)[:, [2, 0, 1], [1, 2, 0]]) / 2  # small angles
    objective.rectify_net = Known(rotation)
    found = objective.predict(sample)
    K = sample.K.repeat_interleave(2, 0)
    tgt = sample.tgt.repeat_interleave(2, 0)
    before = (sample.src.flatten(0, 1) - tgt).abs().mean()
    turned = found.rectified
    after = ((turned.src - tgt).abs() * turned.seen).mean()
    assert after < 0.5 * before
    assert torch.equal(turned.src, rotate(sample.src.flatten(0, 1), rotation, K)[0])
    pairs = objective._pairs(sample, found)
    plain = make(rectify=False, automask=False).predict(sample)
    assert pairs.T_b_a.shape == (16, 4, 4) and found.T_src_tgt.shape == plain.T_src_tgt.shape
    rect = turned.T_src_rect @ pairs.T_b_a[:8]
    torch.testing.assert_close(rect, found.T_src_tgt.flatten(0, 1))
    # what a source does not show counts in neither direction
    valid = pairs.compare(0.85).valid.bool()
    assert not valid[8:][~turned.seen].any() and turned.seen.float().mean() < 1


def test_all_three_networks_learn_and_the_graph_says_the_same(sample):
    objective = make(rectify=True).train()
    torch.nn.init.normal_(objective.rectify_net.net.head.weight, std=0.3)
    terms = objective(sample, 0.5)
    assert {"triplet", "known", "photometric", "geometry"} <= set(terms.terms)
    terms.total.backward()
    for network in (objective.depth_net, objective.pose_net, objective.rectify_net):
        assert all(p.grad is not None for p in network.parameters())
    objective.eval()
    graph = objective.inference_graph()
    with torch.no_grad():
        expected = objective.predict(sample)
        depth, _, T, _ = graph(sample.tgt_net, sample.src_net[:, 0], sample.K)
    torch.testing.assert_close(T, expected.T_src_tgt[:, 0])
    torch.testing.assert_close(depth, objective.depth(expected.disps[0], expected.depth_scale))
    rebuilt = build_graph(graph.architecture).eval()
    rebuilt.load_state_dict(graph.state_dict())
    again = rebuilt(sample.tgt_net, sample.src_net[:, 0], sample.K)[2]
    assert torch.equal(again, T) and not torch.equal(T, torch.eye(4).expand_as(T))


class Says(torch.nn.Module):
    """A pose network that always says T."""

    def __init__(self, T):
        super().__init__()
        self.T = T

    def forward(self, first, second):
        return self.T, None


def test_under_autocast_rotation_and_motion_are_put_together_exactly(sample):
    objective = make(rectify=True)
    graph, turn = objective.inference_graph(), TURN.float().expand(8, 3)
    T_tgt_rect = make_T(exp_so3(-0.4 * turn), 0.3 * turn + 0.1)
    T_rect_tgt = invert_T(T_tgt_rect)
    R = make_T(exp_so3(turn), 0 * turn)
    expected = R @ T_rect_tgt
    objective.rectify_net, graph.rectify_net = Known(turn), Known(turn[:4])
    graph.pose_net = Says(T_tgt_rect[:4])
    objective.motions = lambda s: (T_rect_tgt.unflatten(0, (4, 2)), s.K, s.K.new_ones(4))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        said = objective.predict(sample, 0.0).T_src_tgt.flatten(0, 1)
        on_vehicle = graph.motion(sample.tgt_net, sample.src_net[:, 0], sample.K)
    torch.testing.assert_close(said, expected)
    torch.testing.assert_close(on_vehicle, expected[:4])


def test_intrinsics_per_pair_come_too_late():
    info, plain = get_method("sc_depth"), tiny_config(data={"intrinsics": "pair"})
    config = SimpleNamespace(
        data=plain.data, network=plain.network, objective=info.config_class(rectify=True)
    )
    with pytest.raises(ValueError, match="given or video"):
        info.objective_class(config, ["walk"], FOCAL)


def test_gradients_reach_the_rotation_through_the_images(sample):
    objective = make(rectify=True)
    tgt, src, src_net, K, past = objective._flat(sample)
    torch.nn.init.normal_(objective.rectify_net.net.head.weight, std=0.3)
    K = K.clone().requires_grad_()  # as where it is learned: only the images may teach it
    turned = rectify(objective.rectify_net, tgt, src, src_net, K, past)
    assert turned.src.requires_grad and not turned.src_net.requires_grad
    grads = torch.autograd.grad(turned.src.square().sum(), (turned.rotation, K), retain_graph=True)
    assert all(grad.abs().max() > 0 for grad in grads) and grads[0].abs().min() > 0
    drawn = draw_rotations(torch.arange(len(tgt)))
    losses = rotation_losses(objective.rectify_net, tgt, src, turned, K, past, drawn)
    assert torch.autograd.grad(sum(losses.values()), K, allow_unused=True) == (None,)
