"""The plane sweep on scenes whose depth is known, and the network that sees it."""

import pytest
import torch

from dyndepth_core.geometry.camera import rays
from dyndepth_core.geometry.se3 import exp_so3, make_T
from dyndepth_core.networks import cost_volume
from dyndepth_core.networks.cost_volume import BORDER, CostVolume, depth_planes, plane_sweep
from dyndepth_core.networks.volume_depth_net import VolumeDepthNet

SIZE = (16, 24)
CHANNELS = (8, 8, 8, 16, 16)


def camera(focal=20.0, batch=1):
    K = torch.tensor([[focal, 0, 11.2], [0, 1.1 * focal, 7.9], [0, 0, 1]])
    return K.expand(batch, 3, 3)


def motion(t=(0.4, 0.1, 0.0), turn=(0.0, 0.0, 0.0)):
    return make_T(exp_so3(torch.tensor([turn])), torch.tensor([t]))


def wall(depth, T_cam_world, K, channels=6):
    """Features (1, C, h, w) of a wall z = depth in the world, painted with smooth waves."""
    T = torch.linalg.inv(T_cam_world)
    direction = T[:, :3, :3] @ rays(K, *SIZE).flatten(2)
    centre = T[:, :3, 3:]
    points = centre + direction * ((depth - centre[:, 2:]) / direction[:, 2:])
    generator = torch.Generator().manual_seed(4)
    waves = torch.randn((channels, 2), generator=generator) * 6 / depth
    phases = 6 * torch.rand((channels, 1), generator=generator)
    return torch.sin(waves @ points[:, :2] + phases).unflatten(2, SIZE)


def swept(depth, T, K=None, planes=None, **given):
    K = camera() if K is None else K
    tgt, src = wall(depth, torch.eye(4)[None], K), wall(depth, T, K)
    planes = (
        depth_planes(torch.tensor([2.0]), torch.tensor([9.5]), 16) if planes is None else planes
    )
    return plane_sweep(tgt, src[:, None], T[:, None], K, planes, **given)


# -- the sweep -------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (0.01, 0.03, -0.02)])
@pytest.mark.parametrize("k", [2, 4, 9])
def test_the_least_cost_is_at_the_plane_of_a_fronto_parallel_wall(k, turn):
    planes = depth_planes(torch.tensor([2.0]), torch.tensor([9.5]), 16)
    found = swept(float(planes[0, k]), motion((0.8, 0.2, 0.05), turn))
    seen = found.seen[:, k : k + 1]
    assert seen.float().mean() > 0.3
    assert (found.best_depth()[seen] == planes[0, k]).float().mean() > 0.97
    assert found.cost[:, k : k + 1][seen].mean() < 0.2 * found.filled().mean()


def test_cost_is_the_mean_difference_at_the_pixel_the_plane_says():
    """A camera one unit to the right at depth 5 with f = 20: 4 pixels."""
    K = torch.tensor([[[20.0, 0, 11], [0, 20, 7], [0, 0, 1]]])
    torch.manual_seed(0)
    tgt, src = torch.rand(1, 3, *SIZE), torch.rand(1, 3, *SIZE)
    T, planes = motion((-1.0, 0.0, 0.0)), torch.tensor([[5.0, 10.0]])
    found = plane_sweep(tgt, src[:, None], T[:, None], K, planes)
    for k, shift in ((0, 4), (1, 2)):
        expected = (tgt[..., shift:] - src[..., :-shift]).abs().mean(1)
        inside = slice(BORDER, SIZE[0] - BORDER), slice(BORDER + shift, SIZE[1] - BORDER)
        torch.testing.assert_close(found.cost[0, k][inside], expected[0][inside[0], BORDER:-BORDER])
        seen = torch.zeros(SIZE, dtype=torch.bool)
        seen[inside] = True
        assert torch.equal(found.seen[0, k], seen)
    assert (found.cost[~found.seen] == 0).all()


def test_confidence_is_the_share_of_planes_that_are_seen():
    seen = torch.zeros(1, 4, 1, 5, dtype=torch.bool)
    for column in range(5):
        seen[:, :column, :, column] = True
    cost = torch.tensor([3.0, 1.0, 2.0, 4.0]).view(1, 4, 1, 1) * seen
    volume = CostVolume(cost, seen, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert volume.confident()[0, 0, 0].tolist() == [False] * 4 + [True]
    assert volume.confident(0.5)[0, 0, 0].tolist() == [False, False, True, True, True]
    # what is not seen costs as much as the worst that is, and never wins
    assert volume.filled()[0, :, 0, 2].tolist() == [3, 1, 3, 3]
    assert volume.best_depth()[0, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert (volume.filled()[..., 0] == 0).all()


def test_the_guide_is_the_inverse_depth_of_the_best_plane():
    planes = torch.tensor([[1.0, 2.0, 4.0]])
    for best, expected in enumerate((1.0, 1 / 3, 0.0)):
        cost = torch.ones(1, 3, 5, 6)
        cost[:, best] = 0.5
        seen = torch.ones_like(cost, dtype=torch.bool)
        found = CostVolume(cost, seen, planes).guide()
        torch.testing.assert_close(found, torch.full((1, 1, 5, 6), expected))
        assert (CostVolume(0 * cost, ~seen, planes).guide() == 0).all()


def test_in_a_window_a_single_pixel_has_little_say_and_one_not_seen_none():
    planes = torch.tensor([[1.0, 2.0]])
    cost = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1).repeat(1, 1, 5, 6)
    cost[0, :, 2, 3] = torch.tensor([0.9, 1.0])
    seen = torch.ones_like(cost, dtype=torch.bool)
    seen[..., 0] = False
    cost = cost * seen
    volume = CostVolume(cost, seen, planes)
    found = volume.averaged(3)
    assert volume.averaged(1) is volume and torch.equal(found.seen, seen)
    assert volume.best_depth()[0, 0, 2, 3] == 1 and (found.best_depth()[..., 1:] == 2).all()
    assert found.cost[0, 1, 2, 3].item() == pytest.approx((8 * 0.5 + 1) / 9)
    assert found.cost[0, 0, 2, 1].item() == pytest.approx(1.0) and (found.cost[..., 0] == 0).all()


def test_near_planes_leave_the_image_and_take_the_confidence_along():
    near = swept(6.0, motion((1.0, 0.0, 0.0)))
    still = swept(6.0, motion((0.0, 0.0, 0.0)))
    inner = (SIZE[0] - 2 * BORDER) * (SIZE[1] - 2 * BORDER)
    assert still.confident().sum() == inner
    # 20 / 2 pixels at the nearest plane
    assert near.confident().sum() == (SIZE[0] - 2 * BORDER) * (SIZE[1] - 2 * BORDER - 10)
    behind = swept(6.0, motion((0.0, 0.0, -3.0)))  # the planes at 2 and 2.5 lie behind it
    assert (
        not behind.seen[:, :3].any() and behind.seen[:, -1].any() and not behind.confident().any()
    )


def test_planes_are_even_in_depth_or_in_its_inverse():
    near, far = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 8.0])
    linear, inverse = (depth_planes(near, far, 5, inverse=i) for i in (False, True))
    torch.testing.assert_close(linear[0], torch.tensor([1.0, 2, 3, 4, 5]))
    torch.testing.assert_close(
        (1 / inverse).diff(), ((1 / far - 1 / near) / 4)[:, None].expand(2, 4)
    )
    for planes in (linear, inverse):
        torch.testing.assert_close(planes[:, [0, -1]], torch.stack((near, far), 1))


def test_sources_that_are_not_there_or_not_valid_have_no_say():
    """The mean is over what is seen; zeros mean nothing."""
    K, T = camera(batch=2), motion((0.8, 0.0, 0.0)).expand(2, 4, 4)
    tgt = wall(5.0, torch.eye(4)[None], camera()).expand(2, -1, -1, -1)
    src = wall(5.0, motion((0.8, 0.0, 0.0)), camera()).expand(2, -1, -1, -1)
    planes = torch.tensor([[4.0, 5.0, 7.0]]).expand(2, 3)
    wrong = torch.rand(src.shape, generator=torch.Generator().manual_seed(1))
    two, twice = torch.stack((src, wrong), 1), T[:, None].expand(2, 2, 4, 4)
    alone = plane_sweep(tgt, src[:, None], T[:, None], K, planes)
    both = plane_sweep(tgt, two, twice, K, planes)
    usable = torch.tensor([[True, False], [False, False]])
    some = plane_sweep(tgt, two, twice, K, planes, usable)
    torch.testing.assert_close(some.cost[0], alone.cost[0])
    assert torch.equal(some.seen[0], alone.seen[0]) and not some.seen[1].any()
    assert not some.filled()[1].any() and not some.confident()[1].any()
    assert (both.cost - alone.cost).abs().max() > 0.1
    valid = torch.ones(2, 2, 1, *SIZE, dtype=torch.bool)
    valid[:, 1] = False
    valid[:, 0, :, :, :6] = False
    masked = plane_sweep(tgt, two, twice, K, planes, valid_src=valid)
    assert torch.equal(masked.cost[masked.seen], alone.cost[masked.seen])
    lost = (alone.seen & ~masked.seen)[0, :, BORDER, BORDER:8].tolist()
    # columns 2 to 7 fall on 4, 3.2 and 2.3 pixels more; left of 6 a hidden column has its share
    assert lost == [[False] * 6, [True] + [False] * 5, [True, True] + [False] * 4]


def test_rounds_of_planes_make_no_difference(monkeypatch):
    whole = swept(5.0, motion((0.8, 0.1, 0.1)))
    monkeypatch.setattr(cost_volume, "ELEMENTS", {False: 3 * SIZE[0] * SIZE[1] * 6, True: 1})
    parts = swept(5.0, motion((0.8, 0.1, 0.1)))
    assert torch.equal(whole.cost, parts.cost) and torch.equal(whole.seen, parts.seen)


def test_each_sample_has_its_own_camera_motion_and_planes():
    one, two = (camera(20.0), motion((0.8, 0.0, 0.0))), (camera(25.0), motion((0.3, 0.2, -0.1)))
    ranges = (torch.tensor([[3.0, 5.0]]), torch.tensor([[4.0, 8.0]]))
    apart = [
        plane_sweep(wall(5.0, torch.eye(4)[None], K), wall(5.0, T, K)[:, None], T[:, None], K, p)
        for (K, T), p in zip((one, two), ranges, strict=True)
    ]
    K, T, planes = torch.cat((one[0], two[0])), torch.cat((one[1], two[1])), torch.cat(ranges)
    tgt = torch.cat([wall(5.0, torch.eye(4)[None], k) for k, _ in (one, two)])
    src = torch.cat([wall(5.0, t, k) for k, t in (one, two)])
    together = plane_sweep(tgt, src[:, None], T[:, None], K, planes)
    torch.testing.assert_close(together.cost, torch.cat([a.cost for a in apart]))
    assert torch.equal(together.seen, torch.cat([a.seen for a in apart]))


# -- the network -----------------------------------------------------------------------------------


def network(encoder="resnet18", width=0.125, **options):
    torch.manual_seed(0)
    options = {"planes": 8, "hidden": 8, **options}
    return VolumeDepthNet(encoder, CHANNELS, (0,), width, **options)


def inputs(net, batch=2):
    torch.manual_seed(1)
    image, before = torch.rand(2, batch, 3, 64, 96)
    K = camera(70.0, batch) + torch.tensor([[0, 0, 36.0], [0, 0, 24.0], [0, 0, 0]])
    early, src = net.early(image), net.early(before)[1][:, None]
    T = motion((0.05, 0.0, 0.0)).expand(batch, 1, 4, 4)
    return early, src, T, K, torch.ones(batch)


@pytest.mark.parametrize(("encoder", "width"), [("resnet18", 0.125), ("efficientnet_lite0", 1.0)])
def test_early_and_late_features_are_the_encoders_own(encoder, width):
    net = network(encoder, width).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        whole, early = net.encoder(image), net.early(image)
        late = net.encoder.late(early[1])
    for a, b in zip(whole, early + late, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_network_starts_as_that_of_one_image_and_learns_to_look_at_the_volume():
    net = network().eval()
    early, *given = inputs(net)
    volume = net.match(early[1], *given)
    assert volume.confident().any() and volume.cost.shape == (2, 8, 16, 24)
    alone = net(early)[0]
    torch.testing.assert_close(net(early, volume)[0], alone)
    net(early, volume)[0].sum().backward()
    assert net.fuse_out.weight.grad.abs().sum() > 0
    torch.nn.init.normal_(net.fuse_out.weight)
    assert (net(early, volume)[0] - net(early)[0]).abs().max() > 1e-4


def test_an_empty_volume_is_no_volume():
    net = network().eval()
    torch.nn.init.normal_(net.fuse_out.weight)
    early, *given = inputs(net)
    empty = net.match(early[1], *given, usable=torch.tensor([[False], [True]]))
    found, alone = net(early, empty)[0], net(early)[0]
    torch.testing.assert_close(found[0], alone[0])
    assert (found[1] - alone[1]).abs().max() > 1e-4


def test_the_volume_is_a_constant_to_the_features():
    net = network()
    torch.nn.init.normal_(net.fuse_out.weight)
    early, *given = inputs(net)
    volume = net.match(early[1], *given)
    assert early[1].requires_grad and not volume.cost.requires_grad


def test_planes_are_those_of_the_cameras_focal_length():
    """Twice the focal length, everything twice as far: the same volume."""
    net = network().eval()
    early, src, T, K, scale = inputs(net, 1)
    once = net.match(early[1], src, T, K, scale)
    zoomed = K * torch.tensor([[2.0, 1, 1], [1, 2, 1], [1, 1, 1]])
    twice = net.match(early[1], src, T, zoomed, 2 * scale)
    torch.testing.assert_close(twice.planes, 2 * once.planes)
    torch.testing.assert_close(twice.cost, once.cost, rtol=1e-3, atol=1e-4)


def test_pixels_that_are_not_valid_take_their_feature_along():
    net = network().eval()
    early, src, T, K, scale = inputs(net, 1)
    valid = torch.ones(1, 1, 1, 64, 96, dtype=torch.bool)
    valid[..., 30, 50] = False
    still = torch.eye(4).expand(1, 1, 4, 4)
    all_of_it = net.match(early[1], src, still, K, scale).seen
    found = net.match(early[1], src, still, K, scale, valid_src=valid).seen
    lost = all_of_it & ~found
    assert lost.sum() == 8 and lost[0, :, 7, 12].all()


def test_the_range_follows_and_is_saved():
    net = network()
    for _ in range(3):
        net.adapt(torch.tensor(0.25), torch.tensor(3.0), torch.tensor(0.5))
    assert net.nearest.item() == pytest.approx(0.25 - 0.125 * (0.25 - 0.05))
    assert net.farthest.item() == pytest.approx(3.0 - 0.125 * (3.0 - 1.0))
    again = network()
    again.load_state_dict(net.state_dict())
    assert again.nearest == net.nearest and again.farthest == net.farthest


def test_fewer_channels_are_spread_over_all_of_them():
    net = network("resnet18", 0.25, match_channels=4).eval()
    assert net.encoder.channels[1] == 16
    early, src, *given = inputs(net)
    some = net.match(early[1], src, *given)
    changed = src.clone()
    changed[:, :, [1, 2, 3, 5, 6, 7, 15]] += 1
    assert torch.equal(net.match(early[1], changed, *given).cost, some.cost)
    for channel in (0, 4, 8, 12):
        changed = src.clone()
        changed[:, :, channel] += 1
        assert not torch.equal(net.match(early[1], changed, *given).cost, some.cost)
