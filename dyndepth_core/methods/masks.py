"""Object masks of the training samples: settings, and the stages that find them."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.instances.mining import mine
from dyndepth_core.instances.sources import (
    AtNetworkSize,
    InstanceSource,
    MaskFiles,
    RecordedInstances,
    StoredInstances,
    store,
)
from dyndepth_core.methods.base import SPEED_THRESHOLD, InferenceGraph, Objective, get_method
from dyndepth_core.methods.stage import StageInfo, StageJob, validation_samples
from dyndepth_core.networks.depth_net import NetworkConfig

log = logging.getLogger(__name__)
MOTION, MINE = "motion", "mine"  # names of stages
USUAL_SPEED = 1.0  # per second, where a model has no threshold; its units are about metres


class MaskConfig(BaseModel):
    """Where the masks of objects come from, which only the training needs."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    source: Literal["mined", "files", "truth"] = Field(
        "mined",
        description="mined: what moves, found without labels by residual motion; files: masks of "
        "objects by any other program; truth: instances/ of which dynamic/ says that they move",
    )
    model: str | None = Field(
        None,
        description="mined: what knows residual motion: model file, folder of a run, or a bundled "
        "model by name (motion); null = one is trained first, on the same recordings",
    )
    motion_share: float = Field(
        0.4, gt=0, lt=1, description="mined without a model: share of the budget that trains one"
    )
    folder: str | None = Field(
        None,
        description="files: folder with RECORDING/NAME.png, 16-bit ids; null = instances/ of the "
        "recordings",
    )


def masked_stages(config: Any) -> tuple[StageInfo, ...]:
    """The stages of a method whose objective has `masks`: where nobody else knows the objects, they
    are mined before the training.
    """
    masks: MaskConfig = config.objective.masks
    if masks.source != "mined":
        return (_given_masks(masks),)
    if masks.model is not None:
        reads = functools.partial(_model_read, masks.model)
        return (StageInfo(MINE, 0.0, _mine, reads), StageInfo("train", 1.0, train_masked))
    return (
        StageInfo(MOTION, masks.motion_share, _train_motion),
        StageInfo(MINE, 0.0, _mine),
        StageInfo("train", 1 - masks.motion_share, train_masked),
    )


def foreground_stages(config: Any) -> tuple[StageInfo, ...]:
    """The stages of a method whose objective has `foreground`: masks of files or truth, or none."""
    source = config.objective.foreground
    return (StageInfo("train") if source == "none" else _given_masks(MaskConfig(source=source)),)


def _given_masks(masks: MaskConfig) -> StageInfo:
    train = functools.partial(train_masked, masks=masks)
    return StageInfo("train", 1.0, train, functools.partial(_files_read, masks))


def train_masked(job: StageJob, masks: MaskConfig | None = None) -> list[Path]:
    """Train on samples with instances and save the model. The validation needs none."""
    masks, objective = masks or job.config.objective.masks, job.objective()
    found = job.earlier[MINE] if masks.source == "mined" else ()
    sources = _sources(masks, job.source, found)
    if masks.source != "mined":  # which are found at network size
        sources = [AtNetworkSize(s, job.source, v) for v, s in enumerate(sources)]
    job.fit(objective, job.source.with_instances([s.ids for s in sources]), job.held_out)
    return [job.save(objective)]


def _sources(
    masks: MaskConfig, source: SampleSource, mined: Sequence[Path]
) -> list[InstanceSource]:
    if masks.source == "mined":
        return [StoredInstances(path) for path in mined]
    if masks.source == "files" and masks.folder is not None:
        return [MaskFiles(Path(masks.folder), r) for r in source.recordings]
    return [RecordedInstances(r, masks.source == "truth") for r in source.recordings]


def _files_read(
    masks: MaskConfig, source: SampleSource, held_out: SampleSource | None
) -> Mapping[str, Any]:
    """Hash of all the masks; ValueError where there are none at all."""
    digest, known = hashlib.sha256(), False
    for recording, instances in zip(source.recordings, _sources(masks, source, ()), strict=True):
        for i in range(len(recording)):
            ids = instances.ids(i)
            known |= ids is not None
            digest.update(b"-" if ids is None else ids.tobytes())
    if not known:
        place = masks.folder or "instances/ (and dynamic/, for truth) of the recordings"
        raise ValueError(
            f"no masks in {place}; write them, or do without (objective.masks.source=mined, "
            "objective.foreground=none)"
        )
    return {"masks": digest.hexdigest()}


def _model_read(
    model: str, source: SampleSource, held_out: SampleSource | None
) -> Mapping[str, Any]:
    return {"masks": hashlib.sha256(_given_file(model).read_bytes()).hexdigest()}


def _given_file(model: str) -> Path:
    from dyndepth_core.inference.model_file import find_model  # it imports the methods

    path = find_model(model)
    if not path.is_file():
        raise ValueError(
            f"objective.masks.model={model}: no such file; give a model file of residual_motion, "
            "or null to have one trained"
        )
    return path


def _train_motion(job: StageJob) -> list[Path]:
    """A residual_motion training on the same recordings."""
    return [job.fit(_motion_objective(job))]


def _motion_objective(job: StageJob) -> Objective:
    """That of residual_motion with the run's data and its networks, its other settings as usual."""
    from dyndepth_core.config import from_dict  # it imports the methods

    config = job.config
    common = set(NetworkConfig.model_fields)
    tree = {
        "method": "residual_motion",
        "data": config.data.model_dump(mode="json"),
        "network": config.network.model_dump(mode="json", include=common),
        "train": config.train.model_dump(mode="json"),
    }
    motion = from_dict(tree)
    torch.manual_seed(config.train.seed)
    focal = config.network.canonical_focal or job.source.mean_focal()
    objective = get_method("residual_motion").objective_class(motion, job.source.names, focal)
    job.begin_cameras(objective)
    return objective


def _mine(job: StageJob) -> list[Path]:
    """One file of masks per recording; those a killed run has left are kept."""
    config, source = job.config, job.source
    cameras = [source.K(v) for v in range(len(source.names))]
    if (model := config.objective.masks.model) is not None:
        graph, threshold = _given_model(model)
    else:
        objective = _motion_objective(job)
        objective.load_state_dict(job.weights(job.earlier[MOTION][0]))
        objective.eval()
        graph = objective.inference_graph()
        found = objective.thresholds(validation_samples(job))
        threshold = found.get(SPEED_THRESHOLD, USUAL_SPEED)
        if objective.intrinsics is not None:
            videos = torch.arange(len(cameras))
            learned = objective.intrinsics(videos, videos < 0).detach().double().numpy()
            known = [r.calib.K is not None and config.data.intrinsics == "given"
                     for r in source.recordings]  # fmt: skip
            cameras = [K if k else L for K, k, L in zip(cameras, known, learned, strict=True)]
    cuda = config.train.device != "cpu" and torch.cuda.is_available()
    graph = graph.eval().to("cuda" if cuda else "cpu")
    paths, objects = [], 0
    for video in job.track(range(len(source.names)), "masks of what moves"):
        path = job.folder / f"{video:05d}.npz"
        if not path.is_file():
            store(path, mine(graph, threshold, source, video, cameras[video]), config.data.size)
        stored = StoredInstances(path)
        frames = range(len(source.recordings[video]))
        objects += sum((ids := stored.ids(i)) is not None and bool(ids.any()) for i in frames)
        paths.append(path)
    total = sum(map(len, source.recordings))
    log.info("something moves in %d of %d frames", objects, total)
    size = sum(p.stat().st_size for p in paths)
    job.report({"frames_with_objects": objects, "frames": total, "mask_bytes": size})
    return paths


def _given_model(model: str) -> tuple[InferenceGraph, float]:
    from dyndepth_core.inference.model_file import load_model  # it imports the methods

    graph, meta = load_model(_given_file(model))
    return graph, meta.thresholds.get(SPEED_THRESHOLD, USUAL_SPEED)
