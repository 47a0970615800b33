"""From a model back to the bag, by hashes: in the file, printed without the data, checked with."""

import json
import shutil

import pytest

pytest.importorskip("lightning")
pytest.importorskip("rosbags")
pytest.importorskip("typer")
import numpy as np  # noqa: E402
from scenes import camera, drive, write_recording  # noqa: E402
from training_helpers import TINY  # noqa: E402

from dyndepth_core import cli  # noqa: E402
from dyndepth_core.commands.info import _show_chain  # noqa: E402
from dyndepth_core.config import load  # noqa: E402
from dyndepth_core.data.bag_writer import bag_from_recording  # noqa: E402
from dyndepth_core.data.chain import data_record, hash_file  # noqa: E402
from dyndepth_core.data.recording import Recording, open_recordings  # noqa: E402
from dyndepth_core.data.writer import manifest_hash  # noqa: E402
from dyndepth_core.inference.model_file import read_meta  # noqa: E402
from dyndepth_core.training.run import train_run  # noqa: E402
from dyndepth_core.training.source import split_recordings  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bag, what was collected from it, a model trained on that, and one fine-tuned on another."""
    root = tmp_path_factory.mktemp("chain")
    write_recording(root / "first", drive(24), camera())
    bag = bag_from_recording(Recording(root / "first"), root / "drive")
    collected = root / "collected"
    assert cli.main(["collect", str(bag), "--out", str(collected), "--rate", "0"]) == 0
    write_recording(root / "other" / "second", drive(12, 1), camera())
    config = load(overrides=[*TINY, "train.steps=1"])
    train_run(config, [collected], root / "base")
    base = root / "base" / "model.safetensors"
    train_run(config, [root / "other"], root / "tuned", start=base)
    return {"bag": bag, "collected": collected, "base": base, "root": root}


def info(model, *words, code=0, out=None):
    file = model.parent / "info.json"
    assert cli.main(["info", str(model), "--json", str(file), *map(str, words)]) == code
    return json.loads(file.read_text())


def test_the_chain_goes_from_the_model_to_the_bag_and_to_its_forebear(made, capfd):
    tuned = made["root"] / "tuned" / "model.safetensors"
    child, parent = info(tuned)["chain"]
    assert child["sha256"] == hash_file(tuned) and parent["sha256"] == hash_file(made["base"])
    assert parent["name"] == "base/model.safetensors" and parent["method"] == "monodepth"
    (source,) = parent["sources"]
    assert source["sha256"] == manifest_hash(made["collected"]) == parent["dataset_manifest"]
    (recording,) = source["recordings"]
    assert recording["sha256"] == manifest_hash(made["collected"] / "drive_000")
    (file,) = made["bag"].glob("*.mcap")
    (bag,) = source["bags"]
    assert bag["files"] == {file.name: hash_file(file)} and bag["recordings"] == ["drive_000"]
    assert source["tool"] == "dyndepth collect" and "changed" not in source
    assert child["sources"][0]["recordings"][0]["name"] == "second"
    text = capfd.readouterr().out
    for sha256 in (child["sha256"], parent["sha256"], source["sha256"], hash_file(file)):
        assert sha256[:16] in text
    assert text.index("fine-tuned from") < text.index(file.name) and "no bag known" in text


def test_a_forebear_stands_beneath_the_model_that_was_made_from_it(capsys):
    links = [
        {"sha256": c * 64, "name": name} for c, name in zip("abc", ("a", "b", ""), strict=True)
    ]
    _show_chain({"chain": links})
    _, parent, grandparent = capsys.readouterr().out.splitlines()
    assert parent.startswith("└── fine-tuned from bbbb") and parent.endswith(", b")
    assert grandparent.startswith("    └── fine-tuned from cccc")
    assert grandparent.endswith("of which nothing more is known")


def test_the_trained_and_the_held_out_spans_are_those_of_the_split(made):
    meta = read_meta(made["base"])
    (record,) = meta.provenance.sources[0]["recordings"]
    train, held_out = split_recordings([made["collected"]], load(overrides=[*TINY]).data)
    spans = [
        [[int(r.stamps_ns[0]), int(r.stamps_ns[-1])] for r in side] for side in (train, held_out)
    ]
    assert [record["trained"], record["held_out"]] == spans and len(spans[1]) == 1
    assert record["trained"][0][1] < record["held_out"][0][0]


def test_whether_data_are_those_of_the_training_is_told_by_their_content(made, tmp_path, capfd):
    checked = info(made["base"], "--data", made["collected"])["data_check"]
    assert checked["is_its_data"] and checked["recordings"] == {
        "drive_000": "trained on, unchanged"
    }
    one = info(made["base"], "--data", made["collected"] / "drive_000")["data_check"]
    assert one["is_its_data"]
    other = info(made["base"], "--data", made["root"] / "other", code=1)["data_check"]
    assert not other["is_its_data"] and other["recordings"] == {"second": "not trained on"}
    handed_on = info(made["root"] / "tuned" / "model.safetensors", "--data", made["collected"])
    assert handed_on["data_check"]["is_its_data"]  # its forebear was trained on it

    changed = tmp_path / "collected"
    shutil.copytree(made["collected"], changed)
    image = next((changed / "drive_000" / "images").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    told = info(made["base"], "--data", changed, code=1)["data_check"]
    assert told["recordings"] == {"drive_000": "changed since"}
    assert data_record(changed, open_recordings(changed))["changed"] == 1
    assert "this is not the data it was trained on" in capfd.readouterr().out


def test_a_folder_of_images_is_named_by_its_images(tmp_path):
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(np.full(9, value, np.uint8).tobytes())
    a, b, c = (manifest_hash(tmp_path / name) for name in "abc")
    assert a == b != c


def test_a_damaged_manifest_is_named(made, tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    write_recording(tmp_path / "drive", drive(3), camera())
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        data_record(tmp_path, open_recordings(tmp_path))
