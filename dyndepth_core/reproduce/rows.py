"""One row of the table: a method, a seed and a budget to a scored model; stored and resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config
from ..data.chain import hash_file
from ..data.recording import Recording
from ..data.writer import manifest_hash
from ..evaluation.baselines import fit_baselines
from ..evaluation.distance import DistanceErrors
from ..evaluation.metrics import ImageScore
from ..evaluation.motion import MotionErrors
from ..evaluation.protocols import get_protocol
from ..evaluation.runner import Arm, BaselineArm, Evaluation, ModelArm, evaluate
from ..evaluation.temporal import temporal_change
from ..files import write_atomically
from ..inference.model_file import load_model
from ..inference.predictor import Predictor
from ..methods.base import InferenceGraph
from ..training.run import MODEL, train_run
from ..training.settings import RUNTIME_FIELDS

RESULT = "result.json"
BASELINES = ("row_prior", "plane")
FORMAT = 1  # raise it when what a row measures changes: older rows are then measured anew


@dataclass
class RowResult:
    """What one row says: scores per image, ego-motion and temporal change per clip, error over
    distance, motion of objects, cost.
    """

    method: str
    seed: int
    scores: list[ImageScore]
    ego: dict[str, dict[str, float]] = field(default_factory=dict)
    temporal: dict[str, float] = field(default_factory=dict)
    distance: dict[str, list] = field(default_factory=dict)
    tracks: dict[str, list] = field(default_factory=dict)  # clip: positions in metres
    motion: MotionErrors | None = None
    train_seconds: float | None = None
    steps: int | None = None
    parameters: int | None = None
    warnings: list[str] = field(default_factory=list)
    repeat: int = 0

    @property
    def training(self) -> tuple[int, int]:
        """Seed of the world and which of the trainings on it."""
        return self.seed, self.repeat

    def evaluation(self) -> Evaluation:
        """As the evaluation's own type, under this method's name."""
        return Evaluation(
            {self.method: self.scores},
            {self.method: self.ego} if self.ego else {},
            {self.method: self.motion} if self.motion else {},
        )

    def write(self, path: Path, key: str) -> None:
        """Write it with the key of what it was made from."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "key": key, **asdict(self)}
        write_atomically(path, (json.dumps(content) + "\n").encode())

    @classmethod
    def read(cls, path: Path, key: str) -> RowResult | None:
        """A stored row; None when there is none, or one made from something else."""
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        if content.pop("format", None) != FORMAT or content.pop("key", None) != key:
            return None
        content["scores"] = [ImageScore(**s) for s in content["scores"]]
        if content.get("motion"):
            content["motion"] = MotionErrors.of(content["motion"])
        return cls(**content)


def row_key(config: Config | None, data: Path, models: Mapping[str, Path] | None = None) -> str:
    """What a row follows from: its settings, the images it sees, the models of other rows (mask
    files are in the name of its folder).
    """
    settings = settings_of(config) if config else {}
    made_from = [manifest_hash(data)] + [hash_file(p) for _, p in sorted((models or {}).items())]
    text = json.dumps([settings, *made_from], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def masks_hash(data: Path) -> str:
    """SHA-256 of the mask files below a root."""
    files = [p for kind in ("instances", "dynamic") for p in data.glob(f"*/{kind}/*.png")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(data)} {hash_file(path)}\n".encode())
    return digest.hexdigest()


def settings_of(config: Config) -> dict[str, Any]:
    """What changes a row's weights, without the place of the model that finds what moves."""
    settings = config.model_dump(mode="json", exclude={"train": RUNTIME_FIELDS})
    if isinstance(masks := settings["objective"].get("masks"), dict):  # else: of another kind
        masks["model"] = masks["model"] is not None
    return settings


@dataclass(frozen=True)
class Row:
    """A row to be trained into `folder` on `seen`, the root `data` as far as the row may see it;
    models: of other rows it is made from; `start`: the one its training begins with; repeat: which
    of the trainings on this world; reuse: runs whose stages are taken over where they are the same.
    """

    name: str
    seed: int
    config: Config
    data: Path
    seen: Path
    folder: Path
    models: Mapping[str, Path] = field(default_factory=dict)
    repeat: int = 0
    reuse: Sequence[Path] = ()

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}" + (f", repeat {self.repeat}" if self.repeat else "")

    @property
    def run(self) -> Path:
        """Folder of its training."""
        return self.folder / "run"

    @property
    def lacks(self) -> str:
        """Why it cannot be trained, empty where it can: a model of another row is not there."""
        absent = [role for role, path in self.models.items() if not path.is_file()]
        return f"the row whose model it needs ({', '.join(absent)}) failed" if absent else ""


def run_row(
    row: Row, test: Sequence[Recording], device: str, advance: Callable[[], None]
) -> list[RowResult]:
    """Train it (whatever is there of it is gone on with) and score it, and after it the arms of its
    graph (InferenceGraph.arms), as NAME_ARM, which cost no training.

    Leaves folder/run, folder/result.json and folder/ARM/result.json. Raises KeyboardInterrupt when
    interrupted; the next call goes on.
    """
    key, run = row_key(row.config, row.data, row.models), row.run
    result = RowResult.read(row.folder / RESULT, key)
    if result is None:
        start, resume = row.models.get("start"), (run / "config.yaml").is_file()
        metrics = train_run(
            row.config, [row.seen], run, resume=resume, start=start, reuse=row.reuse
        )
        arm = ModelArm(Predictor(run / MODEL, device=device))
        result = score(row.name, row.seed, arm, test, advance)
        result.repeat = row.repeat
        result.train_seconds, result.steps = metrics["seconds"], metrics["step"]
        result.parameters = _parameters(load_model(run / MODEL)[0])
        result.warnings = [w["message"] for w in metrics["warnings"]]
        result.write(row.folder / RESULT, key)
    return [result, *_arms(row, key, test, device, advance)]


def _arms(
    row: Row, key: str, test: Sequence[Recording], device: str, advance: Callable[[], None]
) -> list[RowResult]:
    """The rows beside that of a trained model, scored where they are not stored."""
    if not (row.run / MODEL).is_file():
        return []
    graph, meta = load_model(row.run / MODEL)
    results = []
    for arm, part in graph.arms().items():
        path = row.folder / arm / RESULT
        result = RowResult.read(path, key)
        if result is None:
            predictor = Predictor.from_graph(part, meta, device=device)
            name = f"{row.name}_{arm}"
            result = score(name, row.seed, ModelArm(predictor), test, advance)
            result.parameters, result.repeat = _parameters(part), row.repeat
            result.write(path, key)
        results.append(result)
    return results


def run_baselines(
    training: Sequence[Recording],
    data: Path,
    test: Sequence[Recording],
    folder: Path,
    seed: int,
    advance: Callable[[], None],
) -> list[RowResult]:
    """row_prior and plane, fitted on the truth of the training recordings."""
    key, results = row_key(None, data), []
    stored = [RowResult.read(folder / name / RESULT, key) for name in BASELINES]
    if all(s is not None for s in stored):
        return stored
    for name, prior in fit_baselines(training).items():
        result = score(name, seed, BaselineArm(prior), test, advance)
        result.write(folder / name / RESULT, key)
        results.append(result)
    return results


def score(
    name: str, seed: int, arm: Arm, test: Sequence[Recording], advance: Callable[[], None]
) -> RowResult:
    """Everything the table says about one arm."""
    watched = _Watched(arm)
    found = evaluate(test, {name: watched}, get_protocol("native"), advance)
    return RowResult(
        name,
        seed,
        found.scores[name],
        found.ego.get(name, {}),
        {clip: float(np.mean(v)) for clip, v in watched.changes.items() if v},
        watched.distance.table(),
        {clip: xyz.round(4).tolist() for clip, xyz in found.tracks.get(name, {}).items()},
        found.motion.get(name),
    )


class _Watched:
    """An arm whose depth is looked at on its way to the scores."""

    def __init__(self, arm: Arm) -> None:
        self.arm, self.metric = arm, arm.metric
        self.changes: dict[str, list[float]] = {}
        self.distance = DistanceErrors()
        self._before: np.ndarray | None = None

    def start(self, recording: Recording) -> None:
        self.arm.start(recording)
        self._before = None

    def depth(self, recording: Recording, i: int, size: tuple[int, int]) -> np.ndarray:
        depth = self.arm.depth(recording, i, size)
        if self._before is not None:
            change = temporal_change(recording, i, depth, self._before)
            if change is not None:
                self.changes.setdefault(recording.name, []).append(change)
        truth = recording.depth(i)
        if truth is not None:
            self.distance.add(truth, depth, recording.dynamic(i))
        self._before = depth
        return depth

    def ego(self) -> list:
        return self.arm.ego()

    def moving(self) -> tuple[np.ndarray, np.ndarray] | None:
        return self.arm.moving()


def _parameters(graph: InferenceGraph) -> int:
    """Numbers in what runs on the vehicle, but for those that only count."""
    tensors = graph.deployed().state_dict().values()
    return sum(t.numel() for t in tensors if t.is_floating_point())


def flatten(results: Sequence[RowResult]) -> dict[str, list[RowResult]]:
    """{method: its rows over the seeds}, in order of appearance."""
    rows: dict[str, list[RowResult]] = {}
    for result in results:
        rows.setdefault(result.method, []).append(result)
    return rows
