"""Slot attention: parts an image into a few slots, which compete for its pixels and draw it again
(after Locatello et al., NeurIPS 2020; with a slot for the background as in Nguyen et al., CVPR
2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOTS = 5  # slot 0 holds the background
ITERATIONS = 3
HIDDEN = 128  # of the MLP that refines slots
BROADCAST = 8  # side of the map over which the decoder spreads a slot
KERNEL = 5
COLOURS = 3
EPS = 1e-8


@dataclass
class SlotPredictions:
    """What K slots say of images (B, 4, s, s): logits (B, K, 1, s, s) of their masks, flow
    (B, K, 3, s, s) in [-1, 1], depth (B, K, 1, s, s) >= 0, usage (B, K) in (0, 1).
    """

    logits: Tensor
    flow: Tensor
    depth: Tensor
    usage: Tensor

    @property
    def masks(self) -> Tensor:
        """(B, K, 1, s, s), over the slots of every pixel adding up to 1."""
        return self.logits.softmax(1)

    def drawn(self) -> tuple[Tensor, Tensor]:
        """The whole image: flow (B, 3, s, s) and depth (B, 1, s, s), each slot's by its mask."""
        return (self.masks * self.flow).sum(1), (self.masks * self.depth).sum(1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Updates (B, K, D) of slots and attention (B, N, K); queries q (B, K, D) of the slots, keys k
    and values v (B, N, D) of the pixels.

    a_nj = softmax over the slots j of k_n q_j / sqrt(D): slots compete for a pixel. u_j =
    sum_n a_nj v_n / sum_n a_nj, a mean, so that a slot of few pixels counts as much as one of many.
    """
    attention = (k @ q.mT * q.shape[-1] ** -0.5).softmax(-1)
    weights = (attention + EPS) / (attention + EPS).sum(1, keepdim=True)
    return weights.mT @ v, attention


class SlotAttention(nn.Module):
    """Pixels (B, N, D) and starts (B, K, D) of the slots -> slots (B, K, D), ITERATIONS times
    s = GRU(u, s), s = s + MLP(LN(s)) with the u of `attend` from q = W_q LN(s), k and v = W LN(x).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_pixels, self.of_slots, self.before = (nn.LayerNorm(width) for _ in range(3))
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.gru = nn.GRUCell(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))

    def forward(self, pixels: Tensor, slots: Tensor) -> Tensor:
        """See the class."""
        pixels = self.of_pixels(pixels)
        k, v = self.k(pixels), self.v(pixels)
        for _ in range(ITERATIONS):
            update, _ = attend(self.q(self.of_slots(slots)), k, v)
            slots = self.gru(update.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(self.before(slots))
        return slots


class PositionEmbedding(nn.Module):
    """Maps x (B, C, h, w) -> x + W (u, v, 1 - u, 1 - v), u and v the place in [0, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        v, u = (torch.linspace(0, 1, n, device=x.device, dtype=x.dtype) for n in x.shape[-2:])
        v, u = torch.meshgrid(v, u, indexing="ij")
        return x + self.project(torch.stack((u, v, 1 - u, 1 - v))[None])


class SlotNet(nn.Module):
    """Images (B, 4, s, s) and noise (B, K, D), standard normal -> SlotPredictions.

    Encoder: four 5x5 convolutions with LeakyReLU at the image's size, place, LN, MLP of two layers.
    Slots begin at mu + exp(log sigma) noise; slot 0 has its own mu and log sigma, the others share
    theirs: what the background looks like is known, which object a slot gets is not. Decoder: a
    slot over 8 x 8 pixels, place, 5x5 deconvolutions of stride 2 up to s, four at s = 128, and a
    convolution to flow, depth and the logit of the mask. The flow of a slot is stretched over
    [-1, 1], its depth is a ReLU. usage = sigmoid(MLP(slot + W mean of the slots)): that a slot is
    of use follows from what the others hold; of `res`, the term added in the released code, no more
    is known than that it follows from all slots.
    """

    def __init__(self, size: int = 128, width: int = 64) -> None:
        super().__init__()
        ups = (size // BROADCAST).bit_length() - 1
        if size != BROADCAST << ups or ups < 1:
            raise ValueError(f"slots see images of {size} pixels: give 16, 32, 64, 128 or 256")
        convolutions = []
        for channels in (COLOURS + 1, width, width, width):
            convolutions += [nn.Conv2d(channels, width, KERNEL, padding=KERNEL // 2)]
            convolutions += [nn.LeakyReLU()]
        self.encoder = nn.Sequential(*convolutions, PositionEmbedding(width))
        self.embed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.mu = nn.Parameter(torch.randn(2, width) * width**-0.5)
        self.log_sigma = nn.Parameter(torch.zeros(2, width))
        self.attention = SlotAttention(width)
        layers: list[nn.Module] = [PositionEmbedding(width)]
        for _ in range(ups):
            layers += [nn.ConvTranspose2d(width, width, KERNEL, 2, KERNEL // 2, 1), nn.LeakyReLU()]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(width, COLOURS + 2, 3, padding=1))
        self.others = nn.Linear(width, width)
        self.use = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.size, self.width = size, width
        self.apply(_begin)

    def forward(self, image: Tensor, noise: Tensor) -> SlotPredictions:
        """See the class."""
        kind = [0] + [1] * (SLOTS - 1)
        pixels = self.embed(self.encoder(image).flatten(2).mT)
        slots = self.attention(pixels, self.mu[kind] + self.log_sigma[kind].exp() * noise)
        spread = slots.flatten(0, 1)[..., None, None].expand(-1, -1, BROADCAST, BROADCAST)
        found = self.decoder(spread).float().unflatten(0, slots.shape[:2])
        flow, depth, logits = found.split((COLOURS, 1, 1), 2)
        usage = self.use(slots + self.others(slots.mean(1, keepdim=True)))[..., 0]
        return SlotPredictions(logits, stretched(flow), F.relu(depth), usage.float().sigmoid())


def _begin(layer: nn.Module) -> None:
    """Weights that keep the size of what passes: under smaller ones pixels would be little more
    than their place, and all slots alike.
    """
    if isinstance(layer, nn.ConvTranspose2d):  # a pixel comes from every fourth of the weights
        nn.init.kaiming_normal_(layer.weight)
        layer.weight.data *= 2
    elif isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight)
    elif isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)


def stretched(flow: Tensor) -> Tensor:
    """Flow (B, K, 3, s, s) over [-1, 1], from its least to its largest value of each slot."""
    least, most = (f((2, 3, 4), keepdim=True) for f in (flow.amin, flow.amax))
    return 2 * (flow - least) / (most - least).clamp(min=1e-6) - 1
