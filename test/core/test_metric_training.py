"""Trainings that learn metres: from odometry and the height of the camera, never from truth."""

import math
import shutil

import pytest
import torch
from scenes import camera, drive, write_recording
from training_helpers import DATA, TINY, same_weights

from dyndepth_core.config import load
from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.inference.model_file import load_model, read_meta, save_model
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.losses.metric import log_travel_ratio
from dyndepth_core.training.model import trained_model
from dyndepth_core.training.objective import make_objective
from dyndepth_core.training.run import train_run
from dyndepth_core.training.source import fingerprint
from dyndepth_core.training.units import TYPICAL_DEPTH, measured_units, start_units

SPEED = 2.6  # m/s, about what the drive of the tests does
ODOMETRY, HEIGHT = "objective.metric_odometry=1", ("objective.camera_height=1",)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    write_recording(folder / "drive", drive(24), camera(), odometry={"speed": SPEED})
    return folder


def settings(*more, method="monodepth"):
    plain = ("network.pose_align=false",)  # lengths are the network's
    return load(overrides=[*TINY, *plain, "train.steps=3", *more], method=method)


def samples(root, odometry=True, train=False):
    return SampleSource(open_recordings(root), DATA, 4, 0, train, odometry)


def learner(root, *more, method="monodepth"):
    config = settings(*more, method=method)
    torch.manual_seed(0)
    return config, make_objective(config, samples(root, odometry=False)).eval()


# -- what a training learns ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["monodepth", "sc_depth", "residual_motion"])
def test_the_term_alone_teaches_translations_in_metres(root, method):
    trunk = ("network.motion_net=published",) if method == "residual_motion" else ()
    config, objective = learner(root, ODOMETRY, *trunk, method=method)
    sample = SampleSource(open_recordings(root), config.data, 4, 0, False, True).batch(0)

    @torch.no_grad()
    def off():
        t = objective.units * objective.predict(sample, 1.0).T_src_tgt[..., :3, 3]
        return log_travel_ratio(t, sample.travel).mean()

    objective.units.fill_(torch.exp(1 - off()))
    assert float(off()) == pytest.approx(1)
    weights = list(objective.parameters())
    for _ in range(12):
        terms = objective.losses(sample, objective.predict(sample, 1.0), 1.0).terms
        loss = terms["metric_odometry"]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        found = [(w, g) for w, g in zip(weights, gradients, strict=True) if g is not None]
        step = 0.3 * loss / sum(g.square().sum() for _, g in found)  # 0.3 of Polyak's
        with torch.no_grad():
            for weight, gradient in found:
                weight -= step * gradient
    assert abs(off()) < 0.3


def test_the_weight_multiplies_the_term_and_the_total_contains_it(root):
    sample = samples(root).batch(0)
    found = []
    for weight in (1, 3):
        _, objective = learner(root, f"objective.metric_odometry={weight}")
        torch.manual_seed(0)
        found.append(objective.losses(sample, objective.predict(sample, 1.0), 1.0))
    one, three = found
    assert float(three.terms["metric_odometry"]) == pytest.approx(
        3 * float(one.terms["metric_odometry"])
    )
    assert float(three.total - one.total) == pytest.approx(
        2 * float(one.terms["metric_odometry"]), rel=1e-4
    )


def test_without_a_weight_there_is_no_term_no_state_and_no_odometry(root):
    _, objective = learner(root)
    assert "units" not in objective.state_dict()
    sample = samples(root, odometry=False).batch(0)
    terms = objective.losses(sample, objective.predict(sample, 1.0), 1.0).terms
    assert not {"metric_odometry", "camera_height"} & set(terms)
    _, asking = learner(root, ODOMETRY)
    with pytest.raises(ValueError, match="odometry=True"):
        asking.losses(sample, asking.predict(sample, 1.0), 1.0)


# -- units -----------------------------------------------------------------------------------------


def test_units_are_the_median_ratio_of_travel_and_predicted_length(root):
    config, objective = learner(root, ODOMETRY)
    frames = samples(root)
    lengths = []
    with torch.no_grad():
        for k in range(-(-len(frames) // 4)):
            T = objective.predict(frames.batch(k), 1.0).T_src_tgt
            lengths.append(T[..., :3, 3].norm(dim=-1).flatten())
    lengths = torch.cat(lengths)
    units, scale = measured_units(config, objective, frames)
    assert units == pytest.approx(SPEED / 10 / float(lengths.median()), rel=0.01)
    spread = 1.4826 * float((lengths.log() - lengths.log().median()).abs().median())
    assert scale.state == "metric" and scale.source == "odometry"
    assert scale.variance == pytest.approx(spread**2, rel=0.1, abs=1e-7)
    graph, meta = trained_model(config, objective, frames, [root], 1, None)
    assert graph.architecture["units"] == units and meta.scale == scale
    batch = frames.batch(0)
    _, _, T, _ = graph(batch.tgt, batch.src[:, 0], batch.K)
    assert T[:, :3, 3].norm(dim=1).tolist() == pytest.approx([SPEED / 10] * 4, rel=0.2)


@pytest.mark.parametrize("method", ["monodepth", "sc_depth", "residual_motion"])
def test_units_are_those_of_the_motion_the_model_says(root, method):
    """Refined to its depth, whose scale is another one than that of what the pose network says."""
    more = ("network.pose_align=true", "data.source_offsets=[-1]")
    config, objective = learner(root, ODOMETRY, *more, method=method)
    frames = SampleSource(open_recordings(root), config.data, 4, 0, False, True)
    graph, found = objective.inference_graph(), []
    with torch.no_grad():
        for k in range(-(-len(frames) // 4)):
            batch = frames.batch(k)
            said = objective.predict(batch, 1.0).T_src_tgt[:, 0]
            refined = graph(batch.tgt, batch.src[:, 0], batch.K)[2]
            lengths = torch.stack([T[:, :3, 3].norm(dim=1) for T in (said, refined)], 1)
            found.append(batch.travel.log() - lengths.log())
    by_network, by_model = torch.cat(found).median(0).values.exp().tolist()
    units, _ = measured_units(config, objective, frames)
    assert units == pytest.approx(by_model, rel=0.02)
    assert units != pytest.approx(by_network, rel=0.1)


def test_few_pairs_measure_nothing_and_the_units_of_the_losses_stay(root, caplog):
    config, objective = learner(root, ODOMETRY)
    objective.units.fill_(7.0)
    few = SampleSource([r.part(0, 4) for r in open_recordings(root)], DATA, 4, 0, False, True)
    units, scale = measured_units(config, objective, few)
    assert units == 7.0 and scale.state == "metric" and scale.variance is None
    assert "6 held-out pairs" in caplog.text


def test_a_training_begins_where_depth_is_about_right(root, tmp_path):
    config, objective = learner(root, ODOMETRY)
    frames = samples(root)
    graph = objective.inference_graph()
    batch = frames.batch(0)
    begun = start_units(config, objective, frames, None)
    depth = begun * graph(batch.tgt, None, batch.K)[0]
    assert float(depth.median()) == pytest.approx(TYPICAL_DEPTH, rel=0.3)
    # from a model that has depth and motion: measured, whatever its file says
    file = tmp_path / "m.safetensors"
    saved, meta = trained_model(settings(), objective, frames, [root], 1, None)
    save_model(file, saved, meta)
    measured = start_units(config, objective, frames, file)
    assert measured == pytest.approx(measured_units(config, objective, frames)[0])
    assert measured != pytest.approx(saved.architecture["units"], rel=0.01)
    alone = saved.depth_only()
    save_model(file, alone, meta.model_copy(update={"architecture": alone.architecture}))
    assert start_units(config, objective, frames, file) == saved.architecture["units"]


def test_the_height_of_the_camera_scales_what_the_network_sees(root, monkeypatch):
    """With a network that sees the scene as it is, but for a factor."""
    config, objective = learner(root, *HEIGHT, "data.camera_height=1.5")
    frames = samples(root, odometry=False)
    recording = frames.recordings[0]
    images = torch.cat([frames.batch(k).tgt for k in range(-(-len(frames) // 4))])

    def depth(image, previous, K):
        frame = [1 + int((images - one).abs().mean((1, 2, 3)).argmin()) for one in image]
        return (torch.stack([torch.from_numpy(recording.depth(i)) for i in frame])[:, None] / 4,)

    monkeypatch.setattr(objective, "inference_graph", lambda: depth)
    units, scale = measured_units(config, objective, frames)
    # the drive bobs by 5 cm about its height
    assert units == pytest.approx(4.0, rel=0.05)
    assert scale.source == "camera_height" and 0 < scale.variance < 0.05**2


# -- whole trainings -------------------------------------------------------------------------------


def test_a_metric_model_file_speaks_metres_and_no_truth_reaches_its_training(root, tmp_path):
    train_run(settings(ODOMETRY), [root], tmp_path / "run")
    model = tmp_path / "run" / "model.safetensors"
    meta = read_meta(model)
    assert meta.scale.state == "metric" and meta.scale.source == "odometry"
    scale = Predictor(model, device="cpu").scale
    assert (scale.value, scale.source) == (1.0, "checkpoint") and scale.is_metric
    assert scale.variance == (math.inf if meta.scale.variance is None else meta.scale.variance)
    blind = tmp_path / "blind" / "drive"
    shutil.copytree(root / "drive", blind)
    for path in blind.iterdir():
        if path.name not in ("images", "calib.json", "frames.csv"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not (blind / "poses.csv").exists() and not (blind / "depth").exists()
    train_run(settings(ODOMETRY), [blind.parent], tmp_path / "unseeing")
    graph, other = (load_model(tmp_path / n / "model.safetensors") for n in ("run", "unseeing"))
    assert same_weights(graph[0].state_dict(), other[0].state_dict())
    assert graph[0].architecture == other[0].architecture and other[1].scale == meta.scale


def test_what_gives_no_metres_is_refused_before_anything_is_written(root, tmp_path):
    bare = tmp_path / "bare"
    write_recording(bare / "drive", drive(8), camera())
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="no recording has odometry"):
        train_run(settings(ODOMETRY), [bare], run)
    with pytest.raises(ValueError, match="give data.camera_height in metres"):
        train_run(settings(*HEIGHT), [bare], run)
    with pytest.raises(ValueError, match="give no metres .* per pair"):
        train_run(settings(ODOMETRY, "data.intrinsics=pair"), [root], run)
    assert not run.exists()


def test_the_fingerprint_knows_odometry_only_where_it_is_read(root, tmp_path):
    shutil.copytree(root / "drive", tmp_path / "a" / "drive")
    rows = tmp_path / "a" / "drive" / "frames.csv"
    rows.write_text(rows.read_text().replace("2.6", "2.7"))
    was, now = open_recordings(root), open_recordings(tmp_path / "a")
    assert fingerprint(was) == fingerprint(now)
    assert fingerprint(was, odometry=True) != fingerprint(now, odometry=True)
