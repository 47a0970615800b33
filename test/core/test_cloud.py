"""Clouds and colours: geometry there and back, PCL's colour bits, NaN stays NaN."""

import array

import numpy as np
import pytest

from dyndepth_core.inference.cloud import CloudWriter
from dyndepth_core.inference.color import DepthColors

K = np.array([[50.0, 0, 30.2], [0, 55.0, 20.7], [0, 0, 1]])
SIZE = (37, 61)


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 80, SIZE).astype(np.float32)
    depth[:5] = np.nan
    rgb = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return depth, rgb


def message_buffer(size=SIZE):
    data = array.array("B", bytes(size[0] * size[1] * 16))
    return data, np.frombuffer(data, np.float32).reshape(*size, 4)


def test_depth_to_cloud_to_depth(scene):
    depth, rgb = scene
    data, out = message_buffer()
    CloudWriter(K, SIZE).write(depth, rgb, out)
    points = np.frombuffer(bytes(data), "<f4").reshape(*SIZE, 4)  # as a subscriber reads them
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    assert np.array_equal(z, depth, equal_nan=True)
    seen = np.isfinite(depth)
    v, u = np.nonzero(seen)
    np.testing.assert_allclose(x[seen] / z[seen] * 50 + 30.2, u, atol=1e-4)
    np.testing.assert_allclose(y[seen] / z[seen] * 55 + 20.7, v, atol=1e-4)
    assert np.isnan(points[~seen][:, :3]).all()


def test_colour_is_packed_as_pcl_does(scene):
    depth, rgb = scene
    data, out = message_buffer()
    CloudWriter(K, SIZE).write(depth, rgb, out)
    packed = np.frombuffer(bytes(data), "<u4").reshape(*SIZE, 4)[..., 3]
    red, green, blue = (rgb[..., i].astype(np.uint32) for i in range(3))
    assert np.array_equal(packed, red << 16 | green << 8 | blue)
    assert not np.isnan(out[..., 3]).any()  # a reader that skips NaN would drop bright points


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 3)])
def test_small_and_odd_sizes(size):
    data, out = message_buffer(size)
    depth = np.full(size, 2.0, np.float32)
    CloudWriter(np.diag([1.0, 1, 1]), size).write(depth, np.zeros((*size, 3), np.uint8), out)
    v, u = np.indices(size)
    np.testing.assert_array_equal(out[..., 0], 2.0 * u)
    np.testing.assert_array_equal(out[..., 1], 2.0 * v)
    np.testing.assert_array_equal(out[..., 2], 2.0)


def test_inputs_are_not_changed_and_may_be_views(scene):
    depth, rgb = scene
    wide = np.repeat(depth, 2, 1)
    view, colours = wide[:, ::2][:, :], np.ascontiguousarray(rgb[::-1])[::-1]
    view.flags.writeable = colours.flags.writeable = False
    _, out = message_buffer()
    _, expected = message_buffer()
    writer = CloudWriter(K, SIZE)
    writer.write(view, colours, out)
    writer.write(depth, rgb, expected)
    assert np.array_equal(out.view(np.uint32), expected.view(np.uint32))


def test_wrong_buffers_are_refused(scene):
    depth, rgb = scene
    writer = CloudWriter(K, SIZE)
    _, out = message_buffer()
    with pytest.raises(ValueError, match="depth is float64"):
        writer.write(depth.astype(np.float64), rgb, out)
    with pytest.raises(ValueError, match="rgb is uint8"):
        writer.write(depth, rgb[:-1], out)
    with pytest.raises(ValueError, match="C-contiguous"):
        writer.write(depth, rgb, np.zeros((*SIZE, 8), np.float32)[..., ::2])
    read_only = np.frombuffer(bytes(SIZE[0] * SIZE[1] * 16), np.float32).reshape(*SIZE, 4)
    with pytest.raises(ValueError, match="writable"):
        writer.write(depth, rgb, read_only)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (np.diag([np.nan, 1, 1]), "NaN"),
        (np.diag([0.0, 1, 1]), "must be positive"),
        (np.eye(4), "shape"),
        (np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]), "skew"),
    ],
)
def test_bad_intrinsics(broken, says):
    with pytest.raises(ValueError, match=says):
        CloudWriter(broken, SIZE)
    with pytest.raises(ValueError, match="empty"):
        CloudWriter(K, (0, 5))


def test_fits_tells_when_a_new_writer_is_due():
    writer = CloudWriter(K, SIZE)
    assert writer.fits(K.copy(), SIZE)
    assert not writer.fits(K * 1.001, SIZE)
    assert not writer.fits(K, (SIZE[0], SIZE[1] + 1))


def test_colours_are_fixed_monotone_and_black_where_invalid():
    colours = DepthColors(far=80, near=4)
    depth = np.array([[np.nan, 0, -1, 1, 4, 8, 20, 60, 80, 1000, 1e9, np.inf]], np.float32)
    rgb = colours(depth)[0]
    assert (rgb[:3] == 0).all()
    assert (rgb[3] == rgb[4]).all() and (rgb[8:] == rgb[8]).all()
    assert (rgb[3:].sum(1) > 0).all()
    assert len({tuple(c) for c in rgb[4:9]}) == 5
    alone = colours(depth[:, 5:6])[0, 0]
    assert (alone == rgb[5]).all()  # no stretch by what else is in the frame


def test_colour_steps_are_equal_in_inverse_depth():
    colours = DepthColors(far=50, near=5)
    inverse = np.linspace(1 / 50, 1 / 5, 256)
    steps = colours((1 / inverse)[None].astype(np.float32))[0]
    assert len({tuple(c) for c in steps}) > 245


@pytest.mark.parametrize(("far", "near"), [(0, None), (10, 20), (np.inf, 1), (np.nan, 1), (10, -1)])
def test_bad_colour_range(far, near):
    with pytest.raises(ValueError, match="near < far"):
        DepthColors(far, near)
    with pytest.raises(ValueError, match="float"):
        DepthColors()(np.zeros((2, 2), np.uint16))
