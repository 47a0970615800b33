"""What a training shows and leaves behind while it runs: metrics.csv, TensorBoard, log lines and
a progress bar.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..data.sample import Sample
from .checkpoint import write_atomic

log = logging.getLogger(__name__)
FIXED = ("step", "seconds", "progress", "lr", "grad_norm", "step_ms", "validation", "loss")
QUIET_LINE_EVERY = 30.0  # seconds between log lines where there is no terminal for a bar


class Monitor:
    """Writes into `folder`; on resume, rows after the step `resume_at` are dropped, they will
    come again.
    """

    def __init__(self, folder: Path, resume_at: int, label: str) -> None:
        self.csv = folder / "metrics.csv"
        self.rows = _read_rows(self.csv, resume_at)
        self.columns = list(self.rows[0]) if self.rows else []
        try:
            self._rewrite()
        except OSError as error:
            log.warning("%s cannot be written (%s)", self.csv, error)
        self.board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=resume_at + 1 if resume_at else None
        )
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal:
            columns = (
                "{task.description}",
                BarColumn(),
                "{task.percentage:5.1f}%",
                "step {task.fields[step]}",
            )
            texts = [c if isinstance(c, BarColumn) else TextColumn(c) for c in columns]
            self._bar = Progress(
                *texts, TextColumn("{task.fields[note]}"), console=console, refresh_per_second=2
            )
            self._task = self._bar.add_task(label, total=1.0, step=resume_at, note="")
            self._bar.start()
        self._label, self._last_line = label, 0.0

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row of numbers to metrics.csv and TensorBoard."""
        with self._losable(step, "metrics"):
            self._row(step, values)

    def _row(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": str(step), **{k: f"{v:.6g}" for k, v in values.items()}}
        new = [k for k in row if k not in self.columns]
        self.rows.append(row)
        if new:
            known = {*self.columns, *new}
            self.columns = [c for c in FIXED if c in known] + sorted(known.difference(FIXED))
            self._rewrite()
        else:
            with self.csv.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        for name, value in values.items():
            self.board.add_scalar(
                name if "/" in name or name in FIXED else f"terms/{name}", value, step
            )

    def show(self, step: int, progress: float, eta: float, loss: float, step_ms: float) -> None:
        """Move the progress bar, or log a line now and then where there is no terminal."""
        note = f"loss {loss:.4f}  {step_ms:.0f} ms/step  ETA {_clock(eta)}"
        if self._bar is not None:
            self._bar.update(self._task, completed=progress, step=step, note=note)
        elif time.monotonic() - self._last_line > QUIET_LINE_EVERY:
            self._last_line = time.monotonic()
            log.info("%s: step %d (%.1f %%)  %s", self._label, step, 100 * progress, note)

    def text(self, step: int, kind: str, message: str) -> None:
        """Put a health warning into TensorBoard."""
        with self._losable(step, "warning"):
            self.board.add_text(f"warnings/{kind}", message, step)
            self.board.flush()

    @contextlib.contextmanager
    def _losable(self, step: int, what: str) -> Iterator[None]:
        """A full disk costs what was to be written, not the training."""
        try:
            yield
        except OSError as error:
            log.warning("step %d: %s cannot be written (%s)", step, what, error)

    def pictures(self, step: int, sample: Sample, maps: Mapping[str, Tensor]) -> None:
        """Write image, depth, warped source, automask and photometric error of the first targets
        of a batch.
        """
        stack = [_rgb(sample.tgt)]
        for name, value in maps.items():
            if value.dim() == 4 and value.shape[0] == sample.tgt.shape[0]:
                stack.append(
                    _rgb(value)
                    if value.shape[1] == 3
                    else _heat(value, inverse=name.startswith("depth"))
                )
        height, width = stack[0].shape[1:3]
        sized = [[cv2.resize(image, (width, height)) for image in column[:3]] for column in stack]
        grid = np.concatenate([np.concatenate(column, axis=1) for column in sized], axis=0)
        names = [
            "tgt",
            *(n for n, v in maps.items() if v.dim() == 4 and v.shape[0] == sample.tgt.shape[0]),
        ]
        with self._losable(step, "pictures"):
            self.board.add_image(" / ".join(names), grid, step, dataformats="HWC")

    def close(self) -> None:
        """Flush everything; safe to call twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self.board.close()

    def _rewrite(self) -> None:
        if not self.columns:
            self.csv.unlink(missing_ok=True)
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.csv, text.getvalue().encode())


def configure_console_logging() -> None:
    """Send the package's log to stderr unless the program that calls us has set up logging
    itself.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s"
        )


def _read_rows(path: Path, last_step: int) -> list[dict[str, str]]:
    if last_step == 0 or not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # a kill in the middle of a line leaves None or a cut number in its last row
    return [
        r
        for r in rows
        if (r.get("step") or "").isdigit()
        and None not in r.values()
        and int(r["step"]) <= last_step
    ]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _rgb(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] -> (B, H, W, 3) uint8."""
    return images.detach().float().clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).cpu().numpy()


def _heat(maps: Tensor, inverse: bool) -> np.ndarray:
    """(B, 1, H, W) -> (B, H, W, 3) uint8 colours, each image over its own 2 % to 98 % range;
    near is bright.
    """
    values = maps.detach().float()[:, 0].cpu().numpy()
    if inverse:
        values = 1.0 / np.maximum(values, 1e-6)
    coloured = []
    for value in values:
        low, high = np.percentile(value, (2, 98))
        grey = np.clip((value - low) / max(high - low, 1e-9), 0, 1)
        coloured.append(
            cv2.applyColorMap((255 * grey).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
        )
    return np.stack(coloured)


class Means:
    """Running means of 0-dim tensors, summed where they are, so that no step waits for the
    device.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count one step in."""
        for name, value in values.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means since the last call, with one transfer from the device."""
        sums, count = self._sums, self._count
        self._sums, self._count = {}, 0
        if not count:
            return {}
        return {
            name: value / count
            for name, value in zip(
                sums, torch.stack([v.float() for v in sums.values()]).tolist(), strict=True
            )
        }
