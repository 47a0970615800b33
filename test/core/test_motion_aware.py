"""The plug-in motion_aware and the method dynamic_depth: hints and disentanglement in the losses,
masks only in training, the model one of the method.
"""

import shutil

import moving_box
import numpy as np
import pytest
import torch
from scenes import SIZE, camera
from training_helpers import TINY, same_weights

from dyndepth_core.config import load
from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.inference.model_file import load_model
from dyndepth_core.instances.sources import AtNetworkSize, RecordedInstances
from dyndepth_core.methods import get_method, masks
from dyndepth_core.training.objective import make_objective
from dyndepth_core.training.run import train_run

SETTINGS = (
    *TINY, "network.planes=8", "network.pose_align=false", "objective.student_from=0",
    "objective.pose_first=0", "objective.pyramid=1", "objective.freeze_teacher=1",
    "network.min_depth=2", "network.max_depth=20", "data.zoom_share=0", "data.jitter=0",
    "data.flip=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two recordings of three frames: a box that moves before a wall, and its masks."""
    root = tmp_path_factory.mktemp("box")
    calib = Calibration.from_K(camera()[0].numpy(), SIZE[1], SIZE[0])
    for name in ("a", "b", "c", "d"):
        with RecordingWriter(root / name, calib, "png") as writer:
            for i in range(3):
                image, depth, box = moving_box.view(i - 1)
                pixels = (image[0].permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
                mask = box[0, 0].numpy()
                writer.add(
                    pixels, i * 100_000_000, depth=depth[0, 0].numpy(),
                    instances=mask.astype(np.uint16), dynamic=mask,
                )  # fmt: skip
    (root / "splits").mkdir()
    for name, of_split in {"train": "a\nb\nc\n", "val": "d\n"}.items():
        (root / "splits" / f"{name}.txt").write_text(of_split)
    return root


def samples(root, config, masked=True):
    recordings = [Recording(root / name) for name in ("a", "b")]
    source = SampleSource(recordings, config.data, 2, seed=0)
    if masked:
        found = [AtNetworkSize(RecordedInstances(r), source, v) for v, r in enumerate(recordings)]
        source = source.with_instances([f.ids for f in found])
    return source.batch(0)


def make(method, *settings):
    config = load(overrides=[*SETTINGS, *settings], method=method)
    info = get_method(config.method, config.plugin)
    torch.manual_seed(0)
    return info.objective_class(config, ["a", "b"], 70.0).train(), config


def with_true_motions(objective):
    """Its pose network is right, so that depth alone is to be learned."""
    poses = moving_box.T_WORLD_CAM
    T = torch.stack([torch.linalg.inv(poses[s][0]) @ poses[0][0] for s in (-1, 1)]).float()
    objective.motions = lambda sample: (
        T.expand(len(sample.K), -1, -1, -1), sample.K, torch.ones(len(sample.K))
    )  # fmt: skip
    return objective


def scored(objective, sample):
    """Terms and gradients of a step, whose noise is that of every other one."""
    torch.manual_seed(7)
    found = objective(sample, 0.5)
    objective.zero_grad()
    found.total.backward()
    return found, {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", ["many_depth", "dynamic_depth"])
def test_without_instances_every_bit_is_that_of_the_method(root, method):
    (base, config), (hinted, _) = make(method), make(f"{method}+motion_aware")
    for masked in (False, True):
        sample = samples(root, config, masked)
        if masked:
            sample.instances.zero_()
        (a, grad_a), (b, grad_b) = scored(base, sample), scored(hinted, sample)
        assert torch.equal(a.total, b.total) and a.terms.keys() == b.terms.keys()
        assert same_weights(grad_a, grad_b) and len(grad_a) > 20


def test_temporal_hints_only_lower_the_error_of_the_teacher(root):
    """They are further candidates of a minimum; the student sees none of them."""
    hints = ("objective.motion_aware.standing=null", "objective.motion_aware.distillation=false")
    (base, config), (hinted, _) = make("many_depth"), make("many_depth+motion_aware", *hints)
    base, hinted = with_true_motions(base), with_true_motions(hinted)
    sample = samples(root, config)
    (a, _), (b, gradients) = scored(base, sample), scored(hinted, sample)
    assert b.terms["teacher_photometric"] < a.terms["teacher_photometric"]
    for name in a.terms.keys() - {"teacher_photometric"}:
        assert torch.equal(a.terms[name], b.terms[name])
    assert all(g.isfinite().all() for g in gradients.values())


def test_distillation_hints_teach_the_student_and_no_teacher(root):
    hinted, config = make(
        "many_depth+motion_aware", "objective.motion_aware.balance=false",
        "objective.motion_aware.weight=2", "objective.agreement=100", "objective.static_share=0",
        "objective.empty_share=0", "network.least_seen=0.01",
    )  # fmt: skip
    sample = samples(root, config)
    with_true_motions(hinted)(sample, 0.5)  # the student begins
    with torch.no_grad():
        for weight in hinted.student.decoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    found = hinted(sample, 0.5)
    own = found.terms["distillation"]
    assert own > 0 and torch.isclose(found.total, sum(found.terms.values()))
    own.backward()
    taught = {n.split(".")[0] for n, p in hinted.named_parameters() if p.grad is not None}
    assert taught == {"student"}


def test_the_weight_of_the_distillation_is_part_of_the_checkpoint(root):
    hinted, config = make("many_depth+motion_aware")
    scored(hinted, samples(root, config))
    assert int(hinted.state_dict()["balance.steps"]) == 1
    assert not any("balance" in name for name in hinted.inference_graph().state_dict())


def test_the_plug_in_names_what_it_does_not_fit():
    with pytest.raises(ValueError, match="sc_depth has no teacher and student for it; use many_d"):
        get_method("sc_depth", "motion_aware")
    with pytest.raises(ValueError, match="an earlier and a later image"):
        make("many_depth+motion_aware", "data.source_offsets=[-1]")


def test_the_sources_of_dynamic_depth_show_the_box_where_it_would_stand(root):
    objective, config = make("dynamic_depth", "objective.plain_share=0.5")
    sample = samples(root, config)
    depth = moving_box.view(0)[1].float().expand(2, -1, -1, -1)
    poses = moving_box.T_WORLD_CAM
    T = torch.stack([torch.linalg.inv(poses[s][0]) @ poses[0][0] for s in (-1, 1)]).float()
    T = T.expand(2, -1, -1, -1)
    torch.manual_seed(3)
    found = objective.sources(sample, depth, T, sample.K)
    for s, frame in enumerate((-1, 1)):
        standing = moving_box.view(frame, 0 * moving_box.MOVE)[0].float()
        there = found.valid[:, s].expand(-1, 3, -1, -1)
        apart = [(x - standing).abs()[there].mean() for x in (found.images[:, s], sample.src[:, s])]
        assert apart[0] < 0.5 * apart[1]
    torch.manual_seed(3)
    plain = objective.plain(sample.index)
    for b in (0, 1):
        assert torch.equal(found.net[b], sample.src_net[b]) is bool(plain[b])
        assert bool(found.net_valid[b].all()) is bool(plain[b])


def test_a_share_of_the_volumes_sees_the_sources_as_they_are_by_step_and_sample():
    objective, _ = make("dynamic_depth", "objective.plain_share=0.3")
    torch.manual_seed(1)
    drawn = objective.plain(torch.arange(4000))
    assert abs(drawn.float().mean() - 0.3) < 0.03
    torch.manual_seed(1)
    assert torch.equal(objective.plain(torch.arange(2000, 4000)), drawn[2000:])


# -- trained -------------------------------------------------------------------------------------


def trained(root, out, method="dynamic_depth+motion_aware", *settings):
    config = load(overrides=[*SETTINGS, "train.steps=4", *settings], method=method)
    metrics = train_run(config, [root], out)
    return metrics, *load_model(out / "model.safetensors")


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """Metrics, graph, meta and folder of a run that mines its masks."""
    out = tmp_path_factory.mktemp("mined") / "run"
    return *trained(root, out), out


def test_masks_are_mined_in_the_run_and_deleting_every_truth_file_changes_no_weight(
    root, whole, tmp_path
):
    bare = tmp_path / "bare"
    shutil.copytree(root, bare)
    for folder in ("depth", "instances", "dynamic"):
        for name in ("a", "b", "c", "d"):
            shutil.rmtree(bare / name / folder)
    metrics, graph, meta, _ = whole
    _, other, _ = trained(bare, tmp_path / "less")
    assert same_weights(graph.state_dict(), other.state_dict())
    assert list(metrics["stages"]) == ["motion", "mine", "train"]
    assert metrics["frames"] == 9 and metrics["stages"]["train"]["step"] == 2
    assert (meta.method, graph.architecture["method"]) == ("dynamic_depth", "dynamic_depth")
    assert not any("balance" in name for name in graph.state_dict())


def test_mining_that_was_killed_goes_on_and_ends_alike(root, whole, tmp_path, monkeypatch):
    mined, mine = [], masks.mine

    def killed(graph, threshold, source, video, K):
        if len(mined) == 2:
            raise KeyboardInterrupt
        mined.append(video)
        return mine(graph, threshold, source, video, K)

    monkeypatch.setattr(masks, "mine", killed)
    config = load(overrides=[*SETTINGS, "train.steps=4"], method="dynamic_depth+motion_aware")
    with pytest.raises(KeyboardInterrupt):
        train_run(config, [root], tmp_path / "part")
    mined = []
    train_run(config, [root], tmp_path / "part", resume=True)
    assert mined == [2]
    graph, _ = load_model(tmp_path / "part" / "model.safetensors")
    assert same_weights(graph.state_dict(), whole[1].state_dict())


def test_a_model_of_one_method_is_a_start_for_the_other(root, whole):
    config = load(overrides=SETTINGS, method="many_depth+motion_aware")
    source = SampleSource([Recording(root / "a")], config.data, 2, seed=0)
    objective = make_objective(config, source, whole[3] / "model.safetensors")
    found = objective.inference_graph()
    assert same_weights(found.state_dict(), whole[1].state_dict()) and objective.begun
    assert found.architecture["method"] == "many_depth"


def test_masks_of_files_and_truth_are_read_only_where_they_are_asked_for(root, tmp_path):
    results = {}
    for source in ("files", "truth"):
        settings = f"objective.masks.source={source}"
        _, graph, _ = trained(root, tmp_path / source, "many_depth+motion_aware", settings)
        results[source] = graph.state_dict()
    assert same_weights(results["files"], results["truth"])  # all of the masks move here
    bare = tmp_path / "bare"
    bare.symlink_to(root / "a" / "images")
    with pytest.raises(ValueError, match="no masks in instances/"):
        trained(bare, tmp_path / "none", "many_depth+motion_aware", settings,
                "data.intrinsics=video")  # fmt: skip


def test_a_model_without_motion_or_none_at_all_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="no such file; give a model file of residual_motion"):
        trained(root, tmp_path / "x", "dynamic_depth", "objective.masks.model=nowhere")
