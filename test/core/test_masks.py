"""Masks reach the samples with their images, and what moves is mined without labels."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from moving_scene import SIZE, Box, K, view
from small_model import save_small_model
from tiny import blank
from torch import nn

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.data.transforms import largest
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.inference.model_file import BUNDLED
from dyndepth_core.instances.mining import mine
from dyndepth_core.instances.sources import (
    AtNetworkSize,
    MaskFiles,
    RecordedInstances,
    StoredInstances,
    store,
)
from dyndepth_core.methods import masks
from dyndepth_core.methods.base import InferenceGraph

CALIB = Calibration(320, 96, K[0, 0], K[1, 1], K[0, 2], K[1, 2])


def test_only_the_largest_objects_keep_a_name():
    ids = np.array([[0, 7, 7, 9], [0, 300, 7, 9]], np.uint16)
    assert largest(ids, 16).tolist() == [[0, 1, 1, 2], [0, 3, 1, 2]]
    # the others stay objects: what takes objects out of an image must not leave one of them
    assert largest(ids, 2).tolist() == [[0, 1, 1, 2], [0, 3, 1, 2]]
    assert largest(ids, 1).tolist() == [[0, 1, 1, 2], [0, 2, 1, 2]]
    assert not largest(np.zeros((2, 2), np.uint16), 16).any()


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Frames whose objects are red and nothing else is, with their ids; one frame has no file."""
    path = tmp_path_factory.mktemp("painted") / "drive"
    with RecordingWriter(path, Calibration(200, 120, 150.0, 150.0, 99.5, 59.5), "png") as writer:
        for i in range(6):
            image, ids = np.zeros((120, 200, 3), np.uint8), np.zeros((120, 200), np.uint16)
            for name, at in ((40, slice(20 + 3 * i, 60 + 3 * i)), (1000, slice(140, 180))):
                image[30:90, at], ids[30:90, at] = (255, 0, 0), name
            writer.add(image, i * 100_000_000, instances=ids, dynamic=ids == 40)
    return path


def masked(path, wrap=lambda r: RecordedInstances(r), **options):
    recordings = [Recording(path)]
    config = DataConfig(size=(64, 96), jitter=0.0, **options)
    source = SampleSource(recordings, config, 2, seed=3)
    return source.with_instances([AtNetworkSize(wrap(r), source, 0).ids for r in recordings])


def test_masks_are_cropped_zoomed_and_flipped_with_their_images(painted):
    source = masked(painted, zoom_share=1.0, zoom=2.0)
    flips = set()
    for step in range(8):
        batch = source.batch(step)
        images = torch.cat((batch.tgt[:, None], batch.src), 1)
        red = images[:, :, 0]
        sure = (red < 0.02) | (red > 0.98)  # not mixed with a neighbour by the resize
        assert torch.equal((batch.instances > 0)[sure], (red > 0.5)[sure])
        assert batch.instances.dtype == torch.uint8 and batch.instances.max() <= 2
        flips |= set(batch.flipped.tolist())
    assert flips == {True, False}


def test_samples_are_the_same_without_masks(painted):
    source = masked(painted)
    plain = SampleSource([Recording(painted)], source.config, 2, seed=3)
    for step in range(4):
        a, b = source.batch(step), plain.batch(step)
        assert torch.equal(a.tgt, b.tgt) and torch.equal(a.K, b.K) and b.instances is None


def test_masks_of_truth_are_those_of_what_moves_and_those_of_files_of_everything(painted):
    everything, moving = masked(painted), masked(painted, lambda r: RecordedInstances(r, True))
    assert everything.batch(0).instances.max() == 2 and moving.batch(0).instances.max() == 1


def test_mask_files_are_found_by_the_names_of_the_images(painted, tmp_path):
    recording = Recording(painted)
    (tmp_path / "masks").mkdir()
    (painted / "instances").rename(tmp_path / "masks" / "drive")
    try:
        found = MaskFiles(tmp_path / "masks", recording)
        assert set(np.unique(found.ids(2))) == {0, 40, 1000}
        assert MaskFiles(tmp_path, recording).ids(2) is None
        assert RecordedInstances(recording).ids(2) is None
        assert not masked(painted).batch(0).instances.any()
    finally:
        (tmp_path / "masks" / "drive").rename(painted / "instances")


def test_masks_of_another_size_are_refused(painted):
    source = masked(painted)
    with pytest.raises(ValueError, match="make them of the same size"):
        source.labels(0, np.zeros((60, 100), np.uint16))


# -- mined ---------------------------------------------------------------------------------------

BOXES = [Box((-3, 0, 12), (4.0, 0, 0)), Box((4, 0, 15), (0.0, 0, 0))]  # one drives, one is parked


class TrueMotion(InferenceGraph):
    """Knows the frame by its brightness, and what is true in it; likely: what it says of that."""

    def __init__(self, likely: float | None = None) -> None:
        super().__init__()
        self.likely = likely
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, image, previous_image, K, state=None):
        i = round(float(image.mean()) * 255)
        velocity, depth, _ = view(BOXES, np.eye(4), i / 10)
        depth = torch.from_numpy(depth)[None, None]
        if previous_image is None:
            return depth, None, None, depth
        seconds = (round(float(previous_image.mean()) * 255) - i) / 10
        residual = torch.from_numpy(velocity).permute(2, 0, 1)[None] * seconds
        if self.likely is not None:
            residual = torch.cat((residual, torch.full_like(depth, self.likely)), 1)
        return depth, residual, torch.eye(4)[None], depth


def driven(path, frames, rate_hz=10):
    with RecordingWriter(path, CALIB, "png") as writer:
        for i in range(frames):
            writer.add(np.full((*SIZE, 3), i, np.uint8), int(i * 1e9 / rate_hz))
    config = DataConfig(size=SIZE, source_offsets=(-1,))
    return SampleSource([Recording(path)], config, 1, 0, train=False)


def test_what_moves_is_mined_and_what_is_parked_is_not(tmp_path):
    found = mine(TrueMotion(), 1.0, driven(tmp_path / "drive", 6), 0)
    assert found[0] is None and len(found) == 6
    for i in range(1, 6):
        whose = view(BOXES, np.eye(4), i / 10)[2]
        overlap = ((found[i] > 0) & (whose == 1)).sum() / ((found[i] > 0) | (whose == 1)).sum()
        assert overlap > 0.9 and not found[i][whose == 2].any()
    assert len({int(f.max()) for f in found[1:]}) == 1  # one id all the way


def test_what_the_model_does_not_find_likely_is_not_mined(tmp_path):
    source = driven(tmp_path / "drive", 2)
    plain, likely, unlikely = (mine(TrueMotion(x), 1.0, source, 0)[1] for x in (None, 0.7, 0.4))
    assert np.array_equal(likely, plain) and plain.any() and not unlikely.any()


def test_frames_are_paired_at_the_rate_of_the_samples_and_not_across_a_gap(tmp_path):
    source = driven(tmp_path / "drive", 6, rate_hz=20)
    assert [f is None for f in mine(TrueMotion(), 1.0, source, 0)] == [True, True] + [False] * 4
    stamps = (0, 100, 200, 900, 1000)
    recording = blank(tmp_path / "gap", [s * 1_000_000 for s in stamps], SIZE, calib=CALIB)
    gap = SampleSource([recording], source.config, 1, 0, train=False)
    found = mine(TrueMotion(), 1.0, gap, 0)
    assert [f is None for f in found] == [True, False, False, True, False]


def test_a_model_without_residual_motion_cannot_mine(tmp_path):
    graph = TrueMotion()
    whole = graph.forward
    graph.forward = lambda *a: (lambda d, r, T, s: (d, None, T, s))(*whole(*a))
    with pytest.raises(ValueError, match="trained by residual_motion"):
        mine(graph, 1.0, driven(tmp_path / "drive", 3), 0)


def test_the_model_that_mines_is_named_as_models_are_everywhere(tmp_path):
    path = save_small_model(tmp_path / "model.safetensors")
    files = {"motion": BUNDLED["motion"], str(tmp_path): path, str(path): path}
    for name, file in files.items():
        objective = SimpleNamespace(masks=masks.MaskConfig(model=name))
        stage = masks.masked_stages(SimpleNamespace(objective=objective))[0]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert stage.reads(None, None) == {"masks": digest}
    assert isinstance(masks._given_model(str(tmp_path))[0], InferenceGraph)
    (tmp_path / "config.yaml").touch()
    path.unlink()
    with pytest.raises(ValueError, match="this training is not finished"):
        masks._given_file(str(tmp_path))


def test_stored_masks_are_read_back_whole_or_refused(tmp_path):
    ids = [None, np.full((4, 5), 3, np.int32), np.full((4, 5), 700, np.int32)]
    store(tmp_path / "a.npz", ids, (4, 5))
    found = StoredInstances(tmp_path / "a.npz")
    assert found.ids(0) is None
    assert all(np.array_equal(found.ids(i), ids[i]) for i in (1, 2))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:80])
    with pytest.raises(ValueError, match="b.npz: damaged instance masks"):
        StoredInstances(tmp_path / "b.npz")
