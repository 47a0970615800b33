"""The chain behind a model file: data sets, recordings, bags, and the model it was begun with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dyndepth_core.data.chain import data_record
from dyndepth_core.data.recording import open_recordings

from .model_meta import MAX_FOREBEARS, ModelMeta, Provenance

KEPT = (
    "date", "steps", "seed", "git_revision", "dataset_manifest", "data", "sources", "parent",
    "from", "exported_from",
)  # fmt: skip


def parent_record(path: str | Path, sha256: str, meta: ModelMeta) -> dict[str, Any]:
    """What a fine-tuned model keeps of the one it was begun with: name, SHA-256, method and that
    one's own chain, whose file may be gone by then.
    """
    record = _record(path, sha256, meta)
    link = record
    for _ in range(MAX_FOREBEARS - 1):
        link = link.get("parent") or {}
    link.pop("parent", None)  # the oldest goes; `from` still names it
    return record


def _record(path: str | Path, sha256: str, meta: ModelMeta) -> dict[str, Any]:
    path = Path(path).resolve()
    run = path.name == "model.safetensors"  # of a run, whose folder says more
    name = f"{path.parent.name}/{path.name}" if run else path.name
    return {"name": name, "sha256": sha256, "method": meta.method, **_kept(meta.provenance)}


def _kept(provenance: Provenance) -> dict[str, Any]:
    fields = provenance.model_dump(mode="json")
    return {k: fields[k] for k in KEPT if fields.get(k) not in (None, "", [])}


def chain(path: str | Path, sha256: str, meta: ModelMeta) -> list[dict[str, Any]]:
    """The model and those it was begun with, newest first, plain data: name, sha256, method, and
    what its provenance says (KEPT). A file of an older version may know less.
    """
    links = []
    link: dict[str, Any] | None = _record(path, sha256, meta)
    while link:
        older = link.pop("parent", None)
        begun = link.pop("from", None)
        links.append(link)
        link = older or ({"name": "", "sha256": begun} if begun else None)
    return links


def sources(meta: ModelMeta) -> Iterator[dict[str, Any]]:
    """Every data set (data_record) that this model or one before it was trained on."""
    fields: dict[str, Any] | None = _kept(meta.provenance)
    while fields:
        yield from fields.get("sources") or ()
        fields = fields.get("parent")


def check_data(meta: ModelMeta, data: str | Path) -> dict[str, Any]:
    """Whether `data` is what a model was trained on: {is_its_data, says, recordings: {name: says}}.

    By the SHA-256 of every recording; a model of an older version knows only that of the whole.
    Raises as `open_recordings`.
    """
    data = Path(data)
    found = data_record(data, open_recordings(data))
    stored = list(sources(meta))
    known = {r["sha256"]: (s["name"], r["name"]) for s in stored for r in s["recordings"]}
    names = {r["name"] for s in stored for r in s["recordings"]}
    says = {
        r["name"]: "trained on, unchanged"
        if r["sha256"] in known
        else ("changed since" if r["name"] in names else "not trained on")
        for r in found["recordings"]
    }
    count = sum(text == "trained on, unchanged" for text in says.values())
    whole = found["sha256"] in meta.provenance.dataset_manifest.split()
    if whole or count == len(says):
        text = f"this is the data it was trained on, unchanged ({len(says)} recordings)"
        if len(says) < len(known):
            text += f"; it was also trained on {len(known) - len(says)} others"
    elif count:
        text = f"{count} of these {len(says)} recordings are what it was trained on, others are not"
    elif stored or not meta.provenance.dataset_manifest:
        text = "this is not the data it was trained on"
    else:
        text = (
            "this is not, as a whole, the data it was trained on; its file is of an older version "
            "and does not name single recordings"
        )
    return {"is_its_data": bool(whole or count == len(says)), "says": text, "recordings": says}
