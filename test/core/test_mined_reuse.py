"""Stages of mined_supervision that another run has finished: taken over where, and only where, all
that they read is the same.
"""

import json

import pytest
from perfect_scene import PerfectScene
from street import drive, write_street
from test_mined_supervision import BOARDS, TINY, settings
from training_helpers import same_weights

from dyndepth_core.commands.inspect import command
from dyndepth_core.config import load
from dyndepth_core.inference.model_file import load_model
from dyndepth_core.methods.mined_supervision.config import MinedSupervisionConfig
from dyndepth_core.methods.mined_supervision.stages import OWN, READS
from dyndepth_core.methods.residual_motion.config import HINTS
from dyndepth_core.training import job
from dyndepth_core.training.going_on import settings_of
from dyndepth_core.training.run import finished_job, train_run

# the variants of `reproduce`: each leaves out a stage whose share the last one gets
CONTACT = (*TINY, "objective.alignment=contact", "objective.shares.final=0.43")
FILES = (*TINY, "objective.masks=files", "objective.shares.final=0.51")
ROUNDS = (*TINY, "objective.rounds=2", "objective.label=0.7", "objective.grouping=slots",
          "objective.slot_size=32", "objective.slot_width=8")  # fmt: skip
SCENE, OBJECTS = ["scene", "mining"], ["segment", "masks", "objects"]


class Watched(MinedSupervisionConfig):
    """Settings that remember which of the method's own were read."""

    def __getattribute__(self, name):
        if name in OWN:
            SEEN[-1].add(name)
        return super().__getattribute__(name)


SEEN = [set()]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street")
    write_street(folder / "street", BOARDS, drive(14))
    return folder


@pytest.fixture(scope="module", autouse=True)
def perfect():
    with pytest.MonkeyPatch.context() as patch:
        PerfectScene(BOARDS, drive(14)).put_in(patch)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, root):
    out = tmp_path_factory.mktemp("whole") / "run"
    train_run(settings(*TINY), [root], out)
    return out


def record(out, stage):
    return json.loads((out / "stages" / stage / "stage.json").read_text())


def taken_over(out):
    stages = sorted((out / "stages").iterdir(), key=lambda p: record(out, p.name)["ended"])
    return [s.name for s in stages if "taken_over_from" in record(out, s.name)]


@pytest.mark.parametrize(
    ("variant", "same"), [(CONTACT, [*SCENE, *OBJECTS]), (FILES, SCENE)], ids=["contact", "files"]
)
def test_a_variant_takes_over_what_it_shares_and_learns_the_same(
    tmp_path, root, whole, variant, same
):
    metrics = train_run(settings(*variant), [root], tmp_path / "run", reuse=[whole])
    assert sorted(taken_over(tmp_path / "run")) == sorted(same)
    alone = train_run(settings(*variant), [root], tmp_path / "alone")
    weights = [
        load_model(tmp_path / n / "model.safetensors")[0].state_dict() for n in ("run", "alone")
    ]
    assert same_weights(*weights)
    assert metrics["step"] == alone["step"]  # what it cost, whoever paid
    # and goes on by itself, also when what it was taken from is gone
    again = train_run(settings(*variant), [root], tmp_path / "run", resume=True)
    assert again["stages"] == metrics["stages"]


def test_other_settings_of_a_stage_or_other_images_take_nothing(tmp_path, root, whole):
    other = (*TINY, "objective.smoothness=0.01")
    train_run(settings(*other), [root], tmp_path / "run", reuse=[whole])
    assert taken_over(tmp_path / "run") == []
    elsewhere = tmp_path / "elsewhere"
    write_street(elsewhere / "street", BOARDS, drive(13))
    train_run(settings(*TINY), [elsewhere], tmp_path / "images", reuse=[whole])
    assert taken_over(tmp_path / "images") == []


@pytest.mark.parametrize(
    "variant", [CONTACT, FILES, ROUNDS], ids=["contact", "files", "rounds and slots"]
)
def test_every_stage_reads_only_the_settings_it_says(tmp_path, root, monkeypatch, variant):
    begun = []

    class Watching(job.Job):
        def __init__(self, info, given, context):
            super().__init__(info, given, context)
            SEEN.append(set())
            own = Watched(**self.config.objective.model_dump())
            self.config = self.config.model_copy(update={"objective": own})
            begun.append(info.name)
            SEEN[-1] = set()  # making them reads them

    monkeypatch.setattr(job, "Job", Watching)
    monkeypatch.setitem(globals(), "SEEN", [set()])
    train_run(settings(*variant), [root], tmp_path / "run")
    for name, seen in zip(begun, SEEN[1:], strict=True):
        assert seen - {"shares"} <= READS[name.partition("_")[0]], name
    assert "label" in SEEN[-1]  # the watch sees
    assert set().union(*READS.values()) < OWN


def test_what_a_run_made_is_measured_where_the_truth_is(tmp_path, root, whole):
    """On the recordings it was trained on, and no others; they may have had no truth then."""
    blind, out = tmp_path / "blind", tmp_path / "run"
    write_street(blind / "street", BOARDS, drive(14), truth=False)
    train_run(settings(*TINY), [blind], out, reuse=[whole])
    assert "scene" in taken_over(out)  # the images are the same
    show = {"out": tmp_path / "page", "images": 1, "round_": None, "held_out": False}
    for data, found in ((None, False), ([root], True)):
        command(out, data=data, json_file=tmp_path / "found.json", **show)
        errors = json.loads((tmp_path / "found.json").read_text())["errors"]
        assert bool(errors["abs_rel"]) is found
    write_street(tmp_path / "other" / "street", BOARDS, drive(13))
    with pytest.raises(ValueError, match="not the recordings that .* was trained on"):
        finished_job(out, [tmp_path / "other"])


def test_a_training_from_its_model_mines_only_when_asked_to(whole):
    """On a vehicle there is no time for it."""
    path = whole / "model.safetensors"
    quick, anew = (load(base=settings_of(path, m)) for m in (None, "mined_supervision"))
    assert (quick.method, anew.method) == ("residual_motion", "mined_supervision")
    assert quick.objective.hints == HINTS and quick.network.encoder == "resnet18"
    for tree in (quick, anew):  # losses of both are those it was trained with
        assert tree.objective.pose_first == 0 and tree.data.size == (64, 96)
        assert tree.train.batch_size == 2
