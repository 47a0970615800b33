"""Learned cameras: where point tracks let a training begin and hold it, and what it leaves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import camera, drive, write_recording
from training_helpers import DATA, TINY, make_recording, source

from dyndepth_core.config import load
from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.networks.pose_net import VideoIntrinsics
from dyndepth_core.training import track_cameras as glue
from dyndepth_core.training.run import train_run
from dyndepth_core.training.track_cameras import FILE, TrackCamera, begin_at

KNOWN = TrackCamera("drive", (70.0, 72.0, 46.0, 33.0), (0.02, 0.01, 1.0, 0.5), 9)
FAST = (*TINY, "data.intrinsics=video", "train.device=cpu", "objective.intrinsics_lr_factor=500")


def recording(folder, size=(64, 96)):
    write_recording(folder / "drive", drive(8), camera(size=size), known=False, size=size)
    return folder


def test_the_learned_camera_begins_where_the_tracks_say_and_mirrors():
    net = VideoIntrinsics(2, (64, 96))
    K = torch.tensor([[70.0, 0, 46], [0, 72, 33], [0, 0, 1]], dtype=torch.float64)
    net.start(1, K, torch.tensor([0.02, 0.01, 1.0, 0.5], dtype=torch.float64))
    both = net(torch.tensor([1, 1, 0]), torch.tensor([False, True, False]))
    torch.testing.assert_close(both[0], K.float())
    mirrored = torch.tensor([[70.0, 0, 49], [0, 72, 33], [0, 0, 1]])
    torch.testing.assert_close(both[1], mirrored)
    assert both[2, 0, 0] == 80  # the other one begins with a guess


def test_it_cannot_leave_two_sigma_and_comes_back_at_once():
    net = VideoIntrinsics(1, (64, 96))
    K = torch.tensor([[70.0, 0, 46], [0, 70, 33], [0, 0, 1]], dtype=torch.float64)
    net.start(0, K, torch.tensor([0.02, 0.01, 1.0, 0.5], dtype=torch.float64))
    sgd = torch.optim.SGD(net.parameters(), lr=1e-4)
    found = []
    for sign in [-1] * 20 + [1] * 3:
        out = net(torch.tensor([0]), torch.tensor([False]))[0]
        found.append(out.detach())
        sgd.zero_grad()
        (sign * out.sum()).backward()
        sgd.step()
    for k, (low, high) in {(0, 2): (44, 48), (1, 2): (32, 34)}.items():
        values = [K[k].item() for K in found]
        assert max(values) == pytest.approx(high, abs=1e-3) and min(values) > low
        assert values[-1] < high - 0.01  # no weight piled up beyond the border
    top = found[19]
    mean, ratio = (top[0, 0] * top[1, 1]).sqrt().item(), (top[0, 0] / top[1, 1]).item()
    assert mean == pytest.approx(70 * np.exp(0.04), rel=1e-5)
    assert abs(np.log(ratio)) <= 0.02 + 1e-6


def test_tracks_speak_of_stored_images_and_training_of_its_own_size(tmp_path):
    config = DATA.model_copy(update={"intrinsics": "video"})
    made = SampleSource([Recording(recording(tmp_path, (128, 240)) / "drive")], config, 2, 0)
    net = VideoIntrinsics(1, DATA.size)
    begin_at(net, made, [replace(KNOWN, camera=(180.0, 180.0, 118.0, 60.0))])
    K = net(torch.tensor([0]), torch.tensor([False])).detach()[0].double().numpy()
    expected = [[180, 0, 118], [0, 180, 60], [0, 0, 1]]
    np.testing.assert_allclose(made.stored_K(0, K), expected, atol=1e-3)
    assert K[0, 0] < 100
    assert net.limits[0, 2, 1] - net.limits[0, 2, 0] == pytest.approx(4 * 1.0 / 240, rel=0.1)


@pytest.mark.parametrize("known", [TrackCamera("drive"), replace(KNOWN, sigma=(0.3, 0.02, 9, 3))])
def test_what_tracks_do_not_determine_is_learned_from_a_guess(tmp_path, known):
    net = VideoIntrinsics(1, DATA.size)
    begin_at(net, source(make_recording(tmp_path)), [known])
    assert torch.isinf(net.limits).all() and net.log_focal.item() == 0
    assert known.open((64, 96)) == ["focal length", "cx", "cy"]
    assert "do not tell" in str(known)


def test_a_training_begins_at_the_tracks_camera_stays_near_it_and_says_so(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr(glue, "_track_camera", lambda source, video: KNOWN)
    root, run = recording(tmp_path / "data"), tmp_path / "run"
    train_run(load(None, [*FAST, "train.steps=4"], "monodepth"), [root], run)
    calib = Calibration.load(run / "cameras" / "drive.json")
    assert abs(np.log(calib.fx * calib.fy / 70 / 72)) / 2 <= 0.04 + 1e-6
    assert abs(calib.cx - 46) <= 2.001 and abs(calib.cy - 33) <= 1.001
    assert (calib.fx, calib.cx) != (70, 46)  # but free within
    content = json.loads((run / "cameras" / "drive.json").read_text())
    assert content["two_sigma"]["focal"] == pytest.approx(0.04)
    assert content["two_sigma"]["centre_x"] == pytest.approx(2 / 96)
    assert content["not_determined"] == []
    assert "71.0 pixels to 4.0 %" in caplog.text and "9 windows" in caplog.text


def test_a_training_that_goes_on_reads_what_it_had_found(tmp_path, monkeypatch):
    made, names = source(make_recording(tmp_path / "data")), []
    monkeypatch.setattr(glue, "_track_camera", lambda source, video: names.append(video) or KNOWN)
    first = glue.track_cameras(made, tmp_path, write=True)
    assert glue.track_cameras(made, tmp_path, write=True) == first == [KNOWN] and names == [0]
    (tmp_path / FILE).write_text("[{}]")
    assert glue.track_cameras(made, tmp_path, write=False) == [KNOWN] and names == [0, 0]
    assert (tmp_path / FILE).read_text() == "[{}]"  # of another process
