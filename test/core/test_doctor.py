"""The doctor names what is wrong, and only that: every fault planted, a sound drive passed."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")
typer = pytest.importorskip("typer")
import camera_bags as cb  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from dyndepth_core.commands import doctor as doctor_command  # noqa: E402
from dyndepth_core.data import bag_sample, doctor  # noqa: E402
from dyndepth_core.data.bag_writer import bag_from_recording  # noqa: E402
from dyndepth_core.data.calibration import Calibration  # noqa: E402
from dyndepth_core.data.checks import check_camera, check_odometry, check_stamps  # noqa: E402
from dyndepth_core.data.image_checks import ImageSample  # noqa: E402
from dyndepth_core.data.recording import ODOMETRY_KEYS, Recording  # noqa: E402
from dyndepth_core.data.writer import RecordingWriter  # noqa: E402

START, H, W = 10**18, 64, 96
CALIB = Calibration(W, H, 80, 80, 47, 31)


def texture(seed=0, width=2000):
    noise = np.random.default_rng(seed).uniform(0, 255, (H, width, 3)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 1.5) * 3 - 255  # contrast lost by the blur


def picture(strip, i, bonnet=0):
    """Frame i of a camera that moves sideways; its lowest rows may belong to the vehicle."""
    image = strip[:, 7 * i : 7 * i + W].clip(0, 255).astype(np.uint8)
    if bonnet:
        image[-bonnet:] = 90
    return image


def drive(path, stamps, calib=CALIB, speed_unit=1.0, odometry=True, **options):
    """10 m/s along x, as the poses say; speed in any unit."""
    strip = texture()
    with RecordingWriter(path, calib, "png") as writer:
        for i, s in enumerate(stamps):
            motion = dict(tx=10 * s, ty=0, tz=0, qx=0, qy=0, qz=0, qw=1, yaw_rate=0)
            motion["speed"] = 10 * speed_unit
            image = picture(strip, i, **options)
            writer.add(image, START + round(s * 1e9), odometry=motion if odometry else None)
    return Recording(path)


def texts(findings, *levels):
    return [f"{f.about}: {f.text}" for f in findings if f.level in (levels or ("warning", "fault"))]


def test_a_sound_drive_lacks_nothing_but_minutes(tmp_path):
    source = drive(tmp_path / "a", [k / 10 for k in range(120)])
    for path in (source.path, bag_from_recording(source, tmp_path / "bag")):
        (report,) = doctor.examine(path)
        assert report.verdict == "fit with warnings", texts(report.findings)
        assert len(texts(report.findings)) == 1 and "12 s in motion" in texts(report.findings)[0]
        assert report.rate_hz == pytest.approx(10) and report.minutes == pytest.approx(11.9 / 60)
    assert report.next == f"dyndepth collect {tmp_path}/bag --out recordings/bag"
    assert {round(t["rate_hz"], 2) for t in report.topics} == {10.0}
    (report,) = doctor.examine(source.path)
    words = "dyndepth train --from motion --data"
    assert report.next == f"{words} {source.path} --out runs/a --set train.minutes=45"


def test_a_root_of_one_recording_is_trained_on_by_its_own_name(tmp_path):
    drive(tmp_path / "root" / "one_000", [k / 10 for k in range(30)])
    (report,) = doctor.examine(tmp_path / "root")
    words = "dyndepth train --from motion --data"
    assert report.next == f"{words} {tmp_path}/root --out runs/root --set train.minutes=45"


def test_damaged_images_of_a_recording_are_named(tmp_path):
    source = drive(tmp_path / "a", [k / 10 for k in range(60)])
    source.image_path(30).write_bytes(b"no image")
    (report,) = doctor.examine(source.path)
    said = texts(report.findings)
    assert report.verdict == "fit with warnings"
    assert any("damaged: " in t and "000030.png" in t for t in said), said
    for i in range(0, 60, 2):
        source.image_path(i).write_bytes(b"no image")
    (report,) = doctor.examine(source.path)
    assert report.verdict == "not fit"


def test_a_bag_with_every_fault(tmp_path):
    stamps = [k / 10 for k in range(60)]
    stamps[20:] = [s + 5 for s in stamps[20:]]  # a gap
    stamps[30] = stamps[29]
    stamps[40] = stamps[39] - 0.05
    source = drive(tmp_path / "a", stamps, Calibration(W, H, 12, 12, 5, 31), 3.6, bonnet=12)
    bag = bag_from_recording(source, tmp_path / "bag")
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-3000])
    (report,) = doctor.examine(bag)
    assert report.verdict == "not fit"
    said = "\n".join(texts(report.findings))
    for part in (
        "km/h taken for m/s", "the same stamp twice: 1", "steps back in time: 1",
        "1 gaps over 1 s, the longest 5.1 s", "0.12 image sides", "cx = 5.0 lies 45% of the side",
        "lowest 19% of the rows never change", "damage: ",
    ):  # fmt: skip
        assert part in said, said
    assert report.next.endswith("--crop 0,0.20,0,0")


def merged(path, *bags):
    """One bag with the messages of several."""
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer

    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {}
        for bag in bags:
            with Reader(bag) as reader:
                for connection, stamp, data in reader.messages():
                    name = connection.topic
                    if name not in topics:
                        topics[name] = writer.add_connection(
                            name, connection.msgtype,
                            msgdef=connection.msgdef.data, rihs01=connection.digest,
                        )  # fmt: skip
                    writer.write(topics[name], stamp, data)
    return path


def test_two_cameras_and_one_without_calibration(tmp_path):
    one = bag_from_recording(drive(tmp_path / "a", [k / 10 for k in range(30)]), tmp_path / "x")
    blind = drive(tmp_path / "b", [k / 10 for k in range(20)], Calibration(W, H), odometry=False)
    two = bag_from_recording(blind, tmp_path / "y", namespace="/rear")
    both = merged(tmp_path / "both", one, two)
    (report,) = doctor.examine(both)
    assert len(report.cameras) == 2 and report.camera == "/camera/image_raw"
    assert any("several cameras" in t for t in texts(report.findings))
    assert report.next.endswith("--image-topic /camera/image_raw")
    (report,) = doctor.examine(both, "/rear/image_raw")
    said = texts(report.findings)
    assert any("no camera_info beside it" in t for t in said), said
    assert report.camera == "/rear/image_raw" and "--image-topic /rear" in report.next
    with pytest.raises(ValueError, match="no camera images on /left; it has:"):
        doctor.examine(both, "/left")


def test_a_large_bag_is_sampled(tmp_path, monkeypatch):
    source = drive(tmp_path / "a", [k / 10 for k in range(240)])
    bag = bag_from_recording(source, tmp_path / "bag")
    (whole,) = doctor.examine(bag)
    monkeypatch.setattr(bag_sample, "WHOLE", 100)
    monkeypatch.setattr(bag_sample, "SLICES", 5)
    read = []
    real = bag_sample.Bag.messages
    monkeypatch.setattr(
        bag_sample.Bag, "messages", lambda self, *a: (read.append(m) or m for m in real(self, *a))
    )
    (part,) = doctor.examine(bag)
    assert part.sampled and not whole.sampled
    cameras = sum(m.topic == "/camera/image_raw" for m in read)
    assert 5 * 20 <= cameras <= 5 * 21 + bag_sample.PAIRS  # five pieces of two seconds
    assert part.rate_hz == whole.rate_hz and part.moving_minutes == whole.moving_minutes


def test_a_standing_camera_and_a_folder_of_images(tmp_path):
    strip = texture()
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        cv2.imwrite(str(folder / f"{i:03d}.png"), picture(strip, 5 if i else 0))
    (report,) = doctor.examine(folder)
    said = texts(report.findings)
    assert report.verdict == "not fit" and any("2 s, of these 0 s in motion" in t for t in said), (
        said
    )
    assert any("repeats of the frame before: 18 of 19" in t for t in said), said
    assert "--intrinsics video" in report.next


def test_light_blur_and_sizes():
    strip = texture()
    good = [picture(strip, i) for i in range(40)]
    assert not texts(_seen(good))
    assert "too dark" in texts(_seen([(g // 12).astype(np.uint8) for g in good]))[0]
    assert "overexposed" in texts(_seen([g // 12 + 240 for g in good]))[0]
    blurred = [cv2.GaussianBlur(g, (0, 0), 4) if i % 4 == 0 else g for i, g in enumerate(good)]
    assert "blurred: 10 of" in texts(_seen(blurred))[0]
    assert "resolution changes: 96x64, 48x32" in texts(_seen([*good, good[0][::2, ::2].copy()]))[0]
    assert "images: none can be read" in texts(_seen([]))[0]


def _seen(images):
    sample = ImageSample()
    for first, second in zip(images[::2], [*images[1::2], None], strict=False):
        sample.pair(first, second)
    return sample.findings()


def odometry(velocity=(10, 0, 0), speed=10.0, rate=0.1, turn=0.1, poses=True):
    """One segment at 10 Hz on a circle; velocity in the axes of the base."""
    t = np.arange(60) * 0.1
    a = turn * t
    cos, sin = np.cos(a), np.sin(a)
    vx, vy, _ = velocity
    steps = np.stack((cos * vx - sin * vy, sin * vx + cos * vy), 1) * 0.1
    table = np.full((60, len(ODOMETRY_KEYS)), np.nan)
    if poses:
        table[:, :2], table[:, 2:6] = np.cumsum(steps, 0), 0
        table[:, 5], table[:, 6] = np.sin(a / 2), np.cos(a / 2)
    table[:, 7], table[:, 8] = speed, rate
    return [(t * 1e9).astype(np.int64)], [table]


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, "good", "poses, moving 100% of the time, up to 10"),
        ({"speed": 36.0}, "fault", "speed is 3.60 times that of the poses: km/h taken for m/s"),
        ({"speed": 22.37}, "fault", "mph taken for m/s"),
        ({"speed": 15.0}, "warning", "speed is 1.50 times that of the poses"),
        ({"speed": 110.0, "poses": False}, "fault", "speeds up to 110 m/s"),
        ({"rate": 5.73}, "fault", "degrees taken for radians"),
        ({"velocity": (0, 10, 0)}, "warning", "across its own x axis"),
        ({"velocity": (-10, 0, 0)}, "good", "moving 100%"),
        ({"velocity": (0, 0, 0), "speed": 0.0}, "good", "moving 0%"),
    ],
)
def test_units_and_axes_of_odometry(changes, level, says):
    _, found = check_odometry(*odometry(**changes))
    assert any(says in t for t in texts(found, level)), found
    bad = texts(found)
    assert len(bad) == (level != "good"), bad


def test_stamps_against_the_clock_of_the_recorder():
    stamps = np.arange(50) * 10**8 + START
    assert not texts(check_stamps([stamps], [stamps + 10**7])[1])
    assert "recorded +2.00 s after" in texts(check_stamps([stamps], [stamps + 2 * 10**9])[1])[0]
    wild = stamps + (np.arange(50) % 2) * 10**9
    assert "0" in texts(check_stamps([stamps], [wild])[1])[0]
    rate, found = check_stamps([np.delete(stamps, np.arange(5, 50, 5))])
    assert rate == pytest.approx(10) and "frames are missing" in texts(found)[0]
    assert check_stamps([stamps[:1]])[1][0].level == "fault"


@pytest.mark.parametrize(
    ("unset", "says"), [(30, "the driver sets no stamps: those"), (3, "3 frames have no stamp")]
)
def test_a_driver_that_sets_no_stamps_is_named(tmp_path, unset, says):
    messages = []
    for i, rgb in enumerate(cb.drive(30)):
        bag_ns = cb.START + i * cb.STEP
        messages.append(("/cam/image_raw", cb.image(rgb, "rgb8", (i >= unset) * bag_ns), bag_ns))
    (report,) = doctor.examine(cb.write(tmp_path / "bag", messages))
    assert report.rate_hz == pytest.approx(10)
    assert any(says in text for text in texts(report.findings, "warning"))


@pytest.mark.parametrize(
    ("calib", "says"),
    [
        (Calibration(W, H, 80, 100, 47, 31), "fx and fy differ by 20%"),
        (Calibration(W, H, 500, 500, 47, 31), "fx is 5.21 image sides"),
        (Calibration(640, 480, 500, 500, 320, 240), "it is for 640x480, the images are 96x64"),
        (Calibration(W, H), "focal length unknown"),
    ],
)
def test_calibrations_that_cannot_be_right(calib, says):
    assert says in texts(check_camera(calib, (H, W)))[0]


def test_the_command_and_its_exit_codes(tmp_path):
    app = typer.Typer()
    app.command()(doctor_command.command)

    def run(*words):
        return CliRunner().invoke(app, [str(w) for w in words])

    for name in ("one", "two"):
        drive(tmp_path / "root" / name, [k / 10 for k in range(50)])
    out = tmp_path / "doctor.json"
    done = run(tmp_path / "root", "--json", out)
    assert done.exit_code == 0, done.output
    content = json.loads(out.read_text())
    assert content["verdict"] == "fit with warnings"
    kinds = [(r["kind"], r["verdict"]) for r in content["reports"]]
    assert kinds == [("recording", "fit"), ("recording", "fit"), ("root", "fit with warnings")]
    assert "10 s, of these 10 s in motion" in done.output
    assert f"train --from motion --data {tmp_path / 'root'}" in done.output.replace("\n", "")
    drive(tmp_path / "root" / "bad", [k / 10 for k in range(30)], speed_unit=3.6)
    assert run(tmp_path / "root").exit_code == doctor_command.NOT_FIT
    absent = run(tmp_path / "none")
    assert isinstance(absent.exception, FileNotFoundError)
