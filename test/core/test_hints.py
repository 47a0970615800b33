"""Hints for the depth of what stands: from a drive whose depth and motion are known."""

import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scenes import SIZE, camera, drive, write_recording

from dyndepth_core.config import load
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.synthetic import World, write_clip
from dyndepth_core.inference.model_file import load_model, save_model
from dyndepth_core.instances.mining import walk
from dyndepth_core.methods.base import InferenceGraph
from dyndepth_core.methods.residual_motion import hints
from dyndepth_core.methods.residual_motion.config import HINTS
from dyndepth_core.methods.residual_motion.hinted import HintedSample, hint_loss, hinted
from dyndepth_core.methods.residual_motion.hints import chunks, hint_chunk, may_move
from dyndepth_core.training.going_on import settings_of
from dyndepth_core.training.job import shared_out
from dyndepth_core.training.run import train_run

COUNT = 30
STREET = (96, 320)
TINY = (
    f"data.size={SIZE[0]},{SIZE[1]}", "network.encoder=resnet18", "network.width=0.125",
    "network.pose_encoder=resnet18", "network.decoder_channels=4,4,8,8,8", "network.min_depth=2",
    "network.max_depth=20", "network.pretrained=false", "train.batch_size=2", "train.steps=4",
    "train.threads=1", "train.workers=0", "train.validate_every=2", "train.checkpoint_every=2",
    "objective.hints=1", "objective.pose_first=0", "objective.keep=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hints")
    write_recording(folder / "data" / "drive", drive(COUNT), camera(70.0, SIZE), SIZE)
    return folder / "data"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Of a drive through a rendered street."""
    path = tmp_path_factory.mktemp("street") / "drive"
    write_clip(path, World(1000, 0, size=STREET, frames=COUNT))
    data = load(overrides=["data.size=96,320"], method="residual_motion").data
    return SampleSource([Recording(path)], data, 2, 0, False)


class Knows(InferenceGraph):
    """Says the true motion and a depth that is too far and too smooth, frame by frame; something
    moves in the upper left corner.
    """

    def __init__(self, recording, frames):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.recording, self.frames = recording, iter(frames)
        self.last = None

    def forward(self, image, previous_image, K, state=None):
        frame, last = next(self.frames), self.last
        depth = self.recording.depth(frame)
        depth = np.where(depth > 0, depth, 80.0)
        rough = 1.2 * np.exp(cv2.blur(np.log(depth), (31, 31)))[None, None]
        T, residual = None, None
        if previous_image is not None:
            T = np.linalg.inv(self.recording.pose(last)) @ self.recording.pose(frame)
            T = torch.from_numpy(T).float()[None]
            residual = torch.zeros(1, 3, *STREET)
            residual[..., :10, :10] = 0.2
        self.last = frame
        return torch.from_numpy(rough).float(), residual, T, None


def test_what_stands_is_hinted_right_and_what_moves_not_at_all(source):
    recording, (chunk, *_) = source.recordings[0], chunks(source)
    seen = list(walk(Knows(recording, chunk.frames), source, 0, chunk.frames))
    assert seen[0].T_src_tgt is None and not may_move(seen[0], 1.0).any()
    moves = may_move(seen[1], 1.0)
    assert moves[:14, :14].all() and not moves[20:, 20:].any()
    found = hint_chunk(seen, 1.0, range(0, len(seen), 4))
    assert [i for i, _ in found] == [0, 4, 8, 12, 16, 20]  # 0 has three images after it
    for i, hint in found[1:]:
        frame = chunk.frames[i]
        truth = np.where(recording.dynamic(frame), 0, recording.depth(frame))
        where = hint.sure & (truth > 0)
        ratio = hint.depth[where] / truth[where]
        assert 1.05 < np.median(ratio) < 1.35  # the unit is that of what is known beforehand
        off = np.abs(ratio / np.median(ratio) - 1)
        assert where.mean() > 0.25 and np.median(off) < 0.06
        assert not hint.sure[:14, :14].any()


def test_nothing_is_said_across_a_gap_or_a_damaged_image(source):
    chunk = chunks(source)[0]
    seen = list(walk(Knows(source.recordings[0], chunk.frames), source, 0, chunk.frames))
    seen[10] = None
    found = [i for i, _ in hint_chunk(seen, 1.0, [i for i in range(24) if i != 10])]
    # three images around it: 9 and 11 have those of one side, 23 and 0 as well
    assert found == [i for i in range(24) if i != 10]
    seen[13] = None  # 11 and 12 are alone now
    found = [i for i, _ in hint_chunk(seen, 1.0, [9, 11, 12, 14])]
    assert found == [9, 14]


def test_chunks_hold_every_frame_with_neighbours(source):
    found = chunks(source)
    assert {f for c in found for f in c.frames} == set(range(COUNT))
    assert all(len(c.frames) <= hints.CHUNK for c in found)
    inner = {f for c in found for f in c.frames[hints.REACH : -hints.REACH]}
    assert inner == set(range(hints.REACH, COUNT - hints.REACH))


def test_the_loss_is_of_the_shape_and_only_where_it_is_sure():
    depth = torch.rand(2, 1, 6, 8) + 1
    sure = torch.zeros_like(depth)
    sure[0, :, :3] = 1.0
    hint = 5 * depth.clone()
    assert hint_loss(depth, hint, sure) == pytest.approx(0.0, abs=1e-6)
    hint[0, :, 0] *= 2  # a third of what is sure
    assert hint_loss(depth, hint, sure) == pytest.approx(np.log(2) / 3, rel=1e-4)
    given = depth.clone().requires_grad_()
    hint_loss(given, hint, sure).backward()
    assert (given.grad[sure == 0] == 0).all() and (given.grad[0, :, 0] != 0).all()
    assert hint_loss(depth, torch.zeros_like(depth), torch.zeros_like(depth)) == 0


@pytest.fixture(scope="module")
def start(tmp_path_factory, root):
    """A model of two steps that says what moves."""
    folder = tmp_path_factory.mktemp("start")
    train_run(settings("train.steps=2", "objective.hints=0"), [root], folder / "run")
    graph, meta = load_model(folder / "run" / "model.safetensors")
    save_model(
        folder / "start.safetensors",
        graph,
        meta.model_copy(update={"thresholds": {"moving_speed": 100.0}}),
    )
    return folder / "start.safetensors"


def settings(*overrides):
    return load(overrides=(*TINY, *overrides), method="residual_motion")


def test_a_training_goes_on_with_hints(tmp_path, root, start):
    found = train_run(settings(), [root], tmp_path / "run", start=start)
    assert list(found["stages"]) == ["hints", "train"]
    assert found["stages"]["hints"]["hinted"] >= 4 and found["stages"]["train"]["step"] == 4
    (first, *_) = sorted((tmp_path / "run" / "stages" / "hints").glob("*.npz"))
    with np.load(first) as data:
        assert data["depth"].shape[1:] == SIZE and len(data["frames"]) == len(data["depth"]) > 1
    part = hinted(SampleSource([Recording(root / "drive")], settings().data, 2, 0), [first])
    part = pickle.loads(pickle.dumps(part))  # as data workers get it
    sample = part.batch(0)
    assert isinstance(sample, HintedSample) and sample.hint.shape == (2, 1, *SIZE)
    assert (sample.motion[..., 3, 3] == 1).all()  # both neighbours are among the six
    said = (tmp_path / "run" / "stages" / "train" / "metrics.csv").read_text()
    assert "hints" in said and "motion_hints" in said
    # what is there is not made again
    before = first.stat().st_mtime_ns
    train_run(settings(), [root], tmp_path / "run", resume=True, start=start)
    assert first.stat().st_mtime_ns == before


def test_a_start_that_knows_nothing_of_what_moves_gives_no_hints(tmp_path, root, start, caplog):
    graph, meta = load_model(start)
    save_model(tmp_path / "start.safetensors", graph, meta.model_copy(update={"thresholds": {}}))
    with caplog.at_level("INFO"):
        found = train_run(
            settings(), [root], tmp_path / "run", start=tmp_path / "start.safetensors"
        )
    assert "no hints" in caplog.text and found["stages"]["train"]["step"] == 4


def test_without_hints_the_training_has_all_the_minutes():
    job = SimpleNamespace(
        config=settings("train.minutes=2"), earlier={"hints": []}, objective=lambda: None,
        source=None, held_out=None, save=lambda objective: None, fit=lambda *_: None,
    )  # fmt: skip
    (*_, train) = hints.stages(settings("train.minutes=10"))
    train.run(job)
    assert job.config.train.minutes == 10


def test_hints_without_a_start_are_refused(tmp_path, root):
    with pytest.raises(ValueError, match="--from"):
        train_run(settings(), [root], tmp_path / "run")


def test_minutes_are_divided_and_steps_are_those_of_the_training():
    config = settings("train.minutes=10")
    shares = [(s.name, s.share, s.minutes) for s in hints.stages(config)]
    assert shares == [("hints", 1.0, hints.SHARE), ("train", 1.0, 1 - hints.SHARE)]
    parts = [shared_out(config, share, minutes).train for _, share, minutes in shares]
    assert [p.steps for p in parts] == [4, 4]
    assert sum(p.minutes for p in parts) == pytest.approx(10) and parts[0].minutes < 5
    for setting in ("objective.foreground=files", "data.intrinsics=video", "objective.hints=0"):
        assert [s.name for s in hints.stages(settings(setting))] == ["train"]


def test_they_are_the_default_of_a_training_that_goes_on(start):
    assert settings_of(start, None)["objective"]["hints"] == HINTS
    assert settings_of(start, "mined_supervision")["objective"]["keep"] == 0
    assert load(overrides=(), method="residual_motion").objective.hints == 0
