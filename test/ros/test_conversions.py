"""Messages to arrays and back, without a node: what is asserted is what a subscriber would read."""

import array
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from dyndepth_core.data.image_codec import ENCODINGS  # noqa: E402
from dyndepth_core.inference.cloud import CloudWriter  # noqa: E402
from dyndepth_ros import bridge, conversions  # noqa: E402

RNG = np.random.default_rng(7)


def image(values: np.ndarray, encoding: str, pad: int = 0, big: bool = False) -> Image:
    """Message as a driver would fill it: `pad` junk bytes after each row, either byte order."""
    values = values.astype(values.dtype.newbyteorder(">" if big else "<"))
    rows = values.reshape(len(values), -1).view(np.uint8)
    rows = np.hstack([rows, np.full((len(values), pad), 0xA5, np.uint8)])
    return Image(
        header=Header(frame_id="cam"),
        height=values.shape[0],
        width=values.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )


def street(height: int = 37, width: int = 51) -> np.ndarray:
    """Smooth RGB picture of odd size: de-Bayering and chroma subsampling keep smooth colours."""
    v, u = np.mgrid[:height, :width].astype(np.float64)
    waves = [128 + 90 * np.sin(u / 17 + k) * np.cos(v / 13 - k) for k in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


@pytest.mark.parametrize("pad", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2, 0]), ("bgra8", [2, 1, 0, 0])],
)
def test_colour_encodings_give_rgb_bit_for_bit(encoding, order, pad):
    rgb = street()
    msg = image(np.ascontiguousarray(rgb[..., order]), encoding, pad)
    assert np.array_equal(conversions.image_to_rgb(msg), rgb)


@pytest.mark.parametrize("big", [False, True])
def test_mono16_is_scaled_full_range_in_both_byte_orders(big):
    wide = RNG.integers(0, 65536, (21, 33)).astype(np.uint16)
    wide[0, :2] = 0, 65535
    grey = conversions.image_to_rgb(image(wide, "mono16", pad=3, big=big))
    assert grey.shape == (21, 33, 3) and tuple(grey[0, 0]) == (0, 0, 0) and grey[0, 1, 1] == 255
    assert np.abs(grey[..., 0] - wide / 257.0).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_are_named_by_their_first_two_rows(pattern):
    rgb = street()
    channel = {"r": 0, "g": 1, "b": 2}
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for i, letter in enumerate(pattern):
        part = (slice(i // 2, None, 2), slice(i % 2, None, 2))
        mosaic[part] = rgb[part][..., channel[letter]]
    out = conversions.image_to_rgb(image(mosaic, f"bayer_{pattern}8", pad=1))
    assert np.abs(out[2:-2, 2:-2].astype(int) - rgb[2:-2, 2:-2]).max() <= 12


@pytest.mark.parametrize(
    ("encoding", "luma"), [("yuv422", 1), ("uyvy", 1), ("yuv422_yuy2", 0), ("yuyv", 0)]
)
@pytest.mark.parametrize("width", [50, 51])
def test_yuv422_of_even_and_odd_width(encoding, luma, width):
    rgb = street(20, width)
    even = np.pad(rgb, ((0, 0), (0, width % 2), (0, 0)), mode="edge").astype(np.float64)
    r, g, b = even[..., 0], even[..., 1], even[..., 2]
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b  # BT.601, 16..235
    u = (128 - 0.148 * r - 0.291 * g + 0.439 * b).reshape(20, -1, 2).mean(-1)
    v = (128 + 0.439 * r - 0.368 * g - 0.071 * b).reshape(20, -1, 2).mean(-1)
    packed = np.empty((*y.shape, 2), np.float64)
    packed[..., luma] = y
    packed[:, 0::2, 1 - luma], packed[:, 1::2, 1 - luma] = u, v
    msg = image(np.rint(packed).astype(np.uint8), encoding)
    msg.width = width
    out = conversions.image_to_rgb(msg)
    assert out.shape == (20, width, 3)
    assert np.abs(out.astype(int) - rgb).max() <= 12


@pytest.mark.parametrize(("suffix", "tolerance"), [(".jpg", 6), (".png", 0)])
def test_compressed_images(suffix, tolerance):
    rgb = street()
    data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
    out = conversions.compressed_to_rgb(CompressedImage(format=suffix[1:], data=data))
    assert out.shape == rgb.shape and np.abs(out.astype(int) - rgb).mean() <= tolerance


SIZES = st.integers(0, 9)


@given(
    encoding=st.sampled_from([*ENCODINGS, "nv24", "32FC1", ""]),
    height=SIZES, width=SIZES, step=st.integers(0, 60), big=st.booleans(),
    data=st.binary(max_size=400),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_any_message_gives_rgb_or_a_reason(encoding, height, width, step, big, data):
    msg = Image(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=int(big),
        data=array.array("B", data),
    )  # fmt: skip
    try:
        out = conversions.image_to_rgb(msg)
    except ValueError as error:
        assert len(str(error)) > 20
    else:
        assert out.shape == (height, width, 3) and out.dtype == np.uint8


@given(
    cut=st.integers(0, 2000), flips=st.lists(st.integers(0, 2000), max_size=5), png=st.booleans()
)
@settings(deadline=None, max_examples=60)
def test_any_damaged_file_gives_rgb_or_a_reason(cut, flips, png):
    data = bytearray(cv2.imencode(".png" if png else ".jpg", street())[1].tobytes())
    for position in flips:
        data[position % len(data)] ^= 0x55
    try:
        out = conversions.compressed_to_rgb(CompressedImage(format="", data=bytes(data[:cut])))
    except ValueError as error:
        assert len(str(error)) > 20
    else:
        assert out.ndim == 3 and out.dtype == np.uint8 and out.shape[2] == 3


def test_bad_images_are_refused_with_the_reason():
    good = image(street(), "rgb8")
    cases = {
        "depth image": image(np.ones((4, 4), np.float32), "32FC1"),
        "encoding 'jellyfish'": image(street(), "jellyfish"),
        "at least one pixel": Image(encoding="rgb8"),
        "truncated": Image(encoding="rgb8", height=9, width=9, step=27, data=b"abc"),
        "step": Image(encoding="rgb8", height=37, width=51, step=50, data=good.data),
    }
    for reason, msg in cases.items():
        with pytest.raises(ValueError, match=reason):
            conversions.image_to_rgb(msg)
    jpeg = cv2.imencode(".jpg", street())[1].tobytes()
    with pytest.raises(ValueError, match="truncated"):
        conversions.compressed_to_rgb(CompressedImage(format="jpeg", data=jpeg[: len(jpeg) // 2]))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pad", [0, 6])
def test_depth_images_are_read_in_metres(big, pad):
    metres = RNG.uniform(0.5, 60, (9, 13)).astype(np.float32)
    metres[0, 0] = np.nan
    out = conversions.depth_to_metres(image(metres, "32FC1", pad, big))
    assert out.dtype == np.float32 and np.array_equal(out, metres, equal_nan=True)
    millimetres = np.nan_to_num(metres * 1000).astype(np.uint16)
    out = conversions.depth_to_metres(image(millimetres, "16UC1", pad, big))
    assert np.isnan(out[0, 0]) and np.nanmax(np.abs(out - metres)) <= 1e-3
    with pytest.raises(ValueError, match="32FC1 or 16UC1"):
        conversions.depth_to_metres(image(street(), "rgb8"))


def test_millimetres_use_zero_for_every_kind_of_nothing():
    depth = np.array([[1.2344, np.nan, np.inf, -1, 65.535, 65.6, 0]], np.float32)
    out = np.empty(depth.shape, np.uint16)
    conversions.metres_to_millimetres(depth, out)
    assert out.tolist() == [[1234, 0, 0, 0, 65535, 0, 0]]


@pytest.mark.parametrize("encoding", ["rgb8", "32FC1", "16UC1", "mono8", "32FC3"])
def test_written_images_read_back_and_reuse_their_buffer(encoding):
    kind, channels = conversions.LAYOUTS[encoding]
    writer = conversions.ImageWriter(encoding)
    shape = (5, 7, channels) if channels > 1 else (5, 7)
    first, second = (RNG.uniform(0, 200, shape).astype(kind) for _ in range(2))
    writer.write(Header(frame_id="a"), first)
    buffer = writer.message.data
    msg = writer.write(Header(frame_id="b"), second)
    assert msg.data is buffer and isinstance(buffer, array.array) and buffer.typecode == "B"
    assert msg.header.frame_id == "b" and msg.step == 7 * second.itemsize * channels
    assert np.array_equal(conversions.image_to_array(msg), second)
    msg = writer.write(Header(), np.zeros((3, *shape[1:]), kind))  # another size: another buffer
    assert (msg.height, msg.width, len(msg.data)) == (3, 7, 3 * msg.step)


def test_cloud_message_is_what_pcl_and_rviz_expect():
    K = np.array([[50.0, 0, 3], [0, 40, 2], [0, 0, 1]])
    depth = RNG.uniform(1, 9, (5, 7)).astype(np.float32)
    depth[1, 2] = np.nan
    rgb = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    cloud = conversions.CloudMessage()
    CloudWriter(K, (5, 7)).write(depth, rgb, cloud.points(Header(frame_id="cam"), 5, 7))
    msg = cloud.message
    assert (msg.height, msg.width, msg.point_step, msg.row_step) == (5, 7, 16, 112)
    assert not msg.is_dense and not msg.is_bigendian and msg.header.frame_id == "cam"
    assert [(f.name, f.offset, f.datatype, f.count) for f in msg.fields] == [
        ("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1), ("rgb", 12, 7, 1),
    ]  # fmt: skip
    v, u = 4, 6
    x, y, z, colour = struct.unpack_from("<fffI", msg.data, v * msg.row_step + u * msg.point_step)
    assert np.allclose((x, y, z), depth[v, u] * np.array([(u - 3) / 50, (v - 2) / 40, 1]))
    assert (colour >> 16, colour >> 8 & 255, colour & 255) == tuple(rgb[v, u])
    assert np.isnan(struct.unpack_from("<fff", msg.data, 1 * 112 + 2 * 16)).all()


def test_camera_info_carries_K_and_P_of_the_size_it_names():
    K = np.array([[50.0, 0, 3.25], [0, 40, 2.5], [0, 0, 1]])
    msg = conversions.camera_info_message(Header(frame_id="cam"), K, (6, 8))
    assert (msg.height, msg.width, msg.header.frame_id) == (6, 8, "cam")
    assert np.array_equal(np.reshape(msg.k, (3, 3)), K)
    assert np.array_equal(np.reshape(msg.p, (3, 4))[:, :3], K) and not any(msg.d)


def test_guessed_calibration_has_the_focal_length_in_image_widths():
    msg = conversions.guess_calibration((480, 640), 0.8)
    assert (msg.k[0], msg.k[4]) == (512, 512) and (msg.k[2], msg.k[5]) == (319.5, 239.5)


def test_scale_message_warns_when_relative():
    msg = conversions.scale_message(Header(frame_id="cam"), 1.5, float("inf"), "relative")
    status = msg.status[0]
    assert {p.key: p.value for p in status.values} == {
        "value": "1.5", "variance": "inf", "source": "relative",
    }  # fmt: skip
    assert status.level == b"\x01" and msg.header.frame_id == "cam"
    assert conversions.scale_message(Header(), 1, 0.01, "checkpoint").status[0].level == b"\x00"


def test_the_ros1_wheel_of_cv_bridge_is_refused_by_version():
    assert "ROS 1" in bridge.refusal("1.13.0.post0")
    assert bridge.refusal("3.2.1") is None and bridge.refusal("4.1.0") is None
    assert bridge.refusal("unknown") is not None


def test_cv_bridge_is_asked_only_for_encodings_that_ours_lacks(monkeypatch, tmp_path):
    """With the ROS 1 wheel an unknown encoding is refused and says why; it is never imported."""
    info = tmp_path / "cv_bridge-1.13.0.post0.dist-info"
    info.mkdir()
    metadata = "Metadata-Version: 2.1\nName: cv_bridge\nVersion: 1.13.0.post0\n"
    (info / "METADATA").write_text(metadata)
    (tmp_path / "cv_bridge.py").write_text("raise SystemExit('ROS 1 code was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    bridge._bridge.cache_clear()
    try:
        with pytest.raises(ValueError, match="ROS 1 code"):
            conversions.image_to_rgb(image(street(), "nv24"))
        assert np.array_equal(conversions.image_to_rgb(image(street(), "rgb8")), street())
    finally:
        bridge._bridge.cache_clear()
