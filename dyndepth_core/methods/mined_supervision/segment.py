"""Stage 2b: a network that knows by its looks what can move, learned from what does move."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.geometry.camera import pixel_grid
from dyndepth_core.geometry.road import road_inverse
from dyndepth_core.losses.photometric import masked_mean
from dyndepth_core.methods.base import LossTerms, Objective
from dyndepth_core.methods.follow import MapSource, SegmentSample
from dyndepth_core.methods.mined_supervision.cache import Cache
from dyndepth_core.methods.mined_supervision.clusters import keep_parts, vote
from dyndepth_core.methods.mined_supervision.cues import LEAST_ROAD, low
from dyndepth_core.methods.mined_supervision.mining import check_mined
from dyndepth_core.methods.mined_supervision.outlines import cut_out
from dyndepth_core.methods.mined_supervision.scene import frozen
from dyndepth_core.methods.stage import StageJob
from dyndepth_core.networks.depth_net import ConvBlock
from dyndepth_core.networks.encoders import Encoder

log = logging.getLogger(__name__)
CHANNELS = 32
RARE = -3.0  # logit of a network that has seen nothing yet
OFFSET_WEIGHT = 0.5
LIKELY = 0.3  # that something can move; found on tuning worlds 11 to 13
UNSURE = 0.05  # weight of what may be an object although it was not mined; found on 12 and 13
LEAST_SURE = 0.1  # of what was mined, on average
SMALLEST = 0.2  # of objects.min_area: parts below are noise
BORDER = 2  # pixels around mined regions that teach nothing: they are the least certain


class CentreHead(nn.Module):
    """Feature maps of an image (finest first, from half the size on) -> at half the size a logit
    (B, 1, h, w), that a pixel is of something that can move, and the way (B, 2, h, w) to the middle
    of its object, in shares of the width.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, CHANNELS, 1) for c in channels)
        self.merge = nn.ModuleList(ConvBlock(CHANNELS, CHANNELS) for _ in channels)
        self.head = nn.Conv2d(CHANNELS, 3, 1)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor((RARE, 0.0, 0.0)))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = None
        for lateral, merge, f in zip(
            self.lateral[::-1], self.merge[::-1], features[::-1], strict=True
        ):
            y = lateral(f)
            x = merge(y if x is None else y + F.interpolate(x, y.shape[-2:], mode="nearest"))
        found = self.head(x).float()
        return found[:, :1], found[:, 1:]


class SegmentObjective(Objective):
    """L = w BCE(logit, mined) + 0.5 |way - way to the middle of the mined region| there, over the
    image's width times 10.

    w is UNSURE where something may stand that was not mined (`low`), or else the network learns in
    which lanes things move and that parked cars are none: what is none is learned from road, sky
    and what is too high.

    What stands looks like what moves but is not mined, so the logit's sigmoid is g = P(mined | x);
    with P(mined | can move) = c the same for all, P(can move | x) = g / c, and c is the mean of g
    over what was mined (Elkan and Noto, KDD 2008). Hence `threshold` = LIKELY c; what is seen too
    large is cut out afterwards, see outlines.py. Where c is below LEAST_SURE the network has
    learned nothing, and nothing exceeds the threshold.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder = Encoder(network.encoder, width=network.width)
        if network.pretrained:
            self.encoder.load_imagenet(network.weights)
        self.head = CentreHead(self.encoder.channels)
        self.register_buffer("threshold", torch.tensor(0.5))

    @property
    def recognises(self) -> bool:
        """Whether it has learned anything."""
        return float(self.threshold) < 1.0

    def predict(self, sample: SegmentSample, progress: float = 1.0) -> tuple[Tensor, Tensor]:
        """Logit and way, see CentreHead."""
        return self.see(sample.tgt_net)

    def see(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same of images (B, 3, H, W)."""
        return self.head(self.encoder(image))

    def losses(
        self, sample: SegmentSample, predictions: tuple[Tensor, Tensor], progress: float = 1.0
    ) -> LossTerms:
        """See the class."""
        logit, way = predictions
        ids, low_ = (x[..., ::2, ::2] for x in (sample.ids, sample.low))
        mined = (ids > 0).float()
        near = F.max_pool2d(mined, 2 * BORDER + 1, 1, BORDER)
        sure = (1 - (near - mined)) * torch.where(low_ > mined, UNSURE, 1.0)
        wanted = centre_ways(ids[:, 0].long())
        errors = F.binary_cross_entropy_with_logits(logit, mined, reduction="none")
        off = F.smooth_l1_loss(10 * way, 10 * wanted, reduction="none").sum(1, keepdim=True)
        terms = {
            "moves": masked_mean(errors, sure),
            "middle": OFFSET_WEIGHT * masked_mean(off, mined),
        }
        maps = {"can_move": logit.detach().sigmoid(), "mined": mined}
        return LossTerms(sum(terms.values()), terms, maps)

    @torch.no_grad()
    def validation(self, sample: SegmentSample) -> Tensor:
        """The loss on images that were not trained on."""
        return self.losses(sample, self.predict(sample)).total

    @torch.no_grad()
    def calibrate(self, samples: Iterable[SegmentSample]) -> float:
        """Set `threshold` from mined regions; returns c, 0 where there are none. See the class."""
        total, count = 0.0, 0
        for sample in samples:
            where = sample.ids[..., ::2, ::2] > 0
            total += float(self.predict(sample)[0].sigmoid()[where].sum())
            count += int(where.sum())
        sure = total / max(count, 1)
        self.threshold.fill_(LIKELY * sure if sure >= LEAST_SURE else 1.0)
        return sure


def centre_ways(ids: Tensor) -> Tensor:
    """From every pixel the way (B, 2, h, w) to the middle of the pixels with its id, in shares of
    the width; 0 where ids (B, h, w), int64, are 0.
    """
    batch, height, width = ids.shape
    most = int(ids.max()) + 1
    flat = (ids + most * torch.arange(batch, device=ids.device).view(-1, 1, 1)).flatten()
    x, y = pixel_grid(height, width, ids.device, torch.float32)[:2]
    count = torch.bincount(flat, minlength=batch * most).clamp(min=1)
    ways = []
    for at in (x, y):
        at = at.expand(batch, -1, -1).flatten()
        middle = torch.bincount(flat, at, batch * most) / count
        ways.append(((middle[flat] - at) / width).view(batch, height, width))
    return torch.where(ids[:, None] > 0, torch.stack(ways, 1), 0.0)


def train_segment(job: StageJob) -> list[Path]:
    """Train on the regions of `mining`, or on what slots made of them; the checkpoint also holds
    the threshold.
    """
    check_mined(job.earlier["mining"])
    objective = SegmentObjective(job.config.network)
    sources = [mined_source(job, part) for part in ("training", "held_out")]
    job.fit(objective, *sources)
    objective.eval()
    sure = 0.0
    for part in reversed(sources):  # what was learned from only where nothing else was mined
        if part is not None and not sure:
            sure = objective.calibrate(_batches(part))
    if sure < LEAST_SURE:
        log.warning(
            "what was mined is not told from the rest by its looks (%.2f of it is recognised): "
            "only what moves counts as an object; train longer",
            sure,
        )
    job.report({"recognised": sure})
    return [job.keep(objective)]


def segment_of(job: StageJob) -> SegmentObjective:
    """The network of the stage `segment`, frozen."""
    network = SegmentObjective(job.config.network)
    network.load_state_dict(job.weights(job.earlier["segment"][0]))
    return frozen(network)


@torch.no_grad()
def looks(
    network: SegmentObjective, image: Tensor, level: np.ndarray, road: np.ndarray, min_area: float
) -> np.ndarray:
    """Ids (h, w) of what looks as if it could move in one image (1, 3, h, w); level (h, w) bool: is
    road; road (h, w): its inverse depth; min_area: see the configuration. Objects stand on the
    road: what ends above it is none.
    """
    logit, way = network.see(image)
    likely = F.avg_pool2d(logit.sigmoid(), 3, 1, 1, count_include_pad=False)  # no single pixels
    likely, (width, height) = likely[0, 0].numpy(), (image.shape[-1], image.shape[-2])
    least = max(1, round(SMALLEST * min_area * height * width))
    can_move = likely > float(network.threshold)
    ids = vote(can_move, way[0].numpy(), max(1, least // 4))  # at half the size
    ids = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
    picture = (255 * image[0].permute(1, 2, 0)).round().byte().numpy()
    ids = cut_out(picture, cv2.resize(likely, (width, height)), ids, level)
    down = np.unique(ids[road >= LEAST_ROAD * road.max()])
    return keep_parts(np.where(np.isin(ids, down), ids, 0).astype(np.uint8), least)


def _batches(part: MapSource) -> Iterator[SegmentSample]:
    """Samples spread evenly over a source, not augmented."""
    plain = MapSource(part.source.plain(), SegmentSample, part.maps)
    count = min(len(plain), 256)
    targets = [k * len(plain) // count for k in range(count)]
    for k in range(0, count, 8):
        yield plain.add(plain.source.take(list(enumerate(targets[k : k + 8]))))


def mined_source(job: StageJob, part: str) -> MapSource | None:
    """Samples with what was mined; None where nothing is held out."""
    source: SampleSource | None = job.source if part == "training" else job.held_out
    if source is None:
        return None
    mined = Cache(job.earlier["mining"], source, part)
    parted = Cache(job.earlier["slots"], source, part) if "slots" in job.earlier else mined
    maps = functools.partial(_maps, mined, parted, source.config.size)
    return MapSource(source, SegmentSample, maps)


def _maps(mined: Cache, parted: Cache, size: tuple[int, int], target: int) -> dict[str, np.ndarray]:
    (ids,), (apparent, road, K) = (
        parted.of(target, "ids"),
        mined.of(target, "apparent", "road", "K"),
    )
    maps = {"ids": ids, "low": low(apparent.astype(np.float32), road_inverse(road, K, size))}
    return {name: x.astype(np.float32) for name, x in maps.items()}
