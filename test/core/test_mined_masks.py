"""Which objects the masks of mined_supervision hold, which of them move, and where the sources
show them.
"""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import scenes
import torch
from scenes import SIZE, camera, pose
from street import ROAD, Board, view
from test_mined_parts import CONFIG, boxes

from dyndepth_core.geometry.multi_view import plane_costs
from dyndepth_core.geometry.road import fit_road, road_inverse
from dyndepth_core.methods.mined_supervision.clusters import vote
from dyndepth_core.methods.mined_supervision.cues import find_cues, low, on_road, on_top, sky
from dyndepth_core.methods.mined_supervision.masks import (
    Shown,
    gated,
    label_objects,
)
from dyndepth_core.methods.mined_supervision.outlines import cut_out
from dyndepth_core.methods.mined_supervision.segment import centre_ways, looks

FORWARD = 0.4  # metres that the camera drives between two images
LARGE = (96, 320)
K = camera(200.0, LARGE)
# ahead as fast as the camera, oncoming, standing
DRIVING = [
    Board(0.3, 9.0, step=(0.0, FORWARD), width=2.0), Board(-2.6, 12.0, step=(0.0, -FORWARD)),
    Board(3.2, 9.0, width=2.0),
]  # fmt: skip


def label(ids, moving=None, apparent=None, road=None, config=CONFIG, still=None, grows=99.0):
    nothing, none = np.full(ids.shape, np.nan, np.float32), np.zeros(ids.shape, bool)
    moving, still = (none if x is None else x for x in (moving, still))
    apparent, road = (nothing if x is None else x for x in (apparent, road))
    return label_objects(ids, moving, still, apparent, road, config, grows)


def fine(points, surface):
    """Paint three times as fine as that for small images: windows of it look different."""
    return scenes._paint(torch.stack((*points[:2], (points[2] + 1) / 3 - 1)), surface)


@pytest.fixture(scope="module")
def street():
    """Grey images of seven frames, T (6, 4, 4) from the middle one to the others, its depth and
    ids.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("street._paint", fine)
        views = [view(DRIVING, pose(z=FORWARD * i), i, K, LARGE) for i in range(7)]
    greys = [v[0][0].mean(0).numpy().astype(np.float32) for v in views]
    T = np.tile(np.eye(4), (6, 1, 1))
    T[:, 2, 3] = [-FORWARD * (i - 3) for i in range(7) if i != 3]
    others = [g for i, g in enumerate(greys) if i != 3]
    return greys[3], others, T, views[3][1][0, 0].numpy(), views[3][2]


def test_the_road_is_found_in_a_plane_sweep_whatever_drives_on_it(street):
    tgt, others, T, depth, ids = street
    inverse = np.linspace(-0.05, 0.5, 80).astype(np.float32)
    costs = plane_costs(tgt, others, T, K[0].numpy(), inverse)
    road = road_inverse(fit_road(costs, inverse, K[0].numpy()), K[0].numpy(), LARGE)
    rows = np.arange(LARGE[0])[:, None] > K[0, 1, 2].numpy() + 20
    seen = rows & (ids == 0)
    off = np.abs(road * depth - 1)[seen]
    assert np.median(off) < 0.06 and np.quantile(off, 0.95) < 0.15


def test_what_drives_ahead_is_seen_by_its_parallax_and_nothing_else_is(street):
    tgt, others, T, depth, ids = street
    cues = find_cues(tgt, others, T, K[0].numpy(), depth, np.zeros(LARGE))
    lower = (ids == 1) & (np.arange(LARGE[0])[:, None] > np.nonzero(ids == 1)[0].mean())
    assert (cues.ids > 0)[lower].mean() > 0.5  # farther up the road behind it is too far to tell
    away = cv2.dilate((ids == 1).astype(np.uint8), np.ones((9, 9))) == 0
    assert (cues.ids > 0)[away].mean() < 0.002
    fast = find_cues(tgt, others, T, K[0].numpy(), depth, 2.0 * (ids == 2))
    assert (fast.ids > 0)[ids == 2].mean() > 0.9


def test_what_comes_nearer_contradicts_its_foot_and_a_network_that_is_wrong_does_not(street):
    tgt, others, T, depth, ids = street

    def share(name, speed):
        cues = find_cues(tgt, others, T, K[0].numpy(), depth, speed * (ids == name))
        return (cues.ids > 0)[ids == name].mean()

    assert share(2, 0.5) > 0.5 and share(2, 0.1) < 0.02
    assert share(3, 2.0) < 0.1  # as if it were fast, but it stands where it seems to
    still = find_cues(tgt, others, T, K[0].numpy(), depth, 2.0 * (ids == 3)).still
    assert (still > 0)[ids == 3].mean() > 0.5


def test_where_most_of_an_image_seems_to_move_nothing_is_known(street):
    tgt, others, T, depth, ids = street
    others = [np.random.default_rng(i).random(LARGE, np.float32) for i in range(6)]
    cues = find_cues(tgt, others, T, K[0].numpy(), depth, np.full(LARGE, 2.0))
    assert cues.ids.max() == 0 and not cues.still.any() and np.isnan(cues.apparent).all()
    assert not cues.road.any()


def test_what_stands_has_its_depth_and_what_moves_has_none(street):
    tgt, others, T, depth, ids = street
    still = find_cues(tgt, others, T, K[0].numpy(), depth, 2.0 * (ids == 2)).still
    stands = (ids == 0) | (ids == 3)
    off = np.abs(still / depth - 1)[stands & (still > 0)]
    assert (still > 0)[stands & (depth < 20)].mean() > 0.5 and not (still > 0)[ids == 2].any()
    assert np.median(off) < 0.04 and np.quantile(off, 0.95) < 0.2
    assert (still > 0)[ids == 1].mean() < 0.1  # as far as the road ahead is, not as it is


def test_what_stands_nearer_than_a_network_says_has_its_depth_but_is_not_sure_to_stand(street):
    tgt, others, T, depth, ids = street
    wrong = np.where(ids == 3, 4 * depth, depth)  # as if it were the road behind it
    cues = find_cues(tgt, others, T, K[0].numpy(), wrong, np.zeros(LARGE))
    seen = (ids == 3) & (cues.still > 0)
    assert seen.sum() > 0.5 * (ids == 3).sum() and not cues.about[ids == 3].any()
    assert np.median(np.abs(cues.still / depth - 1)[seen]) < 0.05
    assert cues.about[(ids == 0) & (depth < 20)].mean() > 0.5


def test_an_object_moves_if_its_parallax_contradicts_where_it_stands(street):
    tgt, others, T, depth, ids = street
    cues = find_cues(tgt, others, T, K[0].numpy(), depth, np.zeros(LARGE))
    road = road_inverse(cues.road, K[0].numpy(), LARGE)
    table = label(ids.astype(np.uint8), None, cues.apparent, road)
    ahead, oncoming, standing = table["apart"].tolist()
    assert ahead > 4 and oncoming == pytest.approx(0.5, rel=0.15)
    assert standing == pytest.approx(1, rel=0.15)
    assert table["dynamic"].tolist() == [True, True, False]  # the middle one is not asked
    assert table["inverse"][1] == pytest.approx(2 / 9.6, rel=0.05)


def test_the_road_is_told_from_what_stands_on_it(street):
    tgt, others, T, depth, ids = street
    cues = find_cues(tgt, others, T, K[0].numpy(), depth, np.zeros(LARGE))
    level = on_road(cues.apparent, road_inverse(cues.road, K[0].numpy(), LARGE))
    height = depth * (np.arange(LARGE[0])[:, None] - K[0, 1, 2].numpy()) / K[0, 1, 1].numpy()
    assert level[(height > ROAD - 1e-3) & (depth < 12) & (ids == 0)].mean() > 0.5
    assert level[ids == 1].mean() < 0.02 and level[ids == 3].mean() < 0.25


def test_what_drives_ahead_is_not_road_halfway_up():
    rows = np.arange(LARGE[0])[:, None] - 40.0
    road = np.broadcast_to(rows / 100, LARGE).astype(np.float32)  # of a camera that is 1 high
    apparent = np.maximum(road, 1e-3)
    apparent[30:71, 100:140] = 0.15  # foot in row 70, 0.3; in row 55 the road is as far as it seems
    found = on_top(apparent, road)
    assert found[54:68, 102:138].all() and on_road(apparent, road)[54:56, 102:138].all()
    assert not found[72:].any() and not found[:, :98].any() and not found[:52].any()


def test_sky_is_above_the_horizon_and_at_no_depth_or_far_away():
    road = np.broadcast_to((np.arange(LARGE[0])[:, None] - 40.0) / 100, LARGE)
    apparent = np.full(LARGE, 0.3, np.float32)
    apparent[:60, 10:60], apparent[:60, 100:150], apparent[10, 200] = np.nan, 1e-3, np.nan
    found = sky(apparent, road)
    assert found[:41, 10:60].all() and found[:41, 100:150].all() and found.sum() == 41 * 100
    assert not sky(apparent, 0 * road).any()  # no road, no horizon


def test_what_is_as_low_as_a_car_may_be_one():
    rows = np.arange(LARGE[0])[:, None] - 40.0
    road = np.broadcast_to(rows / 100, LARGE)  # the camera is 1 high, focal length 100, horizon 40
    apparent = np.maximum(road, 0.2).astype(np.float32)  # what stands 5 away, on row 60
    found = low(apparent, road)
    assert found[31:58].all() and not found[:30].any()  # up to half a height over the camera
    assert not found[60:].any()  # that is road
    unknown = low(np.full(LARGE, np.nan, np.float32), road)  # nearer, on row 95
    assert unknown[14:].all() and not unknown[:12].any()


def test_what_several_images_are_sure_of_stands_whatever_else_says_that_it_moves():
    ids = boxes((10, 20, 10, 30), (10, 20, 50, 70))
    still = np.zeros(ids.shape, bool)
    still[10:14, 10:20] = still[10:14, 50:59] = True  # 40 and 36 of 200 pixels
    assert label(ids, ids > 0, still=still)["dynamic"].tolist() == [False, True]


def test_what_the_image_cuts_off_below_says_nothing_of_where_it_stands():
    ids = boxes((20, 40, 10, 30))
    apart = label(ids, None, np.full(ids.shape, 0.1, np.float32), np.full(ids.shape, 0.3))["apart"]
    assert np.isnan(apart).all()


def test_a_large_object_whose_parts_do_not_agree_on_its_middle_is_one():
    """A network that has learned little says less of the way than there is."""
    ids = torch.from_numpy(boxes((20, 50, 10, 70), (20, 50, 72, 132), size=(60, 160)).astype(int))
    ways = centre_ways(ids[None])[0].numpy() * 160
    ways[0, :, 10:40] -= 6
    ways[0, :, 40:70] += 6  # middles of the left one: 34 and 46, of the right one 102
    found = vote(ids.numpy() > 0, ways / 160, 20)
    assert found.max() == 2
    for name in (1, 2):
        assert len(np.unique(found[ids == name])) == 1


def test_what_ends_above_the_road_is_no_object():
    ids = boxes((4, 16, 10, 40), (30, 50, 10, 40), (10, 40, 60, 90), size=(60, 120))
    small = torch.from_numpy(ids[::2, ::2].astype(int))
    image = torch.from_numpy(0.2 + 0.2 * ids).float().expand(1, 3, -1, -1)
    logit = torch.where(small > 0, 4.0, -4.0)[None, None]
    network = SimpleNamespace(threshold=0.5, see=lambda _: (logit, centre_ways(small[None])))
    road = np.broadcast_to((np.arange(60.0)[:, None] - 25) / 60, ids.shape)  # horizon in row 25
    for far, kept in ((road, [2, 3]), (np.zeros(ids.shape), [1, 2, 3])):  # or where none is known
        found = looks(network, image, np.zeros(ids.shape, bool), far, 0.005)
        assert [n for n in (1, 2, 3) if found[ids == n].any()] == kept


def test_objects_are_cut_out_by_their_colours():
    rng = np.random.default_rng(0)
    truth = boxes((12, 30, 30, 70), size=(48, 110)) > 0
    image = np.where(truth[..., None], (170, 60, 50), (70, 90, 80)) + rng.normal(0, 8, (48, 110, 3))
    likely = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 5)
    rough = (likely > 0.15).astype(np.uint8)
    assert (rough & truth).sum() / (rough | truth).sum() < 0.6
    image, road = image.clip(0, 255).astype(np.uint8), np.zeros(truth.shape, bool)
    found = cut_out(image, likely, rough, road) > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.9
    tiny = boxes((5, 7, 5, 8), size=(48, 110))
    assert np.array_equal(cut_out(image, likely, tiny, road), tiny)
    road[22:] = True
    assert not cut_out(image, likely, rough, road)[road].any()


@pytest.mark.parametrize("step, apparent", [(-1.0, 3.0), (1.0, 1e4)])
def test_an_object_is_shown_where_it_would_be_if_it_stood_where_it_seems_to(step, apparent):
    """Oncoming, or ahead, as fast as the camera: beyond the road under it, but not behind."""
    boards = [Board(-1.0, 6.0, step=(0.0, step))]
    for way in (1.0, -1.0):
        boards[0] = replace(boards[0], step=(0.0, step * np.sign(way)))
        cameras = pose(), pose(z=way)
        _, depth, ids = view(boards, cameras[0])
        _, _, other = view(boards, cameras[1], frame=1)
        T = (torch.linalg.inv(cameras[1]) @ cameras[0]).float()
        inverse = np.array([1 / apparent], np.float32)
        shown = Shown(torch.from_numpy(ids), depth[0].float(), torch.zeros(1, 3, *SIZE), inverse)
        found = shown.splat(camera()[0].float(), T)[0]
        assert ((found == 1) & (other == 1)).sum() / ((found == 1) | (other == 1)).sum() > 0.85
        expected = [0, 0, -way * 6 / apparent]
        assert shown.motions(T)[0, 0, :3, 3] == pytest.approx(expected, abs=1e-5)


def test_an_object_moves_if_half_of_it_does_or_if_it_stands_in_the_middle():
    ids = boxes((5, 15, 2, 22), (5, 15, 30, 40), (20, 30, 44, 49), (20, 30, 60, 80))
    moving = np.zeros(ids.shape, bool)
    moving[5:15, 2:12] = True  # exactly half of the first
    moving[20:30, 60:69] = True  # less than half of the last
    table = label(ids, moving)
    assert table["ratio"].tolist() == pytest.approx([0.5, 0, 0, 0.45])
    # the third one reaches column 48, of the middle twentieth
    assert table["centre"].tolist() == [False, False, True, False]
    assert table["dynamic"].tolist() == [True, False, True, False]
    assert table["area"].tolist() == pytest.approx([0.05, 0.025, 0.0125, 0.05])


@pytest.mark.parametrize("width", [64, 96, 320, 512])
def test_the_middle_columns_are_never_none(width):
    ids = np.zeros((10, width), np.uint8)
    ids[2:6, width // 2] = 1
    assert label(ids)["dynamic"].tolist() == [True]
    off = CONFIG.model_copy(update={"centre": 0.0})
    assert label(ids, config=off)["dynamic"].tolist() == [False]


def test_objects_are_gated_by_their_area_and_keep_their_largest_part():
    ids = boxes((0, 10, 0, 10), (0, 4, 20, 24), (0, 40, 30, 90))
    ids[20:22, 0:2] = 1
    found = gated(ids, 0.005)  # at least 20 pixels, at most 2000
    assert found.max() == 1 and (found > 0).sum() == 100
    assert found[20, 0] == 0


def test_masks_are_carried_to_where_the_sources_show_them():
    boards = [Board(-1.0, 5.0, step=(0.25, 0.0)), Board(1.4, 7.0)]
    cameras = pose(), pose(z=0.3)
    _, depth, ids = view(boards, cameras[0])
    _, _, later = view(boards, cameras[1], frame=1)
    T = torch.linalg.inv(cameras[1]) @ cameras[0]
    residual = torch.zeros(1, 3, *SIZE, dtype=torch.float64)
    residual[:, 0, torch.from_numpy(ids == 1)] = 0.25
    unknown = np.full(2, np.nan, np.float32)
    shown = Shown(torch.from_numpy(ids), depth[0].float(), residual.float(), unknown)
    found = shown.splat(camera()[0].float(), T.float())[0]
    for name in (1, 2):
        both, either = (
            f(found == name, later == name).sum() for f in (np.logical_and, np.logical_or)
        )
        assert both / either > 0.85
    moved = shown.motions(T.float())
    assert moved[0, 0, :3, 3] == pytest.approx([0.25, 0, -0.3], abs=1e-6)
    assert moved[1, 0, :3, 3] == pytest.approx([0, 0, -0.3], abs=1e-6)
