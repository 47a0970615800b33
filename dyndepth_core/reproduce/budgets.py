"""What every row of a reproduction gets: the same images, minutes, networks and schedules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """size: (H, W) pixels; minutes: wall clock of training per row; clips: of the training,
    validation and test split; frames: per clip, at 10 Hz; settings: of the config tree, the same
    for every method; finetune_steps: of a training that goes on from another row's model.
    """

    name: str
    size: tuple[int, int]
    minutes: float
    clips: dict[str, int]
    frames: int
    settings: tuple[str, ...]
    finetune_steps: int = 1000

    def overrides(self, seed: int, minutes: float | None = None) -> list[str]:
        """Overrides of the config tree for one row."""
        spent = self.minutes if minutes is None else minutes
        return self._common(seed, "null", f"{spent:g}")

    def finetuning(self, seed: int, steps: int | None = None) -> list[str]:
        """The same for a row that goes on from the model of another: steps, not minutes, so that
        what costs time gets no less training.
        """
        return self._common(seed, str(self.finetune_steps if steps is None else steps), "null")

    def _common(self, seed: int, steps: str, minutes: str) -> list[str]:
        height, width = self.size
        return [
            f"data.size={height},{width}",
            f"train.steps={steps}",
            f"train.minutes={minutes}",
            f"train.seed={seed}",
            *self.settings,
        ]


# what a short training on a CPU needs, found on tuning seeds with monodepth
_SHORT = (
    "network.pose_downscale=2",
    "data.zoom=1.2",
    "train.batch_size=3",
    "train.optimizer=adam",
    "train.lr=2e-4",
)
_TINY = (
    "network.encoder=resnet18",
    "network.pose_encoder=resnet18",
    "network.width=0.25",
    "network.decoder_channels=8,8,16,32,64",
    "network.pretrained=false",
    "train.validate_every=20",
    "train.checkpoint_every=20",
    "train.validation_batches=4",
)

BUDGETS = {
    b.name: b
    for b in (
        Budget(
            "smoke", (64, 224), 1.5, {"train": 8, "val": 1, "test": 4}, 10, (*_SHORT, *_TINY), 60
        ),
        Budget(
            "quick",
            (96, 320),
            20.0,
            {"train": 60, "val": 6, "test": 24},
            20,
            (*_SHORT, "train.validate_every=200", "train.validation_batches=16"),
        ),
        Budget(
            "full",
            (192, 640),
            240.0,
            {"train": 400, "val": 20, "test": 60},
            40,
            ("train.batch_size=12", "train.workers=8", "train.optimizer=adam", "train.lr=2e-4"),
            10_000,
        ),
    )
}


def get_budget(name: str) -> Budget:
    """A budget by name; ValueError lists them."""
    if name not in BUDGETS:
        raise ValueError(f"--budget {name!r}: choose one of {', '.join(BUDGETS)}")
    return BUDGETS[name]
