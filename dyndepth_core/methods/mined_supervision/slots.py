"""Stage between mining and segment, where `grouping` is slots: what moves is parted into objects by
slot attention on how it moves and how far away it is (section 3b of MSDR).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.geometry.flow import residual_flow
from dyndepth_core.methods.base import LossTerms, Objective
from dyndepth_core.methods.follow import draw
from dyndepth_core.methods.mined_supervision.cache import Block, Cache, caches, make_blocks
from dyndepth_core.methods.mined_supervision.cues import regions
from dyndepth_core.methods.mined_supervision.mining import full_size
from dyndepth_core.methods.mined_supervision.scene import frozen
from dyndepth_core.methods.stage import BATCH, StageJob
from dyndepth_core.networks.slots import COLOURS, SLOTS, SlotNet, SlotPredictions

log = logging.getLogger(__name__)
LR_FACTOR = 4.0  # of the learning rate of the rest: published 4e-4
DEPTH = 0.2  # weight of the depth beside the flow
BACKGROUND, REST, REST_DEPTH = 0.005, 1.0, 0.02  # of E13: where the first slot is, and what it is
BACKGROUND_FROM = 0.125  # of the training: epoch 5 of 40
USAGE, LEAST_USAGE = 0.002, 0.01  # weight of E14 in the end, and what usage it pulls to
USAGE_FROM, USAGE_WHOLE = 0.115, 0.69  # of the training: steps 20,000 and 120,000 of 174,000
HELD = 0.25  # mask from which a slot holds a pixel
LEAST_KEPT = 0.5  # of what moves, held by any slot but the first, or something is said
STRONG = 0.95  # quantile of the flow of what moves that has the full colour
LEAST_FLOW = 1.0  # pixels that have it at least: less is noise
EPS = 1e-6


@dataclass
class SlotSample(Sample):
    """parts (B, 4, s, s): flow image and depth code of one target against one source; rest
    (B, 1, s, s): share of a pixel that does not move.
    """

    parts: Tensor | None = None
    rest: Tensor | None = None


class SlotObjective(Objective):
    """L = E12 + E13 + E14 of MSDR, with masks m_i, drawn flow F_i and depth D_i of the slots:

    E12 = MSE(sum m_i F_i, flow) + 0.2 MSE(sum m_i D_i, depth);
    E13 = 0.005 (BCE(m_0, rest) + BCE(b, rest)) + MSE(F_0, 1) + 0.02 MSE(D_0, 1), the part with b
    once E14 counts: the first slot holds what does not move, which is white and far away;
    E14 = w mean_i |z_i - 0.01| over the other slots, w from 0 to 0.002, and b = 1 - sum_i f_i, f_i
    = (z_i m_i)^2 / sum_j z_j m_j: what moves has to be held by slots that are of use, z_i, and by
    one rather than by several.

    Schedules are those of 40 epochs as shares of the training. The learning rate is LR_FACTOR times
    that of the training, which falls as all here do (published: half of it every fifth).
    """

    def __init__(self, size: int = 128, width: int = 64) -> None:
        super().__init__()
        self.net = SlotNet(size, width)
        self.lr_factors = {"net": LR_FACTOR}

    def predict(self, sample: SlotSample, progress: float = 1.0) -> SlotPredictions:
        """See SlotNet; where nothing is trained slots begin where the number of the sample says, so
        that masks do not follow from what else is in the batch.
        """
        shape = (SLOTS, self.net.width)
        if self.training:
            noise = torch.randn(len(sample.index), *shape)
        else:
            seeds = (torch.Generator().manual_seed(int(i)) for i in sample.index)
            noise = torch.stack([torch.randn(shape, generator=seed) for seed in seeds])
        return self.net(sample.parts, noise.to(sample.parts.device))

    def losses(
        self, sample: SlotSample, predictions: SlotPredictions, progress: float = 1.0
    ) -> LossTerms:
        """See the class."""
        with torch.autocast(sample.parts.device.type, enabled=False):
            terms = self._terms(sample, predictions, progress)
        masks = predictions.masks.detach()
        maps = {"drawn": predictions.drawn()[0].detach() / 2 + 0.5}
        maps |= {f"slot_{i}": masks[:, i] for i in range(SLOTS)}
        return LossTerms(sum(terms.values()), terms, maps)

    @torch.no_grad()
    def validation(self, sample: SlotSample) -> Tensor:
        """The loss, as it is in the end, on images that were not trained on."""
        return self.losses(sample, self.predict(sample)).total

    def _terms(self, sample: SlotSample, p: SlotPredictions, progress: float) -> dict[str, Tensor]:
        rest, (flow, depth) = sample.rest.float(), p.drawn()
        wanted = sample.parts.float()
        terms = {
            "flow": F.mse_loss(flow, wanted[:, :COLOURS]),
            "depth": DEPTH * F.mse_loss(depth, wanted[:, COLOURS:]),
        }
        if progress >= BACKGROUND_FROM:
            # log (m_0 / (1 - m_0)), which a sigmoid turns into m_0 again
            odds = p.logits[:, 0] - p.logits[:, 1:].logsumexp(1)
            white = (p.flow[:, 0] - 1).square().mean()
            far = (p.depth[:, 0] - 1).square().mean()
            terms["background"] = BACKGROUND * F.binary_cross_entropy_with_logits(odds, rest)
            terms["rest"] = REST * (white + REST_DEPTH * far)
        if progress >= USAGE_FROM:
            ramp = min(1.0, (progress - USAGE_FROM) / (USAGE_WHOLE - USAGE_FROM))
            usage = p.usage[:, 1:]
            left = (1 - useful(p.masks, p.usage).sum(1)).clamp(EPS, 1 - EPS)
            terms["left"] = BACKGROUND * F.binary_cross_entropy(left, rest)
            terms["usage"] = USAGE * ramp * (usage - LEAST_USAGE).abs().mean()
        return terms


def useful(masks: Tensor, usage: Tensor) -> Tensor:
    """f_i (B, K - 1, 1, s, s) = (z_i m_i)^2 / sum_j z_j m_j over the slots but the first; masks
    (B, K, 1, s, s), usage (B, K).
    """
    held = masks[:, 1:] * usage[:, 1:, None, None, None]
    return held.square() / (held.sum(1, keepdim=True) + EPS)


def flow_image(flow: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) in [-1, 1] of flow (2, h, w), pixels: its direction is the hue, its length
    over that of the fastest (STRONG) the saturation; white where nothing moves, (h, w) bool.
    """
    length = np.hypot(*flow) * moves
    most = float(np.quantile(length[moves], STRONG)) if moves.any() else 0.0
    hue = np.degrees(np.arctan2(flow[1], flow[0])) % 360
    full = np.clip(length / max(most, LEAST_FLOW), 0, 1)
    wheel = np.stack((hue, full, np.ones_like(full)), 2).astype(np.float32)
    return 2 * cv2.cvtColor(wheel, cv2.COLOR_HSV2RGB) - 1


def depth_code(depth: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """(h, w) in (0, 1]: exp(depth / largest) - 1 over its largest; 1 where nothing moves."""
    code = np.expm1(depth / depth.max()) / np.expm1(1.0)
    return np.where(moves, code, 1.0).astype(np.float32)


def parts_of(mined: Cache, target: int, source: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """parts (4, size, size) and rest (1, size, size), see SlotSample, of a target of `mining`
    against its source with this number.
    """
    ids, T, residual, depth, K = mined.of(target, "ids", "T", "residual", "depth", "K")
    moves, depth = ids > 0, depth.astype(np.float32)
    field = full_size(residual[source : source + 1], ids.shape)
    camera = [torch.from_numpy(x[None]).float() for x in (T[source], K)]
    flow = residual_flow(torch.from_numpy(depth)[None, None], *camera, field)[0].numpy()
    code, rest = depth_code(depth, moves), 1 - moves.astype(np.float32)
    whole = np.concatenate((flow_image(flow, moves), np.stack((code, rest), 2)), 2)
    small = cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    return small[:-1], small[-1:]


class SlotSource:
    """Draws targets on which something moves, against each of their sources, as SampleSource draws
    targets: of the others there is nothing to part.
    """

    def __init__(self, source: SampleSource, mined: Cache, size: int) -> None:
        self.config, self.seed, self.train = source.config, source.seed, source.train
        self.batch_size, self.names = source.batch_size, source.names
        self.mined, self.size = mined, size
        self.pairs = [
            (target, k)
            for target, (*_, sources) in enumerate(source.targets)
            if mined.of(target, "ids")[0].any()
            for k in range(len(sources))
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> SlotSample:
        """See SampleSource."""
        chosen = draw(len(self), step, self.batch_size, self.seed, self.train)[rank::world]
        return sample_of(self.mined, [self.pairs[k] for k in chosen], chosen, self.size)


def sample_of(
    mined: Cache, pairs: Sequence[tuple[int, int]], numbers: Sequence[int], size: int
) -> SlotSample:
    """Batch of (target, source) pairs; numbers: of the samples, see SlotObjective.predict."""
    found = [parts_of(mined, target, source, size) for target, source in pairs]
    parts, rest = (torch.from_numpy(np.stack(x)) for x in zip(*found, strict=True))
    count, image = len(pairs), parts[:, :COLOURS] / 2 + 0.5
    none = image.new_zeros(count, 0, 3, size, size)
    nothing = torch.zeros(count, dtype=torch.long)
    return SlotSample(
        image, none, image, none, torch.eye(3).repeat(count, 1, 1), nothing.bool(),
        image.new_zeros(count, 0), nothing, nothing.bool(), torch.tensor(numbers), parts=parts,
        rest=rest,
    )  # fmt: skip


def train_slots(job: StageJob) -> list[Path]:
    """Train on what `mining` left; then per target: ids (h, w) uint8, as those of mining, but
    parted by slot. [*blocks, checkpoint].
    """
    own, mined_of = job.config.objective, caches(job, "mining")
    objective = SlotObjective(own.slot_size, own.slot_width)
    parts = (job.source, "training"), (job.held_out, "held_out")
    sources = [None if s is None else SlotSource(s, mined_of[p], own.slot_size) for s, p in parts]
    if not len(sources[0]):
        raise ValueError(
            "nothing moves in the training part of these recordings, so slots have nothing to part:"
            " set objective.grouping to components, or give recordings with more traffic"
        )
    held_out = sources[1] if sources[1] is not None and len(sources[1]) else None
    weights = job.fit(objective, sources[0], held_out)
    frozen(objective)
    counts = np.zeros(3, np.int64)

    def work(source: SampleSource, block: Block) -> dict[str, np.ndarray]:
        return {"ids": np.stack(list(regroup(objective, source, block, mined_of[block.part])))}

    paths = make_blocks(job, "parting what moves", work)
    for part, cache in caches(job, "mining").items():
        grouped = Cache(paths, job.source if part == "training" else job.held_out, part)
        for target in (t for block in grouped.blocks for t in block.targets):
            ids, before = grouped.of(target, "ids")[0], cache.of(target, "ids")[0]
            counts += int(ids.max()), int((ids > 0).sum()), int((before > 0).sum())
    kept = float(counts[1] / counts[2])
    if kept < LEAST_KEPT:
        log.warning(
            "slots hold only %.2f of what moves, the rest counts as background: train longer, set "
            "objective.slot_size to 32, or objective.grouping to components",
            kept,
        )
    job.report({"regions": int(counts[0]), "kept": round(kept, 3)})
    return [*paths, weights]


@torch.no_grad()
def regroup(
    objective: SlotObjective, source: SampleSource, block: Block, mined: Cache
) -> Iterator[np.ndarray]:
    """Ids (h, w) of the targets of a block, see `slot_ids`: by the flow to the source before, as
    published; where all are later, to the first.
    """
    for first in range(0, len(block.targets), BATCH):
        targets = block.targets[first : first + BATCH]
        pairs = []
        for target in targets:
            _, frame, sources = source.targets[target]
            earlier = [k for k, other in enumerate(sources) if other < frame]
            pairs.append((target, max(earlier, key=lambda k: sources[k], default=0)))
        sample = sample_of(mined, pairs, targets, objective.net.size)
        masks = objective.predict(sample).masks[:, 1:, 0].float()
        for target, own in zip(targets, masks, strict=True):
            moves = mined.of(target, "ids")[0] > 0
            size = moves.shape
            held = F.interpolate(own[None], size, mode="bilinear", align_corners=False)[0]
            yield slot_ids(held.numpy(), moves)


def slot_ids(masks: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Ids (h, w), uint8, of what moves (h, w), bool, and is held (HELD) by a slot, of those that
    hold it by the one whose mask is highest; masks (K, h, w) without the background's. What each
    slot holds is cleaned and parted as `regions` does with all that moves.
    """
    held = np.where(masks.max(0) >= HELD, masks.argmax(0) + 1, 0) * moves
    ids = np.zeros(moves.shape, np.int64)
    for name in range(1, len(masks) + 1):
        found = regions(held == name).astype(np.int64)
        # closed gaps of one slot may be pixels of another
        free = (found > 0) & ((held == name) | ((held == 0) & (ids == 0)))
        ids[free] = found[free] + ids.max()
    _, ids = np.unique(np.append(ids.ravel(), 0), return_inverse=True)
    return np.minimum(ids[:-1], 255).reshape(moves.shape).astype(np.uint8)
