"""Batches of recordings: sample i is a pure function of (seed, step), of images, stamps,
calibration and, where it is asked for, odometry.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import get_worker_info

from dyndepth_core.data.batch import Sample
from dyndepth_core.data.recording import DamagedImage, Recording
from dyndepth_core.data.rectify import lens_of
from dyndepth_core.data.settings import DataConfig
from dyndepth_core.data.targets import find_targets
from dyndepth_core.data.transforms import (
    ColourJitter,
    flip_horizontal,
    largest,
    plan_fit,
    whole_size,
    zoom_crop,
)
from dyndepth_core.data.travel import travel_table

log = logging.getLogger(__name__)
IdsOf = Callable[[int], np.ndarray | None]  # frame -> ids (H, W) at network size, None: unknown
MAX_INSTANCES = 16  # per image, the largest ones; one more id is for all others together
MAX_DAMAGED = 20  # targets in a row that cannot be read before a training gives up


class SampleSource:
    """Draws batches from recordings; `batch(step)` depends on nothing but (seed, step) and the
    images.

    odometry: samples also say how far the camera travelled (travel.py); a source of training
    samples then refuses recordings whose odometry does not tell.
    """

    def __init__(
        self,
        recordings: list[Recording],
        config: DataConfig,
        batch_size: int,
        seed: int,
        train: bool = True,
        odometry: bool = False,
    ) -> None:
        if not recordings:
            raise ValueError("no recordings to sample from; give at least one with --data")
        self.recordings, self.config, self.batch_size, self.seed, self.train = (
            recordings,
            config,
            batch_size,
            seed,
            train,
        )
        self.names = [r.label for r in recordings]
        self._lenses = [lens_of(r.calib) for r in recordings]
        self._cameras = [
            lens.calib if lens else r.calib
            for lens, r in zip(self._lenses, recordings, strict=True)
        ]
        self._fits = [plan_fit((c.height, c.width), config.size, c.K) for c in self._cameras]
        self._targets = [
            (v, *t)
            for v, r in enumerate(recordings)
            for t in find_targets(r, config.target_rate_hz, config.source_offsets)
        ]
        if not self._targets:
            spans = [len(r) for r in recordings]
            raise ValueError(
                f"no target frame has all its sources {config.source_offsets} at about "
                f"{config.target_rate_hz:g} Hz in "
                f"recordings of {spans} frames; give longer recordings or another "
                "data.target_rate_hz"
            )
        for r in recordings:
            if config.intrinsics == "given" and r.calib.K is None:
                raise ValueError(
                    f"{r.path}: intrinsics unknown; add fx, fy, cx, cy to calib.json or use "
                    "--intrinsics video"
                )
        self._travel = travel_table(recordings, self._targets, config, train) if odometry else None
        self._ids_of: Sequence[IdsOf] | None = None
        self._damaged: set[str] = set()
        self._cache: dict[tuple[int, int], np.ndarray] = {}
        self._room = config.cache_mb * 1_000_000 // (config.size[0] * config.size[1] * 3)

    def __len__(self) -> int:
        """Number of target frames."""
        return len(self._targets)

    def with_instances(self, ids_of: Sequence[IdsOf]) -> SampleSource:
        """The same samples with objects, those of each recording: frame -> ids at network size."""
        found = copy.copy(self)
        found._ids_of = ids_of
        return found

    @property
    def targets(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """Of each target its recording, its frame there and the frames of its sources."""
        return self._targets

    def only(self, targets: Sequence[int]) -> SampleSource:
        """Of the targets those with these numbers, counted anew."""
        found = copy.copy(self)
        found._targets = [self._targets[k] for k in targets]
        found._travel = None if self._travel is None else self._travel[list(targets)]
        return found

    def plain(self) -> SampleSource:
        """The same targets without augmentation, sharing the frames read so far."""
        found = copy.copy(self)
        found.train = False
        return found

    def labels(self, video: int, image: np.ndarray) -> np.ndarray:
        """A label image (H, W) of stored size at network size, each pixel as it was, 0 where the
        network sees padding; ValueError where the stored images are distorted.
        """
        fit = self._fits[video]
        if self._lenses[video] is not None or image.shape != fit.in_size:
            raise ValueError(
                f"{self.recordings[video].path}: label images of {image.shape} for straight images "
                f"of {fit.in_size}: make them of the same size, and rectify a recording with lens "
                "distortion together with its labels first"
            )
        found = np.zeros(fit.out_size, image.dtype)
        found[fit.valid] = fit.image(image, cv2.INTER_NEAREST_EXACT)[fit.valid]
        return found

    def frame(self, video: int, i: int) -> np.ndarray:
        """Frame i of a recording at network size, uint8 RGB; cached while there is room."""
        image = self._cache.get((video, i))
        if image is None:
            recording, lens, fit = self.recordings[video], self._lenses[video], self._fits[video]
            image = recording.image(i)
            if image.shape[:2] != fit.in_size:
                raise ValueError(
                    f"{recording.image_path(i)}: {image.shape[1]}x{image.shape[0]} pixels, but its "
                    f"camera has {fit.in_size[1]}x"
                    f"{fit.in_size[0]}; split the recording where the size changes, or correct "
                    "calib.json"
                )
            image = fit.image(lens.image(image) if lens else image)
            worker = get_worker_info()  # each data worker has a cache of its own
            if len(self._cache) < self._room // (worker.num_workers if worker else 1):
                self._cache[video, i] = image
        return image

    def K(self, video: int) -> np.ndarray:
        """(3, 3) intrinsics at network size; unknown: a field of view of about 53 degrees along the
        mean side, centred.
        """
        K, (height, width) = self._cameras[video].K, self.config.size
        if K is not None and self.config.intrinsics == "given":
            return self._fits[video].K(K)
        focal = 0.5 * (height + width)  # the start value of Li et al. 2020
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])

    def stored_K(self, video: int, K: np.ndarray) -> np.ndarray:
        """(3, 3) intrinsics in pixels of the stored images from those at network size."""
        return self._fits[video].inverse_K(K)

    def network_K(self, video: int, K: np.ndarray) -> np.ndarray:
        """(3, 3) intrinsics at network size from those in pixels of the stored images."""
        return self._fits[video].K(K)

    def straight(self, video: int, i: int) -> np.ndarray:
        """Frame i at stored size, uint8 RGB, a known lens distortion removed; DamagedImage."""
        image, lens = self.recordings[video].image(i), self._lenses[video]
        return lens.image(image) if lens else image

    def mean_focal(self) -> float:
        """Mean fx over the targets at network size (pixels): the natural canonical focal length of
        a model.
        """
        return float(np.mean([self.K(v)[0, 0] for v, *_ in self._targets]))

    def lost(self) -> list[str]:
        """Recordings of which the network sees less than nine tenths, in words, with a size that
        would see more; each size once.
        """
        words = {}
        for name, fit in zip(self.names, self._fits, strict=True):
            if fit.lost:
                height, width = whole_size(fit.in_size, fit.out_size)
                remedy = f"to have it: --set data.size={height},{width}"
                words[f"{fit.lost}; {remedy}"] = name
        return [f"{name}: {text}" for text, name in words.items()]

    def _draw(self, step: int) -> list[int]:
        """Targets of a step: walk through seeded permutations, so that each frame is seen once per
        epoch.
        """
        count, first = len(self._targets), step * self.batch_size
        if not self.train:
            return [(first + j) % count for j in range(min(self.batch_size, max(count - first, 1)))]
        chosen = []
        for g in range(first, first + self.batch_size):
            order = np.random.default_rng((self.seed, 0, g // count)).permutation(count)
            chosen.append(int(order[g % count]))
        return chosen

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Sample:
        """Batch of a step, or the share of it that process `rank` of `world` takes.

        Validation sources (train=False) walk through the targets in order and never augment.
        """
        return self.take(list(enumerate(self._draw(step)))[rank::world], step)

    def take(self, chosen: Sequence[tuple[int, int]], step: int = 0) -> Sample:
        """Batch of (slot, target) pairs, targets as `targets` lists them; a training source
        augments each as a function of (seed, step, slot).
        """
        rows = [self._readable(t, step, slot) for slot, t in chosen]
        images, coloured = (
            torch.from_numpy(np.stack([r[k] for r in rows]))
            .permute(0, 1, 4, 2, 3)
            .float()
            .div_(255)
            for k in (0, 1)
        )
        videos = torch.tensor([r[4] for r in rows])
        index = torch.tensor([r[6] for r in rows])
        known = torch.tensor(
            [
                self.recordings[v].calib.K is not None and self.config.intrinsics == "given"
                for v in videos
            ]
        )
        return Sample(
            tgt=images[:, 0], src=images[:, 1:], tgt_net=coloured[:, 0], src_net=coloured[:, 1:],
            K=torch.tensor(np.stack([r[2] for r in rows]), dtype=torch.float32), K_known=known,
            dt=torch.tensor([r[3] for r in rows], dtype=torch.float32), video=videos,
            flipped=torch.tensor([r[5] for r in rows]), index=index,
            travel=None if self._travel is None else torch.from_numpy(self._travel[index.numpy()]),
            instances=torch.from_numpy(np.stack([r[7] for r in rows])) if self._ids_of else None,
        )  # fmt: skip

    def _readable(self, target: int, step: int, slot: int) -> tuple:
        """The target, or the next one whose images can be read: one damaged image among thousands
        must not end a long training, and the next target is as much a function of the files.
        """
        for k in range(MAX_DAMAGED + 1):
            try:
                return self._one((target + k) % len(self._targets), step, slot)
            except DamagedImage as error:
                if str(error) not in self._damaged:
                    self._damaged.add(str(error))
                    log.warning("%s; targets that need it are left out", error)
                if k == MAX_DAMAGED:
                    raise

    def _one(self, target: int, step: int, slot: int) -> tuple:
        video, tgt, sources = self._targets[target]
        recording = self.recordings[video]
        images = [self.frame(video, i) for i in (tgt, *sources)]
        ids = [self._ids(video, i) for i in (tgt, *sources)] if self._ids_of else []
        K = self.K(video)
        dt = [(recording.stamps_ns[s] - recording.stamps_ns[tgt]) / 1e9 for s in sources]
        coloured, flipped = images, False
        if self.train:
            rng, config = np.random.default_rng((self.seed, 1, step, slot)), self.config
            # Per-video intrinsics have no zoom: the learned K belongs to the whole image.
            if rng.random() < config.zoom_share and config.intrinsics != "video":
                window = rng.uniform(1, config.zoom), *rng.random(2)
                ids, _ = zoom_crop(ids, K, *window, cv2.INTER_NEAREST_EXACT) if ids else (ids, K)
                images, K = zoom_crop(images, K, *window)
            flipped = bool(rng.random() < config.flip)
            if flipped:
                ids = [np.ascontiguousarray(x[:, ::-1]) for x in ids]
                images, K = flip_horizontal(images, K)
            coloured = images
            if rng.random() < config.jitter:
                jitter = ColourJitter.draw(rng, grey_share=config.grey)
                coloured = [jitter(image) for image in images]
        named = np.stack([largest(x, MAX_INSTANCES) for x in ids]) if ids else None
        return np.stack(images), np.stack(coloured), K, dt, video, flipped, target, named

    def _ids(self, video: int, i: int) -> np.ndarray:
        found = self._ids_of[video](i)
        return np.zeros(self.config.size, np.uint16) if found is None else found.astype(np.uint16)
