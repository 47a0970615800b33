"""One row of the table: a method, a seed and a budget to a scored model; stored and resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..config import Config
from ..data.recording import Recording
from ..data.writer import manifest_hash
from ..evaluation.baselines import fit_baselines
from ..evaluation.distance import DistanceErrors
from ..evaluation.metrics import ImageScore
from ..evaluation.motion import MotionErrors
from ..evaluation.protocols import get_protocol
from ..evaluation.runner import Arm, BaselineArm, Evaluation, ModelArm, evaluate
from ..evaluation.temporal import temporal_change
from ..inference.model_file import write_atomically
from ..inference.predictor import Predictor
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


def row_key(config: Config | None, data: Path) -> str:
    """What a row follows from: its settings and the images it sees."""
    settings = config.model_dump(mode="json", exclude={"train": RUNTIME_FIELDS}) if config else {}
    text = json.dumps([settings, manifest_hash(data)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def run_row(
    config: Config,
    data: Path,
    test: Sequence[Recording],
    folder: Path,
    seed: int,
    device: str,
    advance: Callable[[], None],
    name: str,
) -> RowResult:
    """Train `config` on the root `data` (whatever is there of it is gone on with) and score it
    under `name`.

    Leaves folder/run and folder/result.json. Raises KeyboardInterrupt when interrupted; the next
    call goes on.
    """
    key = row_key(config, data)
    if (stored := RowResult.read(folder / RESULT, key)) is not None:
        return stored
    run = folder / "run"
    metrics = train_run(config, [data], run, resume=(run / "config.yaml").is_file())
    predictor = Predictor(run / MODEL, device=device)
    result = score(name, seed, ModelArm(predictor), test, advance)
    result.train_seconds, result.steps = metrics["seconds"], metrics["step"]
    result.parameters = _parameters(run / MODEL)
    result.warnings = [w["message"] for w in metrics["warnings"]]
    result.write(folder / RESULT, key)
    return result


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


def _parameters(model: Path) -> int:
    from safetensors import safe_open

    with safe_open(model, "pt") as file:
        slices = (file.get_slice(k) for k in file.keys())  # noqa: SIM118
        return sum(int(np.prod(s.get_shape())) for s in slices if s.get_dtype().startswith("F"))


def flatten(results: Sequence[RowResult]) -> dict[str, list[RowResult]]:
    """{method: its rows over the seeds}, in order of appearance."""
    rows: dict[str, list[RowResult]] = {}
    for result in results:
        rows.setdefault(result.method, []).append(result)
    return rows
