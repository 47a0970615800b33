"""The Predictor on a GPU; what of it needs none is tested on the CPU."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from small_model import SIZE, camera, picture, save_small_model, small_graph, small_meta

from dyndepth_core.data.transforms import plan_fit
from dyndepth_core.inference.device import is_out_of_memory
from dyndepth_core.inference.output import OutputPlan, Staging, copy_down
from dyndepth_core.inference.predictor import Predictor

CPU = torch.device("cpu")
FRAME, K = (75, 190), camera((75, 190))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model, device="cpu")


@pytest.mark.parametrize("output_size", ["model", "input"])
def test_cloud_computed_by_tensors_equals_the_writers(predictor, output_size):
    """The arithmetic of the GPU path, run on the CPU: one buffer down, the same points and bits."""
    prediction = predictor(picture(FRAME), K, output_size=output_size)
    expected = np.empty((*prediction.depth.shape, 4), np.float32)
    predictor.write_cloud(prediction, expected)
    plan = OutputPlan(plan_fit(FRAME, SIZE, K), K, output_size, CPU)
    staging = Staging(CPU)
    rgb = staging.upload("rgb", prediction.image)
    depth, cloud = copy_down(plan, torch.from_numpy(prediction.depth), rgb, staging)
    assert np.array_equal(depth, prediction.depth, equal_nan=True)
    np.testing.assert_allclose(cloud[..., :3], expected[..., :3], rtol=1e-6)
    assert np.array_equal(cloud[..., 3].view(np.uint32), expected[..., 3].view(np.uint32))


def test_out_of_memory_moves_to_the_cpu_once(caplog):
    """The move itself, with the error that torch raises; the GPU's own is tested below."""
    predictor = Predictor.from_graph(small_graph(), small_meta(), device="cpu")
    predictor.device = torch.device("cuda", 0)
    devices = []

    def work():
        devices.append(predictor.device.type)
        if predictor.device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return "depth"

    assert [predictor._on_device(work) for _ in range(3)] == ["depth"] * 3
    assert devices == ["cuda", "cpu", "cpu", "cpu"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "cuda:0 ran out of memory" in caplog.text
    assert np.isfinite(predictor(picture(SIZE)).depth).all()


def test_other_errors_are_not_taken_for_a_full_gpu(predictor):
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("expected 3 channels"))

    def work():
        raise RuntimeError("expected 3 channels")

    with pytest.raises(RuntimeError, match="3 channels"):
        predictor._on_device(work)


@pytest.mark.cuda
@pytest.mark.parametrize(("precision", "rtol"), [("fp32", 0.01), ("auto", 0.05), ("bf16", 0.3)])
@pytest.mark.parametrize("output_size", ["model", "input"])
def test_cuda_depth_and_cloud_are_those_of_the_cpu(model, predictor, precision, rtol, output_size):
    on_gpu = Predictor(model, device="cuda", precision=precision)
    image = picture(FRAME)
    expected = predictor(image, K, output_size=output_size)
    result = on_gpu(image, K, output_size=output_size, cloud=True)
    assert on_gpu.device.type == "cuda"
    assert np.array_equal(np.isnan(result.depth), np.isnan(expected.depth))
    np.testing.assert_allclose(result.depth, expected.depth, rtol=rtol)
    on_host, on_device = (np.empty((*result.depth.shape, 4), np.float32) for _ in range(2))
    on_gpu.write_cloud(result, on_device)
    predictor.write_cloud(dataclasses.replace(result, _device_cloud=None), on_host)
    np.testing.assert_allclose(on_device[..., :3], on_host[..., :3], rtol=1e-6)
    assert np.array_equal(on_device[..., 3].view(np.uint32), on_host[..., 3].view(np.uint32))


@pytest.mark.cuda
def test_cuda_depth_and_cloud_come_down_in_one_pinned_copy(model):
    on_gpu = Predictor(model, device="cuda")
    on_gpu(picture(FRAME), K, cloud=True)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        on_gpu(picture(FRAME), K, cloud=True)
    copies = [event.name for event in profile.events() if "Memcpy DtoH" in event.name]
    assert len(copies) == 1 and "Pinned" in copies[0]
    assert all(buffer.is_pinned() for buffer in on_gpu._staging._buffers.values())


@pytest.mark.cuda
def test_cuda_an_older_prediction_keeps_its_cloud(model):
    on_gpu = Predictor(model, device="cuda")
    first = on_gpu(picture(FRAME, 1), K, cloud=True)
    before, after = (np.empty((*SIZE, 4), np.float32) for _ in range(2))
    on_gpu.write_cloud(first, before)
    on_gpu(picture(FRAME, 2), K, cloud=True)
    on_gpu.write_cloud(first, after)
    np.testing.assert_allclose(after[..., :3], before[..., :3], rtol=1e-6)


@pytest.mark.cuda
def test_cuda_out_of_memory_gives_one_error_and_the_cpu_goes_on(model, predictor, caplog):
    on_gpu = Predictor(model, device="cuda")
    image = picture(FRAME)
    on_gpu(image, K)
    torch.cuda.empty_cache()
    ballast = []
    torch.cuda.set_per_process_memory_fraction(1e-3)
    try:
        while True:
            ballast.append(torch.empty(2**16, device="cuda"))
    except torch.OutOfMemoryError:
        pass
    try:
        results = [on_gpu(image, K, cloud=True) for _ in range(3)]
    finally:
        ballast.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert on_gpu.device.type == "cpu"
    expected = predictor(image, K)
    for result in results:
        np.testing.assert_allclose(result.depth, expected.depth, rtol=1e-4)
    on_gpu.write_cloud(results[-1], np.empty((*SIZE, 4), np.float32))


@pytest.mark.cuda
def test_cuda_history_feeds_motion(model):
    on_gpu = Predictor(model, device="cuda")
    assert on_gpu(picture(FRAME, 1), K, 0, motion=True).T_src_tgt is None
    motion = on_gpu(picture(FRAME, 2), K, 1, motion=True).T_src_tgt
    np.testing.assert_allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3), atol=1e-2)
