"""Instance ids of the frames of a recording, wherever they come from."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np
from torch.utils.data import get_worker_info

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.truth import read_truth_png


class InstanceSource(Protocol):
    """Says which pixels of a frame belong to which object."""

    def ids(self, i: int) -> np.ndarray | None:
        """Ids of frame i, int32 (h, w), 0 = no object, the same object the same id in every frame;
        None where the source says nothing about this frame.
        """


class RecordedInstances:
    """The files instances/%06d.png of a recording: ground truth, or masks of any other program.

    dynamic_only: only objects of which at least half is marked in dynamic/%06d.png in this frame;
    frames without that file then say nothing.
    """

    def __init__(self, recording: Recording, dynamic_only: bool = False) -> None:
        self.recording, self.dynamic_only = recording, dynamic_only

    def ids(self, i: int) -> np.ndarray | None:
        """See InstanceSource; ValueError when masks and ids differ in size."""
        ids = self.recording.instances(i)
        if ids is None or not self.dynamic_only:
            return ids
        dynamic = self.recording.dynamic(i)
        if dynamic is None:
            return None
        if dynamic.shape != ids.shape:
            raise ValueError(
                f"{self.recording.path}: frame {i} has instances of {ids.shape} and a dynamic mask "
                f"of {dynamic.shape}; make them of one size"
            )
        names, place = np.unique(ids, return_inverse=True)
        place = place.reshape(-1)
        share = np.bincount(place, dynamic.reshape(-1)) / np.bincount(place)
        return np.where(share[place].reshape(ids.shape) >= 0.5, ids, 0).astype(np.int32)


class MaskFiles:
    """Masks of any other program: folder/RECORDING/NAME.png, NAME that of the image file."""

    def __init__(self, folder: Path, recording: Recording) -> None:
        self.folder, self.recording = folder / recording.name, recording

    def ids(self, i: int) -> np.ndarray | None:
        """See InstanceSource."""
        path = self.folder / f"{self.recording.image_path(i).stem}.png"
        return read_truth_png(path).astype(np.int32) if path.exists() else None


class StoredInstances:
    """What `store` has written of a recording; ValueError when the file is damaged."""

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                self._ids, self._known = file["ids"], file["known"]
        except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: damaged instance masks; delete the run's folder") from error

    def ids(self, i: int) -> np.ndarray | None:
        """See InstanceSource."""
        return self._ids[i].astype(np.int32) if self._known[i] else None


def store(path: Path, ids: list[np.ndarray | None], size: tuple[int, int]) -> None:
    """Write the ids (H, W) of the frames of a recording, compressed; whole or not at all."""
    found = np.zeros((len(ids), *size), np.uint8 if _most(ids) < 256 else np.uint16)
    for frame, of_frame in zip(found, ids, strict=True):
        if of_frame is not None:
            frame[:] = of_frame
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, ids=found, known=np.array([x is not None for x in ids]))
    part.replace(path)


def _most(ids: list[np.ndarray | None]) -> int:
    return max((int(x.max()) for x in ids if x is not None), default=0)


class AtNetworkSize:
    """Ids of stored size as training samples want them, at network size; kept once read, up to this
    recording's share of data.cache_mb in each data worker.
    """

    def __init__(self, source: InstanceSource, samples: SampleSource, video: int) -> None:
        self.source, self.samples, self.video = source, samples, video
        self._known: dict[int, np.ndarray | None] = {}
        height, width = samples.config.size
        share = samples.config.cache_mb * 1e6 / len(samples.recordings)
        self._room = int(share / (2 * height * width))

    def ids(self, i: int) -> np.ndarray | None:
        """See InstanceSource."""
        if i in self._known:
            return self._known[i]
        ids = self.source.ids(i)
        if ids is not None:
            ids = self.samples.labels(self.video, ids.astype(np.uint16))
        worker = get_worker_info()
        if len(self._known) < self._room // (worker.num_workers if worker else 1):
            self._known[i] = ids
        return ids
