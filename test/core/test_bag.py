"""What was recorded comes back, and what is left of a damaged bag too, with file and place."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")
from dyndepth_core.data import bag_topics as topics  # noqa: E402
from dyndepth_core.data.bag import Bag, is_bag  # noqa: E402
from dyndepth_core.data.bag_writer import STORAGES, bag_from_recording  # noqa: E402
from dyndepth_core.data.calibration import Calibration  # noqa: E402
from dyndepth_core.data.recording import Recording  # noqa: E402
from dyndepth_core.data.writer import RecordingWriter  # noqa: E402

FRAMES, START, STEP = 24, 10**18, 10**8
CAMERA, INFO, ODOM = "/camera/image_raw", "/camera/camera_info", "/odom"


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "drive"
    rng = np.random.default_rng(0)
    with RecordingWriter(path, Calibration(96, 64, 80, 81, 47, 31), "png") as writer:
        for i in range(FRAMES):
            odometry = dict(tx=i, ty=0, tz=0, qx=0, qy=0, qz=0, qw=1, speed=10, yaw_rate=0.1)
            image = rng.integers(0, 255, (64, 96, 3), np.uint8)
            writer.add(image, START + i * STEP, odometry=odometry)
    return Recording(path)


@pytest.fixture(scope="module")
def bags(recording, tmp_path_factory):
    root = tmp_path_factory.mktemp("bags")
    return {s: bag_from_recording(recording, root / s, s) for s in STORAGES}


@pytest.fixture(params=STORAGES)
def bag_path(request, bags, tmp_path):
    """A copy to be spoiled."""
    return Path(shutil.copytree(bags[request.param], tmp_path / "drive"))


def storage_file(path: Path) -> Path:
    return next(p for p in path.iterdir() if p.suffix in (".db3", ".mcap"))


def good_frames(bag: Bag, recording: Recording) -> int:
    """Number of frames; each must be, pixel by pixel, the one recorded at its stamp."""
    frames = list(bag.frames(CAMERA))
    for frame in frames:
        i = (frame.stamp_ns - START) // STEP
        assert frame.stamp_ns == recording.stamps_ns[i]
        assert (frame.image() == recording.image(i)).all()
    return len(frames)


def test_round_trip(bag_path, recording):
    assert is_bag(bag_path) and is_bag(storage_file(bag_path)) and not is_bag(recording.path)
    with Bag(bag_path) as bag:
        assert {t.name: t.count for t in bag.topics().values()} == dict.fromkeys(
            (CAMERA, INFO, ODOM), FRAMES
        )
        assert good_frames(bag, recording) == FRAMES
        topic = topics.choose_image_topic(bag)
        assert (topic.name, topic.size, topic.encoding) == (CAMERA, (64, 96), "rgb8")
        calib = topics.find_calibration(bag, topic)
        assert (calib.K == recording.calib.K).all()
        name, track = topics.find_odometry(bag)
        assert name == ODOM and track.at(START + STEP, START + STEP) == recording.odometry(1)
        span = list(bag.messages([INFO], START + 3 * STEP, START + 6 * STEP))
        assert [m.bag_ns for m in span] == [START + k * STEP for k in (3, 4, 5)]
        assert bag.problems == []


def test_compressed_images(recording, tmp_path):
    path = bag_from_recording(recording, tmp_path / "jpeg", jpeg=True)
    with Bag(path) as bag:
        frames = list(bag.frames(f"{CAMERA}/compressed"))
        assert len(frames) == FRAMES and frames[0].image().shape == (64, 96, 3)
        topic = topics.choose_image_topic(bag)
        assert topics.find_calibration(bag, topic).fx == 80


@pytest.mark.parametrize("share", [0.9, 0.5, 0.15])
def test_truncated(bag_path, recording, share):
    file = storage_file(bag_path)
    with file.open("r+b") as handle:
        handle.truncate(int(file.stat().st_size * share))
    with Bag(bag_path) as bag:
        found = good_frames(bag, recording)
        assert FRAMES * share - 3 <= found < FRAMES
        assert bag.topics()[CAMERA].count == found
        text = " ".join(bag.problems)
        assert str(file) in text and ("at byte" in text or "after message" in text)


def test_no_metadata(bag_path, recording):
    (bag_path / "metadata.yaml").unlink()
    with Bag(bag_path) as bag:
        assert good_frames(bag, recording) == FRAMES
        assert "no metadata.yaml" in bag.problems[0]


def test_missing_file_of_a_split_bag(bag_path, recording):
    file = storage_file(bag_path)
    metadata = bag_path / "metadata.yaml"
    text = metadata.read_text()
    assert f"- {file.name}" in text
    metadata.write_text(text.replace(f"- {file.name}", f"- {file.name}\n  - lost{file.suffix}"))
    with Bag(bag_path) as bag:
        assert good_frames(bag, recording) == FRAMES
        assert f"lost{file.suffix} is listed" in bag.problems[0]


def test_flipped_bytes_never_crash(bag_path, recording, soak):
    """Wherever bytes flip, what comes back is images, or an error with the file's name."""
    file = storage_file(bag_path)
    whole = file.read_bytes()
    for seed in range(200 if soak else 12):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 25):
            data[at] ^= int(rng.integers(1, 256))
        file.write_bytes(data)
        try:
            with Bag(bag_path) as bag:
                for frame in bag.frames(CAMERA):
                    try:
                        assert frame.image().ndim == 3
                    except ValueError:
                        pass
        except ValueError as error:
            assert str(bag_path) in str(error)


def test_a_damaged_chunk_is_left_out_and_reading_goes_on(bags, recording, tmp_path):
    """Chunks with a checksum, as the ROS recorder writes them: a flipped byte costs one chunk."""
    path = Path(shutil.copytree(bags["mcap"], tmp_path / "drive"))
    file = storage_file(path)
    records = with_checksums(file.read_bytes())
    file.write_bytes(records)
    with Bag(path) as bag:
        assert good_frames(bag, recording) == FRAMES and not bag.problems[1:]
    middle = bytearray(records)
    middle[len(records) // 2] ^= 0xFF
    file.write_bytes(middle)
    with Bag(path) as bag:
        found = good_frames(bag, recording)
        assert 0 < found < FRAMES and "checksum" in " ".join(bag.problems)
        stamps = [f.stamp_ns for f in bag.frames(CAMERA)]
        assert stamps[0] == START and stamps[-1] == recording.stamps_ns[-1]


def test_a_fault_met_in_the_middle_costs_one_message_and_repeats_none(bags, recording, tmp_path):
    path = Path(shutil.copytree(bags["sqlite3"], tmp_path / "drive"))
    file = storage_file(path)
    data = bytearray(file.read_bytes())
    page = len(data) // 4096 // 2
    data[page * 4096 : (page + 1) * 4096] = bytes(4096)  # within the pixels of one image
    file.write_bytes(data)
    with Bag(path) as bag:
        stamps = [f.stamp_ns for f in bag.frames(CAMERA)]
        assert "damaged after bag time" in bag.problems[0]
    assert len(stamps) == FRAMES - 1 and (np.diff(stamps) > 0).all()
    assert stamps[0] == START and stamps[-1] == recording.stamps_ns[-1]


def with_checksums(data: bytes) -> bytes:
    """Rewrite an MCAP file as many small chunks with CRC, without an index."""
    import zlib

    def string(text: str) -> bytes:
        return struct.pack("<I", len(text)) + text.encode()

    def record(code: int, body: bytes) -> bytes:
        return struct.pack("<BQ", code, len(body)) + body

    def walk(block: bytes):
        at = 0
        while at + 9 <= len(block):
            code, length = struct.unpack_from("<BQ", block, at)
            yield code, block[at + 9 : at + 9 + length]
            at += 9 + length

    out, messages = [], []
    for code, body in walk(data[8:-8]):
        if code == 1:
            out.append(record(code, body))
        elif code == 6:
            method = struct.unpack_from("<I", body, 28)[0]
            for inner, content in walk(body[32 + method + 8 :]):
                messages.append((inner, record(inner, content)))
    pending, chunks = b"", []
    for k, (_, text) in enumerate(messages):
        pending += text
        if k % 9 == 8 or k == len(messages) - 1:
            chunks.append(pending)
            pending = b""
    for content in chunks:
        head = struct.pack("<QQQI", START, START * 2, len(content), zlib.crc32(content))
        out.append(record(6, head + string("") + struct.pack("<Q", len(content)) + content))
    footer = record(0x0F, struct.pack("<I", 0)) + record(2, struct.pack("<QQI", 0, 0, 0))
    return data[:8] + b"".join(out) + footer + data[:8]


def test_zstd_files_and_messages(recording, bags, tmp_path):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

    for mode in (CompressionMode.FILE, CompressionMode.MESSAGE):
        path = tmp_path / mode.name
        writer = Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3)
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with Reader(bags["sqlite3"]) as reader, writer:
            copies = {}
            for c in reader.connections:
                copies[c.id] = writer.add_connection(
                    c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01=c.digest
                )
            for connection, stamp, data in reader.messages():
                writer.write(copies[connection.id], stamp, data)
        with Bag(path) as bag:
            assert good_frames(bag, recording) == FRAMES and not bag.problems
    packed = next((tmp_path / "FILE").glob("*.zstd"))
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    with Bag(tmp_path / "FILE") as bag:
        assert 5 < good_frames(bag, recording) < FRAMES
        assert str(packed) in bag.problems[0]


def test_rosbag1(recording, tmp_path):
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    path = tmp_path / "old.bag"
    with Writer(path) as writer:
        topic = writer.add_connection(CAMERA, "sensor_msgs/msg/Image", typestore=store)
        for i in range(4):
            stamp = types["builtin_interfaces/msg/Time"](*divmod(START + i * STEP, 10**9))
            header = types["std_msgs/msg/Header"](i, stamp, "camera")
            pixels = recording.image(i).reshape(-1)
            image = types["sensor_msgs/msg/Image"](header, 64, 96, "rgb8", 0, 288, pixels)
            raw = store.serialize_ros1(image, "sensor_msgs/msg/Image")
            writer.write(topic, START + i * STEP, raw)
    with Bag(path) as bag:
        assert good_frames(bag, recording) == 4
        raw = next(bag.messages([CAMERA]))
        ros2 = get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr(bag.cdr(raw), raw.type)
        assert (ros2.data == recording.image(0).reshape(-1)).all() and ros2.encoding == "rgb8"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="old.bag.*reindex"):
        Bag(path)


@pytest.mark.parametrize(
    ("name", "content", "error", "reason"),
    [
        ("absent", None, FileNotFoundError, "no such bag"),
        ("empty", {}, ValueError, "no bag files"),
        ("text.txt", b"hello", ValueError, "not a bag"),
        ("zero.mcap", b"", ValueError, "zero.mcap.*first bytes"),
        ("zero.db3", b"", ValueError, "zero.db3"),
        ("noise.db3", b"noise" * 999, ValueError, "noise.db3"),
        ("noise.mcap", b"noise" * 999, ValueError, "noise.mcap"),
    ],
)
def test_what_is_no_bag_at_all(tmp_path, name, content, error, reason):
    path = tmp_path / name
    if content == {}:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=reason):
        Bag(path)


def test_topics_are_chosen_or_listed(recording, tmp_path):
    path = bag_from_recording(recording.part(0, 3), tmp_path / "one", namespace="/front")
    with Bag(path) as bag:
        assert topics.choose_image_topic(bag).name == "/front/image_raw"
        with pytest.raises(ValueError, match="/rear/image_raw is not in the bag.*\n  /front/image"):
            topics.choose_image_topic(bag, "/rear/image_raw")
        with pytest.raises(ValueError, match="holds sensor_msgs/msg/CameraInfo"):
            topics.choose_image_topic(bag, "/front/camera_info")
        with pytest.raises(ValueError, match="no odometry on /wheels; it has /odom"):
            topics.find_odometry(bag, "/wheels")
        with pytest.raises(ValueError, match="no topic '/x'"):
            next(bag.frames("/x"))
    other = bag_from_recording(recording.part(0, 3), tmp_path / "two", namespace="/rear")
    for file in other.glob("*.mcap"):  # two cameras in one folder, as a split bag
        shutil.copy(file, path)
    with Bag(path) as bag, pytest.raises(ValueError) as error:
        topics.choose_image_topic(bag)
    assert "--image-topic" in str(error.value)
    assert "/front/image_raw (4 messages, rgb8, 96x64)" in str(error.value)
    assert "/rear/image_raw" in str(error.value)
