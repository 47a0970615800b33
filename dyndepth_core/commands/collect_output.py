"""What `dyndepth collect` shows while it works and when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dyndepth_core.commands.output import literal, printable

if TYPE_CHECKING:
    from rich.console import Console

    from dyndepth_core.data.collect_units import Unit
    from dyndepth_core.data.collection import Collection


class BagProgress:
    """A bar over the messages of every camera of every bag."""

    def __init__(self, console: Console, collection: Collection, units: Sequence[Unit]) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._collection, self._units = collection, {u.name: u for u in units}
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
        )
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console)
        self._tasks = {
            u.name: self._progress.add_task(
                printable(u.name),
                total=u.frames,
                completed=collection.progress(u),
                visible=len(units) < 20,
            )
            for u in units
        }
        self._all = None
        if len(units) > 1:
            self._all = self._progress.add_task("all", total=len(units))

    def advance(self, unit: Unit) -> None:
        """A message of a unit was taken, in this process."""
        self._progress.advance(self._tasks[unit.name])

    def look(self) -> None:
        """See how far other processes are."""
        for name, unit in self._units.items():
            self._progress.update(self._tasks[name], completed=self._collection.progress(unit))

    def done(self, entry: dict[str, Any]) -> None:
        """A unit is done."""
        unit = self._units.pop(entry["name"])
        self._progress.update(self._tasks[unit.name], completed=unit.frames)
        if self._all is not None:
            self._progress.advance(self._all)

    @contextmanager
    def last(self, text: str) -> Iterator[None]:
        """What is done last."""
        task = self._progress.add_task(text, total=1)
        yield
        self._progress.advance(task)

    def __enter__(self) -> BagProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


def say_estimate(console: Console, units: Sequence[Unit], needed: int, free: int) -> None:
    """What the work will take, as far as the first frames of each camera tell."""
    frames = sum(u.needed[0] for u in units)
    if frames:
        console.print(
            f"about {frames} frames, {size_text(needed)} to write, {size_text(free)} free",
            highlight=False,
        )


def size_text(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def show(console: Console, out: Path, entries: Sequence[dict[str, Any]], dry: bool) -> None:
    """What became of every bag."""
    verb = "would be kept" if dry else "kept"
    for e in entries:
        if e["error"]:
            named = "" if e["error"].startswith(f"{e['path']}:") else f"{e['name']}: "
            console.print(literal(f"{named}{e['error']}"), style="red", soft_wrap=True)
            if not e["kept"]:
                continue
        text = (
            f"{e['name']}: {e['image_topic']}, {e['frames_in']} frames, {e['kept']} {verb} in "
            f"{_count(e['sequences'], 'sequence')}, {e['with_odometry']} with odometry"
            + "".join(f"; {n} tagged ({reason})" for reason, n in e["tagged"].items())
            + "".join(f"; left out {n} ({reason})" for reason, n in e["dropped"].items())
        )
        console.print(literal(text), soft_wrap=True)
    for e in entries:
        if e["problems"]:  # each was logged when it was met
            place = "" if dry else " listed in manifest.json"
            found = f"{_count(e['problems'], 'fault')} of the bag{place}"
            console.print(literal(f"{e['name']}: {found}"), style="yellow", soft_wrap=True)
        if e["calibration"].startswith("unknown"):
            text = f"{e['name']}: intrinsics {e['calibration']}; train with --intrinsics video"
            console.print(literal(text), style="yellow", soft_wrap=True)
    if any(e["kept"] for e in entries) and not dry:
        console.print(literal(f"look at {out}/contact_sheet.jpg"), soft_wrap=True)
        from dyndepth_core.data.doctor import train_command  # here: --help needs no bags

        learned = any(e["calibration"].startswith("unknown") for e in entries)
        text = f"next: {train_command(out, learned)}"
        console.print(literal(text), soft_wrap=True, highlight=False)


def _count(things: list, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"
