"""The residual_motion method: networks as published, losses that find a moving box, its graph."""

from dataclasses import replace

import pytest
import torch
from moving_box import SIZE, pair
from scenes import camera, drive, write_recording
from tiny import FOCAL, tiny_config

from dyndepth_core.config import load
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.losses.motion import group_smoothness, half_norm_sparsity, normalise_residual
from dyndepth_core.losses.photometric import photometric_error
from dyndepth_core.methods import build_graph, get_method
from dyndepth_core.methods.residual_motion.threshold import best_threshold, helped, moving_speed
from dyndepth_core.methods.residual_motion.ways import Ways

INFO = get_method("residual_motion")


# -- the losses on a scene that is known -----------------------------------------------------------


def scene(residual):
    a, b, T, true = (x for x in pair())
    images, depths = (torch.cat((a[k], b[k])).float() for k in (0, 1))
    K = camera(batch=2).float()
    box = torch.cat((a[2], b[2]))
    ways = Ways(images, Ways.back(images), depths, T.float(), residual, K)
    return ways, box, true.float()


def true_field():
    _, box, true = scene(None)
    return box * true[:, :, None, None]


def total(ways):
    """The published losses of the motion with their effective weights."""
    seen = ways.compare()
    Q = normalise_residual(ways.residual, ways.translation())
    photometric = 2.0 * seen.rgb.mean() + 3.0 * ways.structure(seen).mean()
    regular = 2.0 * group_smoothness(Q) + 0.4 * half_norm_sparsity(Q)
    return photometric + regular + 0.1 * ways.cycle(seen)


def test_the_true_residual_explains_the_box_and_cancels_both_ways():
    still, box, _ = scene(torch.zeros(2, 3, *SIZE))
    right, _, _ = scene(true_field())
    ways, before, after = right, still.compare(), right.compare()
    inner = -torch.nn.functional.max_pool2d(-box.float(), 9, 1, 4) > 0  # away from its outline
    errors = [(s.warped - ways.image_a).abs().mean(1, keepdim=True) for s in (before, after)]
    assert errors[0][inner].mean() > 0.04 and errors[1][inner].max() < 0.03
    outside = ~(torch.nn.functional.max_pool2d(box.float(), 15, 1, 7) > 0)
    torch.testing.assert_close(before.rgb[outside], after.rgb[outside])
    assert before.rgb[outside].max() < 0.03  # the wall needs no residual
    one_way = scene(true_field() * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))[0]
    assert still.cycle(before) < 1e-9  # ego-motion alone turns back
    assert right.cycle(after) < 0.3 * one_way.cycle(one_way.compare())
    # where the box goes, the wall is hidden: it lies behind what b sees there
    assert after.visible.float().mean() > 0.2


def descend(loss):
    """Follow loss(ways) down from no residual at all: it becomes the true translation of the box
    and next to nothing elsewhere. Returns where the box surely is, (2, 1, H, W) bool.
    """
    field = torch.zeros(2, 3, *SIZE, requires_grad=True)
    optimiser = torch.optim.Adam([field], lr=0.02)
    for _ in range(150):
        ways, box, true = scene(field)
        optimiser.zero_grad()
        loss(ways).backward()
        optimiser.step()
    inner = -torch.nn.functional.max_pool2d(-box.float(), 9, 1, 4) > 0
    outside = ~(torch.nn.functional.max_pool2d(box.float(), 15, 1, 7) > 0)
    size = true.norm(dim=1).mean()
    for way in range(2):
        found = field[way, :, inner[way, 0]].detach().mean(1)
        assert (found - true[way]).norm() < 0.2 * size, (found, true[way])
    left = (field.detach().norm(dim=1, keepdim=True) * outside).sum() / outside.sum()
    assert left < 0.1 * size
    return inner


def test_the_losses_drive_the_residual_to_the_true_translation_of_the_box():
    descend(total)


def errors(field):
    """Photometric error of the scene without and with a residual field."""
    return [photometric_error(w.compare().warped, w.image_a) for w in (still(), scene(field)[0])]


def still():
    return scene(torch.zeros(2, 3, *SIZE))[0]


def test_the_threshold_parts_what_moves_from_noise_without_ground_truth():
    """Noise of 0.02 m everywhere beside the box's 0.3 m in 0.1 s: between 0.2 and 3.2 m/s."""
    noise = 0.02 * torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    field = true_field()
    field = torch.where(field.norm(dim=1, keepdim=True) > 0, field, noise)
    box = scene(field)[1]
    inner = -torch.nn.functional.max_pool2d(-box.float(), 9, 1, 4) > 0
    outside = ~(torch.nn.functional.max_pool2d(box.float(), 21, 1, 10) > 0)
    better = helped(*errors(field))
    assert better[inner].float().mean() > 0.8 and not better[outside].any()

    def speed(field):
        return field.norm(dim=1, keepdim=True) / 0.1

    assert 0.8 < moving_speed([(speed(field), better)]) <= 3.2
    assert moving_speed([(speed(noise), helped(*errors(noise)))]) is None
    assert moving_speed([]) is None


def test_the_best_threshold_by_hand():
    speeds = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    moving = torch.tensor([False, False, False, True, True])
    assert best_threshold(speeds, moving) == 3.0
    assert best_threshold(speeds, torch.tensor([True, False, False, False, False])) is None
    assert best_threshold(speeds, torch.zeros(5, dtype=torch.bool)) is None


# -- the method ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, drive(12, sway=0.0), camera(FOCAL))
    return Recording(path)


def make(network=None, offsets=(1,), **objective):
    plain = tiny_config({"source_offsets": offsets})
    plain.network = INFO.network_class(
        **{**plain.network.model_dump(), "motion_width": 0.125, **(network or {})},
    )
    plain.objective = INFO.config_class(**objective)
    torch.manual_seed(0)
    return INFO.objective_class(plain, ["drive"], FOCAL).eval()


def draw(recording, batch_size=2, offsets=(1,)):
    data = tiny_config({"source_offsets": offsets}).data
    return SampleSource([recording], data, batch_size, 0, False).batch(0)


PUBLISHED = {"motion_net": "published"}
TERMS = {
    True: ("rgb", "ssim", "rotation_cycle", "translation_cycle"),
    False: ("static", "depth", "motion", "motion_depth"),
}


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("network", [{}, {"depth_head": "softplus"}, PUBLISHED])
@pytest.mark.parametrize("offsets", [(1,), (-1, 1)])
def test_terms_add_up_and_reach_every_network(recording, network, offsets, both_ways):
    objective = make(network, offsets, both_ways=both_ways)
    sample = draw(recording, 2, offsets)
    terms = objective(sample, 1.0)
    common = {"smoothness", "motion_smoothness", "motion_sparsity"}
    flow = () if network == PUBLISHED else ("dynamic",)
    assert set(terms.terms) == {*TERMS[both_ways], *common, *flow}
    torch.testing.assert_close(terms.total, sum(terms.terms.values()))
    terms.total.backward()
    for net in (objective.depth_net, objective.motion_net):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    sizes = {k: tuple(m.shape[:2]) for k, m in terms.maps.items()}
    assert sizes == {"depth": (2, 1), "error": (2, 1), "warped": (2, 3), "automask": (2, 1),
                     "silent": (2, 1), "residual": (2, 1)}  # fmt: skip


def test_residuals_wait_and_grow(recording):
    objective, sample = make(burn_in=(0.2, 0.4)), draw(recording)
    full = objective.predict(sample, 1.0).residual
    assert (objective.predict(sample, 0.2).residual == 0).all()
    torch.testing.assert_close(objective.predict(sample, 0.3).residual, 0.5 * full)
    assert full.abs().max() > 0


@pytest.mark.parametrize("waits", [True, False])
def test_several_devices_know_that_residuals_wait(recording, waits):
    objective = make(burn_in=(0.2, 0.4) if waits else (0.0, 0.0), pose_first=0.0)
    objective(draw(recording), 0.0).total.backward()
    idle = any(p.grad is None for p in objective.parameters())
    assert idle == objective.partial_gradients == waits


def test_what_moves_is_learned_from_the_flow_to_the_other_image(recording):
    """The pair to the image before learns what the pair to the image after says, and the other way
    round; the field that explains the images has no say in it.
    """
    objective, sample = make(offsets=(-1, 1)), draw(recording, 2, (-1, 1))
    found = objective.predict(sample, 1.0)
    alone = []
    for k in (0, 1):
        src, net, dt = (x[:, k : k + 1] for x in (sample.src, sample.src_net, sample.dt))
        alone.append(objective.predict(replace(sample, src=src, src_net=net, dt=dt), 1.0).likely)
    before, after = found.likely.unflatten(0, (2, 2)).unbind(1)
    torch.testing.assert_close(before, alone[1])
    torch.testing.assert_close(after, alone[0])
    terms = objective.losses(sample, found, 1.0).terms
    head = objective.motion_net.refine[-1].head.weight

    def rows(name):  # of the fourth map, and of the field
        grad = torch.autograd.grad(terms[name], head, retain_graph=True)[0]
        return [grad[part].abs().sum() for part in (slice(3, 4), slice(0, 3))]

    assert rows("motion")[0] == 0 < rows("motion")[1]
    assert rows("dynamic")[1] == 0 < rows("dynamic")[0]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        found.moving, found.likely, weight=found.seen, reduction="sum"
    )
    torch.testing.assert_close(terms["dynamic"], expected / found.seen.sum())


def test_pairs_of_equal_images_teach_no_photometry(recording):
    objective, sample = make(both_ways=True), draw(recording)
    still = replace(sample, src=sample.tgt[:, None], src_net=sample.tgt_net[:, None])
    terms = objective(still, 1.0).terms
    assert terms["rgb"] == 0 and terms["ssim"] == 0
    one = replace(
        sample,
        src=torch.cat((sample.src[:1], sample.tgt[1:, None])),
        src_net=torch.cat((sample.src_net[:1], sample.tgt_net[1:, None])),
    )
    first = replace(sample, **{k: v[:1] for k, v in vars(sample).items() if v is not None})
    mixed, alone = objective(one, 1.0).terms, objective(first, 1.0).terms
    for name in ("rgb", "ssim"):  # neither raised nor lowered by the pair that does not count
        torch.testing.assert_close(mixed[name], alone[name], rtol=1e-4, atol=1e-6)


def test_sparsity_and_mask_switches(recording):
    sample = draw(recording)
    half, l1 = (make(sparsity_norm=n)(sample, 1.0).terms["motion_sparsity"] for n in ("half", "l1"))
    assert half > l1 > 0
    kept = make(both_ways=True).predict(sample, 1.0).residual
    assert 0 < (kept.norm(dim=1) > 0).float().mean() < 0.9
    for all_of_it in (make(), make(both_ways=True, motion_automask=False)):
        assert (all_of_it.predict(sample, 1.0).residual.norm(dim=1) > 0).all()


@pytest.mark.parametrize(("network", "both_ways"), [({}, False), (PUBLISHED, True)])
def test_the_graph_says_what_the_training_said_and_runs_depth_once(recording, network, both_ways):
    objective, sample = make(network, (-1,), both_ways=both_ways), draw(recording, 2, (-1,))
    objective.eval()
    predictions = objective.predict(sample, 1.0)
    graph = objective.inference_graph()
    graph.architecture["units"] = 3.0
    image, before = sample.tgt_net, sample.src_net[:, 0]
    depth, residual, T, state = graph(image, before, sample.K)
    torch.testing.assert_close(depth, 3 * predictions.depth[:2])
    likely = [] if both_ways else [predictions.moving[:2].sigmoid()]  # of the optical flow
    torch.testing.assert_close(residual, torch.cat([3 * predictions.residual[:2], *likely], 1))
    torch.testing.assert_close(T[:, :3, :3], predictions.T_src_tgt[:, 0, :3, :3])
    torch.testing.assert_close(T[:, :3, 3], 3 * predictions.T_src_tgt[:, 0, :3, 3])
    torch.testing.assert_close(state, predictions.depth[:2])
    first = graph(before, None, sample.K)
    assert first[1] is None and first[2] is None
    again = graph(image, before, sample.K, first[3])
    torch.testing.assert_close(again[1], residual)
    calls = []
    graph.depth_net.register_forward_hook(lambda *_: calls.append(1))
    graph(image, before, sample.K, first[3])
    assert len(calls) == 1
    alone = graph.depth_only()
    assert alone.motion_net is None
    torch.testing.assert_close(alone(image, before, sample.K)[0], depth)
    rebuilt = build_graph(graph.architecture)
    rebuilt.load_state_dict(graph.state_dict())
    torch.testing.assert_close(rebuilt.eval()(image, before, sample.K)[1], residual)


def test_a_model_of_monodepth_is_a_start():
    mono = get_method("monodepth").objective_class(tiny_config(), ["drive"], FOCAL)
    objective = make()
    weights = objective.adopt(mono.inference_graph().state_dict())
    own = objective.state_dict()
    assert {k: v.shape for k, v in weights.items()} == {k: own[k].shape for k in weights}
    assert any(k.startswith("motion_net.pose.") for k in weights)


def test_settings_of_the_paper_and_bad_ones():
    config = load(method="residual_motion")
    o = config.objective
    assert (o.rgb, o.ssim, o.smoothness, o.motion_smoothness, o.motion_sparsity) == (
        2.0, 3.0, 2e-3, 2.0, 0.4
    )  # fmt: skip
    assert (o.rotation_cycle, o.translation_cycle, o.sparsity_norm) == (2e-3, 0.1, "half")
    with pytest.raises(ValueError, match="motion_net"):
        load(overrides=["network.motion_net=vgg"], method="residual_motion")
    with pytest.raises(ValueError, match="motion_net"):
        load(overrides=["network.motion_net=published"], method="monodepth")
