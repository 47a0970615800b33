"""From a bag to a better model on the same vehicle, as the README says it, at the smallest size."""

import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
for package in ("rosbags", "typer", "lightning"):
    pytest.importorskip(package)
sys.path.append(str(Path(__file__).resolve().parents[1] / "core"))
from conftest import save_random_model  # noqa: E402
from node_harness import Camera, NodeProcess, rgb_message  # noqa: E402
from scenes import camera as scene_camera  # noqa: E402
from scenes import drive, write_recording  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from training_helpers import TINY  # noqa: E402

from dyndepth_core import cli  # noqa: E402
from dyndepth_core.data.bag_writer import bag_from_recording  # noqa: E402
from dyndepth_core.data.chain import hash_file  # noqa: E402
from dyndepth_core.data.recording import Recording, open_recordings  # noqa: E402
from dyndepth_core.inference.predictor import Predictor  # noqa: E402
from dyndepth_ros.conversions import camera_info_message, image_to_array  # noqa: E402

FRAMES = 45


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a bag and the model the vehicle drives with; commands run in it."""
    monkeypatch.chdir(tmp_path)
    write_recording(tmp_path / "seen", drive(FRAMES), scene_camera())
    bag_from_recording(Recording("seen"), "drive")
    save_random_model(tmp_path / "old.safetensors")
    return tmp_path


def dyndepth(*words):
    """Run a command, which must succeed."""
    assert cli.main([str(w) for w in words]) == 0


def read(name):
    return json.loads(Path(name).read_text())


def test_from_a_bag_to_a_model_swapped_in_while_frames_flow(home, domain_id):
    dyndepth("doctor", "drive", "--json", "doctor.json")
    (report,) = read("doctor.json")["reports"]
    assert report["verdict"] == "fit with warnings" and report["camera"] == "/camera/image_raw"

    program, *words = shlex.split(report["next"])  # what the doctor says to do next
    assert program == "dyndepth" and words[0] == "collect"
    dyndepth(*words)
    collected = open_recordings("recordings/drive")
    assert sum(map(len, collected)) == FRAMES

    tiny = [word for setting in (*TINY, "train.steps=2") for word in ("--set", setting)]
    tuned = Path("runs/tuned/model.safetensors")
    dyndepth(
        "train", "--method", "monodepth", "--from", "old.safetensors", "--data", "recordings/drive",
        "--out", "runs/tuned", *tiny,
    )  # fmt: skip

    words = ("--model", tuned, "--compare", "old.safetensors", "--data", "recordings/drive")
    dyndepth("evaluate", *words, "--json", "better.json")
    better = read("better.json")
    (pair,) = better["pairs"]
    assert (pair["first"], pair["second"]) == ("tuned", "old") and pair["truth"] is None
    looked_at = sum(block["frames"] for block in better["blocks"])
    assert 3 <= looked_at <= 0.3 * FRAMES  # what the training held out, and nothing else
    assert better["blocks"][-1]["last"] == FRAMES - 1

    dyndepth("info", tuned, "--data", "recordings/drive", "--json", "chain.json")
    chain = read("chain.json")
    (bag_file,) = Path("drive").glob("*.mcap")
    assert chain["chain"][0]["sources"][0]["bags"][0]["files"] == {
        bag_file.name: hash_file(bag_file)
    }
    assert chain["chain"][1]["sha256"] == hash_file(Path("old.safetensors"))
    assert chain["data_check"]["is_its_data"]

    swap(home, domain_id, home / "old.safetensors", home / tuned, collected[0])


def swap(folder, domain_id, old, new, recording):
    """The new model takes over while frames go on being answered."""
    image, K = recording.image(0), recording.calib.K
    info = camera_info_message(Header(), K, image.shape[:2])
    node = NodeProcess(folder, f"model:={old}", "threads:=1", "device:=cpu")
    camera = Camera(domain_id, ("depth",))

    def runs(path):
        depth = image_to_array(camera.ask(rgb_message(image), info=info)["depth"])
        return np.allclose(depth, Predictor(path, device="cpu")(image, K).depth, 1e-3)

    try:
        assert runs(old) and not runs(new)
        assert camera.set(model=str(new))[0].successful
        client = camera.node.create_client(Trigger, "/depth_node/reload_model")
        assert camera.spin_until(client.service_is_ready)
        camera.settle()
        answer, end = client.call_async(Trigger.Request()), time.monotonic() + 120
        while not answer.done():  # frames go on being answered meanwhile
            assert time.monotonic() < end, node.log
            camera.ask(rgb_message(image), info=info)
        assert answer.result().success, answer.result().message
        assert runs(new) and not runs(old)
        assert node.interrupt() == 0 and "Traceback" not in node.log, node.log
    finally:
        camera.close()
        node.kill()
