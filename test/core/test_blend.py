"""Depth that a cost volume corrects: by how much, where not, and how it learns whom to believe."""

import math

import pytest
import torch

from dyndepth_core.networks.cost_volume import CostVolume, depth_planes
from dyndepth_core.networks.depth_net import disp_to_depth
from dyndepth_core.networks.volume_depth_net import FLAT, SHARPNESS, SPREAD, VolumeDepthNet

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


def volume(best, inverse=False, factor=1.0, least=0.1):
    """The plane `best` matches best everywhere; of a camera of `factor` times the focal length."""
    cost = torch.ones(1, PLANES, 16, 24)
    cost[:, best] = least
    planes = depth_planes(torch.tensor([NEAR]), torch.tensor([FAR]), PLANES, inverse)
    return CostVolume(cost, torch.ones_like(cost, dtype=torch.bool), factor * planes)


def early(net):
    torch.manual_seed(1)
    return net.early(torch.rand(1, 3, 64, 96))


def depth(net, *given):
    return disp_to_depth(net(early(net), *given)[0], *RANGE)


def by_hand(planes, cost, sharpness=SHARPNESS):
    """OWN as the costs correct it."""
    logs = [math.log(d) for d in planes]
    widths = [abs(logs[max(k, 1)] - logs[max(k, 1) - 1]) for k in range(len(logs))]
    mean, means = sum(cost) / len(cost) + FLAT, []
    for a in (sharpness, 0.0):
        p = [w * math.exp(-((x - math.log(OWN)) ** 2) / (2 * SPREAD**2) - a * c / mean)
             for x, w, c in zip(logs, widths, cost, strict=True)]  # fmt: skip
        means.append(sum(q * x for q, x in zip(p, logs, strict=True)) / sum(p))
    return OWN * math.exp(means[0] - means[1])


@pytest.mark.parametrize("inverse", [False, True])
def test_it_begins_as_the_mean_over_the_planes_by_their_costs(inverse):
    net = network(inverse)
    assert torch.allclose(depth(net), torch.tensor(OWN))  # without a volume
    for best in range(PLANES):
        given = volume(best, inverse, factor=1.7)  # in units of the canonical camera
        planes = volume(best, inverse).planes[0].tolist()
        wanted = by_hand(planes, given.cost[0, :, 0, 0].tolist())
        found = depth(net, given)
        torch.testing.assert_close(found, torch.full_like(found, wanted), rtol=1e-4, atol=1e-4)
        assert (wanted - OWN) * (planes[best] - OWN) > 0 or abs(planes[best] / OWN - 1) < 0.1
    assert torch.allclose(depth(net, volume(3, inverse, least=1.0)), torch.tensor(OWN))  # flat


def test_what_was_not_seen_stays_and_every_scale_follows():
    net, found = network(scales=(0, 2)), volume(5)
    half = found.seen.clone()
    half[..., :12] = False
    seen = depth(net, CostVolume(found.cost * half, half, found.planes))
    assert torch.allclose(seen[..., :40], torch.tensor(OWN))  # but for the seam
    wanted = by_hand(found.planes[0].tolist(), found.cost[0, :, 0, 0].tolist())
    assert wanted > 1.1 * OWN
    assert torch.allclose(seen[..., 56:], torch.tensor(wanted))
    whole = net(early(net), found)
    assert whole[2].shape == (1, 1, 16, 24)
    assert torch.allclose(whole[2], whole[0].mean())
    assert torch.allclose(depth(net, found, torch.tensor([False])), torch.tensor(OWN))
    nothing = CostVolume(found.cost * 0, torch.zeros_like(half), found.planes)
    assert torch.equal(depth(net, nothing), depth(net))


@pytest.mark.parametrize("truth", [OWN, 2.5])
def test_it_learns_whether_the_costs_tell_the_truth(truth):
    net, given = network(), volume(5)
    before = abs(math.log(depth(net, given).mean().item() / truth))
    optimiser = torch.optim.Adam(net.blend.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        (depth(net, given).log() - math.log(truth)).abs().mean().backward()
        optimiser.step()
    assert abs(math.log(depth(net, given).mean().item() / truth)) < 0.3 * before


def test_without_it_the_network_is_the_published_one():
    net = network(depth_range=None)
    assert net.blend is None and not any("blend" in name for name in net.state_dict())
    assert torch.allclose(depth(net, volume(5)), torch.tensor(OWN))
