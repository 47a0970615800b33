"""mined_supervision end to end, as small as it gets, on what a perfect scene says: every stage
runs, goes on after a kill, and sees no ground truth.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from perfect_scene import PerfectScene
from scenes import SIZE
from street import Board, drive, write_street
from test_mined_learning import SMALL
from training_helpers import same_weights

from dyndepth_core.commands.inspect import command
from dyndepth_core.config import load
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.inference.model_file import load_model
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.methods.mined_supervision import alignment
from dyndepth_core.methods.mined_supervision.cache import Block, read_column
from dyndepth_core.methods.mined_supervision.mining import mine_block
from dyndepth_core.reproduce.curve import draw_curves, points, stage_curve
from dyndepth_core.training import fit
from dyndepth_core.training.checkpoint import Checkpoints
from dyndepth_core.training.run import train_run
from dyndepth_core.training.source import step_loader

# two that drive, one of them far; and four that stand
BOARDS = [
    Board(-1.3, 5.0, step=(0.02, 0.3)), Board(1.0, 9.0, width=2.2, step=(-0.15, 0.25)),
    Board(1.8, 6.5), Board(2.9, 9.0, paint=4), Board(-2.6, 8.0, width=2.0, paint=5),
    Board(-3.2, 11.0, width=2.4, paint=6),
]  # fmt: skip
MOVING = (1, 2)
STAGES = (
    "scene", "mining", "segment", "masks", "objects", "alignment", "labels", "final",
)  # fmt: skip
TINY = (
    *SMALL, "train.threads=1", "train.workers=0", "train.batch_size=2", "train.steps=40",
    "train.validate_every=4", "train.validation_batches=2", "train.checkpoint_every=2",
    "train.log_every=5", "objective.min_area=0.004", "objective.pose_first=0",
)  # fmt: skip
FILES = (*TINY, "objective.masks=files", "objective.alignment=contact", "objective.rounds=2")


def settings(*overrides):
    return load(overrides=overrides, method="mined_supervision")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street")
    write_street(folder / "street", BOARDS, drive(14))
    return folder


@pytest.fixture(scope="module")
def perfect():
    with pytest.MonkeyPatch.context() as patch:
        scene = PerfectScene(BOARDS, drive(14))
        scene.put_in(patch)
        yield scene


@pytest.fixture(scope="module")
def whole(tmp_path_factory, root, perfect):
    """An uninterrupted run with mined masks, and its metrics; its samples as data workers get them
    that are spawned.
    """
    out = tmp_path_factory.mktemp("whole") / "run"

    def loader(source, *args, **kwargs):
        return step_loader(pickle.loads(pickle.dumps(source)), *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "step_loader", loader)
        return out, train_run(settings(*TINY), [root], out)


@pytest.fixture(scope="module", params=["files", "oracle"])
def from_files(tmp_path_factory, root, perfect, request):
    """Two rounds with masks from files and scales by contact, and its metrics."""
    out = tmp_path_factory.mktemp("files") / "run"
    return out, train_run(settings(*FILES, f"objective.masks={request.param}"), [root], out)


def test_every_stage_leaves_its_figures_and_the_model_is_one_of_residual_motion(whole):
    out, metrics = whole
    stages = metrics["stages"]
    assert list(stages) == list(STAGES)
    assert stages["mining"]["regions"] >= 10 and stages["masks"]["objects"] >= 10
    assert stages["labels"]["labelled_objects"] > 0
    assert metrics["step"] == sum(s.get("step", 0) for s in stages.values())
    assert sum(s.get("step", 0) for s in stages.values()) == pytest.approx(40, abs=4)
    for name in ("scene", "segment", "objects", "alignment", "final"):
        assert stages[name]["best"]["score"] is not None
    for name in ("mining", "masks", "alignment", "labels"):
        assert 0 < stages[name]["cache_mb_per_1000_targets"] < 100
    predictor = Predictor(out / "model.safetensors", device="cpu")
    for i in range(2):
        image = np.full((*SIZE, 3), 40 * i, np.uint8)
        found = predictor(image, stamp_ns=i * 100_000_000, motion=True)
    assert found.depth.shape == SIZE and found.motion.velocity.shape == (*SIZE, 3)
    _, meta = load_model(out / "model.safetensors")
    assert meta.method == meta.architecture["method"] == "mined_supervision"


def test_what_moves_is_mined(whole, perfect):
    (path,) = (whole[0] / "stages" / "mining").glob("training_*.npz")
    ids = read_column(path, "ids")
    for row, (_, _, truth) in enumerate(perfect.views[1 : 1 + len(ids)]):
        moves = np.isin(truth, MOVING)
        assert (ids[row] > 0)[moves].mean() > 0.75
        assert (ids[row] > 0)[truth > max(MOVING)].mean() < 0.05


def test_what_is_mined_of_an_image_does_not_follow_from_its_block(root, perfect):
    source = SampleSource([Recording(root / "street")], settings(*TINY).data, 2, 0, False)
    whole, first, rest = (
        mine_block(None, source, Block("training", 0, 0, targets), source.names, 1.0)
        for targets in (tuple(range(12)), tuple(range(5)), tuple(range(5, 12)))
    )
    for name, arrays in whole.items():
        parts = np.concatenate((first[name], rest[name]))
        np.testing.assert_allclose(arrays, parts, atol=1e-3, err_msg=name)


def test_labels_of_what_moves_are_right_and_the_rest_is_the_scene(from_files, perfect):
    """Where several images are sure of the rest it is theirs."""
    paths = [from_files[0] / "stages" / n / "training_0000_000.npz" for n in ("labels", "mining")]
    label, weight = (read_column(paths[0], key).astype(np.float32) for key in ("label", "weight"))
    still = read_column(paths[1], "still").astype(np.float32)
    off, still_off = [], []
    for row, (_, depth, truth) in enumerate(perfect.views[1 : 1 + len(label)]):
        depth, moves = depth[0, 0].numpy(), np.isin(truth, MOVING)
        assert not weight[row][truth == 0].any()
        if not weight[row].any():
            continue
        rest, sure = weight[row] == 0, still[row] > 0
        assert label[row][rest & ~sure] == pytest.approx(depth[rest & ~sure], rel=2e-3)
        error = np.abs(label[row] / depth - 1)
        still_off += list(
            error[rest & sure & (depth < 15)]
        )  # tiny images: farther they cannot tell
        off += list(error[moves & (weight[row] > 0)])
    assert len(off) > 300 and np.median(off) < 0.06
    assert len(still_off) > 300 and np.median(still_off) < 0.15


def test_rounds_have_figures_of_their_own(from_files):
    stages = from_files[1]["stages"]
    second = ("objects_2", "alignment_2", "labels_2", "final_2")
    assert list(stages) == [s for s in (*STAGES, *second) if s != "segment"]
    assert stages["final_2"]["step"] == pytest.approx(stages["final"]["step"], abs=1)
    assert from_files[1]["state"] == "done"


def test_inspect_shows_every_intermediate_beside_each_other(from_files, perfect, tmp_path):
    show = {"out": tmp_path, "held_out": False, "data": None, "json_file": tmp_path / "f.json"}
    command(from_files[0], images=2, round_=1, **show)
    found = json.loads((tmp_path / "f.json").read_text())
    pictures = sorted(tmp_path.glob("target_*.png"))
    assert len(pictures) == 2
    image = cv2.imread(str(pictures[0]))
    assert image.shape == (4 * (2 * SIZE[0] + 18), 4 * SIZE[1], 3)
    page = (tmp_path / "index.html").read_text()
    assert all(p.name in page for p in pictures) and all(s in page for s in found["stages"])
    scales = found["errors"]["scales"]
    assert scales["contact dynamic"]["median"] < 0.1  # of a perfect scene
    assert scales["scene static"]["median"] < 0.05
    assert scales["chosen dynamic"] == pytest.approx(scales["contact dynamic"], rel=1e-4)
    assert found["errors"]["recall"]["moving"]["recall"] == 1.0  # masks are those of the files
    assert "true objects that were found" in page
    assert {"scene_dynamic", "label_dynamic", "final_dynamic"} <= set(found["errors"]["abs_rel"])
    with pytest.raises(ValueError, match="this run has 2"):
        command(from_files[0], images=1, round_=3, **show)


def test_the_curve_over_stages_has_every_round(from_files, root, perfect, tmp_path):
    found = stage_curve(from_files[0], tmp_path, root)
    assert stage_curve(from_files[0], tmp_path, root) == found
    names, values = points(found, "static")
    assert names == ["scene", "label", "final", "label 2", "final 2"]
    assert values == pytest.approx([0] * 5, abs=0.03)  # of a perfect scene
    assert draw_curves({"row": found}, tmp_path / "stages.png").stat().st_size > 1000


def killed(out, root, stage, resume):
    """Run in a process of its own, which is killed at the first thing the stage writes; stage None:
    to the end. Returns its exit code, or minus the signal it died of.
    """
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        write, replace = Checkpoints.write_last, os.replace

        def write_last(self, state, *, final):
            write(self, state, final=final)
            if self.folder.name == stage:
                os.kill(os.getpid(), signal.SIGKILL)

        def replaced(a, b):
            replace(a, b)
            if str(b).endswith(".npz") and Path(b).parent.name == stage:
                os.kill(os.getpid(), signal.SIGKILL)

        Checkpoints.write_last, os.replace = write_last, replaced
        PerfectScene(BOARDS, drive(14)).put_in(pytest.MonkeyPatch())
        train_run(settings(*TINY), [root], out, resume=resume)
        code = 0
    finally:
        os._exit(code)


def kill_every_stage(root, out):
    """Exit codes of a run that is killed in one stage after the other, then of its end; printed."""
    codes = [killed(out, root, stage, resume=k > 0) for k, stage in enumerate((*STAGES, None))]
    print(json.dumps(codes))


@pytest.mark.timeout(900)
def test_killed_in_every_stage_and_without_truth_it_gives_the_same_weights(tmp_path, root, whole):
    bare, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(root, bare)
    for name in ("instances", "dynamic", "depth"):
        shutil.rmtree(bare / "street" / name)
    # from a process without threads, which can be forked
    call = f"import test_mined_supervision as t; t.kill_every_stage({str(bare)!r}, {str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=Path(__file__).parent, capture_output=True, text=True,
        timeout=850,
    )  # fmt: skip
    assert json.loads(done.stdout or "null") == [-signal.SIGKILL] * len(STAGES) + [0], done.stderr
    ours, theirs = (load_model(run / "model.safetensors")[0] for run in (out, whole[0]))
    assert same_weights(ours.state_dict(), theirs.state_dict())


def test_with_too_few_standing_objects_scales_are_those_of_the_road(
    tmp_path, root, perfect, monkeypatch, caplog
):
    monkeypatch.setattr(alignment, "LEAST", 10_000)
    settings_ = settings(*FILES, "objective.alignment=learned", "objective.rounds=1")
    found = train_run(settings_, [root], tmp_path / "run")
    assert "too few to learn scales from" in caplog.text and found["state"] == "done"
    assert 0 < found["stages"]["alignment"]["static_objects"] < 10_000
    assert found["stages"]["labels"]["learned_against_contact"] is None
    assert 0.1 < found["stages"]["labels"]["confidence"] <= 1


def test_a_finished_stage_is_not_done_again(whole, root):
    files = sorted((whole[0] / "stages").rglob("*.npz"))
    before = [f.stat().st_mtime_ns for f in files]
    train_run(settings(*TINY), [root], whole[0], resume=True)
    assert [f.stat().st_mtime_ns for f in files] == before


def test_without_masks_of_a_frame_it_says_which(tmp_path, root, perfect):
    shutil.copytree(root, tmp_path / "data")
    (tmp_path / "data" / "street" / "instances" / "000003.png").unlink()
    with pytest.raises(ValueError, match="objective.masks=files, but frame 3 has no instances/"):
        train_run(settings(*FILES), [tmp_path / "data"], tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.intrinsics=pair", "needs one camera per video"),
        ("network.motion_net=published", "network.motion_net=pose"),
        ("objective.both_ways=true", "both_ways"),
        ("objective.shares.scene=0", "name it with --from"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(tmp_path, root, setting, message):
    with pytest.raises(ValueError, match=message):
        train_run(settings(*FILES, setting), [root], tmp_path / "run")
