"""`dyndepth export`, and the units a trained model speaks in."""

import math
from pathlib import Path

import pytest
import torch
from small_model import SIZE, camera, save_small_model
from training_helpers import TINY, make_recording, same_weights, source

from dyndepth_core import cli
from dyndepth_core.config import load
from dyndepth_core.data.chain import hash_file
from dyndepth_core.inference import export
from dyndepth_core.inference.export import export_model
from dyndepth_core.inference.model_file import load_model, read_meta
from dyndepth_core.inference.packed import pack, unpack
from dyndepth_core.methods import get_method
from dyndepth_core.training.model import trained_model
from dyndepth_core.training.units import TYPICAL_DEPTH


@pytest.fixture
def model(tmp_path):
    return save_small_model(tmp_path / "model.safetensors")


def arguments():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((2, 1, 3, *SIZE), generator=generator)
    return images[0], images[1], torch.as_tensor(camera(SIZE), dtype=torch.float32)[None]


def test_a_depth_only_half_precision_file_sees_the_same(model, tmp_path):
    out = tmp_path / "small.safetensors"
    change = export_model(model, out, "float16", depth_only=True)
    before, after = load_model(model)[0], load_model(out)[0]
    with torch.no_grad():
        depth, _, motion, _ = before(*arguments())
        smaller, _, none, _ = after(*arguments())
    assert motion is not None and none is None
    assert 0 < change < 0.02
    torch.testing.assert_close(smaller, depth, rtol=0.02, atol=0)
    assert out.stat().st_size < 0.5 * model.stat().st_size
    about = read_meta(out).provenance.model_dump()
    assert about.pop("exported_from") == hash_file(model)
    assert about == read_meta(model).provenance.model_dump()


def test_float32_with_all_networks_changes_nothing(model, tmp_path):
    same = tmp_path / "same.safetensors"
    assert export_model(model, same, "float32") == 0
    (before, old), (after, new) = load_model(model), load_model(same)
    assert same_weights(after.state_dict(), before.state_dict())
    defaults = {"units": 1.0, "pose_downscale": 1, "pose_align": False}
    assert new.architecture == {**old.architecture, **defaults}
    assert new.provenance.seed == old.provenance.seed and new.scale == old.scale


def test_mixed_keeps_depth_and_packs_what_only_motion_needs(model, tmp_path):
    half, mixed = tmp_path / "half.safetensors", tmp_path / "mixed.safetensors"
    for path, weights in ((half, "float16"), (mixed, "mixed")):
        export_model(model, path, weights)
    assert mixed.stat().st_size < 0.8 * half.stat().st_size
    assert (read_meta(half).version, read_meta(mixed).version) == (1, 2)
    with torch.no_grad():
        (depth, _, T, _), (same, _, near, _) = (
            load_model(p)[0](*arguments()) for p in (half, mixed)
        )
        plain = export_model(mixed, tmp_path / "plain.safetensors", "float32")
    torch.testing.assert_close(same, depth, rtol=0, atol=0)
    assert 0 < (near - T).abs().max() < 0.05 * (T - torch.eye(4)).abs().max()
    assert plain == 0 and read_meta(tmp_path / "plain.safetensors").version == 1


def test_packed_weights_are_right_to_half_a_step_per_channel():
    weight = torch.tensor([[1.0, -0.5, 0.25], [0.0, 0.0, 0.0], [1e-3, 2e-3, -254e-3]])
    steps, factors = pack(weight)
    assert steps.tolist() == [[127, -64, 32], [0, 0, 0], [0, 1, -127]]
    back = unpack({"w": steps, "w.scale": factors, "b.scale": factors})
    assert set(back) == {"w", "b.scale"}  # a weight may be called so
    assert ((back["w"] - weight).abs() <= 0.5001 * factors[:, None]).all()
    with pytest.raises(KeyError, match="w without its factors"):
        unpack({"w": steps})
    with pytest.raises(ValueError, match="do not fit"):
        unpack({"w": steps, "w.scale": factors[:2]})


def test_a_file_that_would_see_otherwise_is_not_kept(model, tmp_path):
    out = tmp_path / "small.safetensors"
    with pytest.raises(ValueError, match="nothing was written"):
        export_model(model, out, "float16", tolerance=0.0)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_nan_is_a_change_like_no_other():
    class Says(torch.nn.Module):
        previous_for_depth = False

        def __init__(self, depth):
            super().__init__()
            self.depth = depth

        def forward(self, image, previous, K):
            return (torch.full_like(image[:, :1], self.depth),)

    one, nan = Says(1.0), Says(math.nan)
    assert export._largest_change(one, one, SIZE) == 0
    assert export._largest_change(one, nan, SIZE) == math.inf


def test_what_is_there_is_never_replaced(model, tmp_path):
    old, link = tmp_path / "old.safetensors", tmp_path / "link.safetensors"
    old.write_bytes(b"the old one")
    link.symlink_to(tmp_path / "elsewhere")
    for out in (old, link, tmp_path, Path("/dev/null")):
        with pytest.raises(ValueError, match="is there already"):
            export_model(model, out)
    assert old.read_bytes() == b"the old one" and Path("/dev/null").is_char_device()
    with pytest.raises(ValueError, match="there is no folder"):
        export_model(model, tmp_path / "no" / "m.safetensors")


def test_the_command_takes_a_run_and_refuses_what_is_none(model, tmp_path, capsys):
    out = tmp_path / "small.safetensors"
    options = ["--out", str(out), "--depth-only"]
    assert cli.main(["export", "--model", str(tmp_path), *options]) == 0
    assert "MB" in capsys.readouterr().out and out.is_file()
    out.unlink()
    model.write_bytes(b"no model")
    assert cli.main(["export", "--model", str(model), *options]) == 2
    assert "model file" in capsys.readouterr().err


# -- units


@pytest.mark.parametrize("intrinsics", ["given", "video"])
def test_the_median_pixel_of_the_video_lies_at_a_typical_depth(tmp_path, intrinsics):
    root = make_recording(tmp_path)
    config = load(overrides=[*TINY, f"data.intrinsics={intrinsics}"])
    frames = source(root)
    objective = get_method("monodepth").objective_class(config, frames.names, frames.mean_focal())
    graph, meta = trained_model(config, objective.eval(), frames, [root], 1, None)
    plain = objective.inference_graph()
    batch = frames.batch(0)
    K = batch.K.clone()
    K[:, 0, 0] = graph.canonical_focal
    with torch.no_grad():
        depth, _, T, _ = graph(batch.tgt, batch.src[:, 0], K)
        own_depth, _, own_T, _ = plain(batch.tgt, batch.src[:, 0], K)
    assert float(depth.median()) == pytest.approx(TYPICAL_DEPTH, rel=0.2)
    units = graph.architecture["units"]
    assert units > 2  # an untrained network says about 0.2
    torch.testing.assert_close(depth, own_depth * units)
    torch.testing.assert_close(T[:, :3, 3], own_T[:, :3, 3] * units)
    torch.testing.assert_close(T[:, :3, :3], own_T[:, :3, :3])
    assert meta.depth_range[0] == pytest.approx(config.network.min_depth * units)
    assert meta.scale.state == "relative"
