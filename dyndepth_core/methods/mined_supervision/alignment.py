"""Stage 4: the scale of objects (DSA), learned from those that stand, where the scene knows it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.methods.base import LossTerms, Objective
from dyndepth_core.methods.follow import draw
from dyndepth_core.methods.mined_supervision.cache import Cache
from dyndepth_core.methods.mined_supervision.crops import CHANNELS, SIZE, make_crops
from dyndepth_core.methods.mined_supervision.objects import ObjectObjective
from dyndepth_core.methods.mined_supervision.scene import frozen, scene_of
from dyndepth_core.methods.stage import StageJob
from dyndepth_core.networks.encoders import Encoder

log = logging.getLogger(__name__)
BATCH = 16  # windows are small
HUBER = 0.1  # of log scale: from there on errors count linearly
DOUBT = 0.3  # of the log of two depths of one object
UPRIGHT = 0.3  # of the log of two depths, see masks.label_objects
LEAST = 8  # static objects to learn from


@dataclass
class CropSample(Sample):
    """x (B, 5, SIZE, SIZE), reference (B,), scale (B,): so the shape fits the scene's depth."""

    x: Tensor | None = None
    reference: Tensor | None = None
    scale: Tensor | None = None


class ScaleNet(nn.Module):
    """Windows (B, 5, SIZE, SIZE) -> log of scale over reference (B,): encoder, spatial mean, 256,
    128, 1; GroupNorm of one group in place of every batch normalisation, whose weights it keeps.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        encoder = Encoder(network.encoder, width=network.width)
        if network.pretrained:
            encoder.load_imagenet(network.weights)
        self.register_buffer("mean", encoder.mean, persistent=False)
        self.register_buffer("inv_std", encoder.inv_std, persistent=False)
        self.backbone = encoder.backbone
        _widen_stem(self.backbone, CHANNELS)
        _group_norms(self.backbone)
        self.head = nn.Sequential(
            nn.Linear(encoder.channels[-1], 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
            nn.Linear(128, 1),
        )  # fmt: skip
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = torch.cat(((x[:, :3] - self.mean) * self.inv_std, x[:, 3:]), 1)
        return self.head(self.backbone(x)[-1].mean((2, 3)))[:, 0].float()


class AlignmentObjective(Objective):
    """L = Huber(log(scale / scale of the scene)) over static objects; scale = reference exp(net).

    After section E19 of MSDR, sum |scale D~ - M D|: with D~ of mean 1 the scale is the object's
    depth. Ours is positive by construction and compares by ratio, so that far ones count no more.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.net = ScaleNet(network)

    def scale(self, x: Tensor, reference: Tensor) -> Tensor:
        """Scales (B,) of windows x (B, 5, SIZE, SIZE); NaN where the reference (B,) is."""
        return reference * self.net(x).exp()

    def predict(self, sample: CropSample, progress: float = 1.0) -> Tensor:
        """Log of the ratio (B,) of the scale to that of the scene."""
        return self.net(sample.x) + (sample.reference / sample.scale).log()

    def losses(self, sample: CropSample, predictions: Tensor, progress: float = 1.0) -> LossTerms:
        """See the class."""
        loss = F.smooth_l1_loss(predictions, torch.zeros_like(predictions), beta=HUBER)
        maps = {"background": sample.x[:, 3:4], "shape": sample.x[:, 4:5]}
        return LossTerms(loss, {"scale": loss}, maps)

    @torch.no_grad()
    def validation(self, sample: CropSample) -> Tensor:
        """Mean |log ratio| on static objects that were not trained on."""
        return self.predict(sample).abs().mean()


class CropSource:
    """Draws windows of static objects as SampleSource draws targets; mirrored and brighter or
    darker ones in training. Those whose scene depth and place on the road differ by more than
    DOUBT are left out: what moves unnoticed must not teach. `standing` has them all: to judge by
    what agrees would say that all is well.
    """

    def __init__(self, source: SampleSource, table: dict[str, np.ndarray]) -> None:
        self.config, self.seed, self.train = source.config, source.seed, source.train
        self.batch_size, self.names = BATCH, source.names
        usable = ~table["dynamic"] & np.isfinite(table["reference"]) & (table["scene"] > 0)
        self.standing = {k: v[usable] for k, v in table.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            usable &= ~(np.abs(np.log(table["scene"] / table["contact"])) > DOUBT)
        self.table = {k: v[usable] for k, v in table.items()}

    def __len__(self) -> int:
        return len(self.table["x"])

    def batch(self, step: int, rank: int = 0, world: int = 1) -> CropSample:
        """See SampleSource."""
        chosen = draw(len(self), step, self.batch_size, self.seed, self.train)[rank::world]
        x = torch.from_numpy(self.table["x"][chosen].astype(np.float32))
        reference, scale = (
            torch.from_numpy(self.table[name][chosen]) for name in ("reference", "scene")
        )
        flipped = torch.zeros(len(chosen), dtype=torch.bool)
        if self.train:
            rng = np.random.default_rng((self.seed, 3, step))
            flipped = torch.from_numpy(rng.random(len(chosen)) < 0.5)
            x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x)
            light = torch.from_numpy(rng.uniform(0.8, 1.2, (len(chosen), 1, 1, 1))).float()
            x = torch.cat(((x[:, :3] * light).clamp(0, 1), x[:, 3:]), 1)
        image, none = x[:, :3], x.new_zeros(len(chosen), 0, 3, SIZE, SIZE)
        return CropSample(
            image, none, image, none, torch.eye(3).repeat(len(chosen), 1, 1),
            torch.zeros(len(chosen), dtype=torch.bool), x.new_zeros(len(chosen), 0),
            torch.zeros(len(chosen), dtype=torch.long), flipped, torch.tensor(chosen),
            x=x, reference=reference, scale=scale,
        )  # fmt: skip


def train_alignment(job: StageJob, scene_path: Path, objects_path: Path) -> list[Path]:
    """Windows of all objects and, where scales are learned, the network that says them, trained on
    the static ones: [*windows, checkpoint]. Of too few nothing is learned: [*windows].
    """
    scene = scene_of(job, scene_path)
    objects = ObjectObjective(scene)
    objects.load_state_dict(job.weights(objects_path))
    paths = make_crops(job, scene, frozen(objects))
    if job.config.objective.alignment == "contact":
        return paths
    sources = [
        None if s is None else CropSource(s, table_of(job.earlier["masks"], paths, s, part))
        for s, part in ((job.source, "training"), (job.held_out, "held_out"))
    ]
    if len(sources[0]) < LEAST:
        log.warning(
            "%d standing objects beside road were found, too few to learn scales from (%d): what "
            "moves gets that of the road where it stands; lower objective.min_area, or give "
            "recordings with parked cars", len(sources[0]), LEAST,
        )  # fmt: skip
        job.report({"static_objects": len(sources[0])})
        return paths
    objective = AlignmentObjective(job.config.network)
    held_out = sources[1] if sources[1] is not None and len(sources[1]) else None
    weights = job.fit(objective, sources[0], held_out)
    judged = held_out or sources[0]
    job.report({"static_objects": len(sources[0]), **judge(objective.eval(), judged.standing)})
    return [*paths, weights]


def table_of(
    masks: Sequence[Path], crops: Sequence[Path], source: SampleSource, part: str
) -> dict[str, np.ndarray]:
    """All columns of the objects of one part: those of `masks` and those of their windows."""
    return Cache(masks, source, part).table() | Cache(crops, source, part).table()


@torch.no_grad()
def judge(
    objective: AlignmentObjective | None, table: dict[str, np.ndarray]
) -> dict[str, float | None]:
    """Median |log ratio| of learned scales and of contact to the scene's, on static objects; None
    where they are unknown. Contact: of those whose parallax fits their place on the road within
    UPRIGHT; house fronts, that are taken for objects and stand nowhere, mostly do not. Learned: of
    all, as it is asked where there is no contact, and there it is far worse.
    """
    unknown = np.full(len(table["scene"]), np.nan, np.float32)
    learned = unknown if objective is None else scales(objective, table)
    upright = np.abs(np.log(table["apart"])) < UPRIGHT  # False where it is unknown
    contact, found = np.where(upright, table["contact"], np.nan), {}
    for name, scale in (("learned", learned), ("contact", contact)):
        off = np.abs(np.log(scale / table["scene"]))
        known = np.isfinite(off)
        found[f"{name}_off_static"] = float(np.median(off[known])) if known.any() else None
    return found


@torch.no_grad()
def scales(objective: AlignmentObjective, table: dict[str, np.ndarray]) -> np.ndarray:
    """Learned scales (N,) of the objects of a table; NaN where no road is seen."""
    x, reference = torch.from_numpy(table["x"]), torch.from_numpy(table["reference"])
    pairs = zip(x.split(64), reference.split(64), strict=True)
    found = [objective.scale(a.float(), b) for a, b in pairs]
    return torch.cat(found).numpy() if found else np.zeros(0, np.float32)


def _widen_stem(backbone: nn.Module, channels: int) -> None:
    """Let the first convolution see more channels; of those it knew it keeps the weights."""
    name = "conv1" if hasattr(backbone, "conv1") else "_conv_stem"
    old: nn.Conv2d = getattr(backbone, name)
    new = type(old)(
        channels, old.out_channels, old.kernel_size[0], old.stride[0], old.padding[0], bias=False
    )
    with torch.no_grad():
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        new.weight[:, : old.in_channels] = old.weight
    setattr(backbone, name, new)


def _group_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = nn.GroupNorm(1, child.num_features, eps=child.eps)
            with torch.no_grad():
                norm.weight.copy_(child.weight)
                norm.bias.copy_(child.bias)
            setattr(module, name, norm)
        else:
            _group_norms(child)
