"""What the names of rows mean, and which rows others are made from."""

import pytest

from dyndepth_core.reproduce.recipes import FINETUNE, in_order, recipe


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
