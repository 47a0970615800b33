"""Ground truth that cannot be believed is named and not scored."""

import os
import zlib

import cv2
import numpy as np
import pytest

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.evaluation.received import ReceivedArm

H, W = 24, 32


@pytest.fixture
def path(tmp_path):
    """A recording of three frames with all truth."""
    noise = np.random.default_rng(0)
    with RecordingWriter(tmp_path / "a", Calibration(W, H, 30.0, 30.0, 15.5, 11.5), "png") as out:
        for i in range(3):
            out.add(
                np.full((H, W, 3), 90, np.uint8), i * 10**8, depth=np.full((H, W), 9.0),
                instances=np.ones((H, W), int), dynamic=np.ones((H, W), bool),
                velocity=noise.normal(0, 9, (H, W, 3)), T_world_cam=np.eye(4),
            )  # fmt: skip
    return tmp_path / "a"


def jpeg(image):
    return cv2.imencode(".jpg", image)[1].tobytes()


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def huge():
    """A PNG whose header says 40000 x 40000 pixels."""
    data = bytearray(png(np.ones((H, W), np.uint16)))
    data[16:24] = (40000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("depth", png(np.full((H, W), 9, np.uint8)), "uint8; convert it to a 16-bit PNG"),
        ("depth", jpeg(np.full((H, W), 9, np.uint8)), "uint8; convert it to a 16-bit PNG"),
        ("depth", png(np.full((H, W, 3), 2304, np.uint16)), "3 channels"),
        ("instances", png(np.full((H, W, 3), 1, np.uint8)), "3 channels"),
        ("dynamic", png(np.full((H, W, 3), 255, np.uint8)), "3 channels"),
        ("depth", png(np.full((H, W), 2304, np.uint16))[:-16], "damaged ground-truth PNG"),
        ("depth", huge(), "more pixels than can be read"),
    ],
)
def test_truth_of_another_kind_is_refused_by_name(path, kind, content, says):
    (path / kind / "000001.png").write_bytes(content)
    recording = Recording(path)
    assert getattr(recording, kind)(0).shape == (H, W)
    with pytest.raises(ValueError, match=f"000001.png: .*{says}") as error:
        getattr(recording, kind)(1)
    assert ".cpp" not in str(error.value)


def test_truth_that_is_no_file_does_not_wait_for_ever(path):
    for kind, name in (("depth", "000001.png"), ("velocity", "000001.npz")):
        (path / kind / name).unlink()
        os.mkfifo(path / kind / name)
        with pytest.raises(ValueError, match=f"{name}: damaged"):
            getattr(Recording(path), kind)(1)


def test_velocity_with_any_byte_turned_is_read_or_named(path):
    """What NumPy and zipfile raise on such files is of a dozen types."""
    file = path / "velocity" / "000001.npz"
    whole, recording, refused = file.read_bytes(), Recording(path), 0
    for at in [*range(60), *range(60, len(whole) - 120, 97), *range(len(whole) - 120, len(whole))]:
        data = bytearray(whole)
        data[at] ^= 0xFF
        file.write_bytes(data)
        try:
            recording.velocity(1)
        except ValueError as error:
            refused += 1
            assert "000001.npz: " in str(error) and "pickle" not in str(error)
    assert refused > 50


def test_a_velocity_of_another_shape_is_named(path):
    np.savez(path / "velocity" / "000001.npz", velocity=np.zeros(5))
    with pytest.raises(ValueError, match=r"000001.npz: ground-truth velocity of shape \(5,\)"):
        Recording(path).velocity(1)


def test_received_depth_that_is_damaged_is_named(path, tmp_path):
    file = tmp_path / "000000.npz"
    np.savez_compressed(file, depth=np.random.default_rng(0).random((H, W)), K=np.eye(3))
    data = bytearray(file.read_bytes())
    data[200] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(ValueError, match="000000.npz: damaged depth file"):
        ReceivedArm(tmp_path).depth(Recording(path), 0, (H, W))
    with pytest.raises(FileNotFoundError):
        ReceivedArm(tmp_path).depth(Recording(path), 1, (H, W))


def test_a_pose_without_inverse_is_named(path):
    table = path / "poses.csv"
    head, first, *rest = table.read_text().splitlines()
    for values, refused in (("0.0", True), ("1e300", True), ("nan", False)):
        table.write_text("\n".join([head, first, "1" + f",{values}" * 12, *rest[1:]]))
        if refused:
            with pytest.raises(ValueError, match=r"poses.csv: the pose of frame 1 cannot be inv"):
                Recording(path)
        else:  # that is how an unknown pose may be written
            assert np.isnan(Recording(path).pose(1)).any()
