"""mined_supervision from end to end with networks that see, and nothing in place of its parts."""

import csv
import shutil
from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch
from street import drive, view, write_street
from test_mined_supervision import BOARDS, MOVING, STAGES, TINY, settings

from dyndepth_core.data.recording import Recording, open_recordings
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.inference.model_file import load_model, save_model
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.methods.mined_supervision.alignment import CropSource, table_of
from dyndepth_core.methods.mined_supervision.cache import (
    Block,
    Cache,
    caches,
    read_column,
)
from dyndepth_core.methods.mined_supervision.masks import mask_block
from dyndepth_core.methods.mined_supervision.objective import labelled
from dyndepth_core.methods.mined_supervision.objects import ObjectSource
from dyndepth_core.methods.mined_supervision.scene import scene_of
from dyndepth_core.methods.mined_supervision.segment import LEAST_SURE, mined_source
from dyndepth_core.training.model import trained_model
from dyndepth_core.training.objective import make_objective
from dyndepth_core.training.run import finished_job, train_run

COUNT = 14  # images
FAR = 1.6  # what the scene takes for so much farther than it is
# A network that knows the street already, going on; the aligned motions are what tracks begin with.
SEEING = (
    *TINY, "network.pose_align=true", "objective.burn_in=0,0.02", "train.steps=160",
    "train.lr=5e-3", "train.validate_every=40", "objective.final_lr_factor=0.02",
    "data.jitter=0", "data.zoom_share=0",
    *(f"objective.shares.{s}" for s in (
        "scene=0.01", "segment=0.7", "objects=0.05", "alignment=0.1", "final=0.1",
    )),
)  # fmt: skip
GIVEN = (*SEEING, "objective.masks=files", "objective.shares.scene=0", "train.steps=12")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street")
    write_street(folder / "street", BOARDS, drive(COUNT))
    return folder


@pytest.fixture(scope="module")
def views():
    """Images (N, 3, H, W), depths (N, 1, H, W) and ids (N, H, W) of the street."""
    images, depths, ids = zip(
        *(view(BOARDS, T, i) for i, T in enumerate(drive(COUNT))), strict=True
    )
    return torch.cat(images).float(), torch.cat(depths).float(), np.stack(ids)


@pytest.fixture(scope="module")
def model(tmp_path_factory, root, views):
    """The model file of a depth network that has learned the street by heart, with what moves at
    FAR times its depth, as one learns it from images; its motion network has learned nothing.
    """
    config, (images, depths, ids) = settings(*SEEING), views
    moves = torch.from_numpy(np.isin(ids, MOVING))[:, None]
    depths = torch.where(moves, FAR * depths, depths)
    source = SampleSource(open_recordings(root), config.data, 2, 0, train=False)
    objective, steps = make_objective(config, source), 80
    net = objective.depth_net.train()
    optimiser = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for step in range(steps):
        some = slice(step % 2, None, 2)
        depth = objective.depth(net(images[some])[0], torch.ones(COUNT // 2))
        loss = (depth / depths[some]).log().abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    assert loss < 0.1
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, *trained_model(config, objective, source, [root], 0, None))
    return path


@pytest.fixture(scope="module")
def mined(tmp_path_factory, root, model):
    """A complete run whose objects are found in the images, and its metrics."""
    out = tmp_path_factory.mktemp("mined") / "run"
    return out, train_run(settings(*SEEING), [root], out, start=model)


@pytest.fixture(scope="module")
def given(tmp_path_factory, root, model):
    """A complete run whose objects are those of files and whose scene is the model's."""
    out = tmp_path_factory.mktemp("given") / "run"
    return out, train_run(settings(*GIVEN), [root], out, start=model)


@pytest.fixture(params=["mined", "given"])
def run(request):
    return request.getfixturevalue(request.param)


def made(out, stage):
    """What a stage made of the training's images."""
    path = out / "stages" / stage / "training_0000_000.npz"
    with np.load(path) as data:
        names = {n if n.startswith("o_") else n.rpartition(".")[0] for n in data.files}
    return {name: read_column(path, name) for name in names}


def test_every_stage_is_done_and_the_model_still_sees(run, views):
    out, metrics = run
    job = finished_job(out)  # a stage that is not done, or whose files are lost, is an error
    stages = [s for s in STAGES if s != "segment" or job.config.objective.masks == "mined"]
    assert list(job.earlier) == list(metrics["stages"]) == stages and metrics["state"] == "done"
    logs = {path.parent.name: path.read_text() for path in out.rglob("metrics.csv")}
    own = {"scene", "segment"} if "segment" in stages else {"alignment"}
    assert {"objects", "final"} | own <= set(logs)
    losses = [float(r["loss"]) for log in logs.values() for r in csv.DictReader(log.splitlines())]
    assert np.isfinite(losses).all()
    predictor = Predictor(out / "model.safetensors", device="cpu")
    images, depths, _ = views
    for i in (6, 7):
        image = (images[i].permute(1, 2, 0) * 255).round().byte().numpy()
        found = predictor(image, stamp_ns=i * 100_000_000, motion=True)
    off = np.log(found.depth / depths[7, 0].numpy())
    assert np.median(np.abs(off - np.median(off))) < 0.1  # up to its unit
    assert np.isfinite(found.motion.velocity).any()


def test_labels_are_those_of_objects_that_were_found_to_move(run):
    masks, labels = made(run[0], "masks"), made(run[0], "labels")
    moves = np.zeros_like(masks["ids"], bool)
    for name, row in zip(*(masks[k][masks["o_dynamic"]] for k in ("o_id", "o_row")), strict=True):
        moves[row] |= masks["ids"][row] == name
    assert moves.any() and not labels["weight"][~moves].any()
    assert labels["moves"][moves].all() and (labels["label"][labels["weight"] > 0] > 0).all()


def test_what_moves_is_mined_and_recognised(mined, views):
    """Most of it the board ahead that drives off, nearly as fast as the camera."""
    (out, metrics), truth = mined, views[2][1:]
    found, objects = made(out, "mining")["ids"] > 0, made(out, "masks")["ids"] > 0
    truth = truth[: len(found)]
    moving, standing = np.isin(truth, MOVING), truth > max(MOVING)
    assert found[moving].mean() > 0.2 > 4 * max(found[standing].mean(), found[truth == 0].mean())
    assert objects[truth == 1].mean() > 0.8
    assert metrics["stages"]["segment"]["recognised"] > 2 * LEAST_SURE


def test_objects_of_files_that_move_are_labelled_with_their_depth(given, views):
    """Which is that of the road where they stand, and not what the scene says."""
    found, (_, depths, ids) = made(given[0], "labels"), views
    standing = []
    for label, weight, depth, truth in zip(
        found["label"], found["weight"], depths[1:, 0].numpy(), ids[1:], strict=False
    ):
        inside = truth == 1
        assert (weight[inside] > 0).all() and not weight[truth == 0].any()
        assert np.median(label[inside] / depth[inside]) == pytest.approx(1.0, abs=0.2)
        standing.append(weight[truth > max(MOVING)].any())
    assert np.mean(standing) < 0.3


def test_without_a_share_the_scene_is_the_model_and_nothing_trains_it(given, model):
    out, metrics = given
    assert metrics["stages"]["scene"]["step"] == 0
    assert {p.name for p in (out / "stages" / "scene").glob("*.ckpt")} == {"kept.ckpt"}
    job, start = finished_job(out), load_model(model)[0].state_dict()
    scene, final = (job.weights(job.earlier[name][0]) for name in ("scene", "final"))
    assert all(torch.equal(scene[name], value) for name, value in start.items())
    learned = dict(job.objective().named_parameters()).keys() & start.keys()
    off = max(float((final[name] - start[name]).abs().max()) for name in learned)
    assert 0 < off < 0.01  # no step is longer than about the learning rate


def test_the_oracle_believes_the_files_of_what_moves(given, root, tmp_path, views):
    """Whatever the images show: a recording whose files say that a board does which stands."""
    shutil.copytree(root / "street", tmp_path / "street")
    paths = sorted((tmp_path / "street" / "dynamic").glob("*.png"))
    for path, ids in zip(paths, views[2], strict=True):
        cv2.imwrite(str(path), np.where(ids == 3, 255, 0).astype(np.uint8))
    job, count = finished_job(given[0]), 4
    scene, mined = scene_of(job, job.earlier["scene"][0]), caches(job, "mining")["training"]
    source = SampleSource([Recording(tmp_path / "street")], job.config.data, 2, 0, train=False)

    def dynamic(masks):
        """Whether boards move as (board, moves), in any image."""
        config = settings(*GIVEN, f"objective.masks={masks}").objective
        own = Block("training", 0, 0, tuple(range(count)))
        found = mask_block(scene, None, source, own, mined, mined, config, source.names)
        table = zip(*(found[k] for k in ("o_row", "o_id", "o_dynamic")), strict=True)
        boards = {
            (int(views[2][1 + row][found["ids"][row] == name].max()), bool(moves))
            for row, name, moves in table
        }
        return boards

    assert dynamic("files") >= {(1, True), (3, False)}
    assert dynamic("oracle") == {(1, False), (2, False), (3, True), (5, False)}
    paths[3].unlink()
    with pytest.raises(ValueError, match="oracle, but frame 3 has no instances/ and dynamic/"):
        dynamic("oracle")


def test_a_camera_that_is_learned_is_that_of_every_stage(root, model, tmp_path):
    settings_ = settings(*GIVEN, "objective.shares.scene=0.1", "data.intrinsics=video")
    metrics = train_run(settings_, [root], tmp_path / "run", start=model)
    assert metrics["state"] == "done" and metrics["stages"]["scene"]["step"] > 0
    job = finished_job(tmp_path / "run")
    scene = scene_of(job, job.earlier["scene"][0])
    K = scene.intrinsics(torch.tensor([0]), torch.tensor([False]))[0].double().numpy()
    guess, found = job.source.K(0), made(tmp_path / "run", "mining")["K"]
    assert np.abs(K - guess).max() > 0.01
    np.testing.assert_allclose(found, np.stack([K] * len(found)), rtol=1e-6)


def folded(sample):
    """Fields whose entries share memory, which cannot be pinned for a GPU."""
    tensors = {f.name: getattr(sample, f.name) for f in fields(sample)}
    return [
        name
        for name, x in tensors.items()
        if x is not None and any(s == 0 < n - 1 for s, n in zip(x.stride(), x.shape, strict=True))
    ]


def test_what_stages_learn_from_can_be_pinned(mined):
    job = finished_job(mined[0])
    crops = [p for p in job.earlier["alignment"] if p.suffix == ".npz"]
    sources = {
        "scene": job.source,
        "segment": mined_source(job, "training"),
        "objects": ObjectSource(job.source, Cache(job.earlier["masks"], job.source, "training")),
        "alignment": CropSource(
            job.source, table_of(job.earlier["masks"], crops, job.source, "training")
        ),
        "final": labelled(job.source, job.earlier["labels"], job.earlier["mining"], "training"),
    }
    found = {name: folded(source.batch(3)) for name, source in sources.items()}
    assert found == dict.fromkeys(sources, [])
