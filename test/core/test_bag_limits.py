"""A machine that has no room, and bytes that ask for too much: said, and never taken for damage."""

import errno
import json
import shutil
import sqlite3
import struct
import tracemalloc
from pathlib import Path

import camera_bags as cb
import pytest
from test_bag import with_checksums

pytest.importorskip("rosbags")
pytest.importorskip("typer")
from dyndepth_core import cli  # noqa: E402
from dyndepth_core.commands.collect import SOME_FAILED  # noqa: E402
from dyndepth_core.data import bag as bag_module  # noqa: E402
from dyndepth_core.data import bag_storage, doctor  # noqa: E402
from dyndepth_core.data.bag import Bag  # noqa: E402
from dyndepth_core.data.bag_salvage import MCAP_MAGIC  # noqa: E402
from dyndepth_core.data.unpacking import MAX_UNPACKED, _zstd, unpack_zstd  # noqa: E402

PARTS, EACH = 3, 4


def split(path: Path, storage: str, packed: str = "") -> Path:
    """A bag of PARTS files of EACH frames."""
    messages = list(cb.camera("/cam", cb.drive(PARTS * EACH)))
    path.mkdir()
    for k in range(PARTS):
        part = cb.write(path / "part", messages[k * EACH : (k + 1) * EACH], storage, packed)
        for file in part.glob("part.*"):
            file.rename(path / file.name.replace("part", f"drive_{k}"))
        shutil.rmtree(part)
    return path


def count(bag: Bag) -> int:
    return len(list(bag.frames("/cam/image_raw")))


def test_no_room_to_unpack_is_no_damage_and_the_bag_can_be_collected_again(
    tmp_path, capfd, monkeypatch
):
    path, other = split(tmp_path / "split", "mcap", "FILE"), split(tmp_path / "other", "mcap")
    real, opened = bag_module.unpack_zstd, []

    def full(source, target):
        opened.append(target)
        if len(opened) == PARTS + 2:  # the look beforehand found room
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(bag_module, "unpack_zstd", full)
    words = ["collect", str(path), str(other), "--out", str(tmp_path / "out")]
    assert cli.main(words) == SOME_FAILED
    assert "No space left on device; make room there" in capfd.readouterr().out
    assert not opened[-1].parent.exists()  # what was unpacked is gone
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [entry["kept"] for entry in manifest["bags"]] == [0, PARTS * EACH]
    assert cli.main([*words, "--resume"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [entry["kept"] for entry in manifest["bags"]] == [PARTS * EACH] * 2


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_too_many_open_files_lose_no_part(tmp_path, monkeypatch, storage):
    path, real = split(tmp_path / "split", storage), Path.open

    def crowded(self, *args, **kwargs):
        if self.stem == "drive_1":
            raise OSError(errno.EMFILE, "Too many open files", str(self))
        return real(self, *args, **kwargs)

    with Bag(path) as bag:
        assert count(bag) == PARTS * EACH
    monkeypatch.setattr(Path, "open", crowded)
    with pytest.raises(OSError, match=r"Too many open files.*drive_1"):
        Bag(path)


def test_a_database_that_cannot_be_opened_is_not_damaged(tmp_path, monkeypatch):
    path = split(tmp_path / "split", "sqlite3")
    (path / "drive_1.db3").write_bytes(b"SQLite format 3\0 and noise")

    def crowded(*_, **__):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", crowded)
    with pytest.raises(OSError, match="drive_1.db3: unable to open"):
        Bag(path)


def test_a_packed_message_that_asks_for_too_much_is_left_out(tmp_path, monkeypatch):
    messages = list(cb.camera("/cam", cb.drive(EACH)))
    wall = cb.image(cb.np.zeros((200, 1000, 3), cb.np.uint8), "rgb8", cb.START + 10 * cb.STEP)
    messages.append(("/cam/image_raw", wall, cb.START + 10 * cb.STEP))
    path = cb.write(tmp_path / "bag", messages, "sqlite3", "MESSAGE")
    with Bag(path) as bag:
        assert count(bag) == EACH + 1 and not bag.problems
    monkeypatch.setattr(bag_storage, "MAX_UNPACKED", 100_000)
    with Bag(path) as bag:
        assert count(bag) == EACH
        assert "more than 100000 bytes would be unpacked" in " ".join(bag.problems)


@pytest.mark.parametrize(
    ("size", "says"),
    [(1000, "more than 1000 bytes"), (MAX_UNPACKED + 1, f"unpacks to {MAX_UNPACKED + 1} bytes")],
)
def test_a_chunk_is_not_unpacked_beyond_what_it_declares(tmp_path, size, says):
    packed = _zstd().compress(bytes(10**7))
    head = struct.pack("<QQQI", 0, 0, size, 0) + struct.pack("<I", 4) + b"zstd"
    chunk = head + struct.pack("<Q", len(packed)) + packed
    path = tmp_path / "one.mcap"
    path.write_bytes(MCAP_MAGIC + struct.pack("<BQ", 6, len(chunk)) + chunk)
    with Bag(path) as bag:
        assert not list(bag.messages()) and any(says in p for p in bag.problems)


def test_a_packed_file_goes_to_the_disk_piece_by_piece(tmp_path):
    size = 3 * 10**7
    packed = _zstd().compress(bytes(size))
    (tmp_path / "packed").write_bytes(2 * packed)  # two frames
    tracemalloc.start()
    try:
        assert unpack_zstd(tmp_path / "packed", tmp_path / "plain") == ""
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()
    assert (tmp_path / "plain").stat().st_size == 2 * size
    (tmp_path / "packed").write_bytes(packed[:-3])
    assert unpack_zstd(tmp_path / "packed", tmp_path / "plain") == "the file is cut short"


def test_chunks_within_chunks_are_damage(tmp_path):
    data = b""
    for _ in range(2000):
        head = struct.pack("<QQQI", 0, 0, len(data), 0) + struct.pack("<I", 0)
        chunk = head + struct.pack("<Q", len(data)) + data
        data = struct.pack("<BQ", 6, len(chunk)) + chunk
    path = tmp_path / "one.mcap"
    path.write_bytes(MCAP_MAGIC + data)
    with Bag(path) as bag:
        assert not list(bag.messages()) and "a chunk within a chunk" in " ".join(bag.problems)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_bag_time_that_no_clock_shows_costs_its_message(tmp_path, indexed):
    path = cb.write(tmp_path / "bag", cb.camera("/cam", cb.drive(EACH)))
    (file,) = path.glob("*.mcap")
    last = struct.pack("<Q", cb.START + (EACH - 1) * cb.STEP)
    data = file.read_bytes().replace(last, struct.pack("<Q", (1 << 63) + 5))
    file.write_bytes(data if indexed else with_checksums(data)[:-8])
    with Bag(path) as bag:
        assert count(bag) == EACH - 1 and bag.span()[1] < cb.START + EACH * cb.STEP
        assert any("bag time beyond" in p for p in bag.problems)
    (report,) = doctor.examine(path)
    assert report.minutes < 1 and any("bag time beyond" in f.text for f in report.findings)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_notes_name_the_packed_file_and_are_the_same_in_every_run(tmp_path, storage):
    path = split(tmp_path / "split", storage, "FILE")
    packed = next(path.glob("drive_1.*"))
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    next(path.glob("drive_2.*")).write_bytes(_zstd().compress(b"noise" * 999))
    found = []
    for _ in range(2):
        with Bag(path) as bag:
            assert EACH <= count(bag) < 2 * EACH
            found.append(list(bag.problems))
    assert found[0] == found[1] and len(found[0]) > 3
    assert not any("dyndepth_bag_" in problem for problem in found[0])
    assert all(str(path) in problem for problem in found[0])
    with pytest.raises(ValueError, match=f"nothing of this bag.*{packed.parent}/drive_2") as error:
        Bag(next(path.glob("drive_2.*")))
    assert "dyndepth_bag_" not in str(error.value)
