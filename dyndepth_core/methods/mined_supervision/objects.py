"""Stage 3: shape and rigid motion of single objects, as if each were a scene of its own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.geometry.se3 import compose, invert_T
from dyndepth_core.geometry.warp import inverse_warp
from dyndepth_core.losses.photometric import (
    SSIM_WEIGHT,
    image_stats,
    masked_mean,
    min_reprojection,
    photometric_error,
)
from dyndepth_core.methods.base import LossTerms, Objective
from dyndepth_core.methods.follow import draw, follow, with_maps
from dyndepth_core.methods.mined_supervision.cache import Cache
from dyndepth_core.methods.mined_supervision.scene import scene_of
from dyndepth_core.methods.stage import StageJob

MIRROR = torch.diag(torch.tensor((-1.0, 1.0, 1.0, 1.0)))
POSE_LR_FACTOR = 0.1  # what was mined is about right, and shape is learned under it
SMALL_MOTION = 1e-3  # std of the head: an object begins with the motion that the scene says


@dataclass
class ObjectSample(Sample):
    """One object per target: mask (B, 1, H, W) and src_masks (B, S, H, W) in {0, 1}, T_start
    (B, S, 4, 4), the motion that the scene says it has.
    """

    mask: Tensor | None = None
    src_masks: Tensor | None = None
    T_start: Tensor | None = None


@dataclass
class ObjectPredictions:
    """depth (B, 1, H, W) of the whole masked image, T_src_tgt (B, S, 4, 4) of the object against
    the camera, K (B, 3, 3).
    """

    depth: Tensor
    T_src_tgt: Tensor
    K: Tensor


class ObjectObjective(Objective):
    """L = sum A M min_s pe(I M, (I_s M_s)(pi(K T_o D K^-1 p))) / sum A M + smoothness (sections E16
    and E17 of MSDR), A where the warp explains more than no motion does.

    Depth and pose network are copies of the scene's, which see nothing but the object. T_o =
    delta T_start: the pose network says what is missing of the motion that was mined (published:
    all of it, which a short training does not learn). Depth is right up to one factor per object.
    """

    def __init__(self, scene: Objective) -> None:
        super().__init__()
        net = copy.deepcopy(scene).requires_grad_(False)
        self.pose = net.motion_net.pose.requires_grad_(True)
        net.depth_net.requires_grad_(True)
        self.net = net
        self.lr_factors = {"pose": POSE_LR_FACTOR}
        nn.init.normal_(self.pose.head.weight, std=SMALL_MOTION)
        nn.init.zeros_(self.pose.head.bias)

    def depth(self, image: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
        """Depth (B, 1, H, W) of image (B, 3, H, W) where mask (B, 1, H, W) is 1; scale (B,)."""
        return self.net.depth(self.net.depth_net(image * mask)[0], scale)

    def predict(self, sample: ObjectSample, progress: float = 1.0) -> ObjectPredictions:
        """See the class."""
        (batch, sources), mask = sample.dt.shape, sample.mask
        K, scale = self.net.cameras_and_scales(sample, None)
        depth = self.depth(sample.tgt_net, mask, scale)
        tgt = (sample.tgt_net * mask).repeat_interleave(sources, 0)
        src = (sample.src_net * sample.src_masks[:, :, None]).flatten(0, 1)
        past = (sample.dt < 0).flatten()
        swap = past.view(-1, 1, 1, 1)
        delta, _ = self.pose(torch.where(swap, src, tgt), torch.where(swap, tgt, src))
        delta = torch.where(past.view(-1, 1, 1), invert_T(delta), delta)
        T = compose(delta.unflatten(0, (batch, sources)), sample.T_start)
        return ObjectPredictions(depth, T, K)

    def losses(
        self, sample: ObjectSample, predictions: ObjectPredictions, progress: float = 1.0
    ) -> LossTerms:
        """See the class; in float32 also under autocast."""
        with torch.autocast(sample.tgt.device.type, enabled=False):
            error, identity = self._errors(sample, predictions)
            mask, depth = sample.mask, predictions.depth.float()
            better = (error.detach() < identity).float() * mask
            terms = {
                "photometric": masked_mean(error, better),
                "smoothness": (
                    self.net.config.object_smoothness * inner_smoothness(1 / depth, mask)
                ),
            }
        maps = {"depth": depth.detach(), "error": error.detach(), "mask": mask}
        return LossTerms(sum(terms.values()), terms, maps)

    @torch.no_grad()
    def validation(self, sample: ObjectSample) -> Tensor:
        """Mean over the objects' pixels of the least error, unwarped sources among them."""
        with torch.autocast(sample.tgt.device.type, enabled=False):
            error, identity = self._errors(sample, self.predict(sample))
            return masked_mean(torch.minimum(error, identity), sample.mask)

    def _errors(self, sample: ObjectSample, p: ObjectPredictions) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) of the best warp and of the best unwarped source."""
        batch, sources = sample.dt.shape
        src = (sample.src * sample.src_masks[:, :, None]).flatten(0, 1)
        target = (sample.tgt * sample.mask).repeat_interleave(sources, 0)
        depth, K = (x.float().repeat_interleave(sources, 0) for x in (p.depth, p.K))
        warped, _ = inverse_warp(src, depth, p.T_src_tgt.flatten(0, 1).float(), K)
        stats = image_stats(target)

        def least(images: Tensor) -> Tensor:
            errors = photometric_error(images, stats, SSIM_WEIGHT)
            return min_reprojection(errors.unflatten(0, (batch, sources)).squeeze(2))

        with torch.no_grad():
            identity = least(src)
        return least(warped), identity


def inner_smoothness(inverse: Tensor, mask: Tensor) -> Tensor:
    """sum |dx d*| m_x / sum m_x and the same along y, m_x where both neighbours belong to the
    object, d* over its mean there; inverse depth and mask (B, 1, H, W).
    """
    mean = (inverse * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
    normalised = inverse / mean.clamp(min=1e-7)
    across = mask[..., 1:] * mask[..., :-1]
    down = mask[..., 1:, :] * mask[..., :-1, :]
    return masked_mean((normalised[..., 1:] - normalised[..., :-1]).abs(), across) + masked_mean(
        (normalised[..., 1:, :] - normalised[..., :-1, :]).abs(), down
    )


class ObjectSource:
    """Draws objects as SampleSource draws targets; the table of `masks` lists them."""

    def __init__(self, source: SampleSource, cache: Cache) -> None:
        self.source, self.cache, self.objects = source, cache, cache.table()
        self.config, self.batch_size, self.names = source.config, source.batch_size, source.names

    def __len__(self) -> int:
        return len(self.objects["id"])

    def batch(self, step: int, rank: int = 0, world: int = 1) -> ObjectSample:
        """See SampleSource."""
        drawn = draw(len(self), step, self.batch_size, self.source.seed, self.source.train)
        return self.take(drawn[rank::world], step)

    def take(self, chosen: list[int], step: int = 0) -> ObjectSample:
        """Batch of the objects with these numbers in the table."""
        targets = [int(self.objects["target"][i]) for i in chosen]
        sample = self.source.take(list(enumerate(targets)), step)
        masks = []
        for i, target, shown in zip(chosen, targets, sample.index.tolist(), strict=True):
            ids, src_ids = self.cache.of(target, "ids", "src_ids")
            # another image came in place of a damaged one: it shows no such object
            stack, name = np.concatenate((ids[None], src_ids)), self.objects["id"][i]
            masks.append((stack == name) & (shown == target))
        K = torch.tensor(np.stack([self.source.K(int(v)) for v in sample.video]))
        maps = follow(torch.from_numpy(np.stack(masks).astype(np.float32)), K, sample)
        T = torch.from_numpy(self.objects["T"][chosen])
        T = torch.where(sample.flipped.view(-1, 1, 1, 1), MIRROR @ T @ MIRROR, T)
        return with_maps(ObjectSample, sample, mask=maps[:, :1], src_masks=maps[:, 1:], T_start=T)


def train_objects(job: StageJob, scene_path: Path) -> list[Path]:
    """Train on all objects, whether they move or not."""
    objective = ObjectObjective(scene_of(job, scene_path))
    sources = [
        None if s is None else ObjectSource(s, Cache(job.earlier["masks"], s, part))
        for s, part in ((job.source, "training"), (job.held_out, "held_out"))
    ]
    if not len(sources[0]):
        raise ValueError(
            "no object was found in any image, so there is nothing to learn labels from: lower "
            "objective.min_area, give recordings with traffic, or train residual_motion"
        )
    held_out = sources[1] if sources[1] is not None and len(sources[1]) else None
    return [job.fit(objective, sources[0], held_out)]
