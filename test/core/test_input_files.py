"""Inputs as they lie about: pipes, links, absurd cameras, files that are something else."""

import json
import os
import zlib

import cv2
import numpy as np
import pytest

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import DamagedImage, Recording, open_recordings
from dyndepth_core.inference.sources import open_sources, unique_names

H, W = 24, 32


def pictures(path, *names):
    path.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(path / name), np.full((H, W, 3), 20 * i, np.uint8))
    return path


def test_only_files_are_images(tmp_path):
    folder = pictures(tmp_path / "a", "5.png", "8.png")
    os.mkfifo(folder / "6.jpg")
    (folder / "7.jpg").mkdir()
    (folder / "9.jpg").symlink_to("nowhere.jpg")
    (folder / "linked.jpg").symlink_to("5.png")
    names = [Recording(folder).image_path(i).name for i in range(3)]
    assert names == ["5.png", "8.png", "linked.jpg"] and len(Recording(folder)) == 3
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "0.jpg")
    with pytest.raises(ValueError, match="b: empty"):
        open_recordings(tmp_path / "b")


@pytest.mark.parametrize("name", ["drive.mcap", "drive/drive_0.db3", "old.bag"])
def test_a_bag_is_no_recording_yet(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    for path in {tmp_path / name, tmp_path / name.partition("/")[0]}:
        with pytest.raises(ValueError, match="a bag; give the folder that `dyndepth collect"):
            open_recordings(path)


def test_an_image_that_cannot_be_read_is_damaged(tmp_path):
    folder = pictures(tmp_path / "a", "0.png", "1.png", "2.png")
    recording = Recording(folder)
    (folder / "1.png").unlink()
    (folder / "1.png").mkdir()
    with pytest.raises(DamagedImage, match=r"1.png: cannot be read \(Is a directory\)"):
        recording.image(1)
    assert [f.image is None for f in open_sources(folder)[0].frames()] == [False, False]


def test_an_image_of_too_many_pixels_is_damaged_in_our_own_words(tmp_path):
    folder = pictures(tmp_path / "a", "0.png", "1.png")
    data = bytearray((folder / "1.png").read_bytes())
    data[16:24] = (40000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (folder / "1.png").write_bytes(data)
    with pytest.raises(DamagedImage, match="1.png: ") as error:
        Recording(folder).image(1)
    assert "more pixels than can be read" in str(error.value) and ".cpp" not in str(error.value)


def test_results_of_images_of_one_stem_have_names_of_their_own(tmp_path):
    folder = pictures(tmp_path / "a", "a.jpg", "a.png", "a.bmp", "b.png")
    frames = list(open_sources(folder)[0].frames())
    assert [f.name for f in frames] == ["a.bmp", "a.jpg", "a.png", "b"]
    paths = [tmp_path / name for name in ("a.jpg", "a.jpg.png", "a.png")]
    assert unique_names(paths) == ["a.jpg", "a.jpg.png", "a.png"]


@pytest.mark.parametrize("focal", [1e-300, 0.6, 3300.0, 1e200])
def test_no_camera_has_such_a_focal_length(focal):
    for fx, fy in ((focal, 30.0), (30.0, focal)):
        with pytest.raises(ValueError, match="cannot be those of an image of 32x24; give pixels"):
            Calibration(W, H, fx, fy, 15.5, 11.5)
    assert Calibration(W, H, 0.7, 3100.0, 15.5, 11.5).fx == 0.7


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "write an object"),
        (None, "write an object"),
        ({"fx": 30.0}, "lacks width and height"),
        ({"height": H}, "lacks width, in pixels"),
        ({"width": W, "height": H, "fx": 1e200, "fy": 1e200, "cx": 9, "cy": 9}, "focal lengths"),
    ],
)
def test_what_a_calibration_lacks_is_said_in_words(tmp_path, content, says):
    path = tmp_path / "calib.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"calib.json: not a valid .*{says}") as error:
        Calibration.load(path)
    assert "__init__" not in str(error.value)


def test_an_image_too_wide_is_named(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.jpg"), np.zeros((8, 20000, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a/0.jpg: calibration: image size 20000x8"):
        Recording(folder)


@pytest.mark.parametrize(
    ("line", "says"), [(b"\xff\xfe\x80", "is no text"), (b"a 0 " + b"9" * 5000, "line 'a 0 999")]
)
def test_a_damaged_split_is_named(tmp_path, line, says):
    pictures(tmp_path / "a" / "images", "0.png")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test.txt").write_bytes(line)
    with pytest.raises(ValueError, match=f"splits/test.txt: {says}") as error:
        open_recordings(tmp_path, "test")
    assert len(str(error.value)) < 500
