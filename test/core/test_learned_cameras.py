"""Cameras that are learned per video, where frames and videos are counted in different lists."""

from types import SimpleNamespace

import pytest
import torch
from training_helpers import TINY, make_recording, source

from dyndepth_core.config import load
from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.methods.masks import _motion_objective
from dyndepth_core.training.model import trained_model
from dyndepth_core.training.objective import make_objective
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


def test_depth_beside_intrinsics_per_pair_belongs_to_the_focal_length_they_say(tmp_path):
    """Not to the one that was guessed: the model says what the training said, in its units."""
    root, focal = make_recording(tmp_path), 110.0
    config = load(overrides=[*TINY, "data.intrinsics=pair"], method="monodepth")
    frames = SampleSource(open_recordings(root), config.data, 2, 0, train=False)
    objective = make_objective(config, frames).eval()
    assert objective.canonical_focal == 80
    head = objective.pose_net.intrinsics.focal
    torch.nn.init.zeros_(head.weight)
    head.bias.data.copy_(torch.tensor([focal / 96, focal / 64]).expm1().log())
    graph, meta = trained_model(config, objective, frames, [root], 1, None)
    assert meta.canonical_focal == graph.canonical_focal == pytest.approx(focal, rel=1e-5)
    batch = frames.batch(0)
    with torch.no_grad():
        said = objective.predict(batch, 1.0)
        depth = graph(batch.tgt, None, said.K)[0]
    expected = objective.depth(said.disps[0], said.depth_scale)
    torch.testing.assert_close(depth, graph.architecture["units"] * expected)


def test_the_motion_that_finds_masks_begins_with_the_cameras_of_the_tracks(tmp_path):
    frames, begun = source(make_recording(tmp_path)), []
    config = load(
        overrides=[*TINY, "data.intrinsics=video", "objective.masks.source=mined"],
        method="many_depth+motion_aware",
    )
    job = SimpleNamespace(config=config, source=frames, begin_cameras=begun.append)
    objective = _motion_objective(job)
    assert begun == [objective] and objective.intrinsics is not None
