"""Hints for the motion of the camera: from tracks through a drive whose motion is known."""

import cv2
import numpy as np
import pytest
import torch

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.data.synthetic import World, write_clip
from dyndepth_core.geometry.bundle import exp_rotation
from dyndepth_core.geometry.warp import correspond
from dyndepth_core.geometry.warp import sample as look_up
from dyndepth_core.methods.follow import MapSource
from dyndepth_core.methods.residual_motion.hinted import (
    HintedSample,
    hinted_motion,
    motion_loss,
    unit,
)
from dyndepth_core.methods.residual_motion.tracked_motion import LEAST, track_motions

SIZE = (96, 320)
AROUND = (9, 8, 7, 11, 12, 13)  # of frame 10


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("street") / "drive"
    write_clip(path, World(1000, 0, size=SIZE, frames=16))
    return Recording(path)


def grey(recording, i):
    return cv2.cvtColor(recording.image(i), cv2.COLOR_RGB2GRAY)


def true_motions(recording):
    """T from frame 10 to those around it, metres."""
    return np.stack([np.linalg.inv(recording.pose(j)) @ recording.pose(10) for j in AROUND])


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def tracked(recording, T, depth, moves):
    sides = [[grey(recording, j) for j in AROUND[:3]], [grey(recording, j) for j in AROUND[3:]]]
    return track_motions(grey(recording, 10), sides, T, recording.calib.K, depth, moves)


def test_tracks_mend_the_motion_that_a_network_has_wrong(recording):
    truth = true_motions(recording)
    turn = exp_rotation(np.radians((0.3, 0.5, 0.1)))
    aside = exp_rotation(np.radians((1.5, 3.0, 0.0)))
    guess = truth.copy()
    guess[:, :3, :3] = turn @ guess[:, :3, :3]
    guess[:, :3, 3] = 1.4 * guess[:, :3, 3] @ aside.T
    depth = recording.depth(10)
    depth = np.where(depth > 0, depth, 80.0)
    rough = 2 * np.exp(cv2.blur(np.log(depth), (41, 41)))  # twice as far, without edges
    found = tracked(recording, guess, rough, recording.dynamic(10))
    for T, said, wrong in zip(found, truth, guess, strict=True):
        assert degrees_between(wrong[:3, 3], said[:3, 3]) > 2.5
        assert degrees_between(T[:3, 3], said[:3, 3]) < 0.5
        assert np.degrees(np.linalg.norm(T[:3, :3] - said[:3, :3]) / np.sqrt(2)) < 0.06
    # one scale for all, that of the given depth
    scale = np.linalg.norm(found[:, :3, 3], axis=1) / np.linalg.norm(truth[:, :3, 3], axis=1)
    assert scale == pytest.approx(np.full(6, scale.mean()), rel=0.03)
    assert scale.mean() == pytest.approx(2, rel=0.25)


def test_too_few_tracks_say_nothing(recording):
    truth, depth = true_motions(recording), np.full(SIZE, 20.0)
    assert tracked(recording, truth, depth, np.ones(SIZE, bool)) is None
    flat = np.full(SIZE, 90, np.uint8)
    sides = [[flat] * 3, [flat] * 3]
    nowhere = np.zeros(SIZE, bool)
    assert track_motions(flat, sides, truth, recording.calib.K, depth, nowhere) is None
    few = np.ones(SIZE, bool)
    few[40:52, 150:170] = False  # room for fewer than LEAST corners
    assert LEAST > 12 * 20 / 25
    assert tracked(recording, truth, depth, few) is None


def sample(recording, flip):
    """Of frame 10: hints of the truth, in decimetres."""
    config = DataConfig(size=SIZE, flip=flip, zoom_share=0, jitter=0)
    source = SampleSource([recording], config, 1, 0, train=True)
    (target,) = [k for k, (_, tgt, _) in enumerate(source.targets) if tgt == 10]
    depth, truth = recording.depth(10), true_motions(recording)
    motions = truth[[AROUND.index(s) for s in source.targets[target][2]]].astype(np.float32)
    motions[:, :3, 3] *= 10
    maps = {
        "hint": 10 * depth.astype(np.float32), "sure": (depth > 0).astype(np.float32),
        "motion": motions,
    }  # fmt: skip
    held = MapSource(source, HintedSample, lambda _: maps)
    return held.add(source.take([(0, target)])), depth


@pytest.mark.parametrize("flip", (0.0, 1.0))
def test_a_hinted_motion_explains_the_images_mirrored_or_not(recording, flip):
    given, depth = sample(recording, flip)
    assert bool(given.flipped[0]) == bool(flip)
    seen = torch.from_numpy(np.ascontiguousarray(depth[:, ::-1] if flip else depth))[None, None]
    assert unit(2 * seen, given.hint, given.sure).item() == pytest.approx(0.2, rel=1e-4)
    T, known = hinted_motion(given, 2 * seen)
    assert known.all() and T.shape == (1, 2, 4, 4)
    plain, _ = sample(recording, 0.0)
    true = 0.2 * plain.motion[..., :3, 3]
    assert torch.allclose(T[..., 1:3, 3], true[..., 1:3], rtol=1e-4)
    assert torch.allclose(T[..., 0, 3], (-1 if flip else 1) * true[..., 0], rtol=1e-4)
    still = torch.where(seen > 0, 2 * seen, 160.0)
    warped = look_up(given.src[:, 0], correspond(still, T[:, 0], given.K).pixels)
    error = (warped - given.tgt).abs().mean()
    assert error < 0.6 * (given.src[:, 0] - given.tgt).abs().mean()


def test_motion_loss_is_in_pixels_and_teaches_the_motion_alone():
    K = torch.tensor([[[100.0, 0, 31.5], [0, 100.0, 23.5], [0, 0, 1]]])
    depth = torch.full((1, 1, 48, 64), 10.0, requires_grad=True)
    aimed = torch.eye(4).repeat(1, 2, 1, 1)
    T = aimed.clone()
    T[0, 0, 0, 3] = 0.2  # 100 * 0.2 / 10: two pixels
    T[0, 1, 0, 3] = 0.4
    T.requires_grad_()
    known = torch.tensor([[True, True]])
    assert motion_loss(T, aimed, known, depth, K).item() == pytest.approx(3, rel=0.02)
    known = torch.tensor([[True, False]])
    loss = motion_loss(T, aimed, known, depth, K)
    assert loss.item() == pytest.approx(2, rel=1e-4)
    loss.backward()
    assert T.grad[0, 0, 0, 3].item() == pytest.approx(10, rel=1e-4)
    assert (T.grad[0, 1] == 0).all() and depth.grad is None
    assert motion_loss(aimed, aimed, known, depth, K) == 0


def test_a_motion_that_is_not_known_is_not_hinted(recording):
    given, depth = sample(recording, 0.0)
    seen = torch.from_numpy(depth)[None, None]
    given.motion[0, 1] = 0
    assert hinted_motion(given, seen)[1].tolist() == [[True, False]]
    given.sure[:] = 0  # then its unit is not known
    assert hinted_motion(given, seen)[1].tolist() == [[False, False]]


@pytest.mark.parametrize("said", (0.0, 0.5))
def test_a_camera_that_stands_is_not_said_to_drive(recording, said):
    """Whatever the network says: the images do not change."""
    image, T = grey(recording, 10), np.tile(np.eye(4), (6, 1, 1))
    T[:, 2, 3] = said * np.array((1, 2, 3, -1, -2, -3))
    depth = np.full(SIZE, 20.0)
    nothing = np.zeros(SIZE, bool)
    found = track_motions(image, [[image] * 3] * 2, T, recording.calib.K, depth, nothing)
    assert np.isfinite(found).all()
    assert np.abs(found[:, :3, :3] - np.eye(3)).max() < 1e-3
    assert np.linalg.norm(found[:, :3, 3], axis=1).max() < 0.1
