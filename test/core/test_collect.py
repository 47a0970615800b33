"""A bag becomes a recording that can be trained on: the right frames and K, no silent loss."""

import json

import numpy as np
import pytest

pytest.importorskip("rosbags")
typer = pytest.importorskip("typer")
from typer.testing import CliRunner  # noqa: E402

from dyndepth_core import cli  # noqa: E402
from dyndepth_core.commands import collect as collect_command  # noqa: E402
from dyndepth_core.data.bag import Bag  # noqa: E402
from dyndepth_core.data.bag_writer import bag_from_recording  # noqa: E402
from dyndepth_core.data.calibration import Calibration  # noqa: E402
from dyndepth_core.data.collect import CollectOptions, RateLimit, collect_bag  # noqa: E402
from dyndepth_core.data.collect_units import sha256  # noqa: E402
from dyndepth_core.data.recording import Recording, open_recordings  # noqa: E402
from dyndepth_core.data.writer import RecordingWriter, manifest_hash  # noqa: E402

START = 10**18
LENS = {"model": "plumb_bob", "coeffs": [-0.2, 0.03, 0.0, 0.0, 0.0]}


def recording(path, stamps_s, calib=None, odometry=True):
    """A recording whose frame i is uniformly of brightness 10 + i."""
    calib = calib or Calibration(96, 64, 80, 81, 47, 31)
    with RecordingWriter(path, calib, "png") as writer:
        for i, stamp in enumerate(stamps_s):
            motion = dict(tx=stamp, ty=0, tz=0, qx=0, qy=0, qz=0, qw=1, speed=i, yaw_rate=0)
            image = np.full((calib.height, calib.width, 3), 10 + i, np.uint8)
            writer.add(image, START + round(stamp * 1e9), odometry=motion if odometry else None)
    return Recording(path)


def collect(tmp_path, source, **options):
    bag_path = bag_from_recording(source, tmp_path / "bag")
    with Bag(bag_path) as bag:
        report = collect_bag(bag, tmp_path / "out", "drive", CollectOptions(**options))
    found = open_recordings(tmp_path / "out") if report.kept else []
    assert report.frames_in == report.kept + sum(report.dropped.values())
    assert report.kept == sum(len(r) for r in found)
    return report, found


def brightness(found: Recording) -> list[int]:
    return [round(float(found.image(i).mean())) - 10 for i in range(len(found))]


def seconds(found: Recording) -> list[float]:
    return [round((int(s) - START) / 1e9, 3) for s in found.stamps_ns]


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(30, [k / 30 for k in range(1, 31)]), (10, [k / 10 for k in range(1, 11)]), (7.5, None)],
)
def test_rate_by_stamp_keeps_the_grid(rate, expected):
    limit = RateLimit(10.0)
    jitter = np.random.default_rng(0).normal(0, 2e-3, 900)
    stamps = [k / rate + e for k, e in enumerate(jitter)]
    kept = [s for s in stamps if limit.accepts(round(s * 1e9))]
    mean_rate = (len(kept) - 1) / (kept[-1] - kept[0])
    assert mean_rate == pytest.approx(min(rate, 10), rel=0.01)
    if rate >= 10:
        assert np.ptp(np.diff(kept)) < 0.05


def test_thirty_hertz_to_ten(tmp_path):
    report, (found,) = collect(tmp_path, recording(tmp_path / "rec", [k / 30 for k in range(31)]))
    assert seconds(found) == [k / 10 for k in range(11)]
    assert brightness(found) == list(range(0, 31, 3))
    assert report.dropped == {"rate": 20}
    assert found.odometry(2)["tx"] == pytest.approx(0.2) and found.odometry(2)["speed"] == 6
    assert (found.calib.K == Recording(tmp_path / "rec").calib.K).all()


def test_all_frames_and_jumps_in_the_stamps(tmp_path):
    run = [k / 10 for k in range(6)]
    stamps = [*run, *(5 + s for s in run), 4.0, *(20 + s for s in run), *(1 + s for s in run)]
    report, found = collect(tmp_path, recording(tmp_path / "rec", stamps), rate_hz=0)
    assert [seconds(r)[0] for r in found] == [0, 5, 20, 1]  # a gap, a gap, the bag's loop
    assert [len(r) for r in found] == [6, 6, 6, 6]
    assert report.dropped == {"sequence_too_short": 1}
    assert [s["name"] for s in report.sequences] == [f"drive_{k:03d}" for k in range(4)]


def test_repeated_and_late_frames_are_left_out(tmp_path):
    source = recording(tmp_path / "rec", [0, 0.1, 0.1, 0.2, 0.15, 0.3, 0.4])
    report, (found,) = collect(tmp_path, source)
    assert brightness(found) == [0, 1, 3, 5, 6]
    assert report.dropped == {"stamp_repeated": 1, "stamp_backwards": 1}


def test_resize_carries_K_and_never_stretches(tmp_path):
    source = recording(tmp_path / "rec", [0, 0.1, 0.2, 0.3])
    report, (found,) = collect(tmp_path, source, size=(32, 64))
    assert found.image(0).shape == (32, 64, 3)
    # width 96 -> 64; rows 8 to 55 around the principal point, 48 -> 32
    assert found.calib.fx == pytest.approx(80 * 2 / 3) and found.calib.fy == pytest.approx(54)
    assert found.calib.cx == pytest.approx(47.5 * 2 / 3 - 0.5)
    assert found.calib.cy == pytest.approx((31 - 8 + 0.5) * 2 / 3 - 0.5)
    with pytest.raises(ValueError, match="does not fill it; use 64x96"):
        (tmp_path / "again").mkdir()
        collect(tmp_path / "again", source, size=(96, 96))


def test_distortion_is_removed(tmp_path):
    calib = Calibration(96, 64, 80, 81, 47, 31, LENS, False)
    report, (found,) = collect(tmp_path, recording(tmp_path / "rec", [0, 0.1, 0.2], calib))
    assert found.calib.rectified and found.calib.distortion is None
    assert found.calib.fx < 80 and "plumb_bob removed" in found.calib.source


def test_unknown_intrinsics_and_no_odometry(tmp_path, caplog):
    source = recording(tmp_path / "rec", [0, 0.1, 0.2], Calibration(96, 64), odometry=False)
    report, (found,) = collect(tmp_path, source)
    assert found.calib.K is None and report.calibration.startswith("unknown")
    assert found.odometry(0) is None and report.odom_topic is None
    assert "unknown intrinsics" in caplog.text


def test_mixed_resolutions_and_undecodable_frames(tmp_path):
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer

    small = Calibration(48, 32, 40, 40, 23, 15)
    first = bag_from_recording(
        recording(tmp_path / "a", [k / 10 for k in range(8)]), tmp_path / "b"
    )
    other = bag_from_recording(
        recording(tmp_path / "c", [0.8, 0.9], small), tmp_path / "d", namespace="/camera"
    )
    with Writer(tmp_path / "mixed", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        topics = {}
        for path in (first, other):
            with Reader(path) as reader:
                for connection, stamp, data in reader.messages():
                    name = connection.topic
                    if name not in topics:
                        topics[name] = writer.add_connection(
                            name, connection.msgtype,
                            msgdef=connection.msgdef.data, rihs01=connection.digest,
                        )  # fmt: skip
                    if name.endswith("image_raw") and stamp == START + 3 * 10**8:
                        data = bytes(data).replace(b"rgb8", b"rgb9")
                    writer.write(topics[name], stamp, data)
    with Bag(tmp_path / "mixed") as bag:
        report = collect_bag(bag, tmp_path / "out", "drive", CollectOptions())
    assert report.dropped == {"undecodable": 1, "resolution": 2} and report.kept == 7


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rate_hz": -1.0}, "rate -1"),
        ({"rate_hz": float("nan")}, "rate nan"),
        ({"size": (0, 64)}, "size 0x64"),
        ({"max_gap_s": float("nan")}, "max gap nan"),
        ({"max_gap_s": 0.0}, "max gap 0"),
        ({"max_gap_s": -1.0}, "max gap -1"),
    ],
)
def test_bad_options(options, reason):
    with pytest.raises(ValueError, match=reason):
        CollectOptions(**options)


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(collect_command.command)
    return lambda *words: CliRunner().invoke(app, [str(w) for w in words])


def test_the_command_leaves_a_manifest_that_names_every_file_and_its_bag(tmp_path, run):
    source = recording(tmp_path / "rec", [k / 30 for k in range(31)])
    one = bag_from_recording(source, tmp_path / "x" / "drive", "sqlite3")
    two = bag_from_recording(source, tmp_path / "y" / "drive", "mcap")
    file = next(two.glob("*.mcap"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    done = run(one, two, "--out", out, "--size", "32x64", "--json", tmp_path / "counts.json")
    assert done.exit_code == 0, done.output
    manifest = json.loads((out / "manifest.json").read_text())
    first, second = manifest["bags"]
    assert [first["name"], second["name"]] == ["drive", "drive-2"]
    assert first["kept"] == 11 and first["dropped"] == {"rate": 20} and not first["problems"]
    assert 3 <= second["kept"] <= 6 and str(file) in second["problems"][0]
    assert second["bag_files"] == {file.name: sha256(file)}
    assert manifest["frames"] == first["kept"] + second["kept"]
    assert manifest["parameters"]["size"] == [32, 64] and not manifest["interrupted"]
    for name, digest in manifest["files"].items():
        assert sha256(out / name) == digest
    # calib.json and frames.csv of both, the contact sheet
    assert len(manifest["files"]) == manifest["frames"] + 5
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts == {k: v for k, v in manifest.items() if k != "files"}
    assert len(manifest_hash(out)) == 64
    again = run(one, "--out", out)
    assert again.exit_code != 0 and "not empty" in str(again.exception)
    assert not list(out.rglob("*.part"))


def test_the_same_bag_gives_the_same_tree(tmp_path, run):
    bag = bag_from_recording(
        recording(tmp_path / "rec", [k / 10 for k in range(9)]), tmp_path / "b"
    )
    for name in ("one", "two"):
        assert run(bag, "--out", tmp_path / name).exit_code == 0
    assert manifest_hash(tmp_path / "one") == manifest_hash(tmp_path / "two")


def test_ctrl_c_leaves_what_was_collected(tmp_path, capfd, monkeypatch):
    bag = bag_from_recording(
        recording(tmp_path / "rec", [k / 10 for k in range(20)]), tmp_path / "b"
    )
    real, calls = RecordingWriter.add, []

    def add(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        real(self, *args, **kwargs)

    monkeypatch.setattr(RecordingWriter, "add", add)
    assert cli.main(["collect", str(bag), "--out", str(tmp_path / "out")]) == cli.INTERRUPTED
    assert "stopped: what was collected so far is complete" in capfd.readouterr().err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (found,) = open_recordings(tmp_path / "out")
    assert len(found) == 7 == manifest["frames"] and manifest["interrupted"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--size", "wide"], "--size wide.*192x640"),
        (["--image-topic", "/rear/image"], "/rear/image is not in the bag"),
        (["--camera-info-topic", "/rear/info"], "no camera_info on /rear/info"),
        (["--odom-topic", "/wheels"], "no odometry on /wheels"),
        (["--crop", "10"], "--crop 10: give top,bottom,left,right"),
        (["--crop", "40,0,0,0"], "crop 40,0,0,0: leaves 24x96 of an image of 64x96"),
        (["--shard", "3"], "--shard 3: give i/n"),
        (["--shard", "3/2"], "shard 3/2: give i/n with 1 <= i <= n"),
        (["--start", "2", "--end", "1"], "end 1.0 s: must come after the start"),
        (["--stamp", "gps"], "stamp 'gps': use one of header, bag"),
        (["--image-topic", "all", "--camera-info-topic", "/x"], "is for one camera"),
    ],
)
def test_bad_arguments_name_the_remedy(tmp_path, run, words, reason):
    bag = bag_from_recording(recording(tmp_path / "rec", [0, 0.1, 0.2]), tmp_path / "b")
    done = run(bag, "--out", tmp_path / "out", *words)
    assert isinstance(done.exception, ValueError)
    with pytest.raises(ValueError, match=reason):
        raise done.exception
