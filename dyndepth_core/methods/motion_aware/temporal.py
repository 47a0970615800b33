"""Temporal hints (Dong et al., ICRA 2024): where a moving object belongs between its two sightings.

A and B: the earlier and the later source, warped to tgt by the teacher's depth. An object that
moves evenly is at the midpoint of where A and B show it; there its pixels can be compared with tgt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyndepth_core.geometry.camera import inverse_K, pixel_grid
from dyndepth_core.geometry.warp import sample
from dyndepth_core.instances.matching import boxes, dice_costs, match, relabel

# Pixels by which the delta of a standing object is off at its true depth. The outermost pixel of a
# mask is up to a pixel inside of the edge, in A and in B: the move of an edge is off by less than
# 1, by 0.4 in the mean square. Over both axes, by the rule for the edges, one of 800 boxes is off
# by more than 1 (one of 30, if a zoom of 1.3 has enlarged the masks).
MASK_NOISE = 1.0


@dataclass
class Matched:
    """Instances of tgt that A and B show as well, by their id k in tgt (1 to K; 0 = nobody).

    tgt (B, H, W), sources (B, 2, H, W): where they are in tgt and, in their own planes, in A and B;
    ids (B, 2, H, W): A and B warped; delta (B, K + 1, 2): pixels (x, y) of tgt from A to B, both
    seen on the plane z = depth; centre (B, K + 1, 2): pixel in the middle between both; depth
    (B, K + 1): the teacher's, mean over the instance in tgt; known (B, K + 1) bool.
    """

    tgt: Tensor
    sources: Tensor
    ids: Tensor
    delta: Tensor
    centre: Tensor
    depth: Tensor
    known: Tensor


@dataclass
class Hints:
    """What is to be changed in A and B, (B, 2, H, W) each: who falls there, an id, 0 = nobody, when
    pixels move; fill: bool, what the object leaves behind and the other image shows. tgt
    (B, H, W), sources (B, 2, H, W): the painted objects there. shift (B, 2, K + 1, 2): pixels
    (x, y) by which the object moves; depth (B, K + 1) of the object; found (B,) bool: images with
    any object.
    """

    tgt: Tensor
    sources: Tensor
    who: Tensor
    fill: Tensor
    shift: Tensor
    depth: Tensor
    found: Tensor


@torch.no_grad()
def match_instances(
    ids: Tensor, sources: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor, gate: float
) -> Matched | None:
    """Find every instance of tgt in A and B; None where there is none in the whole batch.

    ids (B, 3, H, W): those of tgt, A and B, in the image plane of tgt, 0 = nobody; the names of tgt
    need not agree with the others'. sources (B, 2, H, W): those of A and B in their own planes, by
    the same names. depth (B, 1, H, W): the teacher's; T_src_tgt (B, 2, 4, 4) of A and B, K
    (B, 3, 3). Masks are matched by Dice (matching.py), `gate`: from which cost on, in [0, 1], two
    masks are not the same object.
    """
    count = int(torch.maximum(ids.max(), sources.max()))
    tgt = ids[:, 0]
    partners = [match(dice_costs(tgt, other, count), gate) for other in ids[:, 1:].unbind(1)]
    known = (partners[0] > 0) & (partners[1] > 0)
    if not known.any():
        return None
    total = torch.zeros(known.shape, device=depth.device, dtype=depth.dtype)
    total = total.scatter_add(1, tgt.long().flatten(1), depth.flatten(1))
    mean = total / boxes(tgt, count)[1].clamp(min=1)
    own = torch.arange(count + 1, device=ids.device).expand_as(known) * known
    names = [torch.zeros_like(own).scatter(1, p * known, own) for p in partners]
    for n in names:
        n[:, 0] = 0
    warped, at_home = (
        torch.stack([relabel(x[:, s], n) for s, n in enumerate(names)], 1)
        for x in (ids[:, 1:], sources)
    )
    sides, cut, there = _boxes_on_plane(at_home, mean, T_src_tgt, K)
    known = known & there.all(1)
    delta = _moved(sides[:, 1] - sides[:, 0], cut.any(1)).masked_fill(~known[..., None], 0)
    return Matched(tgt, at_home, warped, delta, sides.mean((1, 3)), mean, known)


def _boxes_on_plane(
    ids: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of the instances in the sources, ids (B, 2, H, W), as tgt sees them on the plane
    z = depth (B, K + 1): their sides (B, 2, K + 1, 2, 2), left and top, right and bottom; cut, bool
    of that shape: the border of the image cuts the object there; there (B, 2, K + 1), bool: the
    plane is in front of both cameras.

    Boxes of masks that are warped would not do: beside an object, the depth of the background looks
    up the object once more, and such ghosts move as the camera does.
    """
    height, width = ids.shape[-2:]
    box = torch.stack([boxes(x, depth.shape[1] - 1)[0] for x in ids.unbind(1)], 1)
    end = box.new_tensor((width - 1, height - 1))
    cut = torch.stack((box[..., :2] <= 0, box[..., 2:] >= end), 3)
    corners = box[..., [0, 1, 2, 1, 0, 3, 2, 3]].unflatten(-1, (-1, 2)).flatten(2, 3)
    plane = depth[:, None].repeat_interleave(4, 2)
    corners, there = (x.unflatten(2, (-1, 4)) for x in _from_plane(corners, plane, T_src_tgt, K))
    return torch.stack((corners.amin(3), corners.amax(3)), 3), cut, there.all(3)


def _moved(sides: Tensor, cut: Tensor) -> Tensor:
    """How far (B, K + 1, 2) boxes move of which each side moves by sides (B, K + 1, 2 sides, 2
    axes); cut, bool of that shape: the border of an image cuts the object there.

    The paper takes the side that moves farther, since the other one may be hidden. But the border
    of an image is no edge of the object: it moves as the camera does, and where both sides are cut,
    nothing says that the object moves. And one that comes nearer moves its sides apart: where they
    go opposite ways, it moves as a whole by their mean.
    """
    sides = sides.masked_fill(cut, 0)
    farther = sides.gather(2, sides.abs().argmax(2, keepdim=True))[:, :, 0]
    return torch.where(sides.prod(2) < 0, sides.mean(2), farther)


@torch.no_grad()
def could_stand(
    found: Matched, T_src_tgt: Tensor, K: Tensor, tolerance: float, pixels: float = MASK_NOISE
) -> Tensor:
    """Which instances (B, K + 1) may as well stand, bool: a wrong depth moves them as far.

    Under assumed depth d, a standing point of depth d' is seen in image s at q_s, where the plane
    z = d shows pi_s(p, d'). An instance could stand if its delta lies within `pixels` of those
    q_B - q_A for which d / tolerance <= d' <= d tolerance, a line to first order.
    T_src_tgt (B, 2, 4, 4) of A and B, K (B, 3, 3).
    """
    centre, depth = found.centre[:, None], found.depth[:, None]
    ends = []
    for factor in (1 / tolerance, tolerance):
        seen = _project(centre, depth * factor, T_src_tgt, K)
        at, _ = _from_plane(seen, depth, T_src_tgt, K)
        ends.append(at[:, 1] - at[:, 0])
    line = ends[1] - ends[0]
    along = ((found.delta - ends[0]) * line).sum(-1) / line.square().sum(-1).clamp(min=1e-12)
    nearest = ends[0] + along.clamp(0, 1)[..., None] * line
    return (found.delta - nearest).norm(dim=-1) <= pixels


@torch.no_grad()
def lay_out(found: Matched, keep: Tensor, share: Tensor) -> Hints | None:
    """How the instances `keep` (B, K + 1), bool, are painted; None where none is left.

    share (B,): of the time from A to B that has passed at tgt, 1/2 if they are as far apart. A
    moves on by share delta, B back by (1 - share) delta. `who`: in whole pixels; where several
    objects would fall, the one of the least depth does. What an object hides in one image and not
    in the other is filled from there.
    """
    keep = keep & found.known
    if not keep.any():
        return None
    names = torch.arange(keep.shape[1], device=keep.device) * keep
    tgt = relabel(found.tgt, names)
    sources, ids = (
        torch.stack([relabel(x, names) for x in both.unbind(1)], 1)
        for both in (found.sources, found.ids)
    )
    part = torch.stack((share, share - 1), 1)[..., None, None]
    shift = part * (found.delta * keep[..., None])[:, None]
    order = found.depth.masked_fill(~keep, torch.inf).argsort(1)
    who = torch.stack([_painted(ids[:, s], shift[:, s].round(), order) for s in (0, 1)], 1)
    fill = torch.stack([(ids[:, s] > 0) & (ids[:, 1 - s] == 0) for s in (0, 1)], 1)
    return Hints(tgt, sources, who, fill, shift, found.depth, keep.any(1))


def paint(hints: Hints, warped: Tensor) -> Tensor:
    """A and B with every object where it belongs, (B, 2, 3, H, W) as warped, by moving pixels: as
    published.

    The gradient of pixel p goes to the depth of the pixel it was taken from, half a step away.
    """
    batch, _, channels, height, width = warped.shape
    index = torch.arange(height * width, device=warped.device)
    step = _of_pixel(hints.shift.round(), hints.who).long()  # (B, 2, HW, 2)
    origin = index - step[..., 1] * width - step[..., 0]
    origin = torch.where(hints.who.flatten(2) > 0, origin, index)
    origin = origin[:, :, None].expand(-1, -1, channels, -1)
    moved = warped.flatten(3).gather(3, origin).view(warped.shape)
    return _compose(hints.who, hints.fill, moved, warped)


def paint_by_grid(
    hints: Hints, src: Tensor, pixels: Tensor, warped: Tensor, T_src_tgt: Tensor, K: Tensor
) -> Tensor:
    """The same by looking up the sources elsewhere: I_s(pi_s(p, D(p)) + m_k), m_k =
    pi_s(p - shift_k, d_k) - pi_s(p, d_k) without gradient, d_k the mean depth of the object.

    Painted are the objects' own pixels in tgt, where the source shows that object there: moved
    masks would bring the ghosts of warping and lack the object's front, where the depth of the
    background looks up the sources. The gradient of pixel p goes to its own depth.
    src (B, 2, 3, H, W), pixels (B, 2, 2, H, W) where tgt falls in them, warped (B, 2, 3, H, W) what
    is there, T_src_tgt (B, 2, 4, 4), K (B, 3, 3).
    """
    height, width = src.shape[-2:]
    with torch.no_grad():
        own = hints.tgt[:, None].expand(-1, 2, -1, -1)
        at = pixel_grid(height, width, src.device, src.dtype)[:2].flatten(1).mT
        depth = hints.depth[:, None].expand(-1, 2, -1)[..., None]
        depth = _of_pixel(depth, own)[..., 0].to(src.dtype)
        depth = torch.where(own.flatten(2) > 0, depth, 1.0)
        step = _of_pixel(hints.shift, own).to(src.dtype)
        ends = (_project(x, depth, T_src_tgt, K) for x in (at - step, at.expand_as(step)))
        offset = torch.sub(*ends).mT.unflatten(-1, (height, width))
    pixels = (pixels + offset).flatten(0, 1)
    seen = hints.sources.flatten(0, 1)[:, None].to(src.dtype)
    seen = sample(seen, pixels.detach(), "zeros", "nearest").view(own.shape)
    moved = sample(src.flatten(0, 1), pixels).view(warped.shape)
    return _compose(own * (seen == own), hints.fill, moved, warped)


def _compose(who: Tensor, fill: Tensor, moved: Tensor, warped: Tensor) -> Tensor:
    filled = torch.where(fill[:, :, None], warped.flip(1), warped)
    return torch.where(who[:, :, None] > 0, moved, filled)


def _painted(ids: Tensor, shift: Tensor, order: Tensor) -> Tensor:
    """Whose pixel falls where, (B, H, W), the first in `order` (B, K + 1), a permutation of ids,
    wins; ids (B, H, W) move by shift (B, K + 1, 2), whole pixels.
    """
    height, width = ids.shape[-2:]
    v, u = torch.meshgrid(
        torch.arange(height, device=ids.device), torch.arange(width, device=ids.device),
        indexing="ij",
    )  # fmt: skip
    step = _of_pixel(shift[:, None], ids[:, None])[:, 0].long()
    x, y = u.flatten() + step[..., 0], v.flatten() + step[..., 1]
    flat = ids.flatten(1)
    inside = (flat > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    # a slot behind the image takes what falls outside, so that no index needs filtering
    place = torch.where(inside, y * width + x, height * width)
    rank = order.argsort(1).gather(1, flat)
    last = order.shape[1]
    first = rank.new_full((len(ids), height * width + 1), last)
    first = first.scatter_reduce(1, place, rank, "amin")[:, :-1]
    named = torch.cat((order, torch.zeros_like(order[:, :1])), 1)
    return named.gather(1, first).view(ids.shape)


def _of_pixel(values: Tensor, who: Tensor) -> Tensor:
    """values (B, S, K + 1, C) of the instance at each pixel of who (B, S, H, W): (B, S, HW, C)."""
    index = who.flatten(2)[..., None].expand(-1, -1, -1, values.shape[-1])
    return values.gather(2, index)


def _project(at: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Tensor:
    """Where pixels `at` (B, 1 or S, N, 2) of tgt at `depth` (B, 1 or S, N) fall in the sources,
    (B, S, N, 2); T_src_tgt (B, S, 4, 4), K (B, 3, 3).
    """
    T, K = T_src_tgt.to(at.dtype), K.to(at.dtype)
    ray = torch.cat((at, torch.ones_like(at[..., :1])), -1) @ inverse_K(K).mT[:, None]
    points = depth[..., None].to(at.dtype) * ray
    points = points @ T[..., :3, :3].mT + T[..., None, :3, 3]
    image = points @ K.mT[:, None]
    return image[..., :2] / image[..., 2:].clamp(min=1e-3)


def _from_plane(at: Tensor, depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Where tgt sees what the sources show at pixels `at` (B, S, N, 2) if it is on the plane
    z = `depth` (B, 1 or S, N) of tgt: the homography H^-1, H = K (R + t (0, 0, 1) / d) K^-1.

    Pixels (B, S, N, 2), and whether the plane is in front of both (B, S, N), bool. T_src_tgt
    (B, S, 4, 4), K (B, 3, 3).
    """
    T, K, depth = (x.to(at.dtype) for x in (T_src_tgt, K, depth))
    R, t = T[..., :3, :3], T[..., None, :3, 3]
    ray = torch.cat((at, torch.ones_like(at[..., :1])), -1) @ inverse_K(K).mT[:, None] @ R
    camera = -t @ R  # of the source, in tgt
    z_src = ((depth - camera[..., 2]) / ray[..., 2]).nan_to_num(0.0, 0.0, 0.0)
    image = (camera + z_src[..., None] * ray) @ K.mT[:, None]
    return image[..., :2] / depth[..., None].clamp(min=1e-3), (z_src > 1e-3) & (depth > 1e-3)
