"""The pieces of mined_supervision that learn nothing, against known answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scenes import camera
from street import SIZE

from dyndepth_core.data.transforms import flip_horizontal, zoom_crop
from dyndepth_core.geometry.camera import flip_K
from dyndepth_core.methods.follow import draw, follow
from dyndepth_core.methods.mined_supervision import labels
from dyndepth_core.methods.mined_supervision.clusters import vote
from dyndepth_core.methods.mined_supervision.config import MinedSupervisionConfig, Shares
from dyndepth_core.methods.mined_supervision.labels import (
    DOUBT,
    LEAST_SURE,
    UNKNOWN_OFF,
    paste,
)
from dyndepth_core.methods.mined_supervision.objective import (
    BEHIND,
    BESIDE,
    LEAST_LABELLED,
    LabelledSample,
    _maps,
    drift_loss,
    label_loss,
    sky_loss,
    told,
)
from dyndepth_core.methods.mined_supervision.segment import centre_ways
from dyndepth_core.methods.residual_motion.objective import ResidualPredictions

CONFIG = MinedSupervisionConfig()


def boxes(*spans, size=(40, 100)):
    """Ids (h, w) of rectangles (top, bottom, left, right)."""
    ids = np.zeros(size, np.uint8)
    for name, (top, bottom, left, right) in enumerate(spans, 1):
        ids[top:bottom, left:right] = name
    return ids


def test_every_pixel_votes_for_the_middle_of_its_object():
    ids = torch.from_numpy(boxes((10, 20, 10, 20), (10, 20, 24, 40)).astype(np.int64))
    ways = centre_ways(ids[None])[0]
    assert ways[:, 10, 10].tolist() == pytest.approx([0.045, 0.045])
    assert ways[:, 0, 0].tolist() == [0, 0]
    found = vote(ids.numpy() > 0, ways.numpy(), 20)
    assert found.max() == 2
    for name in (1, 2):  # the same objects, under names of their own
        assert len(np.unique(found[ids == name])) == 1
    noise = np.zeros(ids.shape, bool)
    noise[::7, ::9] = True
    assert vote(noise, 0 * ways.numpy(), 20).max() == 0


def test_the_nearest_object_wins_and_the_rest_is_the_scene():
    scene = np.full((4, 6), 20.0, np.float32)
    masks = [np.zeros((4, 6), bool) for _ in range(2)]
    masks[0][:, :4], masks[1][:, 2:] = True, True
    depths = [np.where(m, d, 0).astype(np.float32) for m, d in zip(masks, (5.0, 7.0), strict=True)]
    masks[1][:, 5] = False
    for order in ((0, 1), (1, 0)):
        label, weight = paste(
            scene,
            [depths[i] for i in order],
            [masks[i] for i in order],
            [(0.8, 0.3)[i] for i in order],
        )
        assert (label[:, :4] == 5).all() and (label[:, 4] == 7).all() and (label[:, 5] == 20).all()
        assert weight[0].tolist() == pytest.approx([0.8] * 4 + [0.3, 0.0])


def test_an_object_that_nobody_is_sure_of_keeps_the_depth_of_the_scene():
    scene, masks = np.full((4, 6), 20.0, np.float32), np.zeros((2, 4, 6), bool)
    masks[0, :, :2] = masks[1, :, 3:5] = True
    sure = np.array([LEAST_SURE, 0.9 * LEAST_SURE])
    depths, seems = labels.believed(5.0 * masks, np.array([0.1, 0.2]), scene, masks, sure)
    assert (depths[0] == 5 * masks[0]).all() and (depths[1] == 20 * masks[1]).all()
    assert seems[0] == 0.1 and np.isnan(seems[1])


def test_a_scale_is_what_is_known_of_it_best(monkeypatch):
    contact = np.array([8.0, 8.0, np.nan, np.nan], np.float32)
    learned = np.array([2.0, np.nan, 3.0, np.nan], np.float32)
    monkeypatch.setattr(labels, "scales", lambda network, table: learned)
    names = ("id", "row", "dynamic", "area", "scene")
    table = {f"o_{name}": np.ones(4, np.float32) for name in names} | {"o_contact": contact}
    trust = 3 / DOUBT**2, 1 / DOUBT**2
    found = labels.choose_scales(table, "a network", trust)
    assert found["chosen"][:3] == pytest.approx([2.0, 8.0, 3.0]) and np.isnan(found["chosen"][3])
    assert found["weight"] == pytest.approx(np.exp([-1 / 6, -1 / 2, -1 / 6, -np.inf]))
    turned = labels.choose_scales(table, "a network", trust[::-1])
    assert turned["chosen"][:3] == pytest.approx([8.0, 8.0, 3.0])
    assert labels.choose_scales(table, None, trust)["chosen"][:2] == pytest.approx([8.0, 8.0])


def test_scales_are_trusted_by_their_errors_on_what_stands_held_out_objects_first(monkeypatch):
    off = {"here": (0.1, 0.2), "there": (0.001, None)}
    monkeypatch.setattr(
        labels, "judge",
        lambda network, standing: dict(
            zip(("learned_off_static", "contact_off_static"), off[standing], strict=True)
        ),
    )  # fmt: skip

    class Source(list):
        standing = "here"

    full, empty, unknown = Source("all objects"), Source(), Source("all objects")
    unknown.standing = "there"
    for sources in ([empty, full], [full, empty]):
        assert labels.trusts(None, sources) == pytest.approx((100.0, 25.0))
    assert labels.trusts(None, [full, unknown]) == pytest.approx((1e4, 25.0))  # 0.01 at least
    assert labels.trusts(None, [empty]) == pytest.approx((UNKNOWN_OFF**-2,) * 2)


def test_labels_count_up_to_one_factor_per_image_and_only_where_something_moves():
    torch.manual_seed(0)
    label = torch.rand(2, 1, 16, 24) * 9 + 1
    weight = torch.zeros_like(label)
    weight[:, :, 4:8, 4:8] = 1.0
    factors = torch.tensor((0.3, 7.0)).view(2, 1, 1, 1)
    assert label_loss(factors * label, label, weight) == pytest.approx(0.0, abs=1e-6)
    twice = factors * torch.where(weight > 0, 2 * label, label)
    assert label_loss(twice, label, weight) == pytest.approx(1 / 3, abs=0.06)
    empty = label_loss(label, torch.zeros_like(label), torch.zeros_like(label))
    assert empty == 0
    once = label_loss(twice, label, weight)
    assert label_loss(twice, label, weight / 4) == pytest.approx(once.item() / 4)
    depth = (factors * label).requires_grad_()
    label_loss(depth * (1 + weight), label, weight).backward()
    assert (depth.grad[weight == 0] == 0).all() and (depth.grad[weight > 0] != 0).any()


def test_a_few_labelled_pixels_do_not_teach_like_many():
    label = torch.linspace(1, 10, 1000).view(1, 1, 25, 40)
    depth, weight = label.clone(), torch.zeros_like(label)
    depth[..., 12, :2], weight[..., 12, :2] = 2 * label[..., 12, :2], 1.0
    expected = 2 / 3 / (LEAST_LABELLED * 1000)
    assert label_loss(depth, label, weight) == pytest.approx(expected, rel=1e-3)


def test_what_moves_is_what_labels_say_not_what_is_sure_to_stand_and_else_as_the_flow_says():
    maps = {name: torch.zeros(1, 1, 8, 20) for name in ("weight", "sure", "sky", "beside")}
    for k, (name, value) in enumerate(zip(maps, (0.2, 1.0, 1.0, 1.0), strict=True)):
        maps[name][..., 4 * k : 4 * k + 4] = value  # and a fifth of which nothing is known
    image, none = torch.zeros(1, 3, 8, 20), torch.zeros(1, 2, 3, 8, 20)
    sample = LabelledSample(
        image, none, image, none, torch.eye(3)[None], torch.zeros(1, dtype=torch.bool),
        torch.zeros(1, 2), *[torch.zeros(1)] * 3, **maps,
    )  # fmt: skip
    flow = torch.full((2, 1, 2, 5), 0.4)
    nothing = dict.fromkeys(("depth", "src_depth", "T", "residual", "refined"))
    p = ResidualPredictions({}, None, None, None, **nothing, likely=flow, seen=flow / 2)
    found = told(sample, p)
    likely, seen = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.4], [1.0, 1.0, 1.0, 1.0, 0.2]])
    assert found.likely.tolist() == likely.expand(2, 1, 2, 5).tolist()
    assert found.seen.tolist() == seen.expand(2, 1, 2, 5).tolist()
    without = ResidualPredictions({}, None, None, None, **nothing)
    assert told(sample, without) is without


def test_an_object_drifts_as_its_images_say_at_its_depth():
    """Camera 2 m ahead: at 10 m, seen as if at infinity, 20 m, 5 m, 10 m; the nearest on top."""
    masks = np.eye(6, dtype=bool)[:5, None].repeat(2, 1)
    masks[4] = masks[3]
    depths = np.full((5, 2, 6), 10.0)
    depths[4] = 12.0
    inverse = np.array([0.0, 0.05, 0.2, 0.1, 0.3])
    found = labels.drifts(depths, masks, inverse)
    assert found[0] == pytest.approx([-1.0, -0.5, 1.0, 0.0, 0.0, 0.0])
    assert not labels.drifts(depths, masks, np.full(5, np.nan)).any()


def test_residuals_are_drifts_times_the_camera_s_translation_in_the_unit_of_the_depth():
    image, none = torch.zeros(1, 3, 4, 6), torch.zeros(1, 2, 3, 4, 6)
    motion = torch.eye(4).repeat(1, 2, 1, 1)
    motion[0, :, :3, 3] = torch.tensor(((0.0, 0.0, 0.5), (0.1, 0.0, -0.5)))
    ones, drift = torch.ones(1, 1, 4, 6), torch.zeros(1, 1, 4, 6)
    drift[..., :3] = -1.0
    sample = LabelledSample(
        image, none, image, none, torch.eye(3)[None], torch.zeros(1, dtype=torch.bool),
        torch.zeros(1, 2), *[torch.zeros(1)] * 3, hint=ones, sure=ones, motion=motion, drift=drift,
    )  # fmt: skip
    depth = 3 * ones.repeat(2, 1, 1, 1)  # whose unit is a third as long
    right = -3 * motion[0, :, :3, 3, None, None] * ones[0]
    nothing = dict.fromkeys(("src_depth", "T", "refined"))

    def loss(residual):
        return drift_loss(
            sample,
            ResidualPredictions({}, None, None, None, depth=depth, residual=residual, **nothing),
        )

    assert loss(right) == pytest.approx(0.0, abs=1e-6)
    assert loss(torch.zeros_like(right)) == pytest.approx(1.0)
    sample.drift = 0 * drift
    assert loss(torch.ones_like(right)) == 0


@pytest.mark.parametrize("mirror", [False, True])
def test_maps_follow_the_zoom_and_the_mirror_of_their_image(mirror):
    rng, K = np.random.default_rng(0), camera()[0].numpy()
    whole = rng.integers(0, 5, SIZE).astype(np.uint8)
    (seen,), K_seen = zoom_crop([np.kron(whole, np.ones((1, 1), np.uint8))], K, 2.0, 0.5, 1.0)
    # rows and columns that the zoom shows twice: pick every second pixel
    if mirror:
        (seen,), K_seen = flip_horizontal([seen], K_seen)

    class Sample:
        flipped = torch.tensor([mirror])
        K = torch.tensor(K_seen)[None].float()

    maps = torch.from_numpy(whole).float()[None, None]
    found = follow(maps, torch.tensor(K)[None], Sample)[0, 0].numpy()
    top, left = round(SIZE[0] / 2), round(SIZE[1] / 4)
    expected = np.kron(whole[top:, left : left + SIZE[1] // 2], np.ones((2, 2)))
    assert (found == (expected[:, ::-1] if mirror else expected)).all()


def test_nothing_is_mixed_where_nothing_is_changed():
    maps = torch.rand(1, 2, *SIZE)

    class Sample:
        flipped = torch.tensor([False])
        K = camera().float()

    assert torch.equal(follow(maps, camera(), Sample), maps)
    Sample.flipped, Sample.K = torch.tensor([True]), flip_K(camera(), SIZE[1]).float()
    assert torch.equal(follow(maps, camera(), Sample), maps.flip(3))


def test_an_epoch_sees_everything_once():
    seen = [i for step in range(5) for i in draw(10, step, 2, seed=3, train=True)]
    assert sorted(seen) == list(range(10)) and seen != list(range(10))
    assert draw(10, 1, 4, seed=3, train=False) == [4, 5, 6, 7]
    assert draw(10, 2, 4, seed=3, train=False) == [8, 9]


def test_shares_are_proportions_and_rounds_divide_them():
    shares = Shares(scene=2, segment=1, objects=2, alignment=1, final=4)
    names = ("scene", "segment", "objects", "alignment", "final")
    components = ("slots",)
    assert sum(shares.of(n, 1, components) for n in names) == pytest.approx(1)
    assert shares.of("scene", 1, components) == pytest.approx(0.2)
    assert shares.of("scene", 1, ("segment", *components)) == pytest.approx(2 / 9)
    assert shares.of("final", 2, components) == pytest.approx(0.2)
    assert shares.of("alignment", 1, ("alignment",)) == 0
    files = MinedSupervisionConfig(masks="files", alignment="contact")
    assert files.unused == ("slots", "segment", "alignment") and CONFIG.unused == components


def test_hints_end_where_an_object_moves_with_a_label_or_without():
    class Stored(dict):
        def of(self, target, *keys):
            return [self[key] for key in keys]

    one = np.ones((9, 36), np.float32)
    left, right, empty = np.zeros((3, 9, 36), bool)
    left[:, :9], right[:, 18:27], empty[:, 27:] = True, True, True
    label = Stored(
        label=one, weight=np.where(left, 255, 0).astype(np.uint8), drift=0 * one,
        moves=~(right | empty),
    )  # fmt: skip
    mined = Stored(
        still=2.0 * ~empty, motion=np.eye(4, dtype=np.float32)[None], apparent=np.nan * one,
        road=np.array([1.0, 0.3, 0.0, 0.0]), K=np.array([[9, 0, 13], [0, 9, 4], [0, 0, 1.0]]),
    )  # fmt: skip
    found = _maps(label, mined, 0)
    assert (found["sure"] == right).all() and (found["weight"] == left).all()
    assert found["sky"][empty].any() and not found["sky"][~empty].any()
    beside = (right | empty) & (np.arange(36) <= 8 + BESIDE)  # of the label, where nothing moves
    assert (found["beside"] == beside).all() and 0 < beside.sum() < right.sum()


def test_the_sky_is_behind_most_of_what_is_known():
    depth = torch.full((1, 1, 10, 10), 2.0, requires_grad=True)
    known, above = torch.zeros(2, 1, 1, 10, 10)
    known[..., 5:, :], above[..., :2, :] = 1, 1
    with torch.no_grad():
        depth[..., 5:, :] = torch.arange(50.0).view(5, 10) + 1
        depth[..., 0, :] = 60.0  # as far as it should be
    sample = SimpleNamespace(sure=known, sky=above)
    found = sky_loss(depth, sample)
    far = np.quantile(np.arange(50) + 1, BEHIND)
    assert found.item() == pytest.approx(np.log(far / 2) / 2, rel=1e-5)
    found.backward()
    moved = depth.grad != 0
    assert moved[..., 1, :].all() and moved.sum() == 10
    sample.sure = torch.zeros_like(known)
    assert sky_loss(depth, sample) == 0  # behind nothing
