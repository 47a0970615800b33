"""The writer of recordings: refuses what cannot be read back, survives SIGKILL; the manifest."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from test_recording import CALIB, STEP, H, W, picture, record

from dyndepth_core.data import writer as writer_module
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.writer import RecordingWriter, manifest_hash, world_seeds, write_manifest


def test_a_writer_refuses_what_would_not_be_read_back(tmp_path):
    with pytest.raises(ValueError, match="gif"):
        RecordingWriter(tmp_path / "a", CALIB, "gif")
    with RecordingWriter(tmp_path / "a", CALIB) as writer, pytest.raises(ValueError, match="shape"):
        writer.add(np.zeros((H, W + 1, 3), np.uint8), 0)
    with pytest.raises(ValueError, match="already"):
        RecordingWriter(record(tmp_path / "b"), CALIB)


def test_a_recording_is_valid_after_every_frame(tmp_path):
    with RecordingWriter(tmp_path / "a", CALIB, "png") as writer:
        for i in range(3):
            writer.add(picture(i), i * STEP, T_world_cam=np.eye(4))
            assert len(Recording(tmp_path / "a")) == i + 1


def write_until_killed(path, stop, before):
    """In a child: SIGKILL in file number `stop`, before it is whole or after."""
    real, calls = writer_module.replace_file, 0

    def write(path, data):
        nonlocal calls
        calls += 1
        if calls != stop:
            return real(path, data)
        if before:
            path.with_name(path.name + ".part").write_bytes(b"half")
        else:
            real(path, data)
        os.kill(os.getpid(), signal.SIGKILL)

    writer_module.replace_file = write
    with RecordingWriter(path, CALIB, "png") as writer:
        for i in range(9):
            writer.add(picture(i), i * STEP, depth=np.ones((H, W)), T_world_cam=np.eye(4))


@pytest.mark.parametrize(("stop", "before"), [(7, True), (8, True), (8, False)])
def test_a_killed_writer_leaves_every_whole_frame(tmp_path, stop, before):
    """SIGKILL in a depth image, in an image, and between an image and its row in the table."""
    child = os.fork()
    if not child:
        try:
            write_until_killed(tmp_path / "a", stop, before)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    recording = Recording(tmp_path / "a")
    assert len(recording) == 3
    for i in range(3):
        np.testing.assert_array_equal(recording.image(i), picture(i))
        assert (recording.depth(i) == 1).all() and recording.pose(i) is not None


def test_the_manifest_names_the_data_by_what_a_training_sees(tmp_path):
    record(tmp_path / "a", depth=np.ones((H, W)), T_world_cam=np.eye(4))
    first = manifest_hash(tmp_path)
    write_manifest(tmp_path, {"tool": "test"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["tool"] == "test" and "a/depth/000003.png" in manifest["files"]
    for path in [*(tmp_path / "a" / "depth").iterdir(), tmp_path / "a" / "poses.csv"]:
        path.unlink()
    assert manifest_hash(tmp_path) == first
    image = tmp_path / "a" / "images" / "000002.png"
    image.write_bytes(image.read_bytes() + b"\0")
    assert manifest_hash(tmp_path) != first


def test_the_manifest_of_a_part_looks_at_nothing_else(tmp_path, monkeypatch):
    """What others write into the folder may come and go meanwhile."""
    for name in "ab":
        record(tmp_path / name)
    (tmp_path / "sheet.jpg").write_bytes(b"x")
    whole = write_manifest(tmp_path, {})
    real = Path.rglob

    def vanished(self, pattern):
        if not self.is_relative_to(tmp_path / "a") and self.name != "sheet.jpg":
            raise FileNotFoundError(self)
        return real(self, pattern)

    monkeypatch.setattr(Path, "rglob", vanished)
    part = write_manifest(tmp_path, {}, "manifest-1-of-2.json", {"a", "sheet.jpg"})
    assert part == {k: v for k, v in whole.items() if not k.startswith("b/")}
    assert list(part) == sorted(part) and "sheet.jpg" in part


def test_world_seeds_come_from_the_manifests_of_synthetic_data(tmp_path):
    for name, info in {
        "a": {"tool": "dyndepth synth", "seed": 7},
        "b": {"tool": "dyndepth synth", "seed": 3},
        "c": {"tool": "dyndepth collect"},
    }.items():
        record(tmp_path / name / "clip")
        write_manifest(tmp_path / name, info)
    record(tmp_path / "d" / "clip")
    roots = [tmp_path / name for name in "abcd"]
    assert world_seeds([*roots, tmp_path / "a" / "clip"]) == [3, 7]
    assert world_seeds([tmp_path / "a" / "clip"]) == [7] and world_seeds(roots[2:]) == []
