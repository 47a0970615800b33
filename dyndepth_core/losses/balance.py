"""Weights of two losses that follow how fast each falls (Lee and Kim, ECCV 2020; as in Dong et al.,
ICRA 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PERIOD = 50  # steps whose mean is a loss; single steps are too noisy to divide by
MOST = 10.0  # by which a weight may differ from the one that makes the losses alike
TURN = 0.2  # share of the training after which lambda has fallen from 3 to -3


class LossBalance(nn.Module):
    """Weight of a second loss beside a first one, whose weight is 1.

    After the first period w_1 l_1 = w_2 l_2; after each further one
    w_i <- w_i clip(1 + lambda ((L / L') (l_i' / l_i) - 1), 1/2, 2), L = w_1 l_1 + w_2 l_2,
    ' the period before, lambda from 3 (what falls fast may go on) to -3 (what lags counts more).
    Only w_2 / w_1 is kept: the products themselves drift to nothing. The state is part of a
    checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ratio", torch.ones(()))  # w_2 / w_1
        self.register_buffer("fair", torch.zeros(()))  # of which the losses were alike; 0: not yet
        self.register_buffer("sums", torch.zeros(2))
        self.register_buffer("before", torch.zeros(2))  # means of the period before
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def step(self, first: Tensor, second: Tensor, progress: float) -> Tensor:
        """Take in the two losses, 0-dim, of a training step; returns the weight of the second."""
        self.sums += torch.stack((first, second)).detach().float()
        self.steps += 1
        if int(self.steps) == PERIOD:
            self._update((self.sums / PERIOD).clamp(min=1e-12), progress)
            self.sums.zero_()
            self.steps.zero_()
        return self.ratio

    def _update(self, now: Tensor, progress: float) -> None:
        if self.fair == 0:
            self.fair.copy_(now[0] / now[1])
            self.ratio.copy_(self.fair)
        else:
            weights = torch.stack((torch.ones_like(self.ratio), self.ratio))
            total = (weights * now).sum() / (weights * self.before).sum()
            strength = max(3 - 6 * progress / TURN, -3.0)
            change = (1 + strength * (total * self.before / now - 1)).clamp(0.5, 2)
            ratio = self.ratio * change[1] / change[0]
            self.ratio.copy_(ratio.clamp(self.fair / MOST, self.fair * MOST))
        self.before.copy_(now)
