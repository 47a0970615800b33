"""Samples: a pure function of (seed, step), true to geometry."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scenes import SIZE, camera, drive, render, write_recording
from tiny import blank

from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.data.writer import RecordingWriter
from dyndepth_core.geometry.camera import distort, flip_K
from dyndepth_core.geometry.se3 import invert_T
from dyndepth_core.geometry.warp import inverse_warp, sample

PLAIN = {"flip": 0.0, "jitter": 0.0, "zoom_share": 0.0}
POSES = drive(12)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, POSES, camera())
    return Recording(path)


def config(**options):
    return DataConfig(**{"size": SIZE, **options})


def source(recording, batch_size=4, seed=0, train=True, **options):
    return SampleSource([recording], config(**options), batch_size, seed, train)


def equal(a, b):
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in filled(a))


def filled(sample):
    """Names of the fields it has."""
    return [name for name, value in vars(sample).items() if value is not None]


# -- a pure function ------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_and_step_alone(recording):
    first = source(recording)
    expected = first.batch(7)
    assert equal(first.batch(7), expected)
    other = source(recording)
    for step in (3, 900, 0):
        other.batch(step)
    assert equal(other.batch(7), expected)
    assert equal(source(recording, cache_mb=0).batch(7), expected)
    np.random.seed(5)
    torch.manual_seed(5)
    assert equal(source(recording).batch(7), expected)
    assert not torch.equal(first.batch(8).tgt, expected.tgt)
    assert not torch.equal(source(recording, seed=1).batch(7).tgt, expected.tgt)


@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_all_processes_make_up_the_batch(recording, world):
    whole = source(recording).batch(5)
    shares = [source(recording).batch(5, rank, world) for rank in range(world)]
    for name in filled(whole):
        joined = torch.empty_like(getattr(whole, name))
        for rank, share in enumerate(shares):
            joined[rank::world] = getattr(share, name)
        assert torch.equal(joined, getattr(whole, name)), name


def test_an_epoch_shows_every_target_once_each_time_in_another_order(recording):
    drawn = source(recording, batch_size=5)
    count = len(drawn)
    assert count == 10  # of 12 frames, the ends lack a source
    order = torch.cat([drawn.batch(step).index for step in range(4)])
    assert sorted(order[:count].tolist()) == sorted(order[count:].tolist()) == list(range(count))
    assert order[:count].tolist() != order[count:].tolist()


def test_validation_walks_in_order_and_never_augments(recording):
    walk = source(recording, train=False, flip=1.0, jitter=1.0, zoom_share=1.0)
    batches = [walk.batch(step) for step in range(3)]
    assert torch.cat([b.index for b in batches]).tolist() == list(range(10))
    assert [len(b.tgt) for b in batches] == [4, 4, 2]
    for batch in batches:
        assert not batch.flipped.any() and torch.equal(batch.tgt, batch.tgt_net)
        torch.testing.assert_close(batch.K[0], camera()[0].float())


def test_ground_truth_never_gets_in(recording, tmp_path):
    bare = tmp_path / "drive"
    write_recording(bare, POSES, camera(), depth=None, T_world_cam=None)
    assert not (bare / "depth").exists() and not (bare / "poses.csv").exists()
    assert equal(source(Recording(bare)).batch(3), source(recording).batch(3))


# -- geometry -------------------------------------------------------------------------------------


def test_images_are_the_recordings_and_dt_is_that_of_the_stamps(recording):
    batch = source(recording, train=False).batch(1)
    frames = [recording.image(i) for i in (4, 5, 6)]
    src, tgt = batch.src[0], batch.tgt[0]
    for image, frame in ((src[0], frames[0]), (tgt, frames[1]), (src[1], frames[2])):
        np.testing.assert_array_equal((255 * image).round().permute(1, 2, 0).numpy(), frame)
    torch.testing.assert_close(batch.dt, torch.tensor([[-0.1, 0.1]] * 4))
    assert batch.K_known.all() and batch.video.tolist() == [0] * 4


def view(T_world_cam, K, flipped):
    """Image and depth that a camera K renders, K of the mirrored image if flipped."""
    if not flipped:
        return render(T_world_cam, K)
    return [x.flip(-1) for x in render(T_world_cam, flip_K(K, SIZE[1]))]


def errors(batch):
    """Mean error of its images against renderings by its K, and of warps by the truth."""
    rendered, warped = [], []
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1])).double()
    for b, index in enumerate(batch.index + 1):
        K, flipped = batch.K[b : b + 1].double(), bool(batch.flipped[b])
        image, depth = view(POSES[index], K, flipped)
        rendered.append((image - batch.tgt[b]).abs().mean())
        for s, offset in enumerate((-1, 1)):
            T = invert_T(POSES[index + offset]) @ POSES[index]
            T = mirror @ T @ mirror if flipped else T
            out, found = inverse_warp(batch.src[b, s][None].double(), depth, T, K)
            error = (out - batch.tgt[b]).abs().mean(1, keepdim=True)
            warped.append(error[found.valid].median())
    return torch.stack(rendered).mean(), torch.stack(warped).mean()


@pytest.mark.parametrize(
    "options",
    [{}, {"flip": 1.0}, {"zoom_share": 1.0}, {"flip": 1.0, "zoom_share": 1.0, "zoom": 1.6}],
)
def test_augmented_images_still_obey_their_K(recording, options):
    batch = source(recording, **{**PLAIN, **options}).batch(0)
    rendered, warped = errors(batch)
    assert rendered < 0.012 and warped < 0.006
    assert batch.flipped.all() == bool(options.get("flip"))
    assert (batch.K[:, 0, 0] > 70.5).any() == ("zoom_share" in options)
    batch.K[:, 0, 2] += 1.0  # a pixel would be noticed
    assert errors(batch)[0] > 2.5 * rendered


def test_a_lens_is_taken_out_before_anything_else(tmp_path):
    """Images of a barrel lens become those of the pinhole camera that the sample's K describes."""
    coeffs, K = [-0.25, 0.05, 0.0, 0.0, 0.0], camera()
    v, u = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    calib = Calibration(
        96, 64, 70.0, 73.5, K[0, 0, 2].item(), K[0, 1, 2].item(),
        {"model": "plumb_bob", "coeffs": coeffs}, rectified=False,
    )  # fmt: skip
    x, y = (u - calib.cx).double() / calib.fx, (v - calib.cy).double() / calib.fy
    bent = [x, y]
    for _ in range(30):  # where on the pinhole image each pixel of the lens looks
        xd, yd = distort(*bent, "plumb_bob", coeffs)
        bent = [bent[0] + x - xd, bent[1] + y - yd]
    wide = camera(60.0, (120, 160))
    pixels = torch.stack((bent[0] * 60 + wide[0, 0, 2], bent[1] * 63 + wide[0, 1, 2]))[None]
    with RecordingWriter(tmp_path / "a", calib, "png") as writer:
        for i in range(3):
            image = sample(render(POSES[0], wide, (120, 160))[0], pixels)
            writer.add((255 * image[0]).round().byte().permute(1, 2, 0).numpy(), i * 10**8)
    found = source(Recording(tmp_path / "a"), train=False).batch(0)
    expected, _ = render(POSES[0], found.K[:1].double())
    assert (found.tgt - expected).abs().mean() < 0.02
    assert found.K[0, 0, 0] < 69  # the zoom at which no corner looks outside


def test_jitter_changes_what_the_networks_see_never_the_loss(recording):
    plain = source(recording, **PLAIN).batch(2)
    jittered = source(recording, **{**PLAIN, "jitter": 1.0, "grey": 0.0}).batch(2)
    assert torch.equal(jittered.tgt, plain.tgt) and torch.equal(jittered.src, plain.src)
    assert torch.equal(plain.tgt_net, plain.tgt) and torch.equal(plain.src_net, plain.src)
    assert (jittered.tgt_net - jittered.tgt).abs().mean() > 0.01
    grey = source(recording, **{**PLAIN, "jitter": 1.0, "grey": 1.0}).batch(2)
    for images in (grey.tgt_net, grey.src_net):
        assert (images.amax(-3) - images.amin(-3)).max() < 1e-6
    assert grey.tgt.std(1).mean() > 0.05


# -- several recordings, unknown cameras, bad input ------------------------------------------------


def test_recordings_of_several_cameras_share_batches(recording, tmp_path):
    size = (72, 120)
    write_recording(tmp_path / "wide", POSES[:5], camera(90.0, size), size)
    both = SampleSource([recording, Recording(tmp_path / "wide")], config(), 13, 0, train=False)
    assert len(both) == 13 and both.names == ["drive", "wide"]
    batch = both.batch(0)
    assert batch.video.tolist() == [0] * 10 + [1] * 3
    assert batch.K[0, 0, 0] == 70 and batch.K[-1, 0, 0] == pytest.approx(90 * 96 / 108, abs=1.5)
    assert both.mean_focal() == pytest.approx(batch.K[:, 0, 0].mean().item(), rel=1e-5)


@pytest.mark.parametrize("intrinsics", ["pair", "video"])
def test_an_unknown_camera_gets_a_guess_and_says_so(tmp_path, intrinsics):
    write_recording(tmp_path / "a", POSES[:4], camera(), known=False)
    unknown = source(Recording(tmp_path / "a"), intrinsics=intrinsics)
    batch = unknown.batch(0)
    expected = torch.tensor([[80.0, 0, 47.5], [0, 80, 31.5], [0, 0, 1]])
    assert not batch.K_known.any() and unknown.mean_focal() == 80
    if intrinsics == "video":  # no zoom: what is learned belongs to the whole image
        assert torch.equal(batch.K, expected.expand(4, 3, 3))
    with pytest.raises(ValueError, match="a: intrinsics unknown.*--intrinsics video"):
        source(Recording(tmp_path / "a"))


def test_recordings_without_a_target_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--data"):
        SampleSource([], config(), 1, 0)
    for count in (1, 2):
        short = blank(tmp_path / str(count), np.arange(count) * 1e8)
        with pytest.raises(ValueError, match=rf"10 Hz in recordings of \[{count}\] frames"):
            source(short)
    with pytest.raises(ValueError, match="stamps do not increase"):
        source(blank(tmp_path / "still", np.zeros(5)))


def test_an_image_of_another_size_than_its_camera_is_named(tmp_path):
    recording = blank(tmp_path / "a", np.arange(4) * 1e8)
    Calibration(120, 64, 80, 80, 60, 32).save(tmp_path / "a" / "calib.json")
    with pytest.raises(ValueError, match="000001.png: 96x64 pixels, but its camera has 120x64"):
        source(Recording(recording.path), train=False).batch(0)


@pytest.mark.parametrize(
    "bad",
    [
        {"size": (100, 416)}, {"size": (32, 96)}, {"size": (0, 0)}, {"source_offsets": ()},
        {"source_offsets": (0, 1)}, {"source_offsets": (1, 1)}, {"target_rate_hz": 0},
        {"intrinsics": "guessed"}, {"zoom": 0.5}, {"flip": 1.5}, {"szie": (64, 96)},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        DataConfig(**bad)


def test_a_batch_moves_as_one(recording):
    batch = source(recording).batch(0)
    last = batch.channels_last()
    assert last.tgt.is_contiguous(memory_format=torch.channels_last) and equal(last, batch)
    assert equal(batch.to("cpu"), batch)
    assert batch.tgt.dtype == torch.float32 and 0 <= batch.tgt.min() and batch.tgt.max() <= 1


def test_data_workers_share_the_memory_of_the_cache(recording, monkeypatch):
    worker = SimpleNamespace(num_workers=9)
    monkeypatch.setattr("dyndepth_core.data.sample.get_worker_info", lambda: worker)
    one_of_nine = source(recording, batch_size=10, cache_mb=1)  # room for 54 of these frames
    one_of_nine.batch(0)
    assert len(one_of_nine._cache) == 6
