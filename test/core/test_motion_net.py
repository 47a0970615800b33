"""The networks of residual_motion: as published, and the one that starts from the pose network."""

import pytest
import torch
from scenes import camera

from dyndepth_core.networks.motion_net import (
    LEAST_SCALE,
    MotionNet,
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
    found = net(*given())
    T, residual = found.T_src_tgt, found.residual
    assert found.K is None and residual.shape == (2, 3, 64, 96)
    assert residual.abs().max() < 0.05 and T[:, :3, 3].abs().max() < 0.05
    with torch.no_grad():
        net.scales.fill_(-1.0)
    small = net(*given()).residual
    torch.testing.assert_close(small, residual * LEAST_SCALE / 0.01)
    assert (net.scales == LEAST_SCALE).all()  # a step away from growing again


@pytest.mark.parametrize("depth", [True, False])
@pytest.mark.parametrize("options", [{}, {"downscale": 2, "intrinsics": True}])
@pytest.mark.parametrize("kind", ["pose", "flow", "published"])
def test_motion_network_variants(kind, options, depth):
    torch.manual_seed(0)
    if kind == "published":
        net = PublishedMotionNet(0.125, depth, **options)
    else:
        net = MotionNet("resnet18", 0.125, 0.25, depth, flow=kind == "flow", **options)
    K = camera(60.0, (64, 96), batch=2).float()
    tgt, src, a, b = given()
    found = net.eval()(tgt, src, a, b, K, PAST)
    assert found.T_src_tgt.shape == (2, 4, 4) and found.residual.shape == (2, 3, 64, 96)
    assert (found.K is None) == ("intrinsics" not in options)
    small = (2, 1, 32, 48) if "downscale" in options else (2, 1, 64, 96)
    assert (found.moving is None) == (kind != "flow") == (found.parts is None)
    assert found.moving is None or found.moving.shape == found.parts.likely.shape == small
    other = net(tgt, src, 2 * a, b, K, PAST).residual
    assert torch.equal(other, found.residual) == (not depth and kind != "flow")
    still = net(tgt, src, a, b, K, PAST, moves=False)
    assert torch.equal(still.T_src_tgt, found.ego) and not still.residual.any()


def test_time_runs_forwards_for_the_motion_network():
    """A pair seen from its other end has the inverse ego-motion; a thing that moves forwards in
    time moves backwards towards an earlier source.
    """
    torch.manual_seed(0)
    net = MotionNet("resnet18", 0.125, aligned=False).eval()
    tgt, src, a, b = given()
    K, past = camera(60.0, (64, 96), batch=2).float(), torch.ones(2, dtype=torch.bool)
    T = net(tgt, src, a, b, K, past).T_src_tgt
    back = net(src, tgt, b, a, K, ~past).T_src_tgt
    torch.testing.assert_close(back @ T, torch.eye(4).expand(2, 4, 4))
    for part in (net.pose.head, *(r.head for r in net.refine)):
        torch.nn.init.zeros_(part.weight)
    torch.nn.init.constant_(net.refine[0].head.weight, 0.1)
    there, back = (net(tgt, tgt, a, a, K, p).residual for p in (~past, past))
    assert (there >= 0).all() and (there > 0).any()
    torch.testing.assert_close(there, -back)
