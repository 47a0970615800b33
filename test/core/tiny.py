"""Networks small enough to train within a test, their truth, and blank recordings."""

from types import SimpleNamespace

import numpy as np
import torch
from scenes import SIZE

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.geometry.se3 import invert_T
from dyndepth_core.methods import get_method
from dyndepth_core.methods.base import Predictions
from dyndepth_core.networks.depth_net import NetworkConfig

FOCAL = 70.0


def tiny_config(data=None, network=None, **objective):
    """data, network, objective sections; images as recorded unless `data` says otherwise."""
    plain = {"size": SIZE, "flip": 0.0, "jitter": 0.0, "zoom_share": 0.0}
    small = {
        "encoder": "resnet18", "pose_encoder": "resnet18", "width": 0.125, "pretrained": False,
        "decoder_channels": (8, 8, 8, 16, 16), "min_depth": 2.0, "max_depth": 20.0,
        "pose_align": False,
    }  # fmt: skip
    return SimpleNamespace(
        data=DataConfig(**{**plain, **(data or {})}),
        network=NetworkConfig(**{**small, **(network or {})}),
        objective=get_method("monodepth").config_class(**objective),
    )


def tiny_objective(config=None, videos=("drive",), seed=0):
    """A monodepth objective in evaluation mode with seeded weights."""
    torch.manual_seed(seed)
    info = get_method("monodepth")
    return info.objective_class(config or tiny_config(), list(videos), FOCAL).eval()


def truth(objective, sample, recording, poses, depth_error=1.0, motion_error=1.0):
    """Predictions that are right, but for factors on depth and on the translations."""
    frames = sample.index + 1
    depth = torch.tensor(np.stack([recording.depth(int(i)) for i in frames]))[:, None]
    low, high = 1 / objective.network.max_depth, 1 / objective.network.min_depth
    disp = (1 / (depth * depth_error) - low) / (high - low)
    motions = [[invert_T(poses[i + o]) @ poses[i] for o in (-1, 1)] for i in frames]
    T = torch.stack([torch.cat(pair) for pair in motions]).float()
    T[..., :3, 3] *= motion_error
    return Predictions({0: disp}, T, sample.K, torch.ones(len(frames)))


def blank(path, stamps_ns, size=(64, 96), keep=None, calib=None):
    """A recording of black images with the stamps given."""
    calib = calib or Calibration(size[1], size[0], 80.0, 80.0, 47.5, 31.5)
    with RecordingWriter(path, calib, "png") as writer:
        for i, stamp in enumerate(stamps_ns):
            image = np.zeros((calib.height, calib.width, 3), np.uint8)
            writer.add(image, int(stamp), keep=keep is None or keep[i])
    return Recording(path)
