"""What a training reads: splits, fingerprints, loaders, and data it refuses."""

import shutil

import pytest
import torch
from training_helpers import (
    DATA,
    TINY,
    ToyObjective,
    make_recording,
    same_weights,
    settings,
    source,
)

from dyndepth_core.config import load
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.writer import write_splits
from dyndepth_core.training.fit import fit
from dyndepth_core.training.run import train_run
from dyndepth_core.training.source import (
    check_splits,
    fingerprint,
    split_recordings,
    step_loader,
    validation_batches,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_recording(tmp_path_factory.mktemp("recordings"))


def test_the_last_tenth_of_each_recording_is_held_out(tmp_path):
    make_recording(tmp_path, "long", 40)
    make_recording(tmp_path, "short", 12, 1)
    make_recording(tmp_path, "tiny", 4, 2)
    train, val = split_recordings([tmp_path], DATA)
    assert {r.name: len(r) for r in train} == {"long": 36, "short": 8, "tiny": 4}
    assert {r.name: len(r) for r in val} == {"long": 4, "short": 4}
    for before in train:
        for after in val:
            assert before.name != after.name or before.stamps_ns[-1] < after.stamps_ns[0]


def test_splits_on_disk_are_followed(tmp_path):
    for i, name in enumerate("abc"):
        make_recording(tmp_path, name, 8, i)
    write_splits(tmp_path, {"train": ["a"], "val": ["b"], "test": ["c"]})
    train, val = split_recordings([tmp_path], DATA)
    assert [r.name for r in train] == ["a"] and [r.name for r in val] == ["b"]


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_split_without_a_training_part_is_refused_with_the_remedy(tmp_path, other):
    """Else the frames held out for a test would be trained on."""
    for i, name in enumerate("ab"):
        make_recording(tmp_path, name, 8, i)
    write_splits(tmp_path, {other: ["b"]})
    with pytest.raises(ValueError, match=rf"train.txt: no such split.*{other}.*write its seq"):
        train_run(load(overrides=TINY), [tmp_path], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    write_splits(tmp_path, {"train": ["a"]})
    check_splits([tmp_path])
    train, val = split_recordings([tmp_path], DATA)
    assert {r.name for r in train} == {"a"} and {r.name for r in val} <= {"a", "b"}
    assert other == "val" or "b" not in {r.name for r in val}


def test_the_fingerprint_sees_images_stamps_and_calibration_but_no_ground_truth(tmp_path):
    make_recording(tmp_path, "a", 6)

    def now():
        return fingerprint(split_recordings([tmp_path], DATA)[0])

    before = now()
    shutil.rmtree(tmp_path / "a" / "depth")
    assert now() == before
    calib = tmp_path / "a" / "calib.json"
    calib.write_text(calib.read_text().replace("70", "71"))
    assert now() != before


def test_data_workers_change_no_weight(tmp_path, root):
    found = []
    for workers in (0, 2):
        objective = ToyObjective()
        fit(
            objective,
            settings(workers=workers, steps=6),
            source(root),
            None,
            tmp_path / str(workers),
        )
        found.append(objective.state_dict())
    assert same_weights(*found)
    assert not same_weights(found[0], ToyObjective().state_dict())


def test_step_loaders_begin_anywhere_and_share_batches(root):
    samples = source(root, batch_size=4)
    batches = list(step_loader(samples, 3, 5, workers=0))
    assert [b.index.tolist() for b in batches] == [samples.batch(s).index.tolist() for s in (3, 4)]
    parts = [next(iter(step_loader(samples, 3, 4, workers=0, rank=r, world=2))) for r in (0, 1)]
    assert sorted(parts[0].index.tolist() + parts[1].index.tolist()) == sorted(
        batches[0].index.tolist()
    )


def test_bad_data_leaves_no_run_folder_behind(tmp_path):
    config = load(overrides=TINY)
    with pytest.raises(FileNotFoundError):
        train_run(config, [tmp_path / "nothing"], tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        train_run(config, [tmp_path / "empty"], tmp_path / "run")
    make_recording(tmp_path / "one", "a", 1)
    with pytest.raises(ValueError, match="no target frame"):
        train_run(config, [tmp_path / "one"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_image_is_left_out_and_named_once(tmp_path, caplog):
    """A long training does not end by it, and stays a function of its step."""
    root = make_recording(tmp_path / "data", "a", 12)
    image = root / "a" / "images" / "000003.png"
    image.write_bytes(image.read_bytes()[:-40])
    needs = {1, 2, 3}  # targets 2, 3 and 4 look at frame 3; the first target is frame 1
    first, again = source(root), source(root)
    batches = [first.batch(k) for k in range(12)]
    assert not needs & {int(i) for b in batches for i in b.index}
    assert sum("000003.png" in r.message for r in caplog.records) == 1
    for k in (11, 0, 5):
        assert torch.equal(again.batch(k).tgt, batches[k].tgt)
    done = fit(ToyObjective(), settings(workers=1), source(root), None, tmp_path / "run")
    assert done.state == "done"


def test_workers_without_a_readable_image_say_so_in_one_line(tmp_path):
    root = make_recording(tmp_path / "data", "a", 12)
    for image in (root / "a" / "images").iterdir():
        image.write_bytes(image.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"^[^\n]*\.png: is damaged[^\n]*$"):
        fit(ToyObjective(), settings(workers=1), source(root), None, tmp_path / "run")


def test_drives_of_one_name_in_several_roots_are_told_apart(tmp_path):
    roots = [make_recording(tmp_path / day, "front") for day in ("monday", "tuesday")]
    train, val = split_recordings(roots, DATA)
    labels = {r.path: r.label for r in train}
    assert [labels[root / "front"] for root in roots] == ["front", "front#2"]
    assert [r.label for r in val] == [labels[r.path] for r in val] and len(val) == 2
    of_train, of_val = (SampleSource(part, DATA, 1, 0) for part in (train, val))
    batches = validation_batches(of_val, 100, of_train.names)
    assert {int(v) for batch in batches for v in batch.video} == {0, 1}
    assert [r.name for r in train] == ["front"] * 2  # masks and hashes go by the folder


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    tmp_path, root, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = load(overrides=[*TINY, "train.device=cuda"])
    with pytest.raises(ValueError, match="Choose auto or cpu"):
        train_run(config, [root], tmp_path / "run")
    assert not (tmp_path / "run").exists()
