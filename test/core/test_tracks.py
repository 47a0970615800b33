"""Point tracks of rendered turns, where every point's place is known."""

import cv2
import numpy as np
import pytest

from dyndepth_core.data.recording import DamagedImage
from dyndepth_core.data.tracks import KEYS, REACH, windows
from dyndepth_core.geometry.bundle import exp_rotation, focals
from dyndepth_core.geometry.self_calibration import estimate, stack

SIZE, FOCAL = (96, 320), 220.0


def camera(size=SIZE):
    f = FOCAL * size[1] / SIZE[1]
    return np.array([[f, 0, (size[1] - 1) / 2], [0, f, (size[0] - 1) / 2], [0, 0, 1]])


def homography(turn, size=SIZE):
    """Pixels of the world's middle picture to those of a camera turned by `turn` (3,)."""
    K = camera(size)
    return K @ exp_rotation(np.array(turn)) @ np.linalg.inv(K)


class Film:
    """A camera that looks at a picture far away and turns by given angles (frames, 3)."""

    def __init__(self, turns, size=SIZE):
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 255, (size[0] * 4, size[1] * 4), np.uint8)
        texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)
        shift = np.eye(3)
        shift[:2, 2] = -1.5 * size[1], -1.5 * size[0]
        self.images = [
            cv2.cvtColor(
                cv2.warpPerspective(texture, homography(t, size) @ shift, size[::-1]),
                cv2.COLOR_GRAY2RGB,
            )
            for t in turns
        ]
        self.stamps = np.arange(len(turns)) * 100_000_000
        self.damaged = ()

    def __call__(self, i):
        if i in self.damaged:
            raise DamagedImage(f"{i}")
        return self.images[i]


def turning(count, yaw=0.025):
    return np.stack((np.zeros(count), yaw * (np.arange(count) - count // 2), np.zeros(count)), 1)


@pytest.mark.parametrize("size", [SIZE, (384, 1280)])
def test_points_are_found_where_the_rotation_takes_them(size):
    turns = turning(13)
    film = Film(turns, size)
    (window,) = windows(film, film.stamps, 1)
    last = 0
    scale = size[1] / SIZE[1]
    for seen, valid in zip(window.seen, window.valid, strict=True):
        # which frame was kept is what the points say; they must all say the same
        best = np.inf
        for i in range(13):
            H = homography(turns[i], size) @ np.linalg.inv(homography(turns[window.middle], size))
            ends = np.c_[window.points, np.ones(len(window.points))] @ H.T
            error = np.linalg.norm(seen - ends[:, :2] / ends[:, 2:], axis=1)[valid]
            best = min(best, np.percentile(error, 90))
        assert best < 0.5 * scale
        last = max(last, valid.sum())
    assert last > 40 and window.valid.sum(0).min() >= 2
    assert 0 < window.before <= KEYS and len(window.seen) - window.before <= KEYS


def test_windows_lie_where_the_camera_turns():
    turns = np.concatenate((np.zeros((40, 3)), turning(16) - turning(16)[0], np.zeros((40, 3))))
    turns[56:] = turns[55]
    film = Film(turns)
    found = windows(film, film.stamps, 4)
    assert found and all(40 - REACH < w.middle < 56 + REACH for w in found)
    assert sum(38 <= w.middle <= 58 for w in found) >= 2
    assert [w.middle for w in found] == sorted(w.middle for w in found)


def test_a_camera_that_stands_has_no_windows():
    film = Film(np.zeros((12, 3)))
    assert windows(film, film.stamps, 4) == []


def test_windows_end_at_gaps_and_at_damaged_frames():
    film = Film(turning(13))
    whole = windows(film, film.stamps, 1)[0]
    film.stamps[10:] += 10**9
    film.damaged = (2,)
    (cut,) = windows(film, film.stamps, 1)
    assert cut.middle == whole.middle
    assert len(cut.seen) < len(whole.seen)


def street(poses):
    """Images of a wall at z = 25 m on a floor 1.5 m below; poses (position, yaw, pitch)."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (600, 1600), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)
    above = np.full(texture.shape, 255, np.uint8)
    pixels = np.diag((1 / 16, 1 / 16, 1.0))  # a texture of 100 by 37.5 m
    pixels[:2, 2] = -50, -36  # the wall ends at y = 1.5, the floor begins 11 m behind
    images = []
    for position, yaw, pitch in poses:
        P = camera() @ exp_rotation(np.array((pitch, 0, 0))) @ exp_rotation(np.array((0, -yaw, 0)))
        wall = np.array([[1, 0, -position[0]], [0, 1, -position[1]], [0, 0, 25 - position[2]]])
        floor = np.array([[1, 0, -position[0]], [0, 0, 1.5 - position[1]], [0, 1, -position[2]]])
        down = pixels + [[0, 0, 0], [0, 0, 25.0], [0, 0, 0]]
        image = cv2.warpPerspective(texture[::-1].copy(), P @ floor @ down, SIZE[::-1])
        front, mask = (
            cv2.warpPerspective(t, P @ wall @ pixels, SIZE[::-1]) for t in (texture, above)
        )
        grey = np.where(mask > 127, front, image)
        images.append(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))
    return images


def test_from_images_to_a_focal_length():
    """The whole way, for a camera that goes round a bend before a wall and nods."""
    position, poses = np.array((-3.0, 0.0, 0.0)), []
    for i in range(30):
        yaw = 0.04 * (i - 15)
        position = position + 0.4 * np.array((np.sin(yaw), 0.0, np.cos(yaw)))
        poses.append((position, yaw, 0.05 * np.sin(0.6 * i)))
    images = street(poses)
    found = windows(images.__getitem__, np.arange(30) * 100_000_000, 6)
    guess = estimate(stack([(w.points, w.seen, w.valid, w.before) for w in found], 60), SIZE)
    assert focals(guess.camera).mean() == pytest.approx(FOCAL, rel=0.05)
    assert abs(guess.camera[0] - np.log(FOCAL)) < 2 * guess.sigma[0] < 0.15
