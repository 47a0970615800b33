"""Cameras that are learned per video, where frames and videos are counted in different lists."""

from types import SimpleNamespace

import torch
from training_helpers import TINY, make_recording, source

from dyndepth_core.config import load
from dyndepth_core.methods.masks import _motion_objective
from dyndepth_core.training.units import TYPICAL_DEPTH, typical_units


def test_units_are_those_of_the_camera_that_took_the_frames(tmp_path):
    """A short recording holds nothing out: the first one held out is the second of the training."""
    frames, seen = source(make_recording(tmp_path)), []
    (name,) = set(frames.names)

    def predict(batch, progress):
        seen.extend(batch.video.tolist())
        return SimpleNamespace(K=batch.K)

    def graph(tgt, src, K):
        return (torch.full_like(tgt[:, :1], 5.0),)

    objective = SimpleNamespace(predict=predict)
    assert typical_units(objective, graph, frames, ["short", name]) == TYPICAL_DEPTH / 5
    assert seen and set(seen) == {1}


def test_the_motion_that_finds_masks_begins_with_the_cameras_of_the_tracks(tmp_path):
    frames, begun = source(make_recording(tmp_path)), []
    config = load(
        overrides=[*TINY, "data.intrinsics=video", "objective.masks.source=mined"],
        method="many_depth+motion_aware",
    )
    job = SimpleNamespace(config=config, source=frames, begin_cameras=begun.append)
    objective = _motion_objective(job)
    assert begun == [objective] and objective.intrinsics is not None
