"""Depth that is drawn to the best plane of a cost volume: by how much, where not, how it learns."""

import math

import pytest
import torch

from dyndepth_core.networks.cost_volume import CostVolume, depth_planes
from dyndepth_core.networks.depth_net import disp_to_depth
from dyndepth_core.networks.volume_depth_net import AGREE, START_BLEND, VolumeDepthNet

RANGE, OWN = (0.1, 10.0), 2.1  # depths of disp 1 and 0; what the decoder says
NEAR, FAR, PLANES = 0.5, 4.5, 9


def network(inverse=False, scales=(0,), depth_range=RANGE):
    """A decoder that says OWN everywhere."""
    torch.manual_seed(0)
    net = VolumeDepthNet(
        "resnet18", (8, 8, 8, 16, 16), scales, 0.125, PLANES, inverse, 8, depth_range=depth_range
    ).eval()
    net.nearest.fill_(NEAR)
    net.farthest.fill_(FAR)
    disp = (1 / OWN - 1 / RANGE[1]) / (1 / RANGE[0] - 1 / RANGE[1])
    for head in net.decoder.heads.values():
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, math.log(disp / (1 - disp)))
    return net


def volume(best, inverse=False, factor=1.0):
    """The plane `best` matches best everywhere; of a camera of `factor` times the focal length."""
    cost = torch.ones(1, PLANES, 16, 24)
    cost[:, best] = 0.1
    planes = depth_planes(torch.tensor([NEAR]), torch.tensor([FAR]), PLANES, inverse)
    return CostVolume(cost, torch.ones_like(cost, dtype=torch.bool), factor * planes)


def early(net):
    torch.manual_seed(1)
    return net.early(torch.rand(1, 3, 64, 96))


def depth(net, *given):
    return disp_to_depth(net(early(net), *given)[0], *RANGE)


@pytest.mark.parametrize("inverse", [False, True])
def test_it_begins_with_a_fixed_share_of_the_way_to_the_best_plane(inverse):
    net = network(inverse)
    assert torch.allclose(depth(net), torch.tensor(OWN))  # without a volume
    for best in range(PLANES):
        there = volume(best, inverse).planes[0, best].item()
        share = START_BLEND if 1 / AGREE < there / OWN < AGREE else 0.0
        wanted = OWN * (there / OWN) ** share
        found = depth(net, volume(best, inverse, factor=1.7))  # in units of the canonical camera
        torch.testing.assert_close(found, torch.full_like(found, wanted), rtol=1e-4, atol=1e-4)


def test_what_was_not_seen_stays_and_every_scale_follows():
    net, found = network(scales=(0, 2)), volume(5)
    half = found.seen.clone()
    half[..., :12] = False
    seen = depth(net, CostVolume(found.cost * half, half, found.planes))
    assert torch.allclose(seen[..., :44], torch.tensor(OWN))  # but for the seam
    assert torch.allclose(seen[..., 52:], torch.tensor(OWN * (3.0 / OWN) ** START_BLEND))
    whole = net(early(net), found)
    assert whole[2].shape == (1, 1, 16, 24)
    assert torch.allclose(whole[2], whole[0].mean())
    assert torch.allclose(depth(net, found, torch.tensor([False])), torch.tensor(OWN))
    nothing = CostVolume(found.cost * 0, torch.zeros_like(half), found.planes)
    assert torch.allclose(depth(net, nothing), torch.tensor(OWN))


def test_it_learns_whom_to_believe_by_how_well_the_plane_matches():
    """True where the best plane is far better than the others, false where it hardly is."""
    net = network()
    cost = volume(5).cost
    cost[:, 5, :, 12:] = 0.95
    given = CostVolume(cost, torch.ones_like(cost, dtype=torch.bool), volume(5).planes)
    wanted = torch.full((1, 1, 64, 96), 3.0)
    wanted[..., 48:] = OWN
    optimiser = torch.optim.Adam(net.blend.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        (depth(net, given).log() - wanted.log()).abs().mean().backward()
        optimiser.step()
    found = depth(net, given)
    assert found[..., 4:40].mean() > 2.8 and found[..., 56:92].mean() < 2.3


def test_without_it_the_network_is_the_published_one():
    net = network(depth_range=None)
    assert net.blend is None and not any("blend" in name for name in net.state_dict())
    assert torch.allclose(depth(net, volume(5)), torch.tensor(OWN))
