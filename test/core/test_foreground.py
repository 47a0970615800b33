"""Residuals within masks of what may move: where they are cut, and which a training reads."""

import cv2
import numpy as np
import pytest
import torch
from scenes import SIZE, camera, drive, write_recording
from test_residual_motion import draw, make
from tiny import FOCAL
from training_helpers import TINY

from dyndepth_core.config import load
from dyndepth_core.data.recording import Recording
from dyndepth_core.inference.model_file import load_model
from dyndepth_core.training.run import train_run


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, drive(12, sway=0.0), camera(FOCAL))
    return Recording(path)


@pytest.mark.parametrize("both_ways", [False, True])
def test_residuals_end_eight_pixels_from_the_masks_of_the_image_a_way_starts_from(
    recording, both_ways
):
    sample = draw(recording)
    settings = {"burn_in": (0.0, 0.0), "motion_automask": False, "both_ways": both_ways}
    sample.instances = torch.zeros(2, 2, *SIZE, dtype=torch.int64)
    sample.instances[0, 0, 20, 30] = 3  # in the first tgt
    sample.instances[1, 1, 40, 10] = 1  # in the second src
    free = make(**settings).predict(sample).residual
    cut = make(**settings, foreground="files").predict(sample).residual
    assert (free != 0).all()
    wanted = torch.zeros_like(free)
    wanted[0, :, 12:29, 22:39] = free[0, :, 12:29, 22:39]
    if both_ways:
        wanted[3, :, 32:49, 2:19] = free[3, :, 32:49, 2:19]
    torch.testing.assert_close(cut, wanted)
    sample.instances = None  # held out images are judged without
    assert torch.equal(make(**settings, foreground="files").predict(sample).residual, free)


@pytest.mark.parametrize("both_ways", [False, True])
def test_what_the_images_do_not_judge_is_held_small(recording, both_ways):
    """The model has no masks: outside of them residuals learn to be sparse and smooth."""
    sample, found = draw(recording), {}
    sample.instances = torch.zeros(2, 2, *SIZE, dtype=torch.int64)
    sample.instances[:, :, 30, 40] = 1
    for foreground in ("none", "files"):
        objective = make(burn_in=(0.0, 0.0), both_ways=both_ways, foreground=foreground)
        predictions = objective.predict(sample)
        found[foreground] = objective.losses(sample, predictions).terms
    for name, cut in found["files"].items():
        if name.startswith("motion_s"):
            torch.testing.assert_close(cut, found["none"][name])
    judged = "rgb" if both_ways else "motion"
    assert found["files"][judged] != found["none"][judged]
    terms = found["files"]["motion_smoothness"] + found["files"]["motion_sparsity"]
    slope = torch.autograd.grad(terms, predictions.unmasked)[0]
    outside = predictions.residual.detach() == 0
    assert 0.5 < outside.float().mean() < 1 and slope[outside & (predictions.unmasked != 0)].all()


def test_a_training_reads_the_masks_and_says_where_they_should_be(tmp_path):
    write_recording(tmp_path / "bare" / "drive", drive(8), camera())
    config = load(
        overrides=[*TINY, "objective.foreground=files", "train.steps=2"], method="residual_motion"
    )
    with pytest.raises(ValueError, match="no masks in instances/.*objective.foreground=none"):
        train_run(config, [tmp_path / "bare"], tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    masked = Recording(tmp_path / "bare" / "drive")
    folder = tmp_path / "bare" / "drive" / "instances"
    folder.mkdir()
    for i in range(len(masked)):
        ids = np.zeros((masked.calib.height, masked.calib.width), np.uint16)
        ids[20:40, 30:60] = 5
        cv2.imwrite(str(folder / f"{i:06d}.png"), ids)
    train_run(config, [tmp_path / "bare"], tmp_path / "run")
    _, meta = load_model(tmp_path / "run" / "model.safetensors")
    assert meta.provenance.config["objective"]["foreground"] == "files"
    with pytest.raises(ValueError, match="foreground: the masks of this method are `masks`"):
        load(overrides=["objective.foreground=files"], method="mined_supervision")
