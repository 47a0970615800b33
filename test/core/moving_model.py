"""A tiny residual_motion model whose weights are set by hand: what is red moves."""

import numpy as np
import torch

from dyndepth_core.inference.model_file import ModelMeta, save_model
from dyndepth_core.methods import build_graph

SIZE = (64, 96)
FOCAL = 60.0
STEP = 0.2  # units that pure red moves to the right between two images
DEPTH = 5.0
ARCHITECTURE = {
    "method": "residual_motion", "encoder": "resnet18", "decoder_channels": [4, 4, 8, 8, 8],
    "canonical_focal": FOCAL, "min_depth": DEPTH, "max_depth": 1.001 * DEPTH, "width": 0.125,
    "motion_net": "published", "motion_width": 0.0625, "motion_depth": False,
    "motion_automask": False,
}  # fmt: skip


def moving_graph(forward=0.0):
    """Depth DEPTH everywhere; residual (-STEP, 0, 0) (red - 0.5) 2 where positive; the camera moves
    by `forward` units along its axis between two images.
    """
    torch.manual_seed(0)
    graph = build_graph(ARCHITECTURE).eval()
    net = graph.motion_net
    with torch.no_grad():
        for part in (net.seed, *net.refine):
            for parameter in part.parameters():
                parameter.zero_()
        net.ego.weight.zero_()
        net.scales.fill_(1.0)
        last = net.refine[-1]  # sees the images themselves, after the three channels of the field
        last.short.weight[0, 3, 1, 1] = 1.0
        last.short.bias[0] = -0.5
        last.head.weight[0, 0] = -2 * STEP
    if forward:
        net.ego.register_forward_hook(lambda *_: torch.tensor([0, 0, 0, 0, 0, forward])[
            None, :, None, None])  # fmt: skip
    return graph


def moving_meta(**changes):
    fields = {
        "method": "residual_motion", "architecture": ARCHITECTURE, "input_size": SIZE,
        "canonical_focal": FOCAL, "depth_range": (DEPTH, 1.001 * DEPTH), "license": "Apache-2.0",
        "thresholds": {"moving_speed": 0.5},
    }  # fmt: skip
    return ModelMeta(**{**fields, **changes})


def save_moving_model(path, **changes):
    save_model(path, moving_graph(), moving_meta(**changes))
    return path


def red_box(size=SIZE, left=0.4, width=0.2):
    """Grey picture with a red box, uint8 (H, W, 3); left and width in shares of the image."""
    image = np.full((*size, 3), 90, np.uint8)
    rows, cols = (slice(round(a * n), round(b * n)) for a, b, n in (
        (0.4, 0.7, size[0]), (left, left + width, size[1])))  # fmt: skip
    image[rows, cols] = (255, 0, 0)
    return image
