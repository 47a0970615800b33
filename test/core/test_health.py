"""A sick training says so, in log, metrics.json and TensorBoard; a healthy one is left in peace."""

import json
import logging

import numpy as np
import pytest
import torch
from scenes import camera, pose, write_recording
from training_helpers import TINY, ToyObjective, make_recording, settings, source

from dyndepth_core.config import load
from dyndepth_core.data.sample import Sample
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.training.fit import fit
from dyndepth_core.training.health import Health, NotFiniteError, image_motion, log_spread
from dyndepth_core.training.objective import make_objective
from dyndepth_core.training.run import train_run

PLAIN = (
    "data.flip=0",
    "data.jitter=0",
    "data.zoom_share=0",
    "train.lr=2e-4",
    "train.health_every=5",
)


def drive_forward(folder, seed, count=20):
    """A slow drive ahead with a little sway."""
    a, b, c = np.random.default_rng(seed).uniform(0, 6.28, 3)
    poses = [
        pose(
            0.02 * (i + np.sin(i + a)),
            0.01 * np.sin(2 * i + b),
            0.15 * i,
            yaw=0.005 * np.sin(i + c),
        )
        for i in range(count)
    ]
    write_recording(folder / "drive", poses, camera())
    return folder


def still_images(folder, noise, count=24):
    """The same view again and again, with or without sensor noise."""
    root = drive_forward(folder / "one", 0, 3)
    from dyndepth_core.data.recording import open_recordings

    recording = open_recordings(root)[0]
    rng = np.random.default_rng(0)
    with RecordingWriter(folder / "still" / "a", recording.calib, image_format="png") as writer:
        for i in range(count):
            image = recording.image(0) + rng.normal(0, noise, (*recording.image(0).shape,))
            writer.add(image.clip(0, 255).astype(np.uint8), i * 100_000_000)
    return folder / "still"


def train(root, out, *overrides):
    return train_run(load(overrides=[*TINY, *PLAIN, *overrides]), [root], out)


def kinds(metrics):
    return {w["kind"] for w in metrics["warnings"]}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_healthy_runs_raise_no_warning(tmp_path, seed):
    root = drive_forward(tmp_path / "data", seed)
    options = ("train.steps=90", f"train.seed={seed}", "train.validate_every=45")
    metrics = train(root, tmp_path / "run", *options)
    assert metrics["warnings"] == []
    assert metrics["state"] == "done"


def test_a_static_camera_is_told_in_log_metrics_and_tensorboard(tmp_path, caplog):
    root = still_images(tmp_path, noise=2)
    with caplog.at_level(logging.WARNING):
        metrics = train(root, tmp_path / "run", "train.steps=50")
    assert kinds(metrics) == {"static_camera"}
    assert "camera hardly moves" in caplog.text and "keep = 0" in caplog.text
    assert (
        json.loads((tmp_path / "run" / "metrics.json").read_text())["warnings"]
        == metrics["warnings"]
    )
    assert (
        "camera hardly moves"
        in tensorboard_texts(tmp_path / "run")["warnings/static_camera/text_summary"]
    )


def test_everything_masked_is_told(tmp_path):
    root = still_images(tmp_path, noise=0)
    metrics = train(root, tmp_path / "run", "train.steps=90")
    assert "all_masked" in kinds(metrics)


def test_depth_collapsed_to_a_constant_is_told(tmp_path):
    root = drive_forward(tmp_path / "data", 0)
    options = (
        "train.steps=90",
        "objective.smoothness=30",
        "objective.automask=false",
        "train.lr=1e-3",
    )
    assert kinds(train(root, tmp_path / "run", *options)) == {"depth_constant"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_the_training_and_keeps_the_last_good_checkpoint(tmp_path, value, caplog):
    samples = source(make_recording(tmp_path / "data"))
    objective = ToyObjective()
    objective.at_step = lambda step: value if step == 7 else None
    with pytest.raises(
        NotFiniteError, match="NaN or infinity in the loss.*last good checkpoint is kept"
    ):
        fit(objective, settings(), samples, None, tmp_path / "run")
    last = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert last["step"] == 4
    assert all(torch.isfinite(v).all() for v in last["model"].values())
    assert all(torch.isfinite(v).all() for v in objective.state_dict().values())
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["state"] == "failed"
    assert [w["kind"] for w in metrics["warnings"]] == ["not_finite"]
    assert "warnings/not_finite/text_summary" in tensorboard_texts(tmp_path / "run")
    # and it can go on from there, with what made it sick removed
    objective.at_step = lambda step: None
    assert fit(objective, settings(), samples, None, tmp_path / "run").state == "done"


def test_nan_in_the_gradients_alone_stops_it_before_the_weights_are_touched(tmp_path):
    objective = ToyObjective()
    objective.layer.weight.register_hook(
        lambda g: g * float("nan") if objective.steps_seen == 3 else g
    )
    with pytest.raises(NotFiniteError, match="in the gradients at step 2"):
        fit(
            objective, settings(), source(make_recording(tmp_path / "data")), None, tmp_path / "run"
        )
    assert all(torch.isfinite(v).all() for v in objective.state_dict().values())


def tensorboard_texts(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    texts = {}
    for path in run.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(path), {"tensors": 0})
        events.Reload()
        for tag in events.Tags()["tensors"]:
            texts[tag] = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    return texts


# -- the signs themselves ------------------------------------------------------------------------


def sample_of(tgt, src):
    one = torch.ones(len(tgt))
    return Sample(tgt, src, tgt, src, torch.eye(3)[None], one > 0, one[:, None], one, one, one)


def texture(seed=0, size=(64, 96)):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(image, 5, 1, 2)[0]


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_image_motion_is_the_shift_in_pixels(shift):
    image = texture()
    assert image_motion(image, image.roll(shift, 2)) == pytest.approx(shift, abs=0.1)


def test_image_motion_is_that_of_the_background_and_none_without_texture():
    image = texture()
    other = image.clone()
    other[:, 10:50, 5:35] = image[:, 10:50, 5:35].roll(4, 2)  # a mover on a fifth of the image
    assert image_motion(image, other) < 0.1
    assert image_motion(torch.full((3, 64, 96), 0.5), torch.full((3, 64, 96), 0.5)) is None


def test_some_standing_at_lights_is_no_static_camera():
    health, image = Health(), texture()
    for step in range(60):
        moved = image.roll(0 if step % 5 < 3 else 2, 2)  # it stands three fifths of the time
        health.observe(step, 0.5, sample_of(image[None], moved[None, None]), {})
    assert health.warnings == []


def test_spread_of_depth_does_not_depend_on_its_scale():
    depth = torch.linspace(1, 3, 4000).view(1, 1, 40, 100)
    assert log_spread(depth).item() == pytest.approx(np.log(2.9 / 1.1), rel=0.01)
    assert torch.allclose(log_spread(depth), log_spread(50 * depth), atol=1e-5)
    assert log_spread(torch.full((1, 1, 8, 8), 7.0)).item() == 0


def test_a_warning_is_raised_once_and_survives_a_restart():
    told = []
    health = Health(lambda *warning: told.append(warning))
    image = torch.full((1, 3, 64, 96), 0.5)
    flat = {"depth": torch.ones(1, 1, 8, 8)}
    for step in range(0, 200, 10):
        health.observe(step, 0.5, sample_of(image, image[:, None]), flat)
    assert [kind for _, kind, _ in told] == ["depth_constant"]
    again = Health(lambda *warning: told.append(warning))
    again.restore(health.state())
    for step in range(200, 300, 10):
        again.observe(step, 0.5, sample_of(image, image[:, None]), flat)
    assert len(told) == 1


def test_flat_depth_is_no_news_in_the_first_steps():
    health, image = Health(), torch.full((1, 3, 64, 96), 0.5)
    maps = {"depth": torch.ones(1, 1, 8, 8), "automask": torch.zeros(1, 1, 8, 8)}
    for step in range(0, 1000, 10):
        health.observe(step, step / 20_000, sample_of(image, image[:, None]), maps)
    assert health.warnings == []


def test_nan_in_the_motion_ends_in_words_not_in_a_crash(tmp_path):
    """The real method: its warp used to end the process in a segmentation fault."""
    samples = source(make_recording(tmp_path / "data"))
    config = load(overrides=[*TINY, "train.steps=4", "objective.pose_first=0"])
    objective = make_objective(config, samples)
    with torch.no_grad():
        objective.pose_net.head.bias[3] = torch.nan
    with pytest.raises(NotFiniteError, match="NaN|not finite|infinit"):
        fit(objective, config.train, samples, None, tmp_path / "run")
