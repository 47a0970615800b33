"""Our gradient of depthwise convolutions is torch's."""

import pytest
import torch
import torch.nn.functional as F

from dyndepth_core.networks import depthwise
from dyndepth_core.networks.depthwise import depthwise_conv2d


def ours(y: torch.Tensor) -> bool:
    return "_Depthwise" in type(y.grad_fn).__name__


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("size", "k", "stride", "padding"),
    [((2, 5), 5, 1, 2), ((2, 5), 3, 1, 1), ((6, 9), 5, 1, 2), ((7, 13), 5, 2, 0)],
)
def test_values_and_gradients_are_those_of_a_convolution(size, k, stride, padding, memory):
    torch.manual_seed(0)
    x = torch.randn(3, 12, *size).to(memory_format=memory).requires_grad_()
    weight = torch.randn(12, 1, k, k, requires_grad=True)
    found = depthwise_conv2d(x, weight, stride, padding)
    expected = F.conv2d(x, weight, None, stride, padding, 1, 12)
    assert ours(found)
    torch.testing.assert_close(found, expected)
    g = torch.randn_like(found)
    for a, b in zip(
        torch.autograd.grad(found, (x, weight), g),
        torch.autograd.grad(expected, (x, weight), g),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_only_where_it_gains(monkeypatch):
    x, weight = torch.randn(1, 4, 6, 8), torch.randn(4, 1, 5, 5, requires_grad=True)
    assert ours(depthwise_conv2d(x, weight, 1, 2))
    assert not ours(depthwise_conv2d(x, weight[..., 1:4, 1:4], 1, 1))
    assert not ours(depthwise_conv2d(x.double(), weight.double(), 1, 2))
    assert not ours(depthwise_conv2d(x, weight.detach(), 1, 2))
    with torch.no_grad():
        assert not ours(depthwise_conv2d(x, weight, 1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise_conv2d(x, weight, 1, 2).dtype == torch.bfloat16
    monkeypatch.setattr(depthwise, "LARGEST", x.numel() - 1)
    assert not ours(depthwise_conv2d(x, weight, 1, 2))
