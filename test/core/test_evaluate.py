"""Evaluation end to end: coverage, resampling, the table of known answers, the command."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.transforms import plan_fit
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.evaluation.baselines import fit_baselines
from dyndepth_core.evaluation.protocols import get_protocol
from dyndepth_core.evaluation.resample import resample_inverse, resample_nearest
from dyndepth_core.evaluation.runner import BaselineArm, evaluate

H, W = 64, 96
K = np.array([[60.0, 0, 47.5], [0, 60.0, 26.0], [0, 0, 1]])


def scene(k):
    """A road under the camera, a box that differs from frame to frame, a wall behind."""
    v, u = np.mgrid[:H, :W]
    slope = (v - K[1, 2]) / K[1, 1]
    depth = np.minimum(np.where(slope > 0, 1.5 / np.maximum(slope, 1e-6), np.inf), 40.0)
    box = (np.abs(u - 20 - 9 * k) < 12) & (v > 16) & (slope * 8 < 1.5)
    depth[box] = np.minimum(depth[box], 8.0)
    return depth.astype(np.float32), box


def write(path, frames=4, truth=True, masks=True):
    rng = np.random.default_rng(0)
    with RecordingWriter(path, Calibration.from_K(K, W, H), image_format="png") as writer:
        for k in range(frames):
            depth, box = scene(k)
            pose = np.eye(4)
            pose[2, 3] = 0.5 * k
            image = rng.integers(0, 255, (H, W, 3), dtype=np.uint8)
            extra = {"depth": depth, "dynamic": box if masks else None, "T_world_cam": pose}
            writer.add(image, k * 10**8, **(extra if truth else {}))
    return Recording(path)


class Oracle:
    """Depth of the truth times a factor per frame, blind in the left columns."""

    metric = False

    def __init__(self, factors, blind=0):
        self.factors, self.blind = factors, blind

    def start(self, recording):
        pass

    def depth(self, recording, i, size):
        depth = np.where(recording.depth(i) > 0, recording.depth(i), 10.0) * self.factors[i]
        depth[:, : self.blind] = np.nan
        return depth

    def ego(self):
        motion = np.eye(4)
        motion[2, 3] = 0.1
        return [motion] * (len(self.factors) - 1)

    def moving(self):
        return None


def test_known_answers_end_to_end(tmp_path):
    recording = write(tmp_path / "a")
    prior = fit_baselines([recording])["row_prior"]
    arms = {"model": Oracle([1.0, 2.0, 1.0, 2.0]), "row_prior": BaselineArm(prior)}
    table = evaluate([recording], arms, get_protocol("native")).table()
    assert table["model"]["all"]["abs_rel"] == pytest.approx(0.0, abs=1e-6)
    # ratios 1, 1/2, 1, 1/2: std 1/4 over mean 3/4
    assert table["model"]["scale_std"] == pytest.approx(1 / 3)
    assert table["model"]["median_ratio"] == pytest.approx(0.75)
    assert table["model"]["ego"] == pytest.approx({"ate_m": 0.0, "rpe_deg": 0.0, "clips": 1})
    assert "unscaled" not in table["model"] and "ego" not in table["row_prior"]
    assert {"all", "static", "dynamic", "raised", "unscaled"} <= set(table["row_prior"])
    assert table["row_prior"]["dynamic"]["abs_rel"] > 1.5 * table["row_prior"]["static"]["abs_rel"]


def test_baselines_are_scored_on_the_pixels_the_model_covers(tmp_path):
    recording = write(tmp_path / "a")
    prior = BaselineArm(fit_baselines([recording])["row_prior"])
    half = evaluate(
        [recording], {"m": Oracle([1.0] * 4, W // 2), "p": prior}, get_protocol("native")
    )
    pixels = [[s.pixels for s in half.scores[name]] for name in ("m", "p")]
    assert pixels[0] == pixels[1]
    assert pixels[0][0]["all"] == H * W // 2
    whole = evaluate([recording], {"p": prior}, get_protocol("native"))
    assert whole.scores["p"][0].pixels["all"] == H * W


def test_two_ranges_of_one_sequence_are_two_clips(tmp_path):
    write(tmp_path / "a")
    parts = [Recording(tmp_path / "a", 0, 1), Recording(tmp_path / "a", 2, 3)]
    result = evaluate(parts, {"m": Oracle([1.0, 1.0])}, get_protocol("native"))
    assert [s.clip for s in result.scores["m"]] == ["a", "a", "a#2", "a#2"]


@pytest.mark.parametrize("size", [(32, 48), (24, 80), (64, 96), (16, 48), (80, 96)])
def test_inverse_depth_survives_crop_resize_and_padding(size):
    """1/z linear in pixels is what bilinear sampling reproduces, whatever the network's size."""
    v, u = np.mgrid[:H, :W].astype(np.float64)
    fit = plan_fit((H, W), size, K)
    K_net = fit.K(K)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    to_u = (x - K_net[0, 2]) / K_net[0, 0] * K[0, 0] + K[0, 2]
    to_v = (y - K_net[1, 2]) / K_net[1, 1] * K[1, 1] + K[1, 2]
    depth = np.full(size, np.nan, np.float32)
    depth[fit.valid] = (1 / (0.1 + 0.001 * to_u + 0.002 * to_v))[fit.valid]
    found = resample_inverse(depth, K_net, K, (H, W), (H, W))
    top, left, rows, cols = fit.crop
    covered = np.zeros((H, W), bool)
    covered[top : top + rows, left : left + cols] = True
    assert np.array_equal(np.isfinite(found), covered)
    inner = covered & (v > top + 2) & (v < top + rows - 3) & (u > left + 2) & (u < left + cols - 3)
    assert inner.sum() > 500
    truth = 1 / (0.1 + 0.001 * u + 0.002 * v)
    assert np.abs(found - truth)[inner].max() < 0.01 * truth.min()


def test_nothing_to_score_is_said(tmp_path):
    blind = write(tmp_path / "a", truth=False)
    with pytest.raises(ValueError, match="no frame has ground-truth depth"):
        evaluate([blind], {"m": Oracle([1.0] * 4)}, get_protocol("native"))
    seen = write(tmp_path / "b")
    with pytest.raises(ValueError, match="no pixel counts"):
        evaluate([seen], {"m": Oracle([np.nan] * 4)}, get_protocol("native"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny untrained models on disk."""
    from dyndepth_core.inference.model_file import save_model
    from dyndepth_core.inference.model_meta import ModelMeta
    from dyndepth_core.methods.depth_pose_graph import DepthPoseGraph

    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        graph = DepthPoseGraph(
            encoder="resnet18", decoder_channels=(4, 4, 8, 8, 8), canonical_focal=60.0,
            min_depth=0.1, max_depth=80.0, width=0.125, pose_encoder="resnet18",
        )  # fmt: skip
        meta = ModelMeta(
            method="monodepth",
            architecture=graph.architecture,
            input_size=(64, 96),
            canonical_focal=60.0,
            depth_range=(0.1, 80.0),
        )
        paths.append(tmp_path_factory.mktemp("models") / f"{seed}.safetensors")
        save_model(paths[-1], graph, meta)
    return paths


def run(*arguments):
    import typer

    from dyndepth_core.commands.evaluate import command

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)


def test_the_command_writes_figures_table_and_pictures(tmp_path, models):
    write(tmp_path / "data" / "drive", frames=3)
    write(tmp_path / "train" / "drive", frames=2)
    out = tmp_path / "out" / "scores.json"
    result = run(
        "--model", models[0], "--compare", models[1], "--data", tmp_path / "data",
        "--baselines-from", tmp_path / "train", "--json", out, "--pictures", tmp_path / "pictures",
    )  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(out.read_text())
    assert set(report["methods"]) == {"model", "compare", "row_prior", "plane"}
    for row in report["methods"].values():
        assert {"all", "static", "dynamic", "raised"} <= set(row)
        assert row["all"]["images"] == 3 and row["all"]["pixels"] == 3 * H * W
    assert report["methods"]["model"]["ego"]["ate_m"] > 0
    assert report["baselines_fitted_on"] == str(tmp_path / "train")
    against = {(p["second"], p["stratum"]): p for p in report["paired"]}
    pair = against["compare", "all"]
    assert pair["images"] == 3 and pair["ratio"] > 0 and pair["low"] is None  # 0.3 s: one block
    assert "row_prior" in result.output and "median ratio" in result.output
    pictures = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert pictures == ["best.png", "over_time.png", "trajectories.png", "worst.png"]


def test_a_model_against_itself_is_at_ratio_one(tmp_path, models):
    write(tmp_path / "drive", frames=3)
    out = tmp_path / "scores.json"
    result = run(
        "--model", models[0], "--compare", models[0], "--data", tmp_path / "drive", "--json", out
    )
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(out.read_text())
    pair = next(p for p in report["paired"] if p["second"] == "compare")
    assert pair["ratio"] == 1.0 and pair["verdict"] == "too few blocks"
    assert report["baselines_fitted_on"] == "the evaluated recordings"
    assert "flatters" in result.output


def test_the_command_needs_ground_truth(tmp_path, models):
    write(tmp_path / "blind", truth=False)
    result = run("--model", models[0], "--data", tmp_path / "blind")
    assert isinstance(result.exception, ValueError) and "ground truth" in str(result.exception)


def test_a_calibration_of_another_size_is_refused(tmp_path, models):
    """Its K would be wrong; predict and train refuse it too."""
    recording = write(tmp_path / "drive", frames=2)
    Calibration.from_K(K, 640, 480).save(recording.path / "calib.json")
    result = run("--model", models[0], "--data", recording.path)
    assert "000000.png: image of 96x64, but the calibration is for 640x480" in str(result.exception)


def test_unknown_poses_are_null_and_the_table_comes_before_the_file(tmp_path, models, monkeypatch):
    recording = write(tmp_path / "drive", frames=3)
    table = recording.path / "poses.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *(r.split(",")[0] + ",nan" * 12 for r in rows)]))
    out = tmp_path / "scores.json"
    words = ("--model", models[0], "--data", recording.path, "--json", out)
    result = run(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert report["methods"]["model"]["ego"]["ate_m"] is None

    def full(*_):
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr("dyndepth_core.commands.evaluate.write_json", full)
    result = run(*words)
    assert isinstance(result.exception, OSError) and "median ratio" in result.output


def test_a_place_where_no_pictures_can_be_is_refused_before_the_run(tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    result = run("--data", tmp_path / "nowhere", "--pictures", tmp_path / "notes.txt")
    assert "notes.txt: is no folder" in str(result.exception)


class Seer(Oracle):
    """Knows what moves and how fast, in units half as long as metres."""

    def moving(self):
        velocity = np.zeros((H, W, 3), np.float32)
        velocity[10:20, 20:40] = (0, 0, 3.5)
        return velocity[..., 2] > 1, velocity


def test_motion_is_scaled_by_the_ratio_of_its_image_and_counts_from_the_second_frame(tmp_path):
    rng = np.random.default_rng(0)
    depth = rng.uniform(5, 30, (H, W)).astype(np.float32)
    box = np.zeros((H, W), bool)
    box[10:20, 20:40] = True
    velocity = np.zeros((H, W, 3), np.float32)
    velocity[box] = (0, 0, 7)
    calib = Calibration(W, H, 80.0, 80.0, W / 2, H / 2)
    with RecordingWriter(tmp_path / "a", calib) as writer:
        for k in range(3):
            image = rng.integers(0, 255, (H, W, 3), dtype=np.uint8)
            writer.add(
                image, k * 10**8, depth=depth, dynamic=box, velocity=velocity,
                instances=box.astype(np.uint16), T_world_cam=np.eye(4),
            )  # fmt: skip
    arms = {"seer": Seer([0.5] * 3), "blind": Oracle([1.0] * 3)}
    table = evaluate([Recording(tmp_path / "a")], arms, get_protocol("native")).table()
    motion = table["seer"]["motion"]
    assert motion["f1"] == 1 and motion["false_share"] == 0 and motion["objects"] == 2
    assert motion["epe_m"] == pytest.approx(0, abs=2e-2)
    assert motion["epe_zero_m"] == pytest.approx(0.7, rel=1e-2)
    assert "motion" not in table["blind"]


def test_nearest_resampling_mixes_nothing_and_ends_with_the_image():
    K = np.array([[80.0, 0, 19.5], [0, 80.0, 9.5], [0, 0, 1]])
    field = np.zeros((20, 40, 3), np.float32)
    field[:, 20:] = 5
    found = resample_nearest(field, K, K, (20, 40), (40, 80))
    assert found.shape == (40, 80, 3) and set(np.unique(found)) == {0, 5}
    assert (found[:, :40] == 0).all() and (found[:, 40:] == 5).all()
    shifted = K.copy()
    shifted[0, 2] += 10  # the image looks ten pixels further to the left
    beyond = resample_nearest(field, K, shifted, (20, 40), (20, 40))
    assert np.isnan(beyond[:, :10]).all() and np.isfinite(beyond[:, 10:]).all()
