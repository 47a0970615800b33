"""`dyndepth collect` with a bad bag among good ones, a full disk, topics of two types, odd rows."""

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("typer")
from rosbags.rosbag2 import Reader, StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402

from dyndepth_core import cli  # noqa: E402
from dyndepth_core.commands.collect import SOME_FAILED  # noqa: E402
from dyndepth_core.data import bag_topics as topics  # noqa: E402
from dyndepth_core.data.bag import Bag  # noqa: E402
from dyndepth_core.data.bag_writer import bag_from_recording  # noqa: E402
from dyndepth_core.data.calibration import Calibration  # noqa: E402
from dyndepth_core.data.recording import Recording, open_recordings  # noqa: E402
from dyndepth_core.data.writer import RecordingWriter  # noqa: E402

FRAMES, START, STEP = 8, 10**18, 10**8
CAMERA, INFO, ODOM = "/camera/image_raw", "/camera/camera_info", "/odom"
STRING = "std_msgs/msg/String"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("good")
    with RecordingWriter(root / "rec", Calibration(96, 64, 80, 81, 47, 31), "png") as writer:
        for i in range(FRAMES):
            image = np.full((64, 96, 3), 10 + i, np.uint8)
            motion = dict(tx=i, ty=0, tz=0, qx=0, qy=0, qz=0, qw=1, speed=1, yaw_rate=0)
            writer.add(image, START + i * STEP, odometry=motion)
    return bag_from_recording(Recording(root / "rec"), root / "drive", "sqlite3")


def collect(*words: object) -> int:
    return cli.main(["collect", *map(str, words)])


def manifest(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def test_a_bad_bag_among_good_ones_is_named_and_the_rest_has_its_manifest(good, tmp_path, capfd):
    noise, out = tmp_path / "noise.mcap", tmp_path / "out"
    noise.write_bytes(b"noise" * 99)
    assert collect(noise, good, "--out", out) == SOME_FAILED
    said = capfd.readouterr()
    assert f"1 of 2 bags could not be used ({noise})" in said.err
    assert "noise.mcap: " in said.out and f"{FRAMES} kept" in said.out
    first, second = manifest(out)["bags"]
    assert "first bytes are wrong" in first["error"] and first["kept"] == 0
    assert second["error"] is None and second["kept"] == FRAMES == len(open_recordings(out)[0])


def test_a_single_bad_bag_is_one_error_and_leaves_nothing(good, tmp_path, capfd):
    noise, out = tmp_path / "noise.mcap", tmp_path / "out"
    noise.write_bytes(b"noise" * 99)
    assert collect(noise, "--out", out) == cli.BAD_INPUT
    assert capfd.readouterr().err.strip().endswith("first bytes are wrong)")
    assert not out.exists() and collect(good, "--out", out) == 0


def test_a_full_disk_is_named_and_leaves_nothing_half_done(good, tmp_path, capfd, monkeypatch):
    real, out = Path.open, tmp_path / "out"

    def full(self, *args, **kwargs):
        file = real(self, *args, **kwargs)
        if self.name != "000005.jpg.part":
            return file
        file.close()
        return open("/dev/full", "wb")

    monkeypatch.setattr(Path, "open", full)
    assert collect(good, good, "--out", out) == cli.BAD_INPUT
    said = capfd.readouterr().err
    assert "000005.jpg: No space left on device; make room there" in said, said
    assert not list(out.rglob("*.jpg.part"))
    assert manifest(out)["frames"] == 5 == len(open_recordings(out)[0])
    monkeypatch.undo()  # room was made
    assert collect(good, good, "--out", out) == cli.BAD_INPUT
    assert "not empty; give a new folder for the recordings, or --resume" in (
        " ".join(capfd.readouterr().err.split())
    )
    assert collect(good, good, "--out", out, "--resume") == 0
    assert collect(good, good, "--out", tmp_path / "whole") == 0
    assert (out / "manifest.json").read_bytes() == (
        tmp_path / "whole" / "manifest.json"
    ).read_bytes()


@pytest.fixture
def with_strings(good, tmp_path):
    """The bag, with a String first on each of its topics."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    text = store.serialize_cdr(store.types[STRING]("x"), STRING)
    path = tmp_path / "mixed"
    with (
        Reader(good) as reader,
        Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        for name in (CAMERA, INFO, ODOM):
            writer.write(writer.add_connection(name, STRING, typestore=store), START, text)
        copies = {
            c.id: writer.add_connection(
                c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01=c.digest
            )
            for c in reader.connections
        }  # fmt: skip
        for connection, stamp, data in reader.messages():
            writer.write(copies[connection.id], stamp, data)
    return path


def test_a_topic_of_two_types_gives_the_messages_of_its_own(with_strings):
    with Bag(with_strings) as bag:
        image = topics.choose_image_topic(bag)
        assert (image.name, image.count) == (CAMERA, FRAMES)
        assert topics.find_calibration(bag, image).fx == 80
        name, track = topics.find_odometry(bag)
        assert name == ODOM and len(track) == FRAMES
        assert len(list(bag.frames(CAMERA))) == FRAMES
        for topic in (CAMERA, INFO, ODOM):
            found = [p for p in bag.problems if f"topic {topic} holds" in p]
            assert len(found) == 1 and f"{STRING} are left out" in found[0]


def test_rows_of_the_wrong_type_are_left_out_and_reported(good, tmp_path):
    path = Path(shutil.copytree(good, tmp_path / "odd"))
    (file,) = path.glob("*.db3")
    with sqlite3.connect(file) as db:
        ids = [
            key
            for (key,) in db.execute(
                "SELECT m.id FROM messages m JOIN topics t ON t.id = m.topic_id WHERE t.name = ?",
                (CAMERA,),
            )
        ]
        db.execute("CREATE TABLE loose AS SELECT * FROM messages")  # without its constraints
        db.execute("DROP TABLE messages")
        db.execute("ALTER TABLE loose RENAME TO messages")
        db.execute("UPDATE messages SET data = 'text' WHERE id = ?", (ids[2],))
        db.execute("UPDATE messages SET data = NULL WHERE id = ?", (ids[4],))
    db.close()
    with Bag(path) as bag:
        stamps = [frame.stamp_ns for frame in bag.frames(CAMERA)]
        problems = " ".join(bag.problems)
    assert stamps == [START + i * STEP for i in range(FRAMES) if i not in (2, 4)]
    assert f"{file}: message {ids[2]} is damaged" in problems


@pytest.fixture
def spoiled(good, tmp_path):
    """A copy of the bag and its storage file, to be spoiled."""
    path = Path(shutil.copytree(good, tmp_path / "drive"))
    return path, next(path.glob("*.db3"))


def test_a_truncated_bag_gives_what_is_left(spoiled, tmp_path):
    path, file = spoiled
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size * 2 // 3)
    assert collect(path, "--out", tmp_path / "out") == 0
    (bag,) = manifest(tmp_path / "out")["bags"]
    assert 3 <= bag["kept"] < FRAMES and any(str(file) in p for p in bag["problems"])
    assert len(open_recordings(tmp_path / "out")[0]) == bag["kept"]


def test_flipped_bits_cost_frames_and_nothing_else(spoiled, tmp_path, soak):
    """What is written can be read; a bag that gives nothing is one clear error."""
    path, file = spoiled
    whole = file.read_bytes()
    for seed in range(40 if soak else 5):
        rng, data = np.random.default_rng(seed), bytearray(whole)
        for at in rng.integers(0, len(data), 20):
            data[at] ^= 1 << int(rng.integers(0, 8))
        file.write_bytes(data)
        out = tmp_path / f"out{seed}"
        code = collect(path, "--out", out)
        assert code in (0, cli.BAD_INPUT) and out.exists() == (code == 0)
        for found in open_recordings(out) if code == 0 else ():
            assert all(found.image(i).shape == (64, 96, 3) for i in range(len(found)))


def test_without_metadata_all_is_there(spoiled, tmp_path):
    path, _ = spoiled
    (path / "metadata.yaml").unlink()
    assert collect(path, "--out", tmp_path / "out") == 0
    (bag,) = manifest(tmp_path / "out")["bags"]
    assert bag["kept"] == FRAMES and "no metadata.yaml" in bag["problems"][0]


def rewritten(good, path, keep=lambda topic: True, stamp=lambda i, ns: ns, extra=()):
    """The bag with some topics, other arrival and header times, and further messages."""
    store, i = get_typestore(Stores.ROS2_HUMBLE), 0
    with (
        Reader(good) as reader,
        Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        copies = {
            c.id: writer.add_connection(
                c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01=c.digest
            )
            for c in reader.connections if keep(c.topic)
        }  # fmt: skip
        for connection, ns, data in reader.messages(
            [c for c in reader.connections if keep(c.topic)]
        ):
            message = store.deserialize_cdr(data, connection.msgtype)
            if connection.topic == CAMERA:
                seconds, rest = divmod(stamp(i, ns), 10**9)
                message.header.stamp.sec, message.header.stamp.nanosec = seconds, rest
                i += 1
            data = store.serialize_cdr(message, connection.msgtype)
            writer.write(copies[connection.id], ns, data)
        for name, kind, definition, data in extra:
            topic = writer.add_connection(
                name, kind, msgdef=definition, rihs01="RIHS01_" + 64 * "0"
            )
            writer.write(topic, START, data)
    return path


def test_a_bag_without_a_camera_says_what_it_has(good, tmp_path, capfd):
    path = rewritten(good, tmp_path / "bag", keep=lambda topic: topic == ODOM)
    assert collect(path, "--out", tmp_path / "out") == cli.BAD_INPUT
    said = capfd.readouterr().err
    assert f"no topic with camera images; it has {ODOM} (nav_msgs/msg/Odometry)" in said


def test_without_camera_info_the_intrinsics_are_to_be_learned(good, tmp_path, capfd):
    path = rewritten(good, tmp_path / "bag", keep=lambda topic: topic != INFO)
    assert collect(path, "--out", tmp_path / "out") == 0
    assert "train with --intrinsics video" in capfd.readouterr().out
    (found,) = open_recordings(tmp_path / "out")
    assert found.calib.fx is None and found.odometry(0)["speed"] == 1


def test_types_that_nobody_knows_do_no_harm(good, tmp_path):
    odd = ("/lidar", "maker_msgs/msg/Blob", "uint8[] bytes\n", b"\0\1\0\0\5\0\0\0hello")
    path = rewritten(good, tmp_path / "bag", extra=[odd])
    assert collect(path, "--out", tmp_path / "out") == 0
    (bag,) = manifest(tmp_path / "out")["bags"]
    assert bag["kept"] == FRAMES and bag["problems"] == []


def test_stamps_that_only_go_back_are_left_out_and_bag_time_helps(good, tmp_path, capfd):
    path = rewritten(good, tmp_path / "bag", stamp=lambda i, ns: START - i * STEP)
    assert collect(path, "--out", tmp_path / "out") == cli.BAD_INPUT
    said = capfd.readouterr()
    assert f"left out 1 (sequence_too_short); left out {FRAMES - 1} (stamp_backwards)" in said.out
    assert "no frame could be used" in said.err and not (tmp_path / "out").exists()
    assert collect(path, "--out", tmp_path / "out", "--stamp", "bag") == 0
    (found,) = open_recordings(tmp_path / "out")
    assert np.diff(found.stamps_ns).tolist() == [STEP] * (FRAMES - 1)
