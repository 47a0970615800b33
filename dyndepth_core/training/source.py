"""What a training reads: the split into training and validation, and loaders in which step k is
batch k.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data.recording import Recording, open_recordings
from ..data.sample import Sample, SampleSource
from ..data.settings import DataConfig

log = logging.getLogger(__name__)
HELD_OUT = (
    0.1,
    0.2,
    0.3,
)  # share of each recording, at its end, for validation; the first that holds a target
ENDLESS = 1 << 40


def split_recordings(
    paths: Sequence[str | Path], config: DataConfig
) -> tuple[list[Recording], list[Recording]]:
    """Open every `--data` path and return its (training, validation) recordings.

    A root with splits/val.txt is split as its files say; else the last tenth of each recording (of
    those in splits/train.txt, where it is) is held out (more of a short one): a block in time,
    because neighbouring frames are nearly the same image. Raises as `open_recordings`.
    """
    train: list[Recording] = []
    val: list[Recording] = []
    for path in map(Path, paths):
        splits = path / "splits"
        if (splits / "val.txt").exists():
            train += open_recordings(path, "train")
            val += open_recordings(path, "val")
            continue
        for recording in open_recordings(
            path, "train" if (splits / "train.txt").exists() else None
        ):
            parts = _hold_out(recording, config)
            train.append(parts[0])
            val += parts[1:]
    _label(train + val)
    return train, val


def check_splits(paths: Sequence[str | Path]) -> None:
    """ValueError where a root lists what is for tests, but not what is for training: a training
    would learn from both.
    """
    for path in map(Path, paths):
        if (path / "splits" / "test.txt").exists():
            open_recordings(path, "train")


def _label(recordings: Sequence[Recording]) -> None:
    """Recordings of the same name in several roots get different labels: their cameras differ."""
    labels: dict[Path, str] = {}
    for recording in recordings:
        path, taken = recording.path.resolve(), set(labels.values())
        if path not in labels:
            numbered = (f"{recording.name}#{k}" for k in itertools.count(2))
            names = itertools.chain((recording.name,), numbered)
            labels[path] = next(name for name in names if name not in taken)
        recording.label = labels[path]


def _hold_out(recording: Recording, config: DataConfig) -> list[Recording]:
    """[training part, validation part], or [recording] when it is too short to give anything
    away.
    """
    count = len(recording)
    for share in HELD_OUT:
        cut = count - max(1, round(share * count))
        if cut < 1:
            break
        parts = [recording.part(0, cut - 1), recording.part(cut, count - 1)]
        if all(_has_targets(p, config) for p in parts):
            return parts
    return [recording]


def _has_targets(recording: Recording, config: DataConfig) -> bool:
    try:
        return len(SampleSource([recording], config, 1, 0, train=False)) > 0
    except ValueError:  # says why; the whole recording will say it again where it matters
        return False


def fingerprint(recordings: Sequence[Recording], odometry: bool = False) -> str:
    """SHA-256 over what identifies the frames of recordings (names, stamps, keep, calibration),
    ground truth left out; odometry only where a training reads it.
    """
    digest = hashlib.sha256()
    for r in recordings:
        digest.update(repr((r.name, len(r), r.calib)).encode())
        digest.update(r.stamps_ns.tobytes() + r.keep.tobytes())
        if odometry:
            digest.update(repr([r.odometry(i) for i in range(len(r))]).encode())
        for path in map(
            r.image_path, range(len(r))
        ):  # a frame of a video file has a number, but no file
            digest.update(f"{path.name} {path.stat().st_size if path.exists() else 0}\n".encode())
    return digest.hexdigest()


class _Steps(Dataset):
    """Item k is the batch of step k."""

    def __init__(self, source: SampleSource, rank: int, world: int) -> None:
        self.source, self.rank, self.world = source, rank, world

    def __getitem__(self, step: int) -> Sample:
        return self.source.batch(step, self.rank, self.world).channels_last()

    def __len__(self) -> int:
        return ENDLESS


class _Range(Sampler):
    """The steps from `first` on, `end` excluded."""

    def __init__(self, first: int, end: int) -> None:
        self.first, self.end = first, end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.end))

    def __len__(self) -> int:
        return self.end - self.first


def step_loader(
    source: SampleSource,
    first: int,
    end: int | None,
    *,
    workers: int,
    rank: int = 0,
    world: int = 1,
    pin: bool = False,
) -> DataLoader:
    """Loader of the batches of steps first..end-1 (end None: without end), the share of process
    `rank` of `world`.

    Each batch is a pure function of its step, so neither workers nor a restart change anything. A
    worker costs shared memory; where there is too little of it (containers), batches are made in
    the training process.
    """
    height, width = source.config.size
    frames = (
        source.batch_size * (1 + len(source.config.source_offsets)) * 2
    )  # as they are, and jittered
    if (
        workers and _shared_memory() < 4 * workers * frames * 12 * height * width
    ):  # 3 x float32 per pixel
        log.warning(
            "too little shared memory for data workers (docker: --shm-size=1g): "
            "loading in the training process"
        )
        workers = 0
    return DataLoader(
        _Steps(source, rank, world),
        batch_size=None,
        sampler=_Range(first, ENDLESS if end is None else end),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_quiet_worker if workers else None,
        pin_memory=pin,
    )


def of_worker(error: Exception) -> Exception:
    """What a data worker raised, without the traceback that torch writes into its message, or that
    it was killed; any other error as it is.
    """
    text = str(error)
    killed = re.search("DataLoader worker.*(killed by signal|exited unexpectedly)", text)
    if killed or isinstance(error, ConnectionError | EOFError):  # while it handed over a batch
        return ValueError(
            "a process that loads data was killed, by the system if memory ran out: set "
            "train.workers=0 or a smaller data.cache_mb; --resume goes on from the last checkpoint"
        )
    if not isinstance(error, ValueError) or "in DataLoader worker process" not in text:
        return error
    return ValueError(text.strip().splitlines()[-1].partition(": ")[2])


def _shared_memory() -> int:
    """Free bytes of shared memory, which carries batches from a worker; plenty where there is no
    /dev/shm.
    """
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 1 << 40


def _quiet_worker(_: int) -> None:
    # Ctrl-C reaches the whole process group; the training process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # Its errors travel to the training process; what would be printed here is only that a training
    # process that was stopped no longer listens.
    sys.excepthook = lambda *_: None


def validation_batches(source: SampleSource, limit: int, videos: Sequence[str]) -> Iterator[Sample]:
    """At most `limit` batches, spread evenly over a validation source, `video` counted in the
    training's list.

    The index of a recording that the training does not know is 0: with intrinsics learned per video
    its own were never learned, and the first video's are the best guess.
    """
    count = -(-len(source) // source.batch_size)
    index = torch.tensor([videos.index(n) if n in videos else 0 for n in source.names])
    for k in range(min(limit, count)):
        batch = source.batch(k * count // min(limit, count)).channels_last()
        batch.video = index[batch.video]
        yield batch
