"""The model file: one safetensors file whose JSON metadata says how to rebuild the network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..files import write_atomically
from .loading import step
from .model_meta import FORMAT, PLAIN_VERSION, VERSION, ModelMeta, ModelScale, Provenance
from .packed import SCALE, pack, unpack

__all__ = [
    "ModelMeta",
    "ModelScale",
    "Provenance",
    "find_model",
    "load_model",
    "read_meta",
    "save_model",
]

Weights = Literal["float32", "float16", "mixed"]
METADATA_KEY, DIGEST_KEY = "dyndepth", "sha256"
ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUNDLED = {name: ASSETS / f"{name}.safetensors" for name in ("motion", "depth")}


def find_model(model: str | Path | None) -> Path:
    """Path of a model: a file, or the folder of a run, with its model in it; None or `motion`: the
    one with depth and object motion that ships with the package; `depth`: the smaller one, with
    depth alone. ValueError where that is missing or the training of the run not finished.
    """
    name = "motion" if model is None else str(model)
    if name not in BUNDLED or (model is not None and Path(model).exists()):
        path = Path(name).expanduser()
        return _of_run(path) if path.is_dir() else path
    if not BUNDLED[name].is_file():
        raise ValueError(
            f"the bundled model {BUNDLED[name]} is not there. Name a model file (--model, or the "
            "node's parameter `model`), or train one (dyndepth train --help)"
        )
    return BUNDLED[name]


def _of_run(folder: Path) -> Path:
    path = folder / "model.safetensors"
    if not path.is_file() and (folder / "config.yaml").is_file():
        raise ValueError(
            f"{folder}: this training is not finished; dyndepth train --out {folder} --resume"
        )
    return path


def save_model(
    path: str | Path,
    graph: nn.Module,
    meta: ModelMeta,
    *,
    weights: Weights = "float32",
) -> None:
    """Save an inference graph and its metadata as one safetensors file, atomically.

    With `weights="float16"` matrices and kernels are stored in half precision; vectors (biases and
    batch norm, whose variances may leave the half-precision range) stay as they are: they weigh
    nothing. `mixed` also stores those that depth does not need in 8 bits (packed.py). Raises
    ValueError when a weight is not finite or does not fit into half precision,
    OSError when it cannot be written.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights={weights!r}: choose {', '.join(get_args(Weights))}")
    tensors: dict[str, Tensor] = {}
    precise = graph.depth_only().state_dict() if weights == "mixed" else graph.state_dict()
    for name, tensor in graph.state_dict().items():
        stored = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if stored.is_floating_point():
            if not torch.isfinite(stored).all():
                raise ValueError(f"weight {name} holds NaN or infinity: the training diverged")
            if name not in precise and stored.ndim >= 2:
                stored, tensors[name + SCALE] = pack(stored)
            elif weights != "float32" and stored.ndim >= 2:
                stored = stored.half()
                if not torch.isfinite(stored).all():
                    raise ValueError(f"weight {name} exceeds half precision: save it as float32")
        tensors[name] = stored
    version = VERSION if weights == "mixed" else PLAIN_VERSION
    about = meta.model_copy(update={"version": version}).model_dump_json()
    metadata = {"format": "pt", METADATA_KEY: about, DIGEST_KEY: _digest(about, tensors)}
    write_atomically(path, dump_tensors(tensors, metadata))


def load_model(path: str | Path) -> tuple[nn.Module, ModelMeta]:
    """Rebuild the inference graph of a model file, float32, in evaluation mode, on the CPU.

    Nothing in the file is executed or unpickled. Raises FileNotFoundError when it is absent and
    ValueError, naming the file, the fault and the remedy, when it is damaged, foreign, newer than
    this package or does not fit its architecture.
    """
    path = Path(path).expanduser().absolute()
    step()
    data = _read(path)
    header = _safetensors_header(path, data)
    meta = _parse_meta(path, header)
    tensors = _tensors(path, data)
    step()
    _check_digest(path, header["__metadata__"], tensors)
    step()
    try:
        tensors = unpack(tensors)
    except (KeyError, ValueError) as error:
        raise _fault(path, f"is damaged ({error.args[0]})") from error
    graph = _build(path, meta)
    _check_shapes(path, graph.state_dict(), tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise _fault(path, f"is damaged (weight {name} holds NaN or infinity)")
    step()
    graph.load_state_dict(tensors)
    return graph.eval().requires_grad_(False), meta


def check_content(path: str | Path) -> None:
    """ValueError, as `load_model`, where metadata or weights are not what was written; no network
    is built.
    """
    path = Path(path).expanduser().absolute()
    data = _read(path)
    _check_digest(path, _safetensors_header(path, data)["__metadata__"], _tensors(path, data))


def read_meta(path: str | Path) -> ModelMeta:
    """Metadata of a model file without building the network; raises as `load_model`."""
    path = Path(path).expanduser().absolute()
    return _parse_meta(path, _safetensors_header(path, _read(path)))


_COPY_AGAIN = "copy or download it again, or train anew"
_NAME_OURS = "name a model.safetensors made by dyndepth train"


def _fault(path: Path, fault: str, remedy: str = _COPY_AGAIN) -> ValueError:
    return ValueError(f"model file {path} {fault}: {remedy}")


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise _fault(path, "is a directory", f"name the file in it, as {path}/model.safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"model file {path} does not exist: check the path")
    # Read whole, not mapped: a file that is cut or overwritten while in use cannot then kill the
    # node by SIGBUS.
    return path.read_bytes()


def _safetensors_header(path: Path, data: bytes) -> dict[str, Any]:
    """JSON header of a safetensors file: 8 bytes of length (little-endian), then the JSON."""
    if data.startswith((b"PK\x03\x04", *(bytes((0x80, protocol)) for protocol in range(2, 6)))):
        raise _fault(
            path,
            "is a Python pickle (.pth, .ckpt), whatever its name says; those can run code",
            "use the model.safetensors that dyndepth train leaves in the run's folder",
        )
    if len(data) < 8:
        raise _fault(path, f"is empty or cut off ({len(data)} bytes)")
    if data[8:9] != b"{":
        raise _fault(path, "is not a safetensors file", _NAME_OURS)
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise _fault(path, f"is cut off ({len(data)} bytes, its header says {length})")
    try:
        header = json.loads(data[8 : 8 + length])
        entries = [v for k, v in header.items() if k != "__metadata__"]
        end = 8 + length + max((e["data_offsets"][1] for e in entries), default=0)
        if not all(isinstance(n, int) and n >= 0 for e in entries for n in e["shape"]):
            raise ValueError("a shape is no list of numbers")
    except (
        ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise _fault(path, f"is damaged (no safetensors header: {error})") from error
    if end > len(data):
        raise _fault(path, f"is cut off ({len(data)} of {end} bytes)")
    return header


def _parse_meta(path: Path, header: dict[str, Any]) -> ModelMeta:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        raise _fault(path, "was not written by dyndepth (it lacks our metadata)", _NAME_OURS)
    try:
        fields = json.loads(metadata[METADATA_KEY])
    except (ValueError, TypeError, RecursionError) as error:
        raise _fault(path, f"is damaged (its metadata is not JSON: {error})") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise _fault(path, f"was not written by dyndepth (format is not {FORMAT})", _NAME_OURS)
    version = fields.get("version")
    # Before the fields are looked at: a newer version may have others.
    if isinstance(version, int) and version > VERSION:
        fault = f"has format version {version}, this dyndepth reads up to {VERSION}"
        raise _fault(path, fault, "update dyndepth")
    try:
        return ModelMeta.model_validate(fields)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, e['loc'])) or 'all'}: {e['msg']}" for e in error.errors()[:3]
        ]
        raise _fault(path, f"has unusable metadata ({'; '.join(faults)})") from error


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return load_tensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _fault(path, f"is damaged ({error})") from error


def _digest(about: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of metadata and weights."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_digest(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Files of the first version carry none."""
    wanted = metadata.get(DIGEST_KEY)
    if wanted is not None and wanted != _digest(metadata[METADATA_KEY], tensors):
        raise _fault(path, "is damaged (its content is not what was written: wrong SHA-256)")


class _NoInitialWeights(TorchFunctionMode):
    """Initial weights that a file will replace are not drawn: that takes longer than the rest."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("kaiming_uniform_", "uniform_", "kaiming_normal_", "normal_"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _build(path: Path, meta: ModelMeta) -> nn.Module:
    from dyndepth_core.methods import build_graph  # here: metadata alone needs no networks

    try:
        # The caller's random numbers must not change by it.
        with torch.random.fork_rng(devices=[]), _NoInitialWeights():
            return build_graph(meta.architecture)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _fault(
            path,
            f"needs a network that this dyndepth cannot build ({error})",
            "update dyndepth or install the method it was made with, or train anew",
        ) from error


def _check_shapes(path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    wrong = [
        f"{name} is {tuple(found[name].shape)} and must be {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name].shape != wanted[name].shape
    ]
    groups = {
        "are missing": sorted(wanted.keys() - found.keys()),
        "are not known": sorted(found.keys() - wanted.keys()),
        "have another shape": wrong,
    }
    faults = [
        f"{len(names)} weights {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for word, names in groups.items()
        if names
    ]
    if faults:
        raise _fault(path, f"does not fit its own architecture: {'; '.join(faults)}")
