"""Learned intrinsics within the objective: with true depth and motion they find the camera."""

from dataclasses import replace

import pytest
import torch
from scenes import camera, drive, write_recording
from tiny import FOCAL, tiny_config, tiny_objective, truth

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.methods.base import Predictions

TRUE = {"a": 62.0, "b": 100.0}  # focal lengths; the guess for both is 80
POSES = drive(12, sway=0.05)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two cameras without a calibration on the same curvy drive."""
    root = tmp_path_factory.mktemp("data")
    for name, focal in TRUE.items():
        write_recording(root / name, POSES, camera(focal), known=False)
    return [Recording(root / name) for name in TRUE]


def setup(recordings, intrinsics, **data):
    config = tiny_config(data={"intrinsics": intrinsics, **data}, automask=False)
    source = SampleSource(recordings, config.data, 4, 0)
    return tiny_objective(config, videos=source.names), source


def right(objective, batch, recordings) -> Predictions:
    """True depth and motion, also of mirrored samples, with the intrinsics learned so far."""
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    disps, motions = [], []
    for row, (video, flipped) in enumerate(zip(batch.video, batch.flipped, strict=True)):
        one = batch._map(lambda t, row=row: t[row : row + 1])
        one.index = one.index - 10 * video  # targets are counted over all recordings
        known = truth(objective, one, recordings[int(video)], POSES)
        disp, T = known.disps[0], known.T_src_tgt
        disps.append(disp.flip(-1) if flipped else disp)
        motions.append(mirror @ T @ mirror if flipped else T)
    K = objective.intrinsics(batch.video, batch.flipped)
    return Predictions({0: torch.cat(disps)}, torch.cat(motions), K, torch.ones(len(disps)))


def test_gradient_descent_finds_the_cameras_of_both_videos(recordings):
    objective, source = setup(recordings, "video", flip=0.5)
    optimizer = torch.optim.Adam(objective.intrinsics.parameters(), lr=0.02)
    for step in range(60):
        batch = source.batch(step)
        loss = objective.losses(batch, right(objective, batch, recordings)).terms["photometric"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.97
    found = objective.intrinsics(torch.arange(2), torch.zeros(2, dtype=torch.bool)).detach()
    expected = torch.cat([camera(focal) for focal in TRUE.values()]).float()
    for i in (0, 1):
        torch.testing.assert_close(found[:, i, i], expected[:, i, i], rtol=0.04, atol=0)
    torch.testing.assert_close(found[:, :2, 2], expected[:, :2, 2], rtol=0, atol=3.0)


def test_each_video_has_its_own_camera_and_known_ones_are_kept(recordings):
    objective, source = setup(recordings, "video")
    with torch.no_grad():
        objective.intrinsics.log_focal[1] += 0.5
        objective.intrinsics.centre[0, 0] += 0.1
    batch, flipped = source.batch(0), torch.tensor([False, False, True, False])
    batch = replace(batch, video=torch.tensor([0, 1, 0, 1]), flipped=flipped)
    batch.K_known[3] = True
    batch.K[3] = camera(FOCAL)[0]
    found = objective.predict(batch)
    expected = torch.tensor([80.0, 80.0 * torch.e**0.5, 80.0, FOCAL])
    torch.testing.assert_close(found.K[:, 0, 0], expected)
    expected = torch.tensor([0.6 * 96 - 0.5, 47.5, 0.4 * 96 - 0.5])
    torch.testing.assert_close(found.K[:3, 0, 2], expected)
    assert torch.equal(found.K[3], batch.K[3])


def test_a_pair_is_a_camera_of_its_own_and_both_pairs_of_a_target_agree(recordings):
    objective, source = setup(recordings, "pair")
    torch.nn.init.normal_(objective.pose_net.intrinsics.focal.weight, std=0.5)
    batch = source.batch(0)
    seen = []
    objective.pose_net.register_forward_hook(lambda net, images, out: seen.append(out[1]))
    found = objective.predict(batch)
    torch.testing.assert_close(found.K, seen[0].unflatten(0, (4, 2)).mean(1))
    assert found.K[:, 0, 0].std() > 0
    objective.losses(batch, found).total.backward()
    for weight in objective.pose_net.intrinsics.parameters():
        assert weight.grad.abs().sum() > 0


def test_depth_follows_the_learned_focal_length(recordings):
    """Cameras of one mixture share one depth network: depth = f / f0 of what it says, in training
    and on the vehicle.
    """
    objective, source = setup(recordings, "video")
    with torch.no_grad():
        objective.intrinsics.log_focal[:] = torch.tensor([100 / 80, 60 / 80]).log()
    batch = replace(source.batch(0), video=torch.tensor([0, 1, 0, 1]))
    found = objective.predict(batch)
    torch.testing.assert_close(found.depth_scale * FOCAL, torch.tensor([100.0, 60.0, 100.0, 60.0]))
    assert not found.depth_scale.requires_grad and found.K.requires_grad
    graph = objective.eval().inference_graph()
    depth = objective.depth(objective.predict(batch).disps[0], found.depth_scale)
    torch.testing.assert_close(graph(batch.tgt_net, None, found.K)[0], depth)
