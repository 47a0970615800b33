"""Files that are whole at any moment: written beside their place, flushed to the disk, then
renamed over it.
"""

from __future__ import annotations

import io
import json
import logging
import math
import pickle
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically

log = logging.getLogger(__name__)
FORMAT = 1
LAST, BEST = "last.ckpt", "best.ckpt"
ALIKE = 0.003  # relative difference of two validation scores that says nothing; of few trainings


def write_atomic(path: str | Path, data: bytes | memoryview) -> None:
    """`write_atomically`, into a folder that is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def remove_partials(folder: Path) -> None:
    """Delete what a killed writer left in `folder` (the hidden files beside which a rename never
    came).
    """
    for leftover in folder.glob(".*.*-*"):
        leftover.unlink(missing_ok=True)


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain data atomically; OSError leaves the previous one
    valid.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomic(path, buffer.getbuffer())


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU without unpickling code (weights_only); ValueError when it is
    not one of ours.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint; the run has not written one yet")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: not a readable checkpoint ({reason}); delete it to start this run anew"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(
            f"{path}: not a checkpoint of this version of dyndepth; train again or use that version"
        )
    return state


def finite(tensors: dict[str, torch.Tensor]) -> bool:
    """True when every floating point tensor holds only finite numbers (one transfer from the
    device).
    """
    flags = [torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()]
    return bool(torch.stack(flags).all()) if flags else True


class Checkpoints:
    """last.ckpt (to go on from) and best.ckpt (the weights with the best validation score, the
    last of those that are about as good) of one training.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best: dict[str, Any] = {"step": None, "score": None}
        self._lowest = math.inf
        self.last_step: int | None = None

    def read_last(self) -> dict[str, Any] | None:
        """State to go on from, None for a fresh start; clears up after a killed writer. Raises
        as `load`.
        """
        remove_partials(self.folder)
        if not (self.folder / LAST).exists():
            (self.folder / BEST).unlink(missing_ok=True)  # of a training that has to begin again
            return None
        state = load(self.folder / LAST)
        self.last_step = state["step"]
        if (self.folder / BEST).exists():
            best = load(self.folder / BEST)
            self.best = {"step": best["step"], "score": best["score"]}
            self._lowest = best.get("lowest", best["score"])
        return state

    def write_last(self, state: dict[str, Any], *, final: bool) -> None:
        """Replace last.ckpt; when the disk is full a warning, but OSError for the final one."""
        if self._write(LAST, state, final):
            self.last_step = state["step"]

    def in_words(self) -> str:
        """Where a training that is broken off now can be taken up again."""
        if self.last_step is None:
            return "interrupted before its first checkpoint: --resume begins again"
        return f"interrupted; --resume goes on from its last checkpoint, step {self.last_step}"

    def offer_best(
        self, step: int, score: float, model: dict[str, torch.Tensor], *, write: bool
    ) -> None:
        """Keep these weights unless earlier ones scored lower by more than ALIKE: those of a lower
        learning rate are the better ones where the score cannot tell. `write` is False on all but
        the first process.
        """
        if not score <= self._lowest + ALIKE * abs(self._lowest):  # NaN neither
            return
        best, lowest = {"step": step, "score": score}, min(score, self._lowest)
        state = {**best, "lowest": lowest, "model": model}
        if not write or self._write(BEST, state, final=False):
            self.best, self._lowest = best, lowest

    def best_weights(self) -> dict[str, torch.Tensor] | None:
        """Weights of best.ckpt, None when no validation took place."""
        return load(self.folder / BEST)["model"] if (self.folder / BEST).exists() else None

    def _write(self, name: str, state: dict[str, Any], final: bool) -> bool:
        try:
            save(self.folder / name, state)
            return True
        except OSError as error:
            text = (
                f"checkpoint {self.folder / name} cannot be written ({error}); "
                "the one before it is untouched"
            )
            if final:
                raise OSError(f"{text}. Make room, then go on with --resume") from error
            log.warning("%s and the training goes on", text)
            return False
