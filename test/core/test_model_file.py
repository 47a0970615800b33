"""Model files: what goes in comes out, and nothing else gets in."""

import json
import math
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import ARCHITECTURE, save_small_model, small_graph, small_meta

from dyndepth_core.inference import model_file
from dyndepth_core.inference.model_file import load_model, read_meta, save_model


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def rewrite(path, out, tensors=None, **fields):
    """A copy of a good model file with other metadata fields or tensors."""
    meta = json.loads(small_meta().model_dump_json()) | fields
    tensors = load_file(path) if tensors is None else tensors
    save_file(tensors, out, {"format": "pt", "dyndepth": json.dumps(meta)})
    return out


def depth_of(graph):
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    K = torch.tensor([[[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]]])
    with torch.inference_mode():
        return graph(image, None, K, None)[0]


def test_round_trip_is_exact(good):
    graph, meta = load_model(good)
    assert meta == small_meta() == read_meta(good)
    assert torch.equal(depth_of(graph), depth_of(small_graph()))
    assert not graph.training and not any(p.requires_grad for p in graph.parameters())


def test_half_precision_on_disk_halves_the_file_and_keeps_the_depth(good, tmp_path):
    path = tmp_path / "half.safetensors"
    save_model(path, small_graph(), small_meta(), weights="float16")
    tensors = load_file(path)
    assert all(t.dtype == torch.float16 for t in tensors.values() if t.ndim >= 2)
    assert torch.float16 not in {t.dtype for t in tensors.values() if t.ndim < 2}  # variances
    header = 60_000  # names and offsets take the same room in both
    assert path.stat().st_size - header < 0.6 * (good.stat().st_size - header)
    graph, _ = load_model(path)
    assert all(p.dtype == torch.float32 for p in graph.parameters())
    torch.testing.assert_close(depth_of(graph), depth_of(small_graph()), rtol=0.01, atol=0)


def test_weights_beyond_half_precision_are_refused(tmp_path):
    graph = small_graph()
    next(p for p in graph.parameters() if p.ndim == 4).data[0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match="half precision"):
        save_model(tmp_path / "m.safetensors", graph, small_meta(), weights="float16")
    save_model(tmp_path / "m.safetensors", graph, small_meta())
    graph.load_state_dict(load_model(tmp_path / "m.safetensors")[0].state_dict())


def test_a_diverged_model_is_neither_saved_nor_loaded(good, tmp_path):
    graph = small_graph()
    next(graph.parameters()).data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        save_model(tmp_path / "m.safetensors", graph, small_meta())
    assert list(tmp_path.iterdir()) == []
    tensors = load_file(good)
    name = next(n for n, t in tensors.items() if t.ndim == 4)
    tensors[name][0] = float("inf")
    with pytest.raises(ValueError, match=f"weight {name} holds NaN or infinity.*again"):
        load_model(rewrite(good, tmp_path / "inf.safetensors", tensors))


def test_loading_leaves_the_random_numbers_alone(good):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(good)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_truncated(good, tmp_path, keep):
    data = good.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"cut\.safetensors is .*cut off.*copy or download"):
        load_model(cut)


@pytest.mark.parametrize("where", [8, 9, 40, 300])
def test_flipped_header_bytes(good, tmp_path, where):
    data = bytearray(good.read_bytes())
    data[where] ^= 0xFF
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"flipped\.safetensors"):
        load_model(path)


def test_header_that_lies_about_a_shape(good, tmp_path):
    data = good.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'"shape":[', b'"shape":[9', 1)[:length]
    path = tmp_path / "lie.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    with pytest.raises(ValueError, match=r"lie\.safetensors is damaged"):
        load_model(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, (Evil.target,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_code_in_a_renamed_pickle_is_refused_and_not_run(tmp_path, writer):
    Evil.target = str(tmp_path / "executed")
    path = tmp_path / "model.safetensors"
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"w": Evil()}))
    else:
        torch.save({"w": Evil()}, path)
    with pytest.raises(ValueError, match=r"pickle.*model\.safetensors that dyndepth train"):
        load_model(path)
    assert not (tmp_path / "executed").exists()


def test_foreign_files(good, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(good), foreign, {"format": "pt"})
    with pytest.raises(ValueError, match="not written by dyndepth"):
        load_model(foreign)
    foreign.write_text("a text file, long enough to have a header")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_model(foreign)
    with pytest.raises(ValueError, match="format is not dyndepth-model"):
        load_model(rewrite(good, foreign, format="something"))
    save_file(load_file(good), foreign, {"dyndepth": "{"})
    with pytest.raises(ValueError, match="metadata is not JSON"):
        load_model(foreign)


def test_newer_version_says_update(good, tmp_path):
    path = rewrite(good, tmp_path / "new.safetensors", version=99, invented_later=1)
    with pytest.raises(ValueError, match="version 99.*reads up to 2: update dyndepth"):
        load_model(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_size", [0, 96]),
        ("input_size", "large"),
        ("canonical_focal", -1),
        ("depth_range", [5, 1]),
        ("scale", {"state": "guessed"}),
        ("method", None),
    ],
)
def test_bad_metadata_names_the_field(good, tmp_path, field, value):
    with pytest.raises(ValueError, match=field):
        load_model(rewrite(good, tmp_path / "bad.safetensors", **{field: value}))


@pytest.mark.parametrize(
    "architecture",
    [
        {},
        {"method": "perpetual_motion"},
        ARCHITECTURE | {"encoder": "resnet9000"},
        ARCHITECTURE | {"wings": 2},
        {k: v for k, v in ARCHITECTURE.items() if k != "encoder"},
    ],
)
def test_unknown_architecture(good, tmp_path, architecture):
    method = architecture.get("method", "monodepth")
    path = rewrite(good, tmp_path / "other.safetensors", architecture=architecture, method=method)
    with pytest.raises(ValueError, match="cannot build .*update dyndepth"):
        load_model(path)


def test_weights_of_another_architecture(good, tmp_path):
    path = tmp_path / "wide.safetensors"
    rewrite(good, path, architecture=ARCHITECTURE | {"width": 0.25})
    with pytest.raises(ValueError, match=r"weights have another shape .* and must be \("):
        load_model(path)
    rewrite(good, path, architecture=ARCHITECTURE | {"pose_encoder": None})
    with pytest.raises(ValueError, match="weights are not known"):
        load_model(path)
    tensors = load_file(good)
    del tensors[next(iter(tensors))]
    with pytest.raises(ValueError, match="1 weights are missing"):
        load_model(rewrite(good, path, tensors))


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (0, "canonical_focal", math.nan), (0, "canonical_focal", -1), (0, "units", -24),
        (0, "units", 0), (0, "units", math.inf), (0, "min_depth", -1), (0, "min_depth", 1e9),
        (0, "max_depth", 0), (0, "pose_downscale", None), (0, "pose_downscale", 10**9),
        (0, "width", 1e9), (0, "decoder_channels", [10**9] * 5), (0, "min_depth", 60.0),
        (1, "canonical_focal", math.inf), (1, "canonical_focal", 61.0), (1, "method", "sc_depth"),
        (1, "input_size", [33, 50]), (1, "input_size", [2**63, 2**63]), (1, "version", -1),
        (1, "depth_range", [1, math.inf]), (1, "thresholds", {"moving_speed": 0.0}),
        (1, "thresholds", {"moving_speed": -1.0}),
    ],
)  # fmt: skip
def test_values_that_would_give_wrong_depth_are_refused(good, tmp_path, where, name, value):
    """None of them may reach a vehicle as negative, infinite or silently rescaled metres."""
    meta = ARCHITECTURE | {"units": 1.0, "max_depth": 50.0}
    changes = {name: value} if where else {"architecture": meta | {name: value}}
    if name == "canonical_focal" and not where:
        changes["canonical_focal"] = value
    path = rewrite(good, tmp_path / "other.safetensors", **changes)
    with pytest.raises(ValueError, match=f"model file .*{name}|{name}.*model file"):
        load_model(path)


def test_a_header_that_never_ends_is_damaged(tmp_path, good):
    deep = b"{" + b'"a":[' * 100_000
    (tmp_path / "deep.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)
    with pytest.raises(ValueError, match="is damaged"):
        load_model(tmp_path / "deep.safetensors")
    data = good.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'"shape":', b'"shapf":', 1)
    (tmp_path / "shapeless.safetensors").write_bytes(data[:8] + header + data[8 + length :])
    with pytest.raises(ValueError, match="is damaged"):
        read_meta(tmp_path / "shapeless.safetensors")


def test_absent_and_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_model(tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match="is a directory"):
        load_model(tmp_path)


def test_bundled_model_says_what_to_do_when_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(model_file.BUNDLED, "motion", tmp_path / "motion.safetensors")
    for name in (None, "motion"):
        with pytest.raises(ValueError, match="--model.*dyndepth train"):
            model_file.find_model(name)
    (tmp_path / "motion.safetensors").touch()
    assert model_file.find_model(None) == tmp_path / "motion.safetensors"


def test_a_file_of_ones_own_may_be_called_as_a_bundled_one(tmp_path, monkeypatch):
    assert model_file.find_model("depth") == model_file.BUNDLED["depth"]
    assert model_file.find_model("some/depth") == Path("some/depth")
    monkeypatch.chdir(tmp_path)
    Path("depth").touch()
    assert model_file.find_model("depth") == Path("depth")


def test_the_folder_of_a_run_stands_for_its_model(tmp_path):
    assert model_file.find_model(tmp_path) == tmp_path / "model.safetensors"
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match="not finished.*--resume"):
        model_file.find_model(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert model_file.find_model(tmp_path) == tmp_path / "model.safetensors"
