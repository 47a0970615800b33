"""A small many_depth objective, as its tests share it."""

import torch
from tiny import FOCAL, tiny_config

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.methods import get_method

INFO = get_method("many_depth")


def make(kind=INFO.objective_class, network=None, offsets=(-1, 1), **objective):
    """Seeded weights, in training mode; the camera moves enough for a volume."""
    config = tiny_config({"source_offsets": offsets})
    small = {"planes": 12, "fuse_channels": 8, **(network or {})}
    config.network = INFO.network_class(**{**config.network.model_dump(), **small})
    config.objective = INFO.config_class(**{"pose_first": 0.0, **objective})
    torch.manual_seed(0)
    made = kind(config, ["drive"], FOCAL)
    with torch.no_grad():
        made.pose_net.head.bias[3:] = torch.tensor([-10.0, 2.0, -3.0])
    return made.train()


def draw(recording, batch_size=2, offsets=(-1, 1)):
    data = tiny_config({"source_offsets": offsets}).data
    return SampleSource([recording], data, batch_size, 0, False).batch(0)
