"""The plain variants compute what the product computes, and the benchmark measures both."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from dyndepth_core.data.transforms import image_tensor
from dyndepth_core.evaluation import network_speed, speed
from dyndepth_core.evaluation.timing import Gate, interleave
from dyndepth_core.geometry.warp import inverse_warp
from dyndepth_core.inference.cloud import CloudWriter
from dyndepth_core.losses.photometric import image_stats, photometric_error, ssim_error
from dyndepth_core.losses.smoothness import edge_aware_smoothness
from dyndepth_core.networks import depthwise
from dyndepth_core.networks.pose_net import ROTATION_SCALE, TRANSLATION_SCALE

FOLDER = Path(__file__).parents[1] / "reference"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain():
    return speed.Reference(FOLDER)


def test_the_plain_variants_import_nothing_of_the_product():
    for path in FOLDER.glob("*.py"):
        assert "dyndepth_" not in path.read_text(), path


def test_plain_ssim_is_ours(plain):
    a, b = torch.rand(2, 3, 20, 24), torch.rand(2, 3, 20, 24)
    ours = ssim_error(image_stats(a), image_stats(b))
    assert torch.allclose(plain.module("ssim").ssim_error(a, b), ours, atol=1e-5)
    ours = photometric_error(a, b)
    assert torch.allclose(plain.module("ssim").photometric_error(a, b), ours, atol=1e-5)


def test_plain_cloud_is_ours(plain):
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 80, (12, 16)).astype(np.float32)
    rgb = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    K = np.array([[20.0, 0, 7.2], [0, 21.0, 5.1], [0, 0, 1]])
    ours = np.empty((12, 16, 4), np.float32)
    CloudWriter(K, (12, 16)).write(depth, rgb, ours)
    data = plain.module("cloud").cloud_data(depth, rgb, K)
    theirs = np.frombuffer(data, np.float32).reshape(12, 16, 4)
    assert np.allclose(theirs[..., :3], ours[..., :3], rtol=1e-6)
    assert np.array_equal(theirs[..., 3].view(np.uint32), ours[..., 3].view(np.uint32))


def test_plain_preprocessing_sees_the_same_image(plain):
    module = plain.module("preprocess")
    bgr = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    theirs = module.preprocess(bgr, (40, 80))[0].permute(1, 2, 0).numpy() * module.STD + module.MEAN
    ours = image_tensor(np.ascontiguousarray(bgr[..., ::-1]))
    assert np.allclose(ours[0].permute(1, 2, 0).numpy(), theirs, atol=1e-6)
    assert ours.shape == (1, 3, 40, 80) and ours.is_contiguous(memory_format=torch.channels_last)


def with_our_weights(plain, objective):
    """The plain step with the networks of an objective, both in evaluation mode.

    The published motion is 0.01 of the network's output, ours is more: training starts sooner.
    """
    theirs = plain.module("training_step").PlainStep().eval()
    theirs.depth_net.load_state_dict(objective.eval().depth_net.state_dict())
    theirs.pose_net.load_state_dict(objective.pose_net.state_dict())
    with torch.no_grad():
        for part, scale in ((slice(3), ROTATION_SCALE), (slice(3, 6), TRANSLATION_SCALE)):
            theirs.pose_net.head.weight[part] *= scale / 0.01
            theirs.pose_net.head.bias[part] *= scale / 0.01
    return theirs


def test_plain_networks_fit_our_weights_and_agree(plain):
    torch.manual_seed(0)
    objective, _ = speed.make_objective(CPU, "objective.scales=[0,1,2,3]")
    theirs = with_our_weights(plain, objective)
    images = torch.rand(2, 1, 3, 64, 96)
    with torch.no_grad():
        ours, plains = objective.depth_net(images[0]), theirs.depth_net(images[0])
        assert set(ours) == set(plains) == {0, 1, 2, 3}
        for scale, disp in ours.items():
            assert torch.allclose(disp, plains[scale], atol=1e-5)
        T, _ = objective.pose_net(images[0], images[1])
        step = plain.module("training_step")
        assert torch.allclose(step.transform(*theirs.pose_net(*images), invert=False), T, atol=1e-5)
        inverse = step.transform(*theirs.pose_net(*images), invert=True)
        assert torch.allclose(inverse @ T, torch.eye(4).expand_as(T), atol=1e-5)


def test_plain_warp_and_smoothness_are_ours(plain):
    step = plain.module("training_step")
    image, depth = torch.rand(1, 3, 32, 48), 5 + torch.rand(1, 1, 32, 48)
    K = torch.tensor([[[40.0, 0, 23], [0, 40.0, 15], [0, 0, 1]]])
    T = step.transform(torch.tensor([[0.01, 0.02, -0.01]]), torch.tensor([[0.1, 0, 0.3]]), False)
    assert torch.allclose(
        step.warp(image, depth, T, K), inverse_warp(image, depth, T, K)[0], atol=1e-4
    )
    ours = edge_aware_smoothness(1 / depth, image)
    assert torch.allclose(step.smoothness(1 / depth, image), ours, atol=1e-5)


def test_plain_step_has_the_loss_of_our_recipe(plain):
    """Same weights, same batch, four scales: the two losses agree up to the tie-breaking noise."""
    torch.manual_seed(0)
    published = "network.min_depth=0.1", "network.max_depth=100"
    objective, _ = speed.make_objective(CPU, "objective.scales=[0,1,2,3]", *published)
    theirs = with_our_weights(plain, objective)
    sample = speed.random_sample(2, (64, 96), CPU)
    with torch.no_grad():
        ours = objective(sample, 1.0).total  # the image pyramid is over by then
        found = theirs(sample.tgt, sample.src[:, 0], sample.src[:, 1], sample.K)
    assert found.item() == pytest.approx(ours.item(), rel=1e-3)


def test_variants_are_measured_in_turn():
    calls = []
    times = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert times["a"].shape == times["b"].shape == (3,) and (times["a"] > 0).all()
    turns = [c for k, c in enumerate(calls) if k == 0 or calls[k - 1] != c]
    assert turns == ["a", "b"] * (len(turns) // 2) and len(turns) == 8


def test_a_promise_knows_its_direction():
    assert Gate("ms", 2.5, 2.5).kept and not Gate("ms", 2.6, 2.5).kept
    assert Gate("x", 1.3, 1.3, at_least=True).kept and not Gate("x", 1.2, 1.3, at_least=True).kept


def run(*arguments):
    from dyndepth_core.commands.benchmark import command

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


CORE = ["--only", "ssim", "--only", "cloud", "--only", "preprocess"]


def test_the_command_measures_and_prints_what_is_inside_the_timer(tmp_path):
    out = tmp_path / "deep" / "speed.json"
    result = run("--json", out, "--reference", FOLDER, "--rounds", 1, *CORE)
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(out.read_text())
    assert set(report["rows"]) == {"ssim", "cloud", "preprocess"}
    for row in report["rows"].values():
        assert row["ms"] > 0 and row["plain_ms"] > 0 and row["speedup"] > 0 and row["timer"]
    cloud = report["rows"]["cloud"]
    assert cloud["input"] == "640x480" and cloud["others"]["memcpy"] > 0
    assert [g["limit"] for g in cloud["gates"]] == [2.5, 4.0]
    assert report["environment"]["torch_threads"] == torch.get_num_threads()
    assert "timer:" in result.output and "five avg_pool2d" in " ".join(result.output.split())


def test_without_plain_variants_only_absolute_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--json", tmp_path / "a.json", "--rounds", 1, "--only", "preprocess")
    assert result.exit_code == 0, (result.output, result.exception)
    row = json.loads((tmp_path / "a.json").read_text())["rows"]["preprocess"]
    assert row["plain_ms"] is None and row["speedup"] is None and row["ms"] > 0
    assert "absolute figures only" in result.output


def test_what_needs_ros_is_named_where_ros_is_not(tmp_path, monkeypatch):
    from dyndepth_core.commands import benchmark

    def absent(device):
        raise ImportError("No module named 'rclpy'")

    monkeypatch.setattr(benchmark, "_installed", lambda: {"node": absent})
    result = run("--json", tmp_path / "a.json", "--reference", FOLDER, "--only", "node")
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads((tmp_path / "a.json").read_text())["not_measured"]["node"]
    assert "not measured: No module named 'rclpy'" in " ".join(result.output.split())


def test_bad_arguments_are_said(tmp_path):
    assert "no plain variants" in str(run("--reference", tmp_path).exception)
    assert "no such measurement" in str(run("--only", "netwerk").exception)


def test_network_and_step_rows(plain):
    """Tiny sizes: what is measured runs, and the gates are those promised."""
    row = speed.network_forward(plain, CPU, 1, (64, 96))
    assert row.gates[0].limit == 1.3 and row.gates[0].at_least and row.plain_ms > 0
    row = speed.training_step(plain, CPU, 1, (64, 96), batch=1)
    assert row.gates[0].limit == 1.5 and row.others["loss of ours"] > 0


def test_the_cost_volume_is_measured_beside_the_network_of_one_image():
    row = network_speed.many_depth(CPU, 1, (64, 96))
    single = row.others["single image"]
    assert min(row.ms, single, row.others["faithful"]) > 0
    assert row.gates[0].limit == 2.0 and not row.gates[0].at_least
    assert row.gates[0].value == pytest.approx(row.ms / single, rel=1e-6)


def test_both_gradients_of_depthwise_convolutions_are_measured(monkeypatch):
    used = []
    real = depthwise._weight_gradient
    monkeypatch.setattr(depthwise, "_weight_gradient", lambda *a: used.append(1) or real(*a))
    row = network_speed.depthwise_gradient(1, (64, 96), batch=1)
    layers = len(used)
    assert layers > 0 and min(row.ms, row.plain_ms, row.speedup) > 0
    monkeypatch.setattr(depthwise, "LARGEST", -1)
    network_speed.depthwise_gradient(1, (64, 96), batch=1)
    assert len(used) == layers


def test_collecting_is_measured_with_its_memory(tmp_path):
    pytest.importorskip("rosbags")
    out = tmp_path / "a.json"
    result = run("--json", out, "--only", "collect", "--collect-gb", 0.05)
    assert result.exit_code == 0, (result.output, result.exception)
    row = json.loads(out.read_text())["rows"]["collect"]
    rate, growth = row["gates"]
    assert rate["value"] == pytest.approx(1e3 / row["ms"]) and rate["limit"] == 500
    assert growth["limit"] == 50 and abs(growth["value"]) < 1000
    assert "120 images of 640x192 bgr8" in row["input"] and "resident memory" in row["input"]
