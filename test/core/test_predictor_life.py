"""The Predictor's life: history, bad input, options, what it imports."""

import json
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from small_model import SIZE, camera, picture, probe, save_small_model, small_graph, small_meta

from dyndepth_core.inference.history import AGAIN, Camera, History
from dyndepth_core.inference.loading import between_steps
from dyndepth_core.inference.predictor import Predictor

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    path = save_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")
    return Predictor(path, device="cpu")


@pytest.fixture(autouse=True)
def fresh(predictor):
    predictor.reset()


def test_motion_only_when_asked_and_scaled(tmp_path):
    path = save_small_model(tmp_path / "m.safetensors")
    first, second = picture(SIZE, 1), picture(SIZE, 2)
    results = []
    for scale in (1.0, 4.0):
        predictor = Predictor(path, device="cpu", assumed_scale=scale)
        assert predictor(first, stamp_ns=0, motion=True).T_src_tgt is None
        results.append(predictor(second, stamp_ns=SECOND // 10, motion=True).T_src_tgt)
        assert predictor(first, stamp_ns=SECOND // 5).T_src_tgt is None
    one, four = results
    assert one.shape == (4, 4) and one.dtype == np.float64
    np.testing.assert_allclose(four[:3, 3], 4 * one[:3, 3], rtol=1e-5)
    np.testing.assert_allclose(four[:3, :3], one[:3, :3], rtol=1e-5)


def test_history_is_the_previous_frame_until_something_breaks_it(caplog):
    predictor, size = probe(), (128, 192)
    calls, K = predictor._graph.calls, camera(size)
    images = [picture(size, seed) for seed in range(3)]

    def frame(stamp, image=images[0], K=K):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            result = predictor(image, K, stamp, motion=True)
        assert bool(result.history_reset) == bool(caplog.records)
        return result.history_reset, calls[-1][1], calls[-1][3]

    assert frame(0) == ("", None, None)
    reason, previous, state = frame(SECOND, images[1])
    assert reason == "" and state == 1
    assert torch.equal(previous, calls[0][0])
    for break_it, says in (
        (lambda: frame(SECOND // 2), "jumped back by 0.500 s"),
        (lambda: frame(9 * SECOND), "jumped ahead by 8.500 s"),
        (lambda: frame(9 * SECOND), "did not advance"),
        (lambda: frame(9 * SECOND + 1, K=K * [[1.01], [1], [1]]), "K changed"),
        (lambda: frame(9 * SECOND + 2, picture((64, 192))), "size changed from 192x128 to 192x64"),
    ):
        reason, previous, state = break_it()
        assert says in reason and previous is None and state is None
    predictor.reset()
    assert frame(0) == ("", None, None)


def test_a_camera_without_stamps_does_not_flood_the_log(predictor, caplog):
    for _ in range(5):
        predictor(picture(SIZE), stamp_ns=0)
    assert len(caplog.records) == 1
    assert "did not advance" in caplog.text


def test_stamps_that_jitter_do_not_flood_the_log(caplog):
    history, eye = History(), Camera.of(picture(SIZE), None)

    def follow(milliseconds):
        reason = history.follow(eye, round(milliseconds) * 1_000_000)
        history.advance(None, None, eye, round(milliseconds) * 1_000_000)
        return reason

    # every second frame is stamped before the one before it, each time by another time
    found = [follow(100 * k - (200 + k) * (k % 2)) for k in range(40)]
    assert len(set(found)) > 15 and found[2] == found[4] == ""
    assert len(caplog.records) == 1 and "jumped back" in caplog.text
    for k in range(AGAIN):
        assert not follow(4000 + 100 * k)
    assert follow(0)  # a bag that is looped, much later
    assert len(caplog.records) == 2


def test_bad_input_says_what_and_leaves_the_history(predictor):
    good, K = picture(SIZE), camera(SIZE)
    predictor(good, K, 0, motion=True)
    bad = [
        (good[:0], K, "empty"),
        (good[:, :0], K, "empty"),
        (good.astype(np.float32), K, "uint8"),
        (good[..., 0], K, r"\(H, W, 3\)"),
        (np.dstack([good, good[..., :1]]), K, r"\(H, W, 3\)"),
        ("image.png", K, "str"),
        (good, K * np.nan, "NaN"),
        (good, K[:2], "shape"),
        (good, K * [[0], [1], [1]], "must be positive"),
        (good, K * [[1], [-1], [1]], "must be positive"),
        (good, K * 2, "last row"),
    ]
    for image, broken, says in bad:
        with pytest.raises(ValueError, match=says):
            predictor(image, broken, SECOND)
    with pytest.raises(ValueError, match="output_size='big'"):
        predictor(good, K, SECOND, output_size="big")
    result = predictor(good, K, SECOND // 10, motion=True)
    assert result.history_reset == "" and result.T_src_tgt is not None


def test_bad_options_say_what_there_is(tmp_path):
    path = save_small_model(tmp_path / "m.safetensors")
    for options, says in (
        ({"device": "toaster"}, "choose auto, cpu, cuda"),
        ({"device": "cuda:99"}, "CUDA devices"),
        ({"device": "cpu", "precision": "fp16"}, "needs a GPU"),
        ({"device": "cpu", "precision": "double"}, "choose auto, fp32, fp16, bf16"),
        ({"device": "cpu", "backend": "abacus"}, "this dyndepth has torch"),
    ):
        with pytest.raises(ValueError, match=says):
            Predictor(path, **options)


def test_a_read_only_message_buffer_is_fine(predictor, recwarn):
    image = picture(SIZE)
    image.flags.writeable = False
    predictor(image, camera(SIZE))
    assert not recwarn.list


def test_results_do_not_share_memory_with_later_frames(predictor):
    first = predictor(picture(SIZE, 1), camera(SIZE))
    depth, K = first.depth.copy(), first.K.copy()
    predictor(picture(SIZE, 2), camera(SIZE)).K[:] = 0
    assert np.array_equal(first.depth, depth) and np.array_equal(first.K, K)
    assert np.array_equal(predictor(picture(SIZE, 2), camera(SIZE)).K, K)


def test_warm_up_leaves_no_history(predictor, caplog):
    predictor.warm_up()
    assert predictor(picture(SIZE), stamp_ns=-5, motion=True).T_src_tgt is None
    assert not caplog.records


def test_what_the_network_does_not_see_is_said_once_also_after_a_warm_up(tmp_path, caplog):
    predictor = Predictor(save_small_model(tmp_path / "m.safetensors"), device="cpu")
    predictor.warm_up()
    for _ in range(2):
        predictor(picture((96, 96)), camera((96, 96)))
    (record,) = caplog.records
    assert "the network sees 67% of images of 96x96" in record.getMessage()


def test_from_graph_leaves_the_graph_alone():
    graph = small_graph().train()
    state = {k: v.clone() for k, v in graph.state_dict().items()}
    Predictor.from_graph(graph, small_meta(), device="cpu")(picture(SIZE))
    assert graph.training and all(p.requires_grad for p in graph.parameters())
    assert all(torch.equal(v, state[k]) for k, v in graph.state_dict().items())


def test_base_dependencies_only(tmp_path):
    """A vehicle has no training engine, no CLI, no plots: not even loading a model imports them."""
    path = save_small_model(tmp_path / "m.safetensors")
    code = f"""
import json, sys
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.inference.color import DepthColors
import numpy as np
Predictor({str(path)!r}, device="cpu")(np.zeros((64, 96, 3), np.uint8))
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(run.stdout))
    extras = {"lightning", "pytorch_lightning", "torchmetrics", "typer", "rich", "matplotlib"}
    extras |= {"rosbags", "tensorboard", "onnx", "openvino", "torchvision", "timm", "rclpy"}
    assert {"torch", "cv2", "numpy", "safetensors", "pydantic"} <= loaded
    assert not loaded & extras


def test_loading_lets_others_go_first_in_this_thread_alone(tmp_path):
    path, calls = save_small_model(tmp_path / "m.safetensors"), []
    with between_steps(lambda: calls.append(threading.current_thread())):
        Predictor(path).warm_up()
        steps = len(calls)
        other = threading.Thread(target=Predictor, args=(path,))
        other.start()
        other.join()
    Predictor(path)
    assert steps >= 6  # to read, check, build, fuse and run the network twice
    assert calls == [threading.current_thread()] * steps
