"""What bags come as: every encoding, lens and storage, several cameras, spans, bag time."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("typer")
import camera_bags as cb  # noqa: E402

from dyndepth_core import cli  # noqa: E402
from dyndepth_core.data.bag import Bag  # noqa: E402
from dyndepth_core.data.bag_topics import camera_name, choose_image_topic  # noqa: E402
from dyndepth_core.data.calibration import Calibration  # noqa: E402
from dyndepth_core.data.collect import CollectOptions, collect_bag, estimate  # noqa: E402
from dyndepth_core.data.preparation import Preparation  # noqa: E402
from dyndepth_core.data.recording import open_recordings  # noqa: E402
from dyndepth_core.data.rectify import Rectifier  # noqa: E402

EVERY = CollectOptions(rate_hz=0, blur=0)


def collect(bag_path, out, options=EVERY):
    with Bag(bag_path) as bag:
        report = collect_bag(bag, out, "drive", options)
    return report, open_recordings(out) if report.kept else []


def bayer(rgb, pattern):
    """The mosaic a sensor of this pattern sees: rggb reads row by row."""
    out = np.empty(rgb.shape[:2], np.uint8)
    for k, colour in enumerate(pattern):
        out[k // 2 :: 2, k % 2 :: 2] = rgb[k // 2 :: 2, k % 2 :: 2, "rgb".index(colour)]
    return out


def yuv422(rgb):
    """UYVY, as ROS's yuv422 is laid out (ITU-R BT.601)."""
    rows = [65.738, 129.057, 25.064], [-37.945, -74.494, 112.439], [112.439, -94.154, -18.285]
    y, u, v = np.moveaxis(rgb @ np.array(rows).T / 256 + [16, 128, 128], -1, 0)
    out = np.empty((*rgb.shape[:2], 2), np.uint8)
    out[..., 1] = y
    out[:, 0::2, 0], out[:, 1::2, 0] = u[:, 0::2], v[:, 0::2]
    return out


ENCODINGS = {
    "rgb8": lambda i: i,
    "bgr8": lambda i: i[..., ::-1],
    "rgba8": lambda i: np.dstack([i, i[..., :1]]),
    "bgra8": lambda i: np.dstack([i[..., ::-1], i[..., :1]]),
    "mono8": lambda i: i[..., 1],
    "mono16": lambda i: i[..., 1].astype(np.uint16) * 257,
    **{f"bayer_{p}8": lambda i, p=p: bayer(i, p) for p in ("rggb", "bggr", "gbrg", "grbg")},
    "yuv422": yuv422,
}


@pytest.fixture(scope="module")
def smooth():
    """Images without detail that a mosaic or shared chroma would lose."""
    rows, cols = np.mgrid[0:48, 0:64].astype(np.float32)
    waves = [
        np.stack([90 + 60 * np.sin(cols / 9 + i), 120 + rows + i, 60 + cols], -1) for i in (0, 1)
    ]
    return [w.round().astype(np.uint8) for w in waves] * 2


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_of_a_raw_image(tmp_path, smooth, encoding):
    made = [
        ("/cam/image_raw", cb.image(ENCODINGS[encoding](im), encoding, cb.START + k * cb.STEP),
         cb.START + k * cb.STEP) for k, im in enumerate(smooth)
    ]  # fmt: skip
    report, (found,) = collect(cb.write(tmp_path / "bag", made), tmp_path / "out")
    assert report.kept == 4 and report.dropped == {}
    expected = smooth[0] if "mono" not in encoding else np.dstack([smooth[0][..., 1]] * 3)
    wrong = np.abs(found.image(0)[2:-2, 2:-2].astype(int) - expected[2:-2, 2:-2])
    assert wrong.mean() < 4 and np.quantile(wrong, 0.99) < 16


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_compressed_images(tmp_path, smooth, kind):
    made = [
        ("/cam/image/compressed", cb.compressed(im, kind, cb.START + k * cb.STEP),
         cb.START + k * cb.STEP) for k, im in enumerate(smooth)
    ]  # fmt: skip
    report, (found,) = collect(cb.write(tmp_path / "bag", made), tmp_path / "out")
    assert report.kept == 4
    assert np.abs(found.image(0).astype(int) - smooth[0]).mean() < 4


LENSES = {
    "plumb_bob": [-0.2, 0.03, 0.001, -0.001, 0.0],
    "rational_polynomial": [-0.1, 0.02, 0.0, 0.0, 0.001, 0.1, 0.01, 0.0],
    "equidistant": [-0.01, 0.002, 0.0, 0.0],
}


@pytest.mark.parametrize("model", LENSES)
def test_every_lens_is_straightened(tmp_path, model):
    images = cb.drive(3)
    lens = {"model": model, "coeffs": LENSES[model]}
    bag = cb.write(tmp_path / "bag", cb.camera("/cam", images, cb.K, **lens))
    report, (found,) = collect(bag, tmp_path / "out")
    reference = Rectifier(Calibration(64, 48, 60, 61, 31, 23, lens, False))
    assert found.calib.rectified and found.calib.distortion is None
    assert np.allclose(found.calib.K, reference.K) and not np.allclose(found.calib.K, cb.K)
    wrong = found.image(1).astype(int) - reference.image(images[1])
    assert np.abs(wrong).mean() < 4 and f"{model} removed" in report.calibration


@pytest.mark.parametrize(
    ("storage", "packed"),
    [("sqlite3", "FILE"), ("sqlite3", "MESSAGE"), ("mcap", "FILE"), ("mcap", "")],
)
def test_every_storage_gives_the_same_recording(tmp_path, storage, packed):
    images = cb.drive(6)
    plain = cb.write(tmp_path / "plain", cb.camera("/cam", images, cb.K), "sqlite3")
    other = cb.write(tmp_path / "other", cb.camera("/cam", images, cb.K), storage, packed)
    for bag in (plain, other):
        collect(bag, tmp_path / f"{bag.name}_out")
    trees = [
        {p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()}
        for n in ("plain_out", "other_out")
    ]
    assert trees[0] == trees[1] and len(trees[0]) == 8


def test_rosbag1_and_its_bag_time(tmp_path):
    from rosbags.rosbag1 import Writer

    images = cb.drive(5)
    with Writer(tmp_path / "old.bag") as writer:
        topic = writer.add_connection("/cam/image_raw", cb.IMAGE, typestore=cb.ROS1)
        for i, im in enumerate(images):
            message = cb.image(im, "rgb8", cb.START + i * cb.STEP, ros1=True)
            arrived = cb.START + i * cb.STEP + 10**7 * (i % 2)
            writer.write(topic, arrived, cb.ROS1.serialize_ros1(message, cb.IMAGE))
    _, (found,) = collect(tmp_path / "old.bag", tmp_path / "a")
    assert np.diff(found.stamps_ns).tolist() == [cb.STEP] * 4
    by_bag = CollectOptions(rate_hz=0, blur=0, stamp="bag")
    _, (found,) = collect(tmp_path / "old.bag", tmp_path / "b", by_bag)
    assert np.diff(found.stamps_ns).tolist() == [110_000_000, 90_000_000] * 2


def test_a_split_bag_is_one_recording(tmp_path):
    made = list(cb.camera("/cam", cb.drive(12), cb.K))
    bag = cb.write(tmp_path / "drive", made[:12])
    rest = cb.write(tmp_path / "rest", made[12:])
    shutil.copy(next(rest.glob("*.mcap")), bag / "drive_10.mcap")
    next(bag.glob("drive.mcap")).rename(bag / "drive_9.mcap")
    (bag / "metadata.yaml").unlink()
    report, (found,) = collect(bag, tmp_path / "out")
    assert len(found) == 12 and np.diff(found.stamps_ns).tolist() == [cb.STEP] * 11


def test_a_span_of_the_bag(tmp_path):
    bag = cb.write(tmp_path / "bag", cb.camera("/cam", cb.drive(12)))
    report, (found,) = collect(
        bag, tmp_path / "out", CollectOptions(rate_hz=0, start_s=0.3, end_s=0.8)
    )
    assert report.frames_in == 5
    assert ((found.stamps_ns - cb.START) // cb.STEP).tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("crop", [(8, 4, 6, 2), (8 / 48, 4 / 48, 6 / 64, 2 / 64)])
def test_crop_moves_K_with_the_pixels(crop):
    prepare = Preparation(Calibration(64, 48, 60, 61, 31, 23), (72, 112), crop)
    pixels = np.arange(48 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(48, 64, 3)
    only = Preparation(Calibration(64, 48, 60, 61, 31, 23), None, crop)
    assert (only(pixels) == pixels[8:44, 6:62]).all()
    assert only.calib.K[:2, 2].tolist() == [25, 15] and only.calib.fx == 60
    assert prepare(pixels).shape == (72, 112, 3)
    assert np.allclose(prepare.calib.K, [[120, 0, 50.5], [0, 122, 30.5], [0, 0, 1]])
    unknown = Preparation(Calibration(64, 48), None, crop).calib
    assert (unknown.width, unknown.height, unknown.fx) == (56, 36, None)


def two_cameras(path):
    front = cb.camera("/front", cb.drive(5, seed=1), cb.K)
    rear = cb.camera("/rear", cb.drive(5, (48, 80), seed=2))
    return cb.write(path, sorted([*front, *rear], key=lambda m: m[2]))


def test_several_cameras_have_recordings_of_their_own(tmp_path, capfd):
    bag, out = two_cameras(tmp_path / "bag"), tmp_path / "out"
    assert cli.main(["collect", str(bag), "--out", str(out)]) == cli.BAD_INPUT
    said = capfd.readouterr().err
    assert "--image-topic all" in said and "/rear/image_raw (5 messages, rgb8, 80x48)" in said
    words = ["collect", str(bag), "--out"]
    assert cli.main([*words, str(out), "--image-topic", "all"]) == 0
    assert [r.name for r in open_recordings(out)] == ["bag_front_000", "bag_rear_000"]
    front, rear = open_recordings(out)
    assert (front.calib.K == cb.K).all() and rear.calib.K is None and rear.calib.width == 80
    named = ["--image-topic", "/rear/image_raw", "--image-topic", "/front/image_raw"]
    assert cli.main([*words, str(tmp_path / "two"), *named]) == 0
    files = [
        json.loads((p / "manifest.json").read_text())["files"] for p in (out, tmp_path / "two")
    ]
    assert files[0] == files[1]
    assert cli.main([*words, str(tmp_path / "one"), *named[:2]]) == 0
    assert [r.name for r in open_recordings(tmp_path / "one")] == ["bag_000"]


def test_names_of_cameras():
    assert camera_name("/front/left/image_raw") == "front_left"
    assert camera_name("/front/image_raw/compressed") == "front"
    assert camera_name("/image") == "image"
    both = ["/a/image_raw", "/a/image_rect"]
    assert [camera_name(t, both) for t in both] == ["a_image_raw", "a_image_rect"]


def test_after_a_restart_of_the_clock_each_drive_has_its_own_odometry(tmp_path):
    """The computer counts from the same moment again, the recorder goes on."""
    messages = []
    for speed, later in ((5.0, 0), (9.0, 10**10)):
        for topic, message, ns in cb.camera("/cam", cb.drive(15, seed=int(speed)), cb.K):
            messages.append((topic, message, ns + later))
        for i in range(16):
            stamp = cb.START + i * cb.STEP - cb.STEP // 2
            messages.append(("/odom", cb.odometry(speed, stamp), stamp + later))
    bag = cb.write(tmp_path / "bag", sorted(messages, key=lambda m: m[2]))
    _, found = collect(bag, tmp_path / "out")
    assert [[r.odometry(i)["speed"] for i in range(15)] for r in found] == [[5] * 15, [9] * 15]
    assert (found[0].stamps_ns == found[1].stamps_ns).all()


@pytest.mark.parametrize(
    ("span", "frames"),
    [({}, 60), ({"start_s": 5.0}, 9), ({"start_s": 1.0, "end_s": 3.0}, 20), ({"end_s": 1e6}, 59)],
)
def test_the_size_on_disk_is_guessed_of_the_part_that_is_wanted(tmp_path, span, frames):
    path = cb.write(tmp_path / "bag", cb.camera("/cam", cb.drive(60)))
    with Bag(path) as bag:
        found = estimate(bag, choose_image_topic(bag), CollectOptions(rate_hz=0, **span))
    assert found[0] == frames and 2300 < found[1] / frames < 20_000
