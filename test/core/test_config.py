"""The configuration tree: every bad field is named with its value and a remedy."""

import pytest

from dyndepth_core import config
from dyndepth_core.config import Config, difference, dump, leaves, load, parse_method


def test_defaults_make_a_whole_tree():
    tree = load()
    assert tree.method == "monodepth" and tree.plugin is None
    assert tree.train.steps and tree.data.size and tree.network.encoder
    assert tree.objective.automask is True


def test_what_is_dumped_loads_back_unchanged(tmp_path):
    tree = load(
        overrides=["train.lr=3e-5", "data.size=64,96", "train.steps=null", "train.minutes=5"]
    )
    (tmp_path / "c.yaml").write_text(dump(tree))
    again = load(tmp_path / "c.yaml")
    assert again == tree and dump(again) == dump(tree)
    assert again.train.lr == 3e-5 and again.data.size == (64, 96) and again.train.steps is None


def test_every_field_says_what_it_means_in_the_dump():
    tree = load()
    for name in leaves(tree):
        line = next(x for x in dump(tree).splitlines() if x.strip().startswith(name.split(".")[-1]))
        assert "  # " in line, f"{name} has no description"


def test_overrides_win_over_the_file_and_the_method_over_both(tmp_path):
    (tmp_path / "c.yaml").write_text("train: {steps: 5, lr: 0.5}\ndata: {flip: 0}\n")
    tree = load(tmp_path / "c.yaml", ["train.steps=7"], "monodepth")
    assert (tree.train.steps, tree.train.lr, tree.data.flip) == (7, 0.5, 0)


@pytest.mark.parametrize(
    "override, named",
    [
        ("train.lrr=1", "train.lrr: no such field, did you mean train.lr?"),
        ("lr=1", "lr: no such field, did you mean train.lr?"),
        ("data.batch_size=4", "data.batch_size: no such field, did you mean train.batch_size?"),
        ("trian.lr=1", "trian: no such field"),
        ("objective.smothness=1", "did you mean objective.smoothness?"),
        ("train.lr=-1", "train.lr: -1 is not allowed: .*greater than 0.*highest learning rate"),
        ("train.lr=fast", "train.lr: 'fast' is not allowed: .*valid number"),
        ("train.optimizer=sgd", "train.optimizer: 'sgd' is not allowed: .*'adam' or 'adamw'"),
        ("data.size=100,20", "data.size: .*multiples of 32"),
        ("data.size=big", "data.size: 'big' is not allowed"),
        ("train.steps=null", "train: a training needs a budget: set steps, minutes or both"),
        ("train.devices=3", "batch_size 4 cannot be shared evenly by 3 devices"),
        ("train=5", "train: 5 is not allowed"),
        ("train.lr", "expected section.field=value"),
        ("method.x=1", "not a method"),
        ("=3", "expected section.field=value"),
    ],
)
def test_a_bad_setting_names_field_value_and_remedy(override, named):
    with pytest.raises(ValueError, match=named):
        load(overrides=[override])


def test_all_faults_are_told_at_once():
    with pytest.raises(ValueError) as error:
        load(overrides=["train.lr=-1", "data.flip=7", "network.wdth=2"])
    assert len(str(error.value).splitlines()) == 3


def test_a_list_of_one_number_needs_no_comma():
    tree = load(overrides=["data.source_offsets=1", "objective.scales=0"], method="monodepth")
    assert tree.data.source_offsets == (1,) and tree.objective.scales == (0,)


def test_an_override_cannot_go_below_a_value(tmp_path):
    (tmp_path / "c.yaml").write_text("train: {lr: 1}\n")
    with pytest.raises(ValueError, match="train.lr is a value"):
        load(tmp_path / "c.yaml", ["train.lr.x=1"])


@pytest.mark.parametrize(
    "text, named",
    [
        ("train: [1,", "not valid YAML"),
        ("- 1\n", "holds a list"),
        ("train: {lr: x}", "c.yaml: train.lr"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, named):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=named):
        load(tmp_path / "c.yaml")


def test_a_missing_file_is_named_and_an_empty_one_means_defaults(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such configuration"):
        load(tmp_path / "none.yaml")
    (tmp_path / "c.yaml").write_text("")
    assert load(tmp_path / "c.yaml") == load()


def test_the_grammar_of_methods(monkeypatch):
    assert parse_method("monodepth") == ("monodepth", None)
    assert parse_method("monodepth+motion_aware") == ("monodepth", "motion_aware")
    for text, named in {
        "motion_aware": "is a plug-in and cannot be trained alone; give METHOD or METHOD.PLUGIN",
        "monodept": "did you mean monodepth.*METHOD or METHOD.PLUGIN",
        "monodepth+motion": "not a plug-in, did you mean motion_aware.*METHOD or METHOD.PLUGIN",
        "": "not a method",
    }.items():
        with pytest.raises(ValueError, match=named):
            parse_method(text)
        with pytest.raises(ValueError):
            load(method=text)
    with pytest.raises(ValueError, match="monodepth has no teacher and student"):
        load(method="monodepth+motion_aware")


def test_difference_names_the_fields():
    a, b = load(), load(overrides=["train.lr=0.5", "data.flip=0"])
    assert difference(a, a) == []
    assert [d.split(":")[0] for d in difference(a, b)] == ["data.flip", "train.lr"]


def test_no_section_takes_unknown_keys():
    assert Config.model_config["extra"] == "forbid"
    for section in ("data", "network", "objective", "train"):
        with pytest.raises(ValueError, match="no such field"):
            config.from_dict({section: {"nonsense_field": 1}})


@pytest.mark.parametrize(
    "override",
    ["train.lr=.inf", "train.steps=99999999999999999999999", "train.threads=100000",
     "network.canonical_focal=1e300", "train.minutes=.inf"],
)  # fmt: skip
def test_values_beyond_all_sense_are_refused_at_once(override):
    with pytest.raises(ValueError, match=override.split("=")[0]):
        load(overrides=[override])


def test_a_file_nested_without_end_or_holding_a_bomb_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: " + "[" * 5000)
    with pytest.raises(ValueError, match=r"config.yaml: not (a configuration|valid YAML)"):
        load(path)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="a0: no such field"):
        load(path)


def test_weights_that_no_network_takes_are_refused():
    heads = ["network.depth_head=softplus", "network.motion_net=published"]
    with pytest.raises(ValueError, match="a.pth: both networks of the paper start from nothing"):
        load(overrides=["network.weights=a.pth", *heads], method="residual_motion")
    load(overrides=["network.weights=a.pth", heads[0]], method="residual_motion")
