"""What `dyndepth predict` leaves: whole files or none, and a word where there is no depth."""

import contextlib
import json
import resource

import cv2
import numpy as np
import pytest
import typer
from small_model import FOCAL, SIZE, picture, save_small_model
from typer.testing import CliRunner

from dyndepth_core.cli import guarded
from dyndepth_core.commands.predict import command
from dyndepth_core.inference.depth_files import DepthFiles, SideBySide

APP = typer.Typer()
APP.command()(guarded(command))


def predict(folder, *options):
    """Exit code, what was said and the output folder of a run over three pictures."""
    images, model, out = folder / "images", folder / "m.safetensors", folder / "out"
    images.mkdir()
    for i in range(3):
        cv2.imwrite(str(images / f"{i}.png"), picture(SIZE, i))
    save_small_model(model)
    words = [images, "--out", out, "--model", model, "--device", "cpu", *options]
    result = CliRunner().invoke(APP, [str(w) for w in words])
    return result.exit_code, " ".join(result.output.split()), out


@contextlib.contextmanager
def full_disk():
    """No file of this process may grow beyond 40 bytes: writing fails in the middle, for real."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_a_full_disk_leaves_no_half_file_and_is_named(tmp_path, kind):
    files = DepthFiles(tmp_path, kind, None)
    files.write("0", np.ones(SIZE), np.eye(3))
    with pytest.raises(OSError, match=rf"1\.{kind}"), full_disk():
        files.write("1", np.ones(SIZE), np.eye(3))
    assert [p.name for p in tmp_path.iterdir()] == [f"0.{kind}"]


def test_the_video_has_its_name_only_when_it_is_whole(tmp_path):
    video = SideBySide(tmp_path / "color", 10)
    video.add(picture(SIZE), picture(SIZE))
    assert not list(tmp_path.glob("color*"))
    video.close()
    assert list(tmp_path.iterdir()) == [video.path]


def test_calibration_and_summary_are_written_at_once(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "dyndepth_core.inference.batch.write_atomically", lambda p, _: written.append(p.name)
    )
    assert predict(tmp_path)[0] == 0
    assert written == ["calib.json", "summary.json"]


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_a_source_without_any_depth_is_said_aloud(tmp_path, kind):
    code, said, out = predict(tmp_path, "--max-range", 0.001, "--format", kind)
    assert code == 0 and "warning: no pixel of images has a depth" in said
    assert json.loads((out / "summary.json").read_text())["empty"] is True


def test_a_source_with_depth_is_not(tmp_path):
    code, said, out = predict(tmp_path)
    summary = json.loads((out / "summary.json").read_text())
    assert code == 0 and "warning" not in said and summary["empty"] is False
    assert summary["K"][0][0] == pytest.approx(FOCAL)
