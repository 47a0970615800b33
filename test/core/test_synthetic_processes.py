"""`dyndepth synth` with killed processes, a damaged manifest, absurd counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dyndepth_core.commands.synth import command
from dyndepth_core.data.recording import open_recordings
from dyndepth_core.data.writer import write_manifest

PATIENCE = 150.0  # seconds, on a machine busy with other tests
SMALL = {"seed": 5, "clips": 1, "frames": 1, "size": "32x104", "workers": 1}


def workers(out: Path) -> set[int]:
    """The processes that write the half-done clips, as the names of those say."""
    return {int(p.name.split(".")[2]) for p in out.glob(".synth_*.part")}


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(done) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent_and_the_same_command_goes_on(tmp_path, how):
    out = tmp_path / "a"
    words = [sys.executable, "-m", "dyndepth_core.cli", "synth", "--out", out]
    words += ["--clips", "2", "--frames", "5000", "--size", "32x104"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    # both have begun: a folder that came after `found` would be one too many
    wait_until(lambda: len({p.parents[1] for p in out.glob(".*.part/images/*.jpg")}) == 2)
    found = workers(out)
    assert found and process.pid not in found
    process.send_signal(how)
    text = process.communicate(timeout=PATIENCE)[1]
    wait_until(lambda: not any(map(is_running, found)))
    if how == signal.SIGTERM:
        assert process.returncode == 130 and "terminated" in text and "Traceback" not in text
        assert not workers(out)
        return
    assert workers(out) == found
    (out / "manifest.json").unlink()  # it says 5000 frames
    command(out=out, **{**SMALL, "seed": 0})
    assert not list(out.glob(".*")) and len(open_recordings(out)) == 1


def test_half_done_files_are_not_in_the_manifest(tmp_path):
    for name in (".synth_000_000.77.part/images/a.jpg", "b/c.jpg.part", "b/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    write_manifest(tmp_path, {})
    assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["b/d.jpg"]


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_manifest_says_what_to_do(tmp_path, content):
    command(out=tmp_path, **SMALL)
    manifest = tmp_path / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_text(content)
    with pytest.raises(ValueError, match="manifest.json is damaged: delete it"):
        command(out=tmp_path, **SMALL)
    manifest.unlink()
    command(out=tmp_path, **SMALL)
    assert manifest.read_bytes() == whole


def test_a_manifest_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write_manifest(tmp_path, {"first": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="manifest.json") as error:
        write_manifest(tmp_path, {"second": 2})
    assert "make room" in str(error.value) and len(list(tmp_path.iterdir())) == 1
    assert json.loads((tmp_path / "manifest.json").read_text())["first"] == 1


@pytest.mark.parametrize("name, most", [("clips", 100_000), ("frames", 1_000_000)])
def test_absurd_counts_are_refused_with_the_bound(tmp_path, name, most):
    with pytest.raises(ValueError, match=f"99999999999 {name}.*1 to {most}"):
        command(out=tmp_path / "a", **{**SMALL, name: 99999999999})
    assert not (tmp_path / "a").exists()
