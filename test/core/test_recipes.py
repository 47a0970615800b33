"""What the names of rows mean, and which rows others are made from."""

import hashlib
from dataclasses import replace

import pytest
import torch
from test_reproduce import TINY

from dyndepth_core.config import load
from dyndepth_core.inference.model_file import read_meta
from dyndepth_core.methods import get_method
from dyndepth_core.reproduce.budgets import BUDGETS
from dyndepth_core.reproduce.recipes import FINETUNE, depth_of, in_order, recipe, trained_once
from dyndepth_core.reproduce.rows import masks_hash
from dyndepth_core.reproduce.run import reproduce, row_config
from dyndepth_core.training.job import budget, stages_of
from dyndepth_core.training.settings import without

SHARED = ("scene", "mining", "segment", "masks")  # where the same masks are mined


def test_a_plain_method_begins_with_nothing():
    assert recipe("monodepth").needs == [] and recipe("monodepth").settings == ()


def test_a_plug_in_goes_on_from_its_method_and_stands_beside_the_same_without_it():
    row = recipe("many_depth+motion_aware")
    assert (row.start, row.miner, row.control) == (
        "many_depth", "residual_motion", "many_depth_finetuned",
    )  # fmt: skip
    control = recipe("many_depth_finetuned")
    assert (control.method, control.start, control.miner) == ("many_depth", "many_depth", None)
    assert row.settings == control.settings == FINETUNE


def test_variants_say_whose_masks_and_which_part():
    row = recipe("many_depth+motion_aware_temporal_oracle")
    assert row.miner is None and row.method == "many_depth+motion_aware"
    assert "objective.masks.source=truth" in row.settings
    assert "objective.motion_aware.distillation=false" in row.settings
    assert row.control == "many_depth_finetuned"
    files = recipe("dynamic_depth+motion_aware_files")
    assert files.control == "dynamic_depth_finetuned_files" and files.start == "dynamic_depth"
    assert "objective.masks.source=files" in recipe(files.control).settings


def test_truth_is_read_only_where_the_name_ends_so():
    rows = ["many_depth+motion_aware", "dynamic_depth", "many_depth+motion_aware_published_files"]
    for name in [*rows, *(n + "_oracle" for n in rows[:2])]:
        truth = any("masks.source=truth" in s for s in recipe(name).settings)
        assert truth is name.endswith("_oracle")


def test_what_the_paper_leaves_out_stands_beside_its_losses():
    order = in_order(["residual_motion_published_l1", "residual_motion_published_files"])
    assert order[0] == "residual_motion_published" and len(order) == 3
    for name in order:
        settings = recipe(name).settings
        assert "objective.both_ways=true" in settings and "data.source_offsets=1" in settings
        load(overrides=settings, method=recipe(name).method)  # every name is one
    assert "objective.foreground=files" in recipe(order[2]).settings
    assert recipe("sc_depth_published").control == "sc_depth"
    load(overrides=recipe("sc_depth_published").settings, method="sc_depth")
    assert recipe(order[1]).control == order[0] and recipe(order[0]).control is None


@pytest.mark.parametrize("row", ["residual_motion_published", "residual_motion_published_no_depth"])
def test_without_depth_nothing_shows_depth_to_the_motion_network(row):
    tiny = ("network.encoder=resnet18", "network.width=0.25", "network.pretrained=false",
            "network.pose_encoder=resnet18", "network.decoder_channels=8,8,16,32,64")  # fmt: skip
    config = load(overrides=[*tiny, *recipe(row).settings], method="residual_motion")
    torch.manual_seed(0)
    net = get_method("residual_motion").objective_class(config, ["drive"], 100.0).motion_net
    torch.nn.init.normal_(net.refine[-1].head.weight)
    tgt, src = torch.rand(2, 1, 3, 64, 96)
    K = torch.tensor([[[100.0, 0, 47.5], [0, 100.0, 31.5], [0, 0, 1]]])
    flat = torch.full((1, 1, 64, 96), 5.0)
    found = [
        net(tgt, src, depth, depth, K, torch.tensor([True]))
        for depth in (flat, flat + 9 * src[:, :1])
    ]
    same = [torch.equal(getattr(found[0], k), getattr(found[1], k)) for k in ("ego", "residual")]
    assert same == [True, row.endswith("_no_depth")] and found[0].parts is None


def test_rows_come_after_those_they_are_made_from():
    order = in_order(["dynamic_depth+motion_aware", "monodepth", "many_depth"])
    assert order == [
        "many_depth", "residual_motion", "many_depth_finetuned", "dynamic_depth",
        "dynamic_depth_finetuned", "dynamic_depth+motion_aware", "monodepth",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("monodepth_oracle", "another method that uses masks"),
        ("many_depth_temporal", "give a plug-in any"),
        ("dynamic_depth_files_oracle", "one of these two at the end"),
        ("many_depth+motion_aware_oracle_temporal", "one of these two at the end"),
        ("many_depth+motion_aware_finetuned", "leave _finetuned out"),
        ("many_deph", "did you mean many_depth"),
        ("motion_aware", "cannot be trained alone"),
    ],
)
def test_other_names_are_refused(name, says):
    with pytest.raises(ValueError, match=says):
        recipe(name)


@pytest.mark.timeout(600)
def test_a_plug_in_row_goes_on_from_one_model_beside_the_same_without_it(tmp_path):
    budget = replace(TINY, minutes=0.02, finetune_steps=2, clips={"train": 2, "val": 1, "test": 1})
    table = reproduce(["many_depth+motion_aware"], budget, [5], tmp_path, workers=1)
    rows = table["methods"]
    assert {"many_depth", "residual_motion", "many_depth_finetuned", "many_depth+motion_aware"} <= {
        *rows
    }
    models = {p.parents[2].name: p for p in tmp_path.glob("rows/*/seed_5_*/run/model.safetensors")}
    start = hashlib.sha256(models["many_depth"].read_bytes()).hexdigest()
    for name in ("many_depth_finetuned", "many_depth+motion_aware"):
        meta = read_meta(models[name])
        assert getattr(meta.provenance, "from") == start and rows[name]["steps"] == 2
        assert meta.method == "many_depth"
    masks = read_meta(models["many_depth+motion_aware"]).provenance.config["objective"]["masks"]
    assert masks["source"] == "mined" and masks["model"] == str(models["residual_motion"])
    assert any(p["first"] == "many_depth+motion_aware" for p in table["paired"])


def test_the_hash_of_masks_sees_masks_alone(tmp_path):
    for folder in ("images", "instances"):
        (tmp_path / "a" / folder).mkdir(parents=True)
        (tmp_path / "a" / folder / "000000.png").write_bytes(b"one")
    before = masks_hash(tmp_path)
    (tmp_path / "a" / "images" / "000000.png").write_bytes(b"two")
    assert masks_hash(tmp_path) == before
    (tmp_path / "a" / "instances" / "000000.png").write_bytes(b"two")
    assert masks_hash(tmp_path) != before


def test_repeated_fine_tunings_begin_with_one_model():
    plugged = "many_depth+motion_aware"
    assert trained_once([plugged]) == {"many_depth", "residual_motion"}
    assert trained_once([plugged, "many_depth"]) == {"residual_motion"}
    assert trained_once(["monodepth", "sc_depth"]) == set()


@pytest.mark.parametrize("end", ["contact", "rounds", "files", "oracle"])
def test_variants_of_mined_supervision_share_what_is_the_same_and_take_as_long(end):
    name = f"mined_supervision_{end}"
    assert recipe(name).takes == recipe(name).control == "mined_supervision"
    assert in_order([name])[-2:] == ["mined_supervision", name]
    assert depth_of(name) > depth_of("mined_supervision")  # its stages are finished by then
    plain, variant = (row_config(n, BUDGETS["quick"], 3, None) for n in ("mined_supervision", name))
    made = [{s.name: (budget(s, c), s) for s in stages_of(c)} for c in (plain, variant)]
    for stages in made:  # none has less time than another
        spent = sum(found["budget"][1] for found, _ in stages.values() if found["budget"])
        assert spent == pytest.approx(plain.train.minutes)
    same = SHARED if end in ("contact", "rounds") else SHARED[:2]
    for stage in same:
        (one, info), (other, _) = made[0][stage], made[1][stage]
        assert one == other
        read = [without(c.model_dump(mode="json"), info.unread) for c in (plain, variant)]
        assert read[0] == read[1]
