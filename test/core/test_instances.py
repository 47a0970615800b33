"""Moving objects of analytic scenes: what moves, where, how fast, and under which id."""

import numpy as np
import pytest
from moving_scene import PERIOD_NS, SIZE, START_NS, Box, Drive, K, owners, shift, view, yaw

from dyndepth_core.instances.dynamic import dynamic_probability, speed_limit, speed_noise
from dyndepth_core.instances.motion import MotionTracker

RIGHT = Box((-6.0, 0.0, 12.0), (4.0, 0.0, 0.0))
AWAY = Box((3.0, 0.2, 15.0), (0.0, 0.0, 5.0))
STANDING = Box((-1.0, 0.3, 10.0), (0.0, 0.0, 0.0))


def forwards(speed):
    return lambda seconds: shift(z=speed * seconds)


def test_two_boxes_move_and_one_stands():
    results = Drive(MotionTracker(), (RIGHT, AWAY, STANDING)).run(range(1, 6))
    for motion, whose in results:
        assert np.array_equal(motion.mask, (whose == 1) | (whose == 2))
        assert motion.probability.dtype == np.float32 and motion.mask.dtype == bool
        assert motion.probability[motion.mask].min() > 0.9
        assert motion.probability[~motion.mask].max() < 0.05
    motion, whose = results[-1]
    by_box = {box: name for name, box in owners(motion, whose).items()}
    found = {o.id: o for o in motion.objects}
    assert set(by_box) == {1, 2} and set(found) == set(by_box.values()) == {1, 2}
    for box, index in ((RIGHT, 1), (AWAY, 2)):
        o, own = found[by_box[index]], whose == index
        assert np.array_equal(motion.ids == o.id, own)
        np.testing.assert_allclose(o.velocity, box.velocity, atol=0.05)
        assert o.speed == pytest.approx(np.linalg.norm(box.velocity), abs=0.05)
        middle = np.array(box.centre) + 0.5 * np.array(box.velocity)
        np.testing.assert_allclose(o.position, middle, atol=0.12)  # a pixel spans 0.08 m
        np.testing.assert_allclose(o.size, (1.8, 1.4, 0), atol=0.2)
        rows, cols = np.nonzero(own)
        assert o.box == (cols.min(), rows.min(), cols.max(), rows.max())
        assert o.missed == 0 and o.age_s == pytest.approx(0.4)


def test_ids_need_three_frames_and_the_mask_none():
    drive = Drive(MotionTracker(birth=3), (RIGHT,))
    ids = [([o.id for o in m.objects], m.mask.any(), m.ids.max()) for m, _ in drive.run((1, 2, 3))]
    assert ids == [([], True, 0), ([], True, 0), ([1], True, 1)]


def test_ids_are_stable_over_crossing_paths():
    """One passes before the other, hides it for a while, and goes on."""
    near = Box((-3.2, 0.0, 10.0), (4.0, 0.0, 0.0))
    far = Box((3.6, 0.0, 14.0), (-4.0, 0.0, 0.0), (0.6, 0.6))
    drive = Drive(MotionTracker(), (near, far))
    hidden, seen, velocities = 0, [], {}
    for motion, whose in drive.run(range(1, 21)):
        hidden += not (whose == 2).any()
        seen.append(owners(motion, whose))
        for o in motion.objects:
            velocities.setdefault(o.id, []).append(o.velocity[0])
    assert hidden >= 2
    named = {(name, box) for frame in seen for name, box in frame.items()}
    assert len(named) == 2 and {box for _, box in named} == {1, 2}
    for name, box in named:
        assert name in seen[-1]
        np.testing.assert_allclose(velocities[name], 4.0 if box == 1 else -4.0, atol=0.3)


def scaled(factor):
    def change(velocity, depth, whose):
        velocity *= factor

    return change


def test_a_mask_that_began_lasts_at_speeds_at_which_none_begins():
    """In time: 1.5 of the threshold, then 0.8 of it; in another drive 0.8 from the start."""
    slow = Box((0.0, 0.0, 6.0), (1.0, 0.0, 0.0))
    drive = Drive(MotionTracker(), (slow,))
    for frame, factor in enumerate((1.5, 1.5, 1.5, 0.8, 0.85, 0.8, 0.8), 1):
        motion, whose = drive.step(frame, scaled(factor))
        assert np.array_equal(motion.mask, whose == 1), frame
    assert [o.id for o in motion.objects] == [1]
    assert not drive.step(8, scaled(0.4))[0].mask.any()  # too slow for any mask
    assert not drive.step(9, scaled(0.8))[0].mask.any()  # and it does not begin again
    cautious = Drive(MotionTracker(), (slow,))
    assert not any(m.mask.any() for m, _ in cautious.run(range(1, 6), change=scaled(0.8)))


def test_a_mask_reaches_into_the_slower_part_of_its_object():
    box = Box((0.0, 0.0, 6.0), (1.5, 0.0, 0.0))

    def left_half_slower(velocity, depth, whose):
        velocity[:, : SIZE[1] // 2] *= 0.8 / 1.5

    motion, whose = Drive(MotionTracker(), (box,)).step(1, left_half_slower)
    assert np.array_equal(motion.mask, whose == 1)


def test_where_a_network_does_not_find_it_likely_no_speed_is_a_mask():
    box = Box((0.0, 0.0, 6.0), (3.0, 0.0, 0.0))
    likely = np.full(SIZE, 0.9, np.float32)
    likely[:, : SIZE[1] // 2] = 0.4
    drive = Drive(MotionTracker(), (box,))
    motion, whose = drive.step(1, likely=likely)
    assert np.array_equal(motion.mask, (whose == 1) & (likely > 0.5)) and motion.mask.any()
    assert (motion.probability <= likely).all() and motion.probability[motion.mask].min() > 0.85
    assert (motion.velocity[whose == 1] != 0).any(1).all()  # the speed is what it is
    assert not drive.step(2, likely=np.full(SIZE, 0.4, np.float32))[0].mask.any()


def test_far_speeds_count_for_less():
    depth = np.array([5.0, 20.0, 40.0, 80.0])
    noise = speed_noise(depth, focal=200.0, ego_translation=0.0, dt=0.1)
    np.testing.assert_allclose(noise, 0.25 * depth / 20)
    limit = speed_limit(noise, 1.0)
    assert (np.diff(limit) > 0).all() and limit[0] < 1.1 and limit[3] > 3
    np.testing.assert_allclose(speed_noise(depth, 200.0, 1.0, 0.1)[0], np.hypot(0.0625, 0.3))
    chance = dynamic_probability(np.array([0.0, 1.0, 2.0]), np.ones(3))
    np.testing.assert_allclose(chance, (0.018, 0.5, 0.982), atol=1e-3)
    near, far = (Box((0.0, 0.0, z), (1.4, 0.0, 0.0), (2.5, 1.5)) for z in (8.0, 50.0))
    assert Drive(MotionTracker(), (near,)).step(1)[0].mask.any()
    assert not Drive(MotionTracker(), (far,)).step(1)[0].mask.any()


@pytest.mark.parametrize("camera", [forwards(0), forwards(15), lambda s: yaw(0.8 * s)])
def test_nothing_moves_when_only_the_camera_does(camera):
    boxes = (STANDING, Box((4.0, 0.0, 30.0), (0, 0, 0)))
    for motion, _ in Drive(MotionTracker(), boxes, camera).run(range(1, 6)):
        assert not motion.mask.any() and not motion.objects and not motion.ids.any()


def test_a_lead_car_at_our_own_speed_moves():
    """Its image stands still; its velocity is ours."""
    lead = Box((0.3, 0.0, 14.0), (0.0, 0.0, 12.0))
    for motion, whose in Drive(MotionTracker(), (lead, STANDING), forwards(12)).run(range(1, 11)):
        assert np.array_equal(motion.mask, whose == 1)
    (o,) = motion.objects
    assert o.id == 1 and o.speed == pytest.approx(12, abs=0.1)
    np.testing.assert_allclose(o.position, (0.3, 0, 14), atol=0.1)


def test_turning_the_camera_turns_velocities_and_keeps_ids():
    drive = Drive(MotionTracker(), (AWAY,), lambda seconds: yaw(0.5 * seconds))
    for frame, (motion, whose) in enumerate(drive.run(range(1, 11)), 1):
        assert np.array_equal(motion.mask, whose == 1)
        if frame >= 3:
            (o,) = motion.objects
            T = np.linalg.inv(yaw(0.05 * frame))
            assert o.id == 1 and o.speed == pytest.approx(5, abs=0.1)
            np.testing.assert_allclose(o.velocity, T[:3, :3] @ AWAY.velocity, atol=0.1)


def test_a_dropped_frame_is_twice_the_way():
    drive = Drive(MotionTracker(), (RIGHT,))
    drive.run((1, 2, 3))
    motion, whose = drive.step(5)
    (o,) = motion.objects
    assert o.id == 1 and np.array_equal(motion.ids == 1, whose == 1)
    np.testing.assert_allclose(o.velocity, RIGHT.velocity, atol=0.05)
    assert o.position[0] == pytest.approx(-6 + 0.5 * 4, abs=0.1) and o.age_s == pytest.approx(0.4)


def test_an_object_that_is_missed_is_predicted_and_then_forgotten():
    def hide(velocity, depth, whose):
        velocity[...] = 0

    drive = Drive(MotionTracker(survive=2), (RIGHT,))
    (before,) = drive.run((1, 2, 3, 4))[-1][0].objects
    for frame in (5, 6):
        motion, _ = drive.step(frame, hide)
        (o,) = motion.objects
        assert (o.id, o.missed) == (1, frame - 4) and not motion.mask.any()
    assert o.position[0] == pytest.approx(before.position[0] + 0.2 * 4, abs=0.1)
    assert o.box[0] == pytest.approx(before.box[0] + 0.8 * K[0, 0] / 12, abs=1)
    assert [x.id for x in drive.step(7)[0].objects] == [1]  # seen again in time
    drive.run((8, 9, 10), change=hide)
    assert [x.id for x in drive.run((11, 12, 13))[-1][0].objects] == [2]


@pytest.mark.parametrize("jump_ns", [0, -PERIOD_NS, -(10**18), 2_000_000_001, 10**18])
def test_stamps_that_mean_nothing(jump_ns):
    """Nothing moves in that frame, and what was known is forgotten: ids start anew."""
    drive = Drive(MotionTracker(), (RIGHT,))
    assert [o.id for o in drive.run((1, 2, 3))[-1][0].objects] == [1]
    velocity, depth, _ = view((RIGHT,), np.eye(4), 0.4)
    last = START_NS + 3 * PERIOD_NS
    motion = drive.tracker.step(velocity, depth, K, np.eye(4), last + jump_ns, last, 1.0)
    assert not motion.mask.any() and not motion.objects and np.isnan(motion.probability).all()
    stamps = [last + jump_ns + k * PERIOD_NS for k in range(4)]
    for stamp, src in zip(stamps[1:], stamps, strict=False):
        motion = drive.tracker.step(velocity, depth, K, np.eye(4), stamp, src, 1.0)
        assert motion.mask.any()
    assert [o.id for o in motion.objects] == [2]


def test_a_frame_in_between_that_was_not_looked_at():
    drive = Drive(MotionTracker(), (RIGHT,))
    drive.run((1, 2, 3))
    drive.last = 4
    motion, _ = drive.step(5)
    assert motion.mask.any() and not motion.objects  # whose it is takes three frames again


def test_the_unit_of_depth_may_change_on_the_way():
    """A scale filter doubles all lengths, and the threshold with them."""
    drive = Drive(MotionTracker(), (RIGHT,), forwards(3))
    drive.run((1, 2, 3))
    velocity, depth, _ = view((RIGHT,), shift(z=1.2), 0.4)
    stamp = START_NS + 4 * PERIOD_NS
    args = (2 * velocity, 2 * depth, K, shift(z=0.6), stamp, stamp - PERIOD_NS, 2.0)
    (o,) = drive.tracker.step(*args).objects
    assert o.id == 1 and o.missed == 0
    np.testing.assert_allclose(o.velocity, (8, 0, 0), atol=0.1)


def test_an_object_missed_when_the_unit_of_depth_changes_has_its_size_in_the_new_one():
    drive = Drive(MotionTracker(), (RIGHT,), forwards(3))
    (before,) = drive.run((1, 2, 3))[-1][0].objects
    velocity, depth, _ = view((), shift(z=1.2), 0.4)
    stamp = START_NS + 4 * PERIOD_NS
    args = (2 * velocity, 2 * depth, K, shift(z=0.6), stamp, stamp - PERIOD_NS, 2.0)
    (o,) = drive.tracker.step(*args).objects
    assert o.id == 1 and o.missed == 1
    np.testing.assert_allclose(o.size, 2 * before.size)


def test_what_is_unknown_does_not_move():
    def tear(velocity, depth, whose):
        velocity[:, :100] = np.nan
        depth[:, 100:200] = np.nan
        velocity[:, 200:] = np.inf

    for motion, _ in Drive(MotionTracker(), (RIGHT, AWAY)).run(range(1, 4), change=tear):
        assert not motion.mask.any() and not motion.objects
        assert np.isnan(motion.probability[:, :200]).all()


def test_specks_are_no_objects():
    speck = Box((0.0, 0.0, 10.0), (5.0, 0.0, 0.0), (0.06, 0.06))  # 2 x 2 pixels
    motion, whose = Drive(MotionTracker(), (speck,)).step(1)
    assert (whose == 1).any() and not motion.mask.any()


def test_bad_input_is_named():
    tracker, depth = MotionTracker(), np.ones(SIZE, np.float32)
    velocity = np.zeros((*SIZE, 3), np.float32)
    good = [velocity, depth, K, np.eye(4), 2, 1, 1.0]
    for place, bad, says in (
        (0, velocity[:5], "of the same image"),
        (2, -K, "K"),
        (3, np.full((4, 4), np.nan), "T_src_tgt"),
        (6, 0.0, "threshold"),
    ):
        with pytest.raises(ValueError, match=says):
            tracker.step(*[bad if i == place else x for i, x in enumerate(good)])
    with pytest.raises(ValueError, match="birth 0"):
        MotionTracker(birth=0)
