"""Killed at any moment, collect leaves valid recordings, and a resumed run makes the very tree of
one that nobody stopped; so do several processes and merged shards.
"""

import json
import shutil
import subprocess
import sys
import time

import camera_bags as cb
import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("typer")
from dyndepth_core import cli  # noqa: E402
from dyndepth_core.data import collect as collect_module  # noqa: E402
from dyndepth_core.data.bag import Bag  # noqa: E402
from dyndepth_core.data.collect import CollectOptions, collect_bag  # noqa: E402
from dyndepth_core.data.collect_options import CollectReport  # noqa: E402
from dyndepth_core.data.recording import open_recordings  # noqa: E402
from dyndepth_core.data.writer import RecordingWriter  # noqa: E402

FRAMES = 480


def eventful(count, seed=0):
    """Messages of a drive with all that a state must remember: repeats, blur, a stop, jumps, late
    frames, a damaged one, odometry in parts of it.
    """
    images, stamp, rng = cb.drive(40, seed=seed), cb.START, np.random.default_rng(seed)
    for i in range(count):
        im = images[i % 40] if i % 90 > 20 else images[0] + np.uint8(i % 2)
        stamp += cb.STEP // 3 if i % 100 else 20 * cb.STEP
        if i % 70 == 50:
            im = cv2.GaussianBlur(im, (0, 0), 4)
        if i % 60 == 30:
            im = images[(i - 1) % 40]
        sent = stamp - cb.STEP if i % 110 == 61 else stamp
        pixels = im[:-1] if i % 37 == 5 else im
        arrived = cb.START + i * cb.STEP // 3 + int(rng.integers(0, 10**6))
        if i % 400 < 150:
            yield "/odom", cb.odometry(0.0 if i % 90 < 20 else 4.0, stamp), arrived
        yield "/cam/image_raw", cb.image(pixels, "rgb8", sent), arrived


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    root = tmp_path_factory.mktemp("bags")
    one = cb.write(root / "one", eventful(FRAMES))
    two = cb.write(root / "two", eventful(FRAMES // 3, 1), "sqlite3")
    file = next(two.glob("*.db3"))
    data = bytearray(file.read_bytes())
    page = len(data) // 4096 // 2
    data[page * 4096 : (page + 8) * 4096] = bytes(8 * 4096)  # damaged in the middle
    file.write_bytes(data)
    front = cb.camera("/front", cb.drive(30, seed=3), cb.K)
    three = cb.write(root / "three", [*front, *cb.camera("/rear", cb.drive(30, seed=4))])
    return [one, two, three]


def command(bags, out, *words):
    names = ["--image-topic", "all", "--rate", "15"]
    return ["collect", *map(str, bags), "--out", str(out), *names, *words]


@pytest.fixture(scope="module")
def whole(bags, tmp_path_factory):
    """The manifest of a run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert cli.main(command(bags, out)) == 0
    return (out / "manifest.json").read_bytes()


def test_the_whole_run_met_every_case(whole):
    manifest = json.loads(whole)
    one, two, *_ = manifest["bags"]
    for reason in ("rate", "duplicate", "blur", "stamp_backwards", "resolution"):
        assert one["dropped"][reason] > 0, reason
    assert one["tagged"]["standing"] > 0 and 0 < one["with_odometry"] < one["kept"]
    assert len(one["sequences"]) >= 5 and any("damaged" in p for p in two["problems"])
    assert [b["name"] for b in manifest["bags"]] == ["one", "two", "three_front", "three_rear"]
    assert "contact_sheet.jpg" in manifest["files"]


@pytest.mark.timeout(3000)
def test_killed_at_random_moments(bags, whole, tmp_path, soak):
    """SIGKILL once a random number of files is there; what is there can be trained on; after
    --resume, itself killed half of the time, the manifest is that of the whole run.
    """
    rng, total = np.random.default_rng(0), len(json.loads(whole)["files"])
    code = "import sys; from dyndepth_core.cli import main; sys.exit(main(sys.argv[1:]))"
    for attempt in range(20 if soak else 3):
        out, resume = tmp_path / str(attempt), []
        for share in sorted(rng.uniform(0.02, 0.98, 1 + attempt % 2)):
            process = subprocess.Popen(
                [sys.executable, "-c", code, *command(bags, out, *resume)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            end = time.monotonic() + 200
            while process.poll() is None and len(list(out.glob("*/images/*.jpg"))) < share * total:
                assert time.monotonic() < end
                time.sleep(0.01)
            process.kill()
            process.wait()
            resume = ["--resume"]
            for found in open_recordings(out):
                files = len(list((found.path / "images").glob("*.jpg")))
                assert files - 1 <= len(found) <= files
                assert found.image(len(found) - 1).shape == (48, 64, 3)
                assert (np.diff(found.stamps_ns) > 0).all()
        assert cli.main(command(bags, out, "--resume")) == 0
        assert (out / "manifest.json").read_bytes() == whole
        assert not list(out.glob(".*")) and not list(out.rglob("*.part"))
        shutil.rmtree(out)


def test_stopped_after_any_frame_the_state_is_whole(bags, tmp_path, monkeypatch):
    """In one process, and checkpoints at nearly every frame: whatever the state is when it stops,
    the recordings come out the same.
    """
    options = CollectOptions(rate_hz=15.0)
    with Bag(bags[0]) as bag:
        expected = collect_bag(bag, tmp_path / "whole", "drive", options)
    monkeypatch.setattr(collect_module, "CHECKPOINT_FRAMES", 7)
    out, state = tmp_path / "out", tmp_path / "state.json"
    real = RecordingWriter.add
    for stop in (3, 40, 100, 17, 60, 1, 10**6):
        calls = []

        def add(self, *args, stop=stop, calls=calls, **kwargs):
            calls.append(1)
            if len(calls) > stop:
                raise MemoryError
            real(self, *args, **kwargs)

        monkeypatch.setattr(RecordingWriter, "add", add)
        report = CollectReport()
        try:
            with Bag(bags[0]) as bag:
                collect_bag(bag, out, "drive", options, report, threads=2, checkpoint=state)
        except MemoryError:
            continue
        break
    assert stop == 10**6 and report.as_dict() == expected.as_dict()
    trees = [
        {str(p.relative_to(r)): p.read_bytes() for p in r.rglob("*") if p.is_file()}
        for r in (tmp_path / "whole", out)
    ]
    assert trees[0] == trees[1] and len(trees[0]) > 150


def test_several_processes_make_the_same_tree(bags, whole, tmp_path):
    assert cli.main(command(bags, tmp_path / "out", "--jobs", "2")) == 0
    assert (tmp_path / "out" / "manifest.json").read_bytes() == whole


def test_shards_into_one_folder_merge_themselves(bags, whole, tmp_path, capfd):
    out, count = tmp_path / "out", len(bags) + 1
    for shard in range(1, count + 1):
        assert not (out / "manifest.json").exists()
        assert "fewer shards" not in capfd.readouterr().out
        assert cli.main(command(bags, out, "--shard", f"{shard}/{count}")) == 0
    assert (out / "manifest.json").read_bytes() == whole
    assert not list(out.glob("manifest-*"))
    assert f"shard {count}/{count}: no bag of the {len(bags)}" in capfd.readouterr().out


def test_shards_of_several_machines_are_copied_together(bags, whole, tmp_path, capfd):
    out = tmp_path / "out"
    for shard in ("1/3", "2/3", "3/3"):
        folder = tmp_path / shard[0]
        assert cli.main(command(bags, folder, "--shard", shard)) == 0
        assert open_recordings(folder) and (folder / f"manifest-{shard[0]}-of-3.json").exists()
        shutil.copytree(folder, out, dirs_exist_ok=True)
    assert len(open_recordings(out)) == len(json.loads(whole)["files"]) - sum(
        b["kept"] + len(b["sequences"]) for b in json.loads(whole)["bags"]
    ) - 1  # fmt: skip
    image = next(out.glob("two_000/images/*.jpg"))
    good = image.read_bytes()
    image.write_bytes(good[:-1])
    again = command(bags, out, "--shard", "2/3", "--resume")
    assert cli.main(again) == cli.BAD_INPUT
    assert f"{image}: missing or not as its shard wrote it" in capfd.readouterr().err
    image.write_bytes(good)
    assert cli.main(again) == 0
    assert (out / "manifest.json").read_bytes() == whole


def test_resume_refuses_another_command(bags, tmp_path, capfd):
    out = tmp_path / "out"
    (out / ".collect.part").mkdir(parents=True)  # killed before anything was written
    assert cli.main(command(bags[2:], out, "--resume")) == 0
    assert cli.main(command(bags[2:], out, "--resume")) == 0
    assert "complete already" in capfd.readouterr().out
    assert cli.main(command(bags[2:], out, "--resume", "--max-gap", "2")) == cli.BAD_INPUT
    assert "another command (parameters:" in capfd.readouterr().err
    assert cli.main(command(bags[1:], out, "--resume")) == cli.BAD_INPUT
    assert "another command (given:" in capfd.readouterr().err
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    assert cli.main(command(bags, tmp_path / "else", "--resume")) == cli.BAD_INPUT
    assert "holds nothing to go on with" in capfd.readouterr().err


def test_a_dry_run_says_what_would_be_kept(bags, whole, tmp_path, capfd):
    figures = tmp_path / "dry.json"
    words = command(bags, tmp_path / "out", "--dry-run", "--json", str(figures))
    assert cli.main(words) == 0 and not (tmp_path / "out").exists()
    assert "would be kept" in capfd.readouterr().out
    manifest = json.loads(whole)
    found = json.loads(figures.read_text())
    assert found == {k: v for k, v in manifest.items() if k != "files"}


def test_a_disk_too_small_is_said_before_the_work(bags, tmp_path, capfd, monkeypatch):
    room = [10_000]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=room[0]))
    out = tmp_path / "out"
    assert cli.main(command(bags, out)) == cli.BAD_INPUT
    said = capfd.readouterr()
    assert "MB will be written, but only 0.0 MB are free: make room there" in said.err
    assert not out.exists()
    with Bag(bags[0]) as bag:
        topic = collect_module.choose_image_topic(bag)
        frames, needed = collect_module.estimate(bag, topic, CollectOptions(rate_hz=15.0))
    assert 0.45 * FRAMES < frames < 0.6 * FRAMES and 2_300 < needed / frames < 12_000
    room[0] = 1_800_000
    assert cli.main(command(bags, out)) == 0
    assert "nearly full" in capfd.readouterr().out
