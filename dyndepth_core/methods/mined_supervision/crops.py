"""What the scale of an object is learned from: a window around it, the same size for all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.methods.base import Objective
from dyndepth_core.methods.mined_supervision.cache import Block, Cache, caches, make_blocks
from dyndepth_core.methods.mined_supervision.contact import box_of, contact_scales
from dyndepth_core.methods.mined_supervision.ground import ground_mask
from dyndepth_core.methods.mined_supervision.objects import ObjectObjective
from dyndepth_core.methods.mined_supervision.scene import scene_depth, static_depth
from dyndepth_core.methods.stage import StageJob, walk

SIZE = 64  # pixels of a window
WINDOW = 2.0  # side of the window over the larger side of the object's box
LOWER = 0.2  # of that side: the window lies lower than the object, where the road is
CHANNELS = 5


@dataclass
class Crop:
    """x (5, SIZE, SIZE): image, road depth beside the object's shape, shape; scales of the shape:
    reference, the guess from where it ends, by which the road's depth is divided, NaN where no road
    is seen; scene, by which it fits the scene's own depth; contact (contact.py).
    """

    x: Tensor
    reference: float
    scene: float
    contact: float


def unit_shape(depth: Tensor, mask: Tensor) -> Tensor:
    """D~ = M D / mean_M D, (h, w), of the object's depth and mask (section E18 of MSDR)."""
    return depth * mask / ((depth * mask).sum() / mask.sum().clamp(min=1)).clamp(min=1e-9)


def crop_object(
    image: Tensor, depth: Tensor, shape: Tensor, mask: Tensor, ground: Tensor, others: Tensor
) -> Crop:
    """Crop of an object: image (3, h, w), scene depth, unit shape, its mask, that of the ground and
    that of the other objects (h, w).

    After section E18: x = [image, (1 - M) D_bg / r + M D~, D~], D_bg the depth of the road outside
    of the object's box. Ours: a window in place of the whole image, and r, the scale with which it
    would stand where its mask ends: what is to be learned is by how much that is wrong, of bumpers,
    of what is cut off, whatever the size, the distance and the unit.
    """
    top, bottom, left, right = box_of(mask.numpy())
    road = ground.clone()
    road[top:bottom, left:right] = False
    side = WINDOW * max(bottom - top, right - left)
    middle = (left + right - 1) / 2, (top + bottom - 1) / 2 + LOWER * side
    seen = depth * road
    maps = torch.cat((image, torch.stack((seen, road.float(), shape, mask.float()))))
    window = _window(maps, middle, side)
    seen, road, shape_, inside = window[3:]
    arrays = depth.numpy(), shape.numpy(), mask.numpy() > 0, ground.numpy(), others.numpy()
    contact, reference = contact_scales(*arrays)
    # where only part of a cell is road, its depth is that of that part
    background = torch.where(road > 0.5, seen / road.clamp(min=0.5), 0.0) / reference
    x = torch.cat((window[:3], ((1 - inside) * background + inside * shape_)[None], shape_[None]))
    inner = mask.bool()
    scene = float((depth[inner] / shape[inner]).median())
    return Crop(x.nan_to_num(0.0), reference, scene, contact)


def _window(maps: Tensor, middle: tuple[float, float], side: float) -> Tensor:
    """Square window of maps (C, h, w) at SIZE x SIZE; 0 outside. `middle` x, y in pixels."""
    height, width = maps.shape[-2:]
    steps = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    x = (middle[0] + steps * side) * (2 / (width - 1)) - 1
    y = (middle[1] + steps * side) * (2 / (height - 1)) - 1
    grid = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), -1)[None]
    if side > 2 * SIZE:  # bilinear sampling sees four pixels, the others must be in them
        factor = int(side // SIZE)
        maps = F.avg_pool2d(maps[None], factor, 1, factor // 2, count_include_pad=False)[0]
        maps = maps[..., :height, :width]
    return F.grid_sample(maps[None], grid, padding_mode="zeros", align_corners=True)[0]


@torch.no_grad()
def object_shapes(objects: ObjectObjective, image: Tensor, masks: Tensor, scale: Tensor) -> Tensor:
    """Unit shapes (N, h, w) of objects of one image (1, 3, h, w); masks (N, h, w), scale (1,)."""
    found = []
    for part in masks.float().split(8):
        images, scales = image.expand(len(part), -1, -1, -1), scale.expand(len(part))
        found.append(objects.depth(images, part[:, None], scales)[:, 0])
    return torch.stack([unit_shape(d, m) for d, m in zip(torch.cat(found), masks, strict=True)])


def make_crops(job: StageJob, scene: Objective, objects: ObjectObjective) -> list[Path]:
    """Crops of all objects of the table of `masks`, in its order: columns o_x (fp16), o_reference,
    o_scene, o_contact, and those of the table that tell which object it is.
    """
    masks_of, mined_of = caches(job, "masks"), caches(job, "mining")

    def work(source: SampleSource, block: Block) -> dict[str, np.ndarray]:
        own = masks_of[block.part], mined_of[block.part]
        return crop_block(scene, objects, source, block, *own, job.source.names)

    return make_blocks(job, "looking at objects", work)


@torch.no_grad()
def crop_block(
    scene: Objective, objects: ObjectObjective, source: SampleSource, block: Block, masks: Cache,
    mined: Cache, names: list[str],
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays of `make_crops` of one block."""
    table, crops = masks.columns(block.name), []
    busy = [t for row, t in enumerate(block.targets) if (table["o_row"] == row).any()]
    for sample in walk(source, busy, names):
        depth, K = scene_depth(scene, sample)
        depth, _ = static_depth(depth, sample, mined)
        _, scale = scene.cameras_and_scales(sample, None)
        ground = ground_mask(depth, K)[:, 0]
        for i, image in enumerate(sample.tgt_net):
            target = busy[len({c[0] for c in crops})]
            own = table["o_id"][table["o_row"] == block.targets.index(target)]
            ids = torch.from_numpy(masks.of(target, "ids")[0])
            inside = ids[None] == torch.from_numpy(own)[:, None, None]
            # wrong scene depth makes moving objects look like road
            road = ground[i] & (ids == 0)
            shapes = object_shapes(objects, image[None], inside.float(), scale[i : i + 1])
            for mask, shape in zip(inside, shapes, strict=True):
                others = (ids > 0) & ~mask
                crop = crop_object(image, depth[i, 0], shape, mask.float(), road, others)
                crops.append((target, crop))
    found = [c for _, c in crops]
    x = [c.x.half().numpy() for c in found]
    numbers = np.array([(c.reference, c.scene, c.contact) for c in found], np.float32)
    numbers = numbers.reshape(-1, 3)
    return {
        "o_row": table["o_row"], "o_id": table["o_id"], "o_dynamic": table["o_dynamic"],
        "o_area": table["o_area"],
        "o_x": np.stack(x) if x else np.zeros((0, CHANNELS, SIZE, SIZE), np.float16),
        "o_reference": numbers[:, 0], "o_scene": numbers[:, 1], "o_contact": numbers[:, 2],
    }  # fmt: skip
