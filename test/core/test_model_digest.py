"""Model files that were changed on their way, and names that are found."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_model import save_small_model, small_meta

from dyndepth_core.inference.model_file import load_model, read_meta


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def test_a_flipped_bit_anywhere_is_found(good, tmp_path):
    """In the weights: a little change is a valid number, too. Ten places over the whole file."""
    data = good.read_bytes()
    for place in range(len(data) // 20, len(data), len(data) // 10):
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ValueError, match="bad.safetensors"):
            load_model(bad)


def test_a_file_of_the_first_version_has_no_digest_and_loads(good, tmp_path):
    old = tmp_path / "old.safetensors"
    about = small_meta().model_dump_json()
    save_file(load_file(good), old, {"format": "pt", "dyndepth": about})
    for a, b in zip(*(load_model(f)[0].parameters() for f in (old, good)), strict=True):
        assert torch.equal(a, b)
    renamed = json.dumps(json.loads(about) | {"license": "other"})  # metadata count, too
    with safe_open(good, "pt") as file:
        digest = file.metadata()["sha256"]
    changed = {"format": "pt", "dyndepth": renamed, "sha256": digest}
    save_file(load_file(good), old, changed)
    with pytest.raises(ValueError, match="SHA-256"):
        load_model(old)


def test_a_home_folder_is_found(good, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(good.parent))
    assert read_meta(f"~/{good.name}") == small_meta()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none.safetensors")):
        load_model("none.safetensors")
