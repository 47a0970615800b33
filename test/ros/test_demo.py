"""The demo end to end with a tiny model, and what it does when things go wrong."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")
typer = pytest.importorskip("typer")
from demo_process import FRAMES, children_of, output_of, start_demo  # noqa: E402
from listening import PATIENCE  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from dyndepth_core.data.recording import Recording  # noqa: E402
from dyndepth_core.data.transforms import plan_fit  # noqa: E402
from dyndepth_core.evaluation.protocols import get_protocol  # noqa: E402
from dyndepth_core.evaluation.runner import ModelArm, evaluate  # noqa: E402
from dyndepth_core.inference import model_file as files  # noqa: E402
from dyndepth_core.inference.predictor import Predictor  # noqa: E402
from dyndepth_ros import demo, processes  # noqa: E402
from dyndepth_ros.conversions import CloudMessage  # noqa: E402
from dyndepth_ros.demo_recorder import cloud_arrays  # noqa: E402
from dyndepth_ros.processes import wait_until  # noqa: E402


def test_the_whole_chain(model_file, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    if sys.version_info >= (3, 11):  # a script of the user's that has the name of a library
        monkeypatch.chdir(tmp_path)
        for name in ("numpy", "json", "cv2"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
        monkeypatch.setenv("PYTHONSAFEPATH", "1")  # of the command itself: it is no script
    process = start_demo(out, "--frames", FRAMES, "--seed", 1001, "--model", model_file)
    text = output_of(process)
    assert process.returncode == 0, text
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_out"], summary["dropped"]) == (FRAMES, FRAMES, 0)
    latency = summary["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert summary["seed"] == 1001 and summary["model"] == str(model_file)
    assert 0 < summary["points_per_cloud"] <= 64 * 96
    assert "motion" not in summary and "motion against" not in text  # this model tells none
    recording = Recording(out / "recording")
    assert len(recording) == FRAMES and recording.dynamic(0) is not None
    assert recording.velocity(0) is None and recording.instances(0) is None
    assert np.diff(recording.stamps_ns).tolist() == [10**8] * (FRAMES - 1)
    # What went through ROS scores as the same model does without it, up to the JPEG of the record.
    arms = {"model": ModelArm(Predictor(model_file))}
    direct = evaluate([recording], arms, get_protocol("native")).table()["model"]
    assert summary["abs_rel"]["all"] == pytest.approx(direct["all"]["abs_rel"], rel=0.03)
    assert summary["abs_rel"]["static"] == pytest.approx(direct["static"]["abs_rel"], rel=0.03)
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape[0] > 4 * 390 and sheet.std() > 20
    film = cv2.VideoCapture(str(next(out.glob("film.*"))))
    assert sum(film.read()[0] for _ in range(FRAMES + 3)) == FRAMES
    live = "depth.launch.py" if shutil.which("ros2") else "depth_node --ros-args"
    for name in ("contact_sheet.png", "summary.json", live):
        assert name in text
    assert not (out / "received").exists() and not children_of(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_survives_the_demo(model_file, tmp_path, number):
    process = start_demo(tmp_path / "demo", "--frames", 5000, "--model", model_file)
    end = time.monotonic() + 2 * PATIENCE
    received = tmp_path / "demo" / "received"
    while not list(received.glob("000*.npz")):
        if time.monotonic() > end:
            process.kill()  # its output would not end
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    assert len(children_of(tmp_path / "demo")) == 3
    process.send_signal(number)
    if number == signal.SIGINT:
        time.sleep(0.2)
        process.send_signal(number)  # an impatient user
    text = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), text
    wait_until(lambda: not children_of(tmp_path / "demo"), PATIENCE)
    left = children_of(tmp_path / "demo")
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(demo.command)
    return lambda *words: CliRunner().invoke(app, [str(w) for w in words])


def test_without_a_bundled_model_one_clear_error(tmp_path, run, monkeypatch):
    monkeypatch.setitem(files.BUNDLED, "motion", tmp_path / "none.safetensors")
    done = run("--out", tmp_path / "demo")
    assert isinstance(done.exception, ValueError) and "--model" in str(done.exception)
    assert not (tmp_path / "demo").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path, run, model_file):
    (tmp_path / "thesis.tex").write_text("precious")
    done = run("--out", tmp_path, "--model", model_file)
    assert isinstance(done.exception, ValueError) and "thesis.tex" in str(done.exception)


def test_a_world_the_model_knows_is_refused(model_file):
    meta = files.read_meta(model_file)
    assert "does not say" in demo.check_seed(1000, meta)
    known = meta.model_copy(deep=True)
    known.provenance = files.Provenance(world_seeds=[3, 4, 5])
    assert "not among" in demo.check_seed(1000, known)
    with pytest.raises(ValueError, match="trained on this world.*above 5"):
        demo.check_seed(4, known)


@pytest.mark.parametrize("model_size", [(128, 416), (64, 96), (192, 640), (256, 256)])
def test_the_camera_has_the_shape_of_the_model(model_size):
    size = demo.camera_size(model_size)
    fit = plan_fit(size, model_size)
    assert fit.valid == (slice(0, model_size[0]), slice(0, model_size[1]))
    assert fit.crop[1] == 0 and fit.crop[3] == size[1] and fit.crop[2] >= size[0] - 1
    assert 0.97 < size[0] * size[1] / demo.CAMERA_PIXELS < 1.03


def test_a_process_that_dies_is_reported_with_its_log(tmp_path, domain_id):
    with processes.Processes(tmp_path, processes.isolated_environment(domain_id)) as children:
        children.start("replay", "dyndepth_ros.bag_replay_node")
        assert wait_until(lambda: not children.running("replay"), PATIENCE)
        with pytest.raises(ValueError, match="(?s)replay ended with exit code 1.*bag is empty"):
            children.check(may_end=("replay",))


def test_words_reach_a_process_whatever_is_in_them():
    for value in ("it's here", "a: b", "true", "7", "o'brien's"):
        assert yaml.safe_load(processes._yaml(value)) == value
    assert yaml.safe_load(processes._yaml(2.0)) == 2.0 and processes._yaml(True) == "true"


def test_demos_at_the_same_time_use_different_domains(monkeypatch):
    with processes.own_domain() as first, processes.own_domain() as second:
        assert first != second and {first, second} <= set(processes.DOMAINS)
    monkeypatch.setenv("ROS_STATIC_PEERS", "robot")
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    for name in processes.PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert set(processes.PROFILE_VARIABLES) <= processes.isolated_environment(first).keys()
    monkeypatch.delenv("ROS_DISTRO")
    env = processes.isolated_environment(first)
    assert processes.PROFILE_VARIABLES[1] not in env  # Kilted warns about the old name
    assert env["ROS_DOMAIN_ID"] == str(first) and "ROS_STATIC_PEERS" not in env
    assert env["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert Path(env["FASTDDS_DEFAULT_PROFILES_FILE"]).is_file()
    assert os.environ["ROS_DOMAIN_ID"] == "7"


def test_without_room_for_large_images_processes_go_without_their_profile_and_say_so(
    monkeypatch, caplog
):
    for name in processes.PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes, "SHARED_MEMORY", 1 << 60)
    env = processes.isolated_environment(7)
    assert not set(processes.PROFILE_VARIABLES) & env.keys()
    assert "fastdds.xml is not used: /dev/shm has" in caplog.text and "shm-size" in caplog.text
    monkeypatch.setenv(processes.PROFILE_VARIABLES[0], "/mine.xml")
    caplog.clear()
    assert processes.isolated_environment(7)[processes.PROFILE_VARIABLES[0]] == "/mine.xml"
    assert not caplog.text


def test_a_cloud_is_read_as_it_was_written():
    cloud = CloudMessage()
    points = cloud.points(Header(), 2, 3)
    points[..., :3] = np.arange(18).reshape(2, 3, 3)
    colors = np.arange(18, dtype=np.uint32).reshape(2, 3, 3)
    packed = (colors[..., 0] << 16) | (colors[..., 1] << 8) | colors[..., 2]
    points[..., 3] = packed.astype(np.uint32).view(np.float32)
    points[1, 1, :3] = np.nan
    xyz, rgb = cloud_arrays(cloud.message)
    keep = np.arange(6) != 4
    assert (xyz == np.arange(18).reshape(6, 3)[keep]).all()
    assert (rgb == colors.reshape(6, 3)[keep]).all()


def test_a_folder_of_the_users_own_is_never_emptied(tmp_path):
    """Though its folders are called as those of a demo are."""
    (tmp_path / "recording").mkdir()
    precious = tmp_path / "recording" / "precious.txt"
    precious.write_text("mine")
    with pytest.raises(ValueError, match="not of an earlier demo"):
        demo.prepare(tmp_path)
    assert precious.read_text() == "mine"
    demo.prepare(tmp_path / "new")
    (tmp_path / "new" / "logs").mkdir()
    (tmp_path / "new" / "summary.json").write_text("old")
    demo.prepare(tmp_path / "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == [demo.MARK]
