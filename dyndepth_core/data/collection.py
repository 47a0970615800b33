"""Many bags in one folder: by several processes, in shards of a fleet, resumable, with a manifest.

While it is under way `<out>/.collect.part/` holds the command, a checkpoint per camera and what is
done; names that end with `.part` are in no manifest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dyndepth_core.data.chain import read_object
from dyndepth_core.data.collect_options import CollectOptions
from dyndepth_core.data.collect_units import Unit, Work, collect_unit, empty_entry
from dyndepth_core.data.contact_sheet import write_contact_sheet
from dyndepth_core.data.processes import run_in_processes
from dyndepth_core.data.writer import PART, replace_file, write_manifest

MANIFEST, SHEET = "manifest.json", "contact_sheet.jpg"
MAX_SHARDS = 10_000
NEW_FOLDER = "give a new folder"


class Collection:
    """A folder that bags are collected into.

    shard: (i, n), this process takes bags i, i + n, ... (from 1) of the list. resume: go on with
    what an earlier, killed run of the same command left.
    Raises ValueError: the folder holds something else, or what another command began.
    """

    def __init__(
        self,
        out: Path,
        bags: Sequence[Path],
        options: CollectOptions,
        shard: tuple[int, int] = (1, 1),
        resume: bool = False,
        version: str = "",
    ) -> None:
        self.out, self.bags, self.options, self.shard = out, list(bags), options, shard
        number, count = shard
        if not 1 <= number <= count <= MAX_SHARDS:
            raise ValueError(
                f"shard {number}/{count}: give i/n with 1 <= i <= n, n at most {MAX_SHARDS}"
            )
        self.mine = range(number - 1, len(self.bags), count)
        self._mark = "" if count == 1 else f"-{number}-of-{count}"
        self.journal = out / f".collect{self._mark}{PART}"
        self._about = {
            "tool": "dyndepth collect",
            "version": version,
            "parameters": json.loads(json.dumps(asdict(options))),
        }
        self._command = {**self._about, "given": [str(b) for b in self.bags], "shard": list(shard)}
        self.complete = self._check(resume)

    def _check(self, resume: bool) -> bool:
        """Whether all is done already."""
        command = self.journal / "command.json"
        if resume and command.is_file():
            self._compare(read_object(command, NEW_FOLDER, self._command), command)
            return False
        ended = [p for p in (self.out / f"manifest{self._mark}.json", self.out / MANIFEST)
                 if p.is_file()]  # fmt: skip
        if resume and ended:
            about = read_object(ended[0], NEW_FOLDER, (*self._about, "bags"))
            self._compare(about, ended[0])
            return True
        beside = [*self.out.glob(f".collect-*{PART}"), *self.out.glob("manifest-*-of-*.json")]
        another = self._mark and beside and not self.journal.exists()
        begun = command.is_file()  # without it a kill came before anything was written
        held = self.out.exists() and any(p != self.journal or begun for p in self.out.iterdir())
        if held and not another:
            if resume:
                raise ValueError(f"{self.out}: holds nothing to go on with; give a new folder")
            remedy = ", or --resume to go on" if begun else ""
            raise ValueError(f"{self.out}: not empty; give a new folder for the recordings{remedy}")
        return False

    def _compare(self, before: dict[str, Any], file: Path) -> None:
        if "given" not in before and "bags" in before:
            try:
                paths = {entry["order"]: entry["path"] for entry in before["bags"]}
            except (KeyError, TypeError) as error:
                raise ValueError(f"{file} is damaged (bags: {error!r}): {NEW_FOLDER}") from error
            before = before | {"given": [paths[k] for k in sorted(paths)]}
        keys = [k for k in self._command if k in before and before[k] != self._command[k]]
        if keys:
            was = "; ".join(f"{k}: {before[k]}" for k in keys)
            raise ValueError(f"{file}: was begun with another command ({was}); give the same one")

    def begin(self) -> None:
        """Make the folder and keep the command in it."""
        self.journal.mkdir(parents=True, exist_ok=True)
        replace_file(self.journal / "command.json", json.dumps(self._command).encode(), True)

    def free_bytes(self) -> int:
        """Room on the disk of the folder."""
        place = self.out.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def missing_bytes(self, units: Sequence[Unit]) -> int:
        """Bytes still to be written, as far as can be told."""
        return sum(
            round(u.needed[1] * (1 - min(1.0, self.progress(u) / max(u.frames, 1)))) for u in units
        )

    def progress(self, unit: Unit) -> int:
        """Messages of a unit that are done, as its checkpoint says."""
        if (self.journal / f"{unit.name}.done.json").exists():
            return unit.frames
        try:
            return int(json.loads((self.journal / f"{unit.name}.json").read_text())["number"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0

    def collect(
        self,
        units: Sequence[Unit],
        jobs: int,
        threads: int,
        dry: bool = False,
        on_frame: Callable[[Unit], None] | None = None,
        poll: Callable[[], None] = lambda: None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the entry of each unit when it is done; one that fails has its `error`.

        on_frame: only with one job, for then all is done in this process. OSError: the folder
        cannot be written.
        """
        journal = None if dry else self.journal
        work = [
            Work(u, None if dry else self.out, journal, self.options, threads, None) for u in units
        ]
        if jobs == 1 or len(work) < 2:
            for job in work:
                yield collect_unit(replace(job, on_frame=on_frame))
            return
        text = (
            "a collecting process was killed (is the memory full?): use fewer --jobs; --resume "
            "goes on"
        )
        yield from run_in_processes(collect_unit, work, jobs, poll=poll, killed=text)

    def unfinished(self, units: Sequence[Unit]) -> list[dict[str, Any]]:
        """Entries of units as their checkpoints say, after an interruption."""
        found = []
        for unit in units:
            entry = empty_entry(unit.name, unit.order, unit.path)
            for kind in (".done", ".stopped", ""):
                path = self.journal / f"{unit.name}{kind}.json"
                if path.is_file():
                    with suppress(ValueError):  # damaged; collect_unit has said so
                        state = read_object(path, NEW_FOLDER)
                        entry |= state.get("report", state)
                    break
            found.append(entry)
        return found

    def info(self, entries: Sequence[dict[str, Any]], interrupted: bool = False) -> dict[str, Any]:
        """What the manifest says beside the files."""
        return {
            **self._about,
            "interrupted": interrupted,
            "frames": sum(entry["kept"] for entry in entries),
            "bags": sorted(entries, key=lambda e: (e["order"], e["name"])),
        }

    def finish(self, entries: Sequence[dict[str, Any]], interrupted: bool = False) -> None:
        """Write contact sheet and manifest; the journal goes when all went well."""
        info = self.info(entries, interrupted)
        failed = interrupted or any(entry["error"] for entry in entries)
        if (
            not info["frames"] and self.shard[1] == 1
        ):  # a lone manifest is in the way of another try
            if not interrupted:
                self._remove_journal()
            return
        self.out.mkdir(parents=True, exist_ok=True)
        if self.shard[1] > 1:
            only = {s["name"] for e in entries for s in e["sequences"]}
            extra = {"given": self._command["given"], "shard": list(self.shard)}
            write_manifest(self.out, {**extra, **info}, f"manifest{self._mark}.json", only)
        else:
            if not interrupted:
                write_contact_sheet(self.out / SHEET, self.out, _sequences(info["bags"]))
            write_manifest(self.out, info)
        if not failed:
            self._remove_journal()

    def _remove_journal(self) -> None:
        shutil.rmtree(self.journal, ignore_errors=True)
        if self.out.is_dir() and not any(self.out.iterdir()):
            self.out.rmdir()

    def ended(self) -> dict[str, Any]:
        """What the manifest of a complete collection says beside the files."""
        own = self.out / f"manifest{self._mark}.json"
        found = json.loads((own if own.is_file() else self.out / MANIFEST).read_text())
        found.pop("files", None)
        return found

    def merge(self) -> bool:
        """Whether the manifests of all shards are here and one of the whole took their place.

        Raises ValueError when a file that a shard wrote is missing or was changed.
        """
        count = self.shard[1]
        paths = [self.out / f"manifest-{k}-of-{count}.json" for k in range(1, count + 1)]
        if count == 1 or not all(p.is_file() for p in paths):
            return False
        parts = [json.loads(p.read_text()) for p in paths]
        if any(part["interrupted"] or _failed(part) for part in parts):
            return False
        for part, path in zip(parts, paths, strict=True):
            self._compare({k: v for k, v in part.items() if k != "shard"}, path)
        info = self.info([entry for part in parts for entry in part["bags"]])
        write_contact_sheet(self.out / SHEET, self.out, _sequences(info["bags"]))
        names = {s["name"] for e in info["bags"] for s in e["sequences"]} | {SHEET}
        sums = write_manifest(self.out, info, only=names)
        for part in parts:
            for name, digest in part["files"].items():
                if sums.get(name) != digest:
                    (self.out / MANIFEST).unlink()
                    raise ValueError(
                        f"{self.out / name}: missing or not as its shard wrote it; copy it again"
                    )
        for path in paths:
            path.unlink(missing_ok=True)
        return True


def _failed(info: dict[str, Any]) -> bool:
    return any(entry["error"] for entry in info["bags"])


def _sequences(entries: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(s["name"], s["frames"]) for entry in entries for s in entry["sequences"]]
