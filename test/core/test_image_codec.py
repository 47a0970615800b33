"""Image bytes as cameras send them come out as the same RGB picture, whatever the encoding."""

import cv2
import numpy as np
import pytest

from dyndepth_core.data.image_codec import ENCODINGS, decode, decode_compressed

CHANNEL = {"r": 0, "g": 1, "b": 2}


@pytest.fixture
def picture() -> np.ndarray:
    """Three bars, so that chroma subsampling and demosaicing can be exact inside each."""
    image = np.empty((24, 36, 3), np.uint8)
    image[:, :12], image[:, 12:24], image[:, 24:] = (200, 10, 20), (10, 200, 30), (20, 30, 200)
    return image


def encode(image: np.ndarray, encoding: str, big_endian: bool = False) -> np.ndarray:
    """Rows of bytes of an RGB image in a packed encoding; written apart from the decoder."""
    height, width = image.shape[:2]
    if encoding.startswith("bayer"):
        pattern = encoding[6:10]
        values = np.empty((height, width), np.uint8)
        for k, colour in enumerate(pattern):
            y, x = divmod(k, 2)
            values[y::2, x::2] = image[y::2, x::2, CHANNEL[colour]]
        values = values[..., None]
    elif encoding.startswith("mono") or encoding == "8UC1":
        values = image[..., :1]
    else:
        order = {"rgb": (0, 1, 2), "rgba": (0, 1, 2, 2)}.get(encoding.rstrip("168"), (2, 1, 0))
        values = image[..., order]
        if encoding in ("bgra8", "bgra16", "8UC4"):
            values = np.concatenate([values, values[..., :1]], -1)
    if encoding.endswith("16"):
        return (
            (values.astype(">u2" if big_endian else "<u2") * 257)
            .astype(">u2" if big_endian else "<u2")
            .reshape(height, -1)
            .view(np.uint8)
        )
    return np.ascontiguousarray(values).reshape(height, -1)


def padded(rows: np.ndarray, padding: int) -> tuple[bytes, int]:
    noise = np.full((len(rows), padding), 99, np.uint8)
    return np.hstack([rows, noise]).tobytes(), rows.shape[1] + padding


PACKED = [e for e in ENCODINGS if not e.startswith(("yuv", "uyvy", "yuyv", "nv"))]


@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("big_endian", [False, True])
def test_every_packed_encoding_gives_the_picture(picture, encoding, padding, big_endian):
    image = picture[:23, :35]  # odd sizes
    if encoding.endswith("16"):
        padding *= 2
    data, step = padded(encode(image, encoding, big_endian), padding)
    out = decode(encoding, 23, 35, step, big_endian, data)
    assert out.shape == (23, 35, 3) and out.dtype == np.uint8
    if encoding.startswith("mono") or encoding == "8UC1":
        assert (out == image[..., :1]).all()
    elif encoding.startswith("bayer"):
        inside = np.s_[3:-3]  # colours mix at the edges of the bars
        for bar in (slice(3, 9), slice(15, 21), slice(27, 32)):
            assert (out[inside, bar] == image[inside, bar]).all()
    else:
        assert (out == image).all()


def yuv(image: np.ndarray) -> tuple[np.ndarray, ...]:
    """Y, U, V of BT.601 in studio range, rounded."""
    r, g, b = (image[..., i].astype(float) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return tuple(np.round(c).astype(np.uint8) for c in (y, u, v))


@pytest.mark.parametrize("encoding", ["yuv422", "yuv422_yuy2", "uyvy", "yuyv"])
@pytest.mark.parametrize("width", [36, 35])
@pytest.mark.parametrize("cut", [False, True])  # an odd last pixel without its other half
def test_yuv422(picture, encoding, width, cut):
    image = picture[:, :width]
    even = width + width % 2
    y, u, v = yuv(picture[:, :even])
    rows = np.empty((24, 2 * even), np.uint8)
    luma = 0 if encoding in ("yuyv", "yuv422_yuy2") else 1
    rows[:, luma::2], rows[:, 1 - luma :: 4], rows[:, 3 - luma :: 4] = y, u[:, ::2], v[:, ::2]
    rows = rows[:, : 2 * width] if cut else rows
    out = decode(encoding, 24, width, rows.shape[1], False, rows.tobytes())
    assert np.abs(out.astype(int) - image).max() <= 2


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
@pytest.mark.parametrize("size", [(24, 36), (23, 35), (23, 36)])
def test_two_plane_yuv(picture, encoding, size):
    height, width = size
    even = width + width % 2
    y, u, v = yuv(picture)
    chroma = np.empty(((height + 1) // 2, even), np.uint8)
    first, second = (u, v) if encoding == "nv12" else (v, u)
    chroma[:, ::2], chroma[:, 1::2] = first[:height:2, :even:2], second[:height:2, :even:2]
    data, step = padded(np.vstack([y[:height, :even], chroma]), 5)
    out = decode(encoding, height, width, step, False, data)
    assert np.abs(out.astype(int) - picture[:height, :width]).max() <= 2


def test_last_row_may_lack_its_padding(picture):
    data, step = padded(encode(picture, "bgr8"), 10)
    assert (decode("bgr8", 24, 36, step, False, data[:-10]) == picture).all()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("rgb8", 0, 36, 108, False, b""), "36x0"),
        (("rgb8", 24, 36, 100, False, bytes(3000)), "step 100"),
        (("rgb8", 24, 36, 108, False, bytes(2591)), "truncated: 2591 bytes.*2592"),
        (("32FC1", 24, 36, 144, False, bytes(3456)), "'32FC1'.*known.*bayer_bggr8"),
        (("bayer_rggb8", 2, 2, 2, False, bytes(4)), "at least 3x3"),
        (("yuv422", 3, 1, 2, False, bytes(6)), "at least two"),
        (("rgb8", 2**31, 2**31, 0, False, bytes(9)), "truncated"),
    ],
)
def test_bad_images_are_refused_with_the_reason(args, reason):
    with pytest.raises(ValueError, match=reason):
        decode(*args)


def compress(image: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def test_compressed_images(picture):
    assert (decode_compressed(compress(picture, ".png"), "png") == picture).all()
    jpeg = decode_compressed(compress(picture, ".jpg") + bytes(50), "rgb8; jpeg compressed bgr8")
    assert np.abs(jpeg[4:-4, 4:9].astype(int) - (200, 10, 20)).max() < 16
    swapped = compress(np.ascontiguousarray(picture[..., ::-1]), ".png")
    assert (decode_compressed(swapped, "rgb8; png compressed rgb8") == picture).all()
    mosaic = encode(picture, "bayer_grbg8")
    png = cv2.imencode(".png", mosaic)[1].tobytes()
    assert (decode_compressed(png, "bayer_grbg8; png compressed ")[10, 5] == picture[10, 5]).all()


@pytest.mark.parametrize("side", [12000, 65500])  # beyond our limit, beyond OpenCV's own
def test_a_header_that_declares_too_many_pixels_is_refused(picture, side):
    jpeg = bytearray(compress(picture, ".jpg"))
    jpeg[(at := jpeg.index(b"\xff\xc0") + 5) : at + 4] = side.to_bytes(2, "big") * 2
    for format in ("jpeg", "bayer_rggb8; jpeg compressed"):
        with pytest.raises(ValueError, match="more pixels than can be read") as error:
            decode_compressed(bytes(jpeg), format)
        assert ".cpp" not in str(error.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_truncated_files_are_refused_not_filled_with_grey(suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = compress(noise, suffix)
    with pytest.raises(ValueError, match="truncated"):
        decode_compressed(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("data", "format", "reason"),
    [
        (b"", "jpeg", "empty"),
        (b"no image at all", "jpeg", "cannot be decoded"),
        (b"\x89PNG", "16UC1; compressedDepth png", "depth"),
    ],
)
def test_bad_compressed_images(data, format, reason):
    with pytest.raises(ValueError, match=reason):
        decode_compressed(data, format)
