"""Edge-aware smoothness of depth maps."""

from __future__ import annotations

import torch
from torch import Tensor


def edge_aware_smoothness(disp: Tensor, image: Tensor) -> Tensor:
    """mean |dx d*| e^{-mean_c |dx I|} + mean |dy d*| e^{-mean_c |dy I|}, d* = d / mean(d) per image
    (Godard et al. 2019).

    disp (B, 1, H, W) (disp or inverse depth), image (B, 3, H, W) of the same size in [0, 1]. 0 for
    constant disp; unchanged by scaling disp, so that shrinking the scene does not lower it.
    """
    normalised = disp / (disp.mean((2, 3), keepdim=True) + 1e-7)
    grad_x = (normalised[..., :, 1:] - normalised[..., :, :-1]).abs()
    grad_y = (normalised[..., 1:, :] - normalised[..., :-1, :]).abs()
    weight_x, weight_y = edge_weights(image)
    return (grad_x * weight_x).mean() + (grad_y * weight_y).mean()


@torch.no_grad()
def edge_weights(image: Tensor) -> tuple[Tensor, Tensor]:
    """e^{-mean_c |dx I|} (B, 1, H, W - 1) and e^{-mean_c |dy I|} (B, 1, H - 1, W)."""
    image = image.float()
    return (
        torch.exp(-(image[..., :, 1:] - image[..., :, :-1]).abs().mean(1, keepdim=True)),
        torch.exp(-(image[..., 1:, :] - image[..., :-1, :]).abs().mean(1, keepdim=True)),
    )
