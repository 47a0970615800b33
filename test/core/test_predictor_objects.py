"""Moving objects of the Predictor: sizes, scale, thresholds, histories; the camera's path."""

import numpy as np
import pytest
from moving_model import DEPTH, SIZE, STEP, moving_graph, moving_meta, red_box
from small_model import camera, probe

from dyndepth_core.geometry.se3 import exp_so3
from dyndepth_core.inference.model_file import ModelScale
from dyndepth_core.inference.motion import EgoPath
from dyndepth_core.inference.predictor import Predictor

PERIOD = 100_000_000
SPEED = STEP / 0.1
K = camera(SIZE, 60.0)


def predictor(factor=1.0, **meta):
    graph = moving_graph()
    return Predictor.from_graph(graph, moving_meta(**meta), device="cpu", assumed_scale=factor)


def drive(p, frames=6, size=SIZE, matrix=K, **options):
    """The box goes SPEED to the right, as the network says it does."""
    step = STEP / DEPTH * matrix[0, 0] / size[1]
    return [
        p(red_box(size, 0.2 + i * step), matrix, i * PERIOD, motion=True, **options)
        for i in range(frames)
    ]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_red_box_is_one_object_whatever_the_scale(scale):
    """The threshold of the file is in units of the model: it grows with the assumed scale."""
    results = drive(predictor(scale))
    assert results[0].motion is None and results[0].velocity is None
    for i, found in enumerate(results[1:], 1):
        red = found.image[..., 0] > 200
        assert np.array_equal(found.motion.mask, red)
        assert found.motion.velocity is found.velocity
        np.testing.assert_allclose(found.velocity[red], [(scale * SPEED, 0, 0)] * red.sum(), 1e-3)
        assert (found.velocity[~red] == 0).all() and found.motion.probability[red].min() > 0.9
        assert len(found.motion.objects) == (i >= 3)
    (o,) = results[-1].motion.objects
    assert o.id == 1 and o.speed == pytest.approx(scale * SPEED, rel=0.02)
    assert o.position[2] == pytest.approx(scale * DEPTH, rel=0.01)
    rows, cols = np.nonzero(red)
    assert o.box == (cols.min(), rows.min(), cols.max(), rows.max())


def test_at_input_size_everything_lies_over_the_image():
    size = (128, 200)  # wider than the network's: cropped and resized
    matrix = camera(size, 110.0)
    found = drive(predictor(), size=size, matrix=matrix, output_size="input")[-1]
    motion, red = found.motion, found.image[..., 0] > 200
    for array in (motion.probability, motion.mask, motion.ids, motion.velocity[..., 0]):
        assert array.shape == size
    assert (motion.mask & red).sum() / (motion.mask | red).sum() > 0.85
    assert np.array_equal(motion.ids, motion.mask.astype(np.int32))
    (o,) = motion.objects
    rows, cols = np.nonzero(red)
    np.testing.assert_allclose(o.box, (cols.min(), rows.min(), cols.max(), rows.max()), atol=3)
    seen = matrix @ o.position / o.position[2]
    np.testing.assert_allclose(seen[:2], (cols.mean(), rows.mean()), atol=3)
    unseen = np.isnan(found.depth)
    assert unseen.any() and np.isnan(motion.probability[unseen]).all() and not red[unseen].any()


def test_the_file_says_from_which_speed_on_things_move():
    assert not drive(predictor(thresholds={"moving_speed": 1.6 * SPEED}))[-1].motion.mask.any()
    none = drive(predictor(thresholds={}))[-1].motion  # 1 unit per second: units are about metres
    assert none.mask.any()
    slow = predictor(0.3, thresholds={}, scale=ModelScale(state="metric"))
    assert drive(slow)[-1].motion.mask.any()  # a metric model has its own metres


def test_stamps_that_break_the_history_break_the_ids():
    p = predictor()
    assert [o.id for o in drive(p)[-1].motion.objects] == [1]
    again = p(red_box(), K, 5 * PERIOD, motion=True)  # the stamp did not advance
    assert again.motion is None and again.history_reset
    later = [p(red_box(), K, (6 + i) * PERIOD, motion=True) for i in range(3)]
    assert [[o.id for o in x.motion.objects] for x in later] == [[], [], [2]]
    p(red_box(), K, 9 * PERIOD)  # nobody asked for motion in this frame
    assert p(red_box(), K, 10 * PERIOD, motion=True).motion.objects == []


def test_what_a_model_can_tell_is_known_after_warming_up():
    p = predictor()
    assert p.has_object_motion is None
    p.warm_up()
    assert p.has_object_motion is True and p.has_ego_motion is True
    depth_only = probe()
    depth_only.warm_up()
    assert depth_only.has_object_motion is False and depth_only.has_ego_motion is True
    image = np.zeros((*SIZE, 3), np.uint8)
    assert depth_only(image, K, 1, motion=True).motion is None


def turn(angle, forwards):
    T = np.eye(4)
    T[:3, :3] = exp_so3(np_tensor([[0.0, angle, 0.0]]))[0].numpy()
    T[:3, 3] = 0, 0, forwards
    return T


def np_tensor(values):
    import torch

    return torch.tensor(values, dtype=torch.float64)


def test_the_path_of_a_camera_in_a_circle():
    """36 steps of 10 degrees, each a metre long: back where it began, to the millimetre."""
    path, step = EgoPath(), turn(np.pi / 18, 1.0)
    assert path.step(None, 0) is None
    for i in range(1, 37):
        state = path.step(step, i * PERIOD)
        np.testing.assert_allclose(np.linalg.norm(state.linear), 10.0)
        np.testing.assert_allclose(state.angular, (0, 10 * np.pi / 18, 0), atol=1e-9)
        if i == 9:
            assert np.allclose(state.T_start_cam[:3, :3], turn(np.pi / 2, 0)[:3, :3])
    np.testing.assert_allclose(state.T_start_cam, np.eye(4), atol=1e-3)


@pytest.mark.parametrize("stamp", [0, -5, PERIOD])
def test_a_path_starts_anew_where_stamps_do_not_advance(stamp):
    path = EgoPath()
    path.step(None, 0)
    path.step(turn(0, 1.0), PERIOD)
    assert path.step(turn(0, 1.0), stamp) is None
    np.testing.assert_allclose(path.step(turn(0, 1.0), 3 * PERIOD).T_start_cam, turn(0, 1.0))
