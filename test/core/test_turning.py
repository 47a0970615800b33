"""Rotations learned from images that were turned by known ones."""

import pytest
import torch
from scenes import camera, pose, render
from tiny import FOCAL, tiny_config, tiny_objective

from dyndepth_core.geometry.se3 import exp_so3
from dyndepth_core.methods.turning import LARGEST, ZOOM, draw_turns, turned_pair, turning_loss
from dyndepth_core.networks.block_matching import BlockMatching
from dyndepth_core.networks.pose_net import ROTATION_SCALE, PoseNet

TURN = torch.tensor([[0.01, -0.05, 0.02]])


def view(rotation=None):
    T = pose()
    if rotation is not None:
        T = T.clone()
        T[:, :3, :3] = exp_so3(rotation.double())
    return render(T, camera(FOCAL))[0].float()


def test_the_second_view_is_what_the_turned_camera_sees():
    """X_second = R X_first: the first camera is turned by R against the second. Rendered exactly
    at the longer focal length it is the same picture.
    """
    K = camera(FOCAL).float()
    first, second = turned_pair(view(), TURN, K)
    longer = camera(FOCAL)
    longer[:, :2, :2] *= ZOOM
    centre = torch.tensor([95 / 2, 63 / 2], dtype=torch.float64)
    longer[:, :2, 2] = centre + (longer[:, :2, 2] - centre) * ZOOM
    T = pose()
    T[:, :3, :3] = exp_so3(TURN.double())  # T_world_first with the second camera at the origin
    for found, exact in ((first, render(T, longer)[0]), (second, render(pose(), longer)[0])):
        error = (found - exact.float()).abs()[..., 4:-4, 4:-4]
        assert error.mean() < 0.01  # edges of the box are sampled, not rendered
    assert (first - second).abs().mean() > 0.05
    same, straight = turned_pair(view(), 0 * TURN, K)
    assert torch.equal(same, straight)


def test_no_border_shows():
    """The largest turns of a camera of the widest usual angle stay within the picture."""
    ones, K = torch.ones(1, 1, 96, 320), camera(0.9 * 320, (96, 320)).float()
    framed = ones.clone()
    framed[..., [0, -1], :] = framed[..., [0, -1]] = 0
    for signs in (torch.tensor([[1.0, 1, 1]]), torch.tensor([[-1.0, 1, -1]])):
        first, _ = turned_pair(framed, signs * torch.tensor([LARGEST]), K)
        assert (first > 0.99).float().mean() > 0.995


def test_turns_are_drawn_per_sample_small_ones_more_often():
    torch.manual_seed(3)
    drawn = draw_turns(torch.arange(2000))
    torch.manual_seed(3)
    torch.testing.assert_close(draw_turns(torch.tensor([7, 1500])), drawn[[7, 1500]])
    limits = torch.tensor(LARGEST)
    assert (drawn.abs() <= limits).all() and (drawn.abs().amax(0) > 0.9 * limits).all()
    assert (drawn.abs() < limits / 4).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert drawn.mean(0).abs().max() < 0.003


class Says(torch.nn.Module):
    """Always the same rotation."""

    def __init__(self, *rotation):
        super().__init__()
        self.answer = torch.tensor([rotation])

    def turning(self, first, second):
        return self.answer.expand(len(first), -1)


def test_the_loss_is_the_error_at_the_canonical_camera():
    K = camera(FOCAL).float()
    zoom = torch.tensor([2.0])
    right = (0.01 * 2 * ZOOM, -0.05 * 2 * ZOOM, 0.02)
    assert turning_loss(Says(*right), view(), TURN, K, zoom).item() == pytest.approx(0, abs=1e-6)
    off = (right[0] + 0.03, *right[1:])
    found = turning_loss(Says(*off), view(), TURN, K, zoom).item()
    assert found == pytest.approx(0.03 / 3 / ROTATION_SCALE)


def test_a_network_learns_to_see_turns():
    torch.manual_seed(0)
    net = PoseNet("resnet18", 0.125, matching=True).train()
    optimizer = torch.optim.Adam(net.turn.parameters(), lr=2e-3)
    poses = [pose(x=0.3 * i, y=0.1 * (i % 3), yaw=0.1 * (i % 4)) for i in range(8)]
    images = torch.cat([render(T, camera(FOCAL))[0] for T in poses]).float()
    K, one = camera(FOCAL, batch=8).float(), torch.ones(8)
    errors = []
    for _ in range(100):
        turns = draw_turns(torch.arange(8))
        loss = turning_loss(net, images, turns, K, one)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        blind = (turns.abs() * torch.tensor([ZOOM, ZOOM, 1])).mean().item() / ROTATION_SCALE
        errors.append(loss.item() / blind)
    assert sum(errors[-15:]) / 15 < 0.8  # who always says "none" scores 1


def test_block_matching_sees_the_turn():
    first, second = turned_pair(view(), torch.tensor([[0.0, 0.05, 0.0]]), camera(FOCAL).float())
    found = BlockMatching()(first, second)
    weight = found.weight[0, 0, 8:-8, 8:-8]
    # f r ZOOM = 4.4 pixels, cells of one pixel; smooth colours make the choice a soft one
    assert abs((found.flow[0, 0, 8:-8, 8:-8] * weight).sum() / weight.sum()) > 1


def test_it_is_a_term_of_the_start(tmp_path):
    from scenes import drive, write_recording

    from dyndepth_core.data.recording import Recording
    from dyndepth_core.data.sample import SampleSource

    write_recording(tmp_path / "a", drive(4), camera(FOCAL))
    matching = {"pose_matching": True}
    config = tiny_config(network=matching, turning_until=0.5)
    sample = SampleSource([Recording(tmp_path / "a")], config.data, 2, 0, False).batch(0)
    objective = tiny_objective(config)
    early, late = objective(sample, 0.4), objective(sample, 0.5)
    assert "turning" in early.terms and "turning" not in late.terms
    torch.testing.assert_close(early.total, sum(early.terms.values()))
    off = tiny_objective(tiny_config(network=matching, turning=0.0))
    assert "turning" not in off(sample, 0.1).terms
    early.terms["turning"].backward()
    assert all(p.grad is None for p in objective.depth_net.parameters())
    learns = {
        n.split(".")[0] for n, p in objective.pose_net.named_parameters() if p.grad is not None
    }
    assert learns == {"turn"}
    published = tiny_objective(tiny_config())
    assert "turning" not in published(sample, 0.1).terms
