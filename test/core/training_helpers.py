"""What the tests of training share: tiny recordings and settings, an objective of one layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from scenes import camera, drive, write_recording
from torch import Tensor, nn

from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.methods.base import LossTerms, Objective, Predictions
from dyndepth_core.training.settings import TrainConfig

DATA = DataConfig(size=(64, 96))
# the real method, as small as it gets
TINY = (
    "data.size=64,96",
    "network.encoder=resnet18",
    "network.pose_encoder=resnet18",
    "network.width=0.125",
    "network.decoder_channels=4,4,8,8,8",
    "network.pretrained=false",
    "train.batch_size=2",
    "train.threads=1",
    "train.workers=0",
    "train.log_every=5",
)


def make_recording(
    folder: Path, name: str = "drive", count: int = 24, seed: int = 0, **options: Any
) -> Path:
    """A root with one recording of a driving camera; returns the root. options: see
    write_recording.
    """
    write_recording(folder / name, drive(count, seed), camera(), **options)
    return folder


def source(root: Path, batch_size: int = 2, seed: int = 0, train: bool = True) -> SampleSource:
    """Samples of everything below a root."""
    return SampleSource(open_recordings(root), DATA, batch_size, seed, train)


def settings(**fields) -> TrainConfig:
    """Settings of a training that takes milliseconds per step."""
    small = {"steps": 12, "batch_size": 2, "threads": 1, "workers": 0, "log_every": 4, "lr": 0.01}
    return TrainConfig(**{**small, "checkpoint_every": 4, "validate_every": 4, **fields})


class ToyObjective(Objective):
    """Predicts brightness from colours; has noise and batch norm, as real methods do."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(1)
        self.steps_seen = 0  # of this process
        self.at_step = lambda step: None  # what a test wants to happen

    def predict(self, sample: Sample, progress: float = 1.0) -> Predictions:
        disp = torch.sigmoid(self.norm(self.layer(sample.tgt_net)))
        return Predictions({0: disp}, torch.eye(4), sample.K, torch.ones(len(sample.K)))

    def losses(self, sample: Sample, predictions: Predictions, progress: float = 1.0) -> LossTerms:
        self.steps_seen += 1
        happened = self.at_step(self.steps_seen)
        disp = predictions.disps[0]
        noise = 0.01 * torch.randn_like(disp)
        error = (disp - sample.tgt.mean(1, keepdim=True) + noise).abs()
        total = error.mean() * (1.0 if happened is None else happened)
        depth = 1 / disp.detach().clamp_min(1e-3)
        maps = {"depth": depth, "automask": torch.ones_like(depth), "warped": sample.src[:, -1]}
        return LossTerms(total, {"photometric": total}, maps)

    @torch.no_grad()
    def validation(self, sample: Sample) -> Tensor:
        disp = self.predict(sample).disps[0]
        return (disp - sample.tgt.mean(1, keepdim=True)).abs().mean()


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit-equal, name by name."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
