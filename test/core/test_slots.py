"""Slot attention of mined_supervision: its parts against known answers, and what it learns."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dyndepth_core.methods.mined_supervision import cues, slots
from dyndepth_core.methods.mined_supervision.slots import (
    BACKGROUND_FROM,
    LEAST_USAGE,
    USAGE,
    USAGE_FROM,
    USAGE_WHOLE,
    SlotObjective,
    SlotSample,
)
from dyndepth_core.networks.slots import SLOTS, SlotNet, SlotPredictions, attend

SIDE = 16


def sample_of(parts, rest):
    count, image = len(parts), parts[:, :3] / 2 + 0.5
    none, nothing = image.new_zeros(count, 0, 3, *image.shape[2:]), torch.zeros(count).long()
    return SlotSample(
        image, none, image, none, torch.eye(3).expand(count, 3, 3), nothing.bool(),
        image.new_zeros(count, 0), nothing, nothing.bool(), torch.arange(count), parts=parts,
        rest=rest,
    )  # fmt: skip


def predictions(owner, usage):
    """Slots that hold what owner (h, w) says, and draw white, far away."""
    size = owner.shape
    logits = 20.0 * torch.nn.functional.one_hot(owner, SLOTS).permute(2, 0, 1)[None, :, None]
    ones = torch.ones(1, SLOTS, 1, *size)
    return SlotPredictions(logits, ones.expand(-1, -1, 3, -1, -1), ones, usage)


def test_pixels_are_shared_among_slots_and_an_update_is_a_weighted_mean():
    q = torch.tensor([[[0.0], [math.log(3.0)]]])
    k, v = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[4.0], [-2.0]]])
    update, attention = attend(q, k, v)
    assert attention[0].tolist() == [[0.5, 0.5], pytest.approx([0.25, 0.75])]
    expected = [(0.5 * 4 - 0.25 * 2) / 0.75, (0.5 * 4 - 0.75 * 2) / 1.25]
    assert update.flatten().tolist() == pytest.approx(expected)
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 8), torch.randn(2, 50, 8)
    update, attention = attend(5 * q, k, torch.ones(2, 50, 8))
    assert torch.allclose(attention.sum(2), torch.ones(2, 50))
    assert torch.allclose(update, torch.ones(2, 3, 8))  # a mean of ones, however few pixels


def test_masks_share_every_pixel_and_flow_fills_its_range():
    torch.manual_seed(0)
    found = SlotNet(SIDE, 8)(torch.randn(2, 4, SIDE, SIDE), torch.randn(2, SLOTS, 8))
    assert found.masks.shape == (2, SLOTS, 1, SIDE, SIDE)
    assert torch.allclose(found.masks.sum(1), torch.ones(2, 1, SIDE, SIDE))
    assert torch.allclose(found.flow.amax((2, 3, 4)), torch.ones(2, SLOTS))
    assert torch.allclose(found.flow.amin((2, 3, 4)), -torch.ones(2, SLOTS))
    assert found.depth.min() >= 0 and found.usage.shape == (2, SLOTS)
    with pytest.raises(ValueError, match="give 16, 32"):
        SlotNet(24, 8)


def test_masks_do_not_follow_from_what_else_is_in_the_batch():
    torch.manual_seed(0)
    objective = SlotObjective(SIDE, 8).eval()
    parts = torch.randn(3, 4, SIDE, SIDE)
    sample = sample_of(parts, parts[:, :1])
    turned = sample_of(parts.flip(0), parts[:, :1])
    turned.index = sample.index.flip(0)
    with torch.no_grad():
        first, again = (objective.predict(s).masks for s in (sample, turned))
        assert torch.allclose(first, again.flip(0), atol=1e-5)
        turned.index = sample.index
        assert not torch.allclose(first, objective.predict(turned).masks.flip(0), atol=1e-5)


def test_losses_begin_where_the_published_epochs_are():
    owner = torch.zeros(8, 8).long()
    usage = torch.full((1, SLOTS), 0.51)
    white = sample_of(torch.ones(1, 4, 8, 8), torch.ones(1, 1, 8, 8))

    def terms(progress):
        return SlotObjective(SIDE, 4).losses(white, predictions(owner, usage), progress).terms

    assert set(terms(0.0)) == {"flow", "depth"}
    assert set(terms(USAGE_FROM)) == {"flow", "depth", "left", "usage"}
    assert set(terms(BACKGROUND_FROM)) == set(terms(1.0)) == {
        "flow", "depth", "background", "rest", "left", "usage",
    }  # fmt: skip
    middle = (USAGE_FROM + USAGE_WHOLE) / 2
    for progress, ramp in ((USAGE_FROM, 0.0), (middle, 0.5), (USAGE_WHOLE, 1.0), (1.0, 1.0)):
        assert terms(progress)["usage"] == pytest.approx(ramp * USAGE * 0.5, abs=1e-9)
    assert sum(terms(1.0).values()) - terms(1.0)["usage"] == pytest.approx(0.0, abs=1e-6)


def test_slots_that_hold_nothing_lose_their_usage_and_others_keep_it():
    owner = torch.zeros(8, 8).long()
    owner[:, :4] = 1  # moves; slots 2 to 4 hold nothing
    sample = sample_of(torch.ones(1, 4, 8, 8), (owner == 0).float()[None, None])
    objective, level = SlotObjective(SIDE, 4), torch.zeros(1, SLOTS, requires_grad=True)
    optimiser = torch.optim.Adam([level], lr=0.1)
    for _ in range(120):
        found = objective.losses(sample, predictions(owner, level.sigmoid()), 1.0)
        optimiser.zero_grad()
        found.total.backward()
        optimiser.step()
    usage = level.detach().sigmoid()[0]
    assert usage[1] > 0.95 and (usage[2:] - LEAST_USAGE).abs().max() < 0.01


def test_one_slot_is_of_more_use_than_two_that_share():
    alone, shared = torch.zeros(2, 1, SLOTS, 1, 1, 1)
    alone[0, 1], shared[0, 1:3] = 1.0, 0.5
    usage = torch.full((1, SLOTS), 0.8)
    assert slots.useful(alone, usage).sum() == pytest.approx(0.8, rel=1e-4)
    assert slots.useful(shared, usage).sum() == pytest.approx(0.4, rel=1e-4)


def test_flow_is_coloured_by_its_direction_and_what_rests_is_white_and_far():
    moves = np.ones((4, 4), bool)
    moves[0] = False
    flow = np.zeros((2, 4, 4))
    flow[0, 1], flow[0, 2], flow[1, 3], flow[0, 0] = 8.0, -8.0, 4.0, 8.0
    found = slots.flow_image(flow, moves)
    assert (found[0] == 1).all()
    assert found[1, 0] == pytest.approx([1, -1, -1], abs=1e-5)  # red, and its opposite
    assert found[2, 0] == pytest.approx([-1, 1, 1], abs=1e-5)
    assert found[3, 0].min() == pytest.approx(0.0, abs=1e-5)  # half as fast, half as white
    slow = slots.flow_image(0.1 * flow / 8, moves)
    assert slow.min() == pytest.approx(0.8, abs=1e-5)  # a tenth of a pixel is noise
    code = slots.depth_code(np.where(moves, 5.0, 10.0), moves)
    assert (code[0] == 1).all() and code[1:] == pytest.approx(np.expm1(0.5) / np.expm1(1))


def test_what_slots_see_is_the_image_motion_of_the_residual():
    """A residual of 0.4 m to the right at 10 m and a focal length of 50: two pixels."""
    ids = np.zeros((32, 32), np.uint8)
    ids[8:24, 8:24] = 1
    residual = np.zeros((2, 3, 8, 8), np.float16)
    residual[0, 0], residual[1, 0] = 0.4, -0.4
    K = np.array([[50, 0, 15.5], [0, 50, 15.5], [0, 0, 1.0]])
    arrays = dict(
        ids=ids, T=np.stack([np.eye(4, dtype=np.float32)] * 2), residual=residual, K=K,
        depth=np.where(ids > 0, 10.0, 20.0).astype(np.float16),
    )  # fmt: skip
    mined = SimpleNamespace(of=lambda target, *keys: [arrays[k] for k in keys])
    seen = []
    for source in (0, 1):
        parts, rest = slots.parts_of(mined, 0, source, 16)
        assert parts.shape == (4, 16, 16) and rest[0, :4].min() == 1 and rest[0, 8, 8] == 0
        assert parts[:, 0, 0] == pytest.approx(1.0)
        assert parts[3, 8, 8] == pytest.approx(np.expm1(0.5) / np.expm1(1), rel=1e-3)
        seen.append(parts[:3, 8, 8])
    assert seen[0] == pytest.approx([1, -1, -1], abs=1e-3)
    assert seen[1] == pytest.approx([-1, 1, 1], abs=1e-3)


def test_what_two_slots_hold_is_two_objects_and_what_one_holds_nearby_is_one():
    moves = np.zeros((96, 320), bool)
    moves[10:30, 20:100] = True  # two that touch
    moves[50:70, 20:60], moves[50:70, 63:100] = True, True  # two parts, close by
    moves[50:70, 200:240] = True  # the same slot, far away
    moves[80:90, 10:30] = True  # held by the background alone
    masks = np.zeros((4, 96, 320), np.float32)
    masks[0, 10:30, 20:60], masks[1, 10:30, 60:100] = 0.9, 0.3
    masks[0, 10:30, 60:100] = 0.26  # held by both: the higher one's
    masks[2, 40:75] = 0.6
    masks[3, 80:90, 10:30] = 0.2
    masks[3, 0:2] = 0.9  # nothing moves there
    assert cues.regions(moves)[20, 30] == cues.regions(moves)[20, 90]
    ids = slots.slot_ids(masks, moves)
    assert ids.dtype == np.uint8 and ids.max() == 4
    assert len({ids[20, 30], ids[20, 90], ids[60, 30], ids[60, 220], 0}) == 5
    assert ids[60, 30] == ids[60, 61] == ids[60, 90]  # with the gap between them
    assert (ids[10:30, 20:60] == ids[20, 30]).mean() > 0.98
    assert ids[80:90, 10:30].max() == 0 and ids[:8].max() == 0
    assert slots.slot_ids(masks, moves & False).max() == 0


def squares(repeat=1):
    """Two squares that touch and move differently, in four images; which is where, (B, h, w)."""
    ids, parts = np.zeros((4, SIDE, SIDE), int), []
    ids[:, 2:9, 1:8], ids[:, 7:14, 8:15] = 1, 2
    for own, ways in zip(ids, ((0, 120), (90, 270), (180, 60), (270, 0)), strict=True):
        angle = np.radians((0, *ways))[own]
        flow, moves = 6 * np.stack((np.cos(angle), np.sin(angle))), own > 0
        colours = slots.flow_image(flow, moves)
        code = slots.depth_code(np.array((50.0, 8.0, 14.0))[own], moves)
        parts.append(np.concatenate((colours.transpose(2, 0, 1), code[None])))
    rest = torch.from_numpy((ids == 0).astype(np.float32))[:, None]
    parts = torch.from_numpy(np.stack(parts)).float()
    sample = sample_of(parts.repeat(repeat, 1, 1, 1), rest.repeat(repeat, 1, 1, 1))
    return sample, np.tile(ids, (repeat, 1, 1))


def test_what_rests_is_learned_to_be_the_first_slot_s_and_what_moves_the_others():
    """In this short time; which of the others holds which square takes far longer."""
    steps, rate = 400, 6e-3
    torch.manual_seed(0)
    objective, (sample, _) = SlotObjective(SIDE, 16), squares()
    optimiser = torch.optim.Adam(objective.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    for step in range(steps):
        found = objective.losses(sample, objective.predict(sample, step / steps), step / steps)
        optimiser.zero_grad()
        found.total.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    sample, ids = squares(repeat=4)  # the same images, the slots beginning elsewhere
    with torch.no_grad():
        first = objective.eval().predict(sample).masks[:, :, 0].argmax(1).numpy() == 0
    assert first[ids == 0].mean() > 0.9 and first[ids > 0].mean() < 0.1
