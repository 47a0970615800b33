"""The networks of residual_motion: as published, and the one that starts from the pose network."""

import pytest
import torch
from scenes import camera

from dyndepth_core.networks.motion_net import (
    LEAST_SCALE,
    MotionNet,
    MovedParts,
    PublishedMotionNet,
)
from dyndepth_core.networks.softplus_depth_net import (
    RandomizedLayerNorm,
    SoftplusDepthNet,
    set_noise,
)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_networks_have_the_published_size():
    assert count(SoftplusDepthNet()) == 14_325_425  # 14.33 M
    assert count(PublishedMotionNet()) == 44_175_951  # 44.18 M
    assert count(PublishedMotionNet(0.25)) < 3e6


def test_depth_is_log_two_before_training_and_positive():
    net = SoftplusDepthNet(0.125).eval()
    depth = net(torch.rand(2, 3, 64, 96))
    assert depth.shape == (2, 1, 64, 96) and (depth > 0).all()
    assert depth.mean().item() == pytest.approx(0.693, abs=0.05)


def test_the_layer_norm_knows_only_its_own_image():
    norm = RandomizedLayerNorm(4)
    x = 5 + 2 * torch.randn(3, 4, 16, 20, generator=torch.Generator().manual_seed(0))
    for training in (True, False):  # without noise they are the same
        y = norm.train(training)(x)
        torch.testing.assert_close(y.mean((2, 3)), torch.zeros(3, 4), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.var((2, 3), correction=0), torch.ones(3, 4), atol=1e-3, rtol=0)
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))
    torch.testing.assert_close(norm(3 * x + 1), norm(x), atol=2e-3, rtol=0)


def test_noise_grows_with_the_square_of_progress_and_stays_positive():
    net = SoftplusDepthNet(0.125)
    for progress, sigma in ((0.0, 0.0), (0.05, 0.125), (0.1, 0.5), (0.7, 0.5)):
        set_noise(net, progress, 0.1)
        assert net.norm1.sigma == pytest.approx(sigma)
    norm, x = net.norm1.train(), torch.randn(64, net.norm1.weight.numel(), 8, 8)
    torch.manual_seed(0)
    y = norm(x)
    assert torch.isfinite(y).all() and not torch.allclose(y, norm(x))
    # the variance is divided by (1 + n2), n2 within two sigma: never by less than nothing
    assert y.var((2, 3)).min() > 0.4 and y.var((2, 3)).median().item() == pytest.approx(1, abs=0.2)
    assert torch.equal(norm.eval()(x), norm(x))


PAST = torch.tensor([True, False])


def given(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.rand(2, c, 64, 96, generator=draw) for c in (3, 3, 1, 1)]


def test_the_published_motion_starts_small_and_its_scale_stays_positive():
    torch.manual_seed(0)
    net = PublishedMotionNet(0.125)
    T, residual, K, _ = net(*given())
    assert K is None and residual.shape == (2, 3, 64, 96)
    assert residual.abs().max() < 0.05 and T[:, :3, 3].abs().max() < 0.05
    with torch.no_grad():
        net.scales.fill_(-1.0)
    small = net(*given())[1]
    torch.testing.assert_close(small, residual * LEAST_SCALE / 0.01)
    assert (net.scales == LEAST_SCALE).all()  # a step away from growing again


@pytest.mark.parametrize("depth", [True, False])
@pytest.mark.parametrize("options", [{}, {"downscale": 2, "intrinsics": True}])
@pytest.mark.parametrize("kind", ["pose", "matching", "published"])
def test_motion_network_variants(kind, options, depth):
    torch.manual_seed(0)
    if kind == "published":
        net = PublishedMotionNet(0.125, depth, **options)
    else:
        net = MotionNet("resnet18", 0.125, 0.25, depth, matching=kind == "matching", **options)
    K = camera(60.0, (64, 96), batch=2).float()
    tgt, src, a, b = given()
    T, residual, K_pair, _ = net.eval()(tgt, src, a, b, K, PAST)
    assert T.shape == (2, 4, 4) and residual.shape == (2, 3, 64, 96)
    assert (K_pair is None) == ("intrinsics" not in options)
    other = net(tgt, src, 2 * a, b, K, PAST)[1]
    assert torch.equal(other, residual) == (not depth and kind != "matching")


def test_time_runs_forwards_for_the_motion_network():
    """A pair seen from its other end has the inverse ego-motion; a thing that moves forwards in
    time moves backwards towards an earlier source.
    """
    torch.manual_seed(0)
    net = MotionNet("resnet18", 0.125, matching=True, aligned=False).eval()
    tgt, src, a, b = given()
    K, past = camera(60.0, (64, 96), batch=2).float(), torch.ones(2, dtype=torch.bool)
    T = net(tgt, src, a, b, K, past)[0]
    torch.testing.assert_close(net(src, tgt, b, a, K, ~past)[0] @ T, torch.eye(4).expand(2, 4, 4))
    for part in (net.pose.head, *(r.head for r in net.refine)):
        torch.nn.init.zeros_(part.weight)
    torch.nn.init.constant_(net.refine[0].head.weight, 0.1)
    there, back = (net(tgt, tgt, a, a, K, p)[1] for p in (~past, past))
    assert (there >= 0).all() and (there > 0).any()
    torch.testing.assert_close(there, -back)


def test_what_ego_motion_leaves_is_seen_where_it_is():
    """A textured wall, the camera standing, a square of it shifted by 4 pixels to the right."""
    draw = torch.Generator().manual_seed(0)
    wall = torch.nn.functional.interpolate(
        torch.rand(1, 3, 32, 48, generator=draw), (64, 96), mode="bicubic"
    ).clamp(0, 1)
    moved = wall.clone()
    moved[..., 16:48, 34:66] = wall[..., 16:48, 30:62]
    one, still = torch.ones(1, 1, 1, 1), torch.eye(4)[None]
    K, depth = camera(60.0, (64, 96)).float(), torch.full((1, 1, 64, 96), 5.0)
    fine, coarse = MovedParts()(wall, moved, depth, still, K, one)
    assert fine.shape == (1, 6, 64, 96) and coarse.shape == (1, 6, 32, 48)
    flow = fine[0, 0] / fine[0, 4] * 96 / 100  # pixels
    assert flow[24:40, 38:56].median() == pytest.approx(4, abs=0.3)
    assert flow[:10].abs().median() < 0.1 and fine[0, 5, :10].median() < 0.01
    assert fine[0, 5, 24:40, 38:56].median() > 0.3
    torch.testing.assert_close(fine[:, 2:4], fine[:, :2])  # depth over its mean is 1
    back = MovedParts()(wall, moved, depth, still, K, -one)[0]
    torch.testing.assert_close(back[:, :4], -fine[:, :4])
