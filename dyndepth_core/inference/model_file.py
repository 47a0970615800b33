"""The model file: one safetensors file whose JSON metadata says how to rebuild and use the network."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from .model_meta import FORMAT, VERSION, ModelMeta, ModelScale, Provenance

__all__ = [
    "ModelMeta",
    "ModelScale",
    "Provenance",
    "bundled_model",
    "load_model",
    "read_meta",
    "save_model",
    "write_atomically",
]

METADATA_KEY = "dyndepth"
BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "depth.safetensors"


def bundled_model() -> Path:
    """Path of the depth model that ships with the package; ValueError where it was left out of the
    installation.
    """
    if not BUNDLED.is_file():
        raise ValueError(
            f"the bundled model {BUNDLED} is not there. Name a model file (--model, or the node's parameter "
            "`model`), or train one: dyndepth train --method monodepth --data DIR --out RUN"
        )
    return BUNDLED


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` so that at any moment the old or the new file is there whole, even on
    a full disk.

    Raises OSError (disk full, no permission, no such directory); the old file is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)


def save_model(
    path: str | Path,
    graph: nn.Module,
    meta: ModelMeta,
    *,
    weights: Literal["float32", "float16"] = "float32",
) -> None:
    """Save an inference graph and its metadata as one safetensors file, atomically.

    With `weights="float16"` matrices and kernels are stored in half precision; vectors (biases and
    batch norm, whose variances may leave the half-precision range) stay as they are: they weigh
    nothing. Raises ValueError when a weight is not finite or does not fit into half precision,
    OSError when it cannot be written.
    """
    if weights not in ("float32", "float16"):
        raise ValueError(f"weights={weights!r}: choose float32 or float16")
    tensors: dict[str, Tensor] = {}
    for name, tensor in graph.state_dict().items():
        stored = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if stored.is_floating_point():
            if not torch.isfinite(stored).all():
                raise ValueError(
                    f"weight {name} holds NaN or infinity: the training diverged, this model is not saved"
                )
            if weights == "float16" and stored.ndim >= 2:
                stored = stored.half()
                if not torch.isfinite(stored).all():
                    raise ValueError(
                        f"weight {name} does not fit into half precision: save with weights='float32'"
                    )
        tensors[name] = stored
    metadata = {"format": "pt", METADATA_KEY: meta.model_dump_json()}
    write_atomically(path, dump_tensors(tensors, metadata))


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelMeta]:
    """Rebuild the inference graph of a model file, float32, in evaluation mode, on `device`.

    Nothing in the file is executed or unpickled. Raises FileNotFoundError when it is absent and
    ValueError, naming the file, the fault and the remedy, when it is damaged, foreign, newer than
    this package or does not fit its architecture.
    """
    path = Path(path)
    data = _read(path)
    meta = _parse_meta(path, _safetensors_header(path, data))
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"model file {path} is damaged ({error}). {_COPY_AGAIN}") from error
    graph = _build(path, meta)
    _check_shapes(path, graph.state_dict(), tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                f"model file {path}: weight {name} holds NaN or infinity. {_COPY_AGAIN}"
            )
    graph.load_state_dict(tensors)
    return graph.eval().requires_grad_(False).to(device), meta


def read_meta(path: str | Path) -> ModelMeta:
    """Metadata of a model file without building the network; raises as `load_model`."""
    path = Path(path)
    return _parse_meta(path, _safetensors_header(path, _read(path)))


_COPY_AGAIN = "Copy or download it again, or train anew."


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ValueError(
            f"model {path} is a directory: name the file in it, for a run that is {path / 'model.safetensors'}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"model file {path} does not exist: check the path")
    # Read whole, not mapped: a file that is replaced or cut while it is in use cannot then kill the
    # node by SIGBUS.
    return path.read_bytes()


def _safetensors_header(path: Path, data: bytes) -> dict[str, Any]:
    """JSON header of a safetensors file: 8 bytes little-endian length, then that many bytes of
    JSON.
    """
    if data[:4] == b"PK\x03\x04" or data[:2] in (
        b"\x80\x02",
        b"\x80\x03",
        b"\x80\x04",
        b"\x80\x05",
    ):
        raise ValueError(
            f"model file {path} is a Python pickle (a .pth or .ckpt file), whatever its name says. Pickles can run "
            "code and are never opened; use the model.safetensors that `dyndepth train` leaves in the run's folder"
        )
    if len(data) < 8:
        raise ValueError(
            f"model file {path} is empty or cut off ({len(data)} bytes). {_COPY_AGAIN}"
        )
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{":
        raise ValueError(
            f"model file {path} is not a safetensors file: name a model.safetensors made by dyndepth"
        )
    if length > len(data) - 8:
        raise ValueError(
            f"model file {path} is cut off ({len(data)} bytes, its header alone says {length}). {_COPY_AGAIN}"
        )
    try:
        header = json.loads(data[8 : 8 + length])
        end = max(
            (
                int(entry["data_offsets"][1])
                for name, entry in header.items()
                if name != "__metadata__"
            ),
            default=0,
        )
    except (
        UnicodeDecodeError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        raise ValueError(
            f"model file {path} is damaged: its header is no safetensors header ({error}). {_COPY_AGAIN}"
        ) from error
    if 8 + length + end > len(data):
        raise ValueError(
            f"model file {path} is cut off ({len(data)} of {8 + length + end} bytes). {_COPY_AGAIN}"
        )
    return header


def _parse_meta(path: Path, header: dict[str, Any]) -> ModelMeta:
    foreign = f"model file {path} was not written by dyndepth"
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        raise ValueError(
            f"{foreign} (a safetensors file without our metadata): name a model.safetensors made by dyndepth train"
        )
    try:
        fields = json.loads(metadata[METADATA_KEY])
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"model file {path} is damaged: its metadata is not JSON ({error}). {_COPY_AGAIN}"
        ) from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ValueError(
            f"{foreign} (format is not {FORMAT}): name a model.safetensors made by dyndepth train"
        )
    version = fields.get("version")
    if (
        isinstance(version, int) and version > VERSION
    ):  # before the fields: a newer version may have others
        raise ValueError(
            f"model file {path} has format version {version}, this dyndepth reads up to {VERSION}: update dyndepth"
        )
    try:
        return ModelMeta.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'metadata'}: {e['msg']}" for e in error.errors()
        )
        raise ValueError(
            f"model file {path} has unusable metadata ({faults}). {_COPY_AGAIN}"
        ) from error


def _build(path: Path, meta: ModelMeta) -> nn.Module:
    from ..methods import build_graph  # here: reading metadata alone must not need the networks

    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # initial weights are thrown away; leave the caller's random numbers alone
            return build_graph(meta.architecture)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"model file {path} needs a network that this dyndepth cannot build ({error}). "
            "It was made by another version or with a method that is not installed: update dyndepth, or train anew"
        ) from error


def _check_shapes(path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    missing = sorted(wanted.keys() - found.keys())
    surplus = sorted(found.keys() - wanted.keys())
    wrong = [
        f"{name} is {tuple(found[name].shape)}, must be {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name].shape != wanted[name].shape
    ]
    faults = [
        f"{len(names)} weights {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, word in (
            (missing, "are missing"),
            (surplus, "are not known"),
            (wrong, "have another shape"),
        )
        if names
    ]
    if faults:
        raise ValueError(
            f"model file {path} does not fit its own architecture: {'; '.join(faults)}. {_COPY_AGAIN}"
        )
