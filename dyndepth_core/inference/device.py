"""Which device and which number format a model runs on."""

from __future__ import annotations

import torch

_PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """The device called auto (a GPU if there is one), cpu, cuda or cuda:N; ValueError when there is
    no such one.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r}: choose auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    index = device.index or 0
    if index >= count:
        build = "" if torch.version.cuda else " (this torch is built for the CPU only)"
        raise ValueError(
            f"device {name!r}: torch sees {count} CUDA devices{build}. "
            "Choose auto or cpu, or fix the driver"
        )
    return torch.device("cuda", index)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Number format of the convolutions for precision auto, fp32, fp16 or bf16; None = float32
    throughout.

    auto is float32 on a CPU (bfloat16 is 2.4 times slower there) and half precision on GPUs with
    tensor cores; half and not bfloat16, since 8 bits of mantissa leave steps of 0.4 % in depth, 11
    bits 0.05 %. Raises ValueError for other words.
    """
    if precision == "auto":
        if device.type == "cpu" or torch.cuda.get_device_capability(device) < (7, 0):
            return None
        return torch.float16
    if precision not in _PRECISIONS:
        raise ValueError(f"precision {precision!r}: choose auto, {', '.join(_PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 needs a GPU: choose auto or fp32 on a CPU")
    return _PRECISIONS[precision]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory; torch and cuDNN say so in several ways."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "alloc_failed" in text
    )
