"""Model files made smaller, checked before they are kept."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch

from dyndepth_core.data.chain import hash_file

from ..files import write_atomically
from .model_file import Provenance, Weights, load_model, save_model

FRAMES = 4  # random images the comparison looks at


def export_model(
    model: str | Path,
    out: str | Path,
    weights: Weights = "float16",
    depth_only: bool = False,
    tolerance: float = 0.02,
) -> float:
    """Write `model` anew to `out`, without what only further training needs; returns the largest
    relative change of depth on noise images.

    Raises FileNotFoundError or ValueError as `load_model`, and ValueError, writing nothing, when
    `out` exists or the change is above `tolerance`; OSError when `out` cannot be written.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise ValueError(f"{out} is there already: give another --out, or remove it first")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}; make it first")
    graph, meta = load_model(model)
    smaller = graph.depth_only() if depth_only else graph.deployed()
    about = {**meta.provenance.model_dump(), "exported_from": hash_file(Path(model))}
    meta = meta.model_copy(
        update={"architecture": smaller.architecture, "provenance": Provenance(**about)}
    )
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "model.safetensors"
        save_model(candidate, smaller, meta, weights=weights)
        change = _largest_change(graph, load_model(candidate)[0], meta.input_size)
        if not change <= tolerance:
            raise ValueError(
                f"{model}: as {weights} its depth changes by up to {change:.1%}, more than the "
                f"{tolerance:.1%} of --tolerance; nothing was written. Keep it as float32"
            )
        write_atomically(out, candidate.read_bytes())
    return change


@torch.no_grad()
def _largest_change(
    before: torch.nn.Module, after: torch.nn.Module, size: tuple[int, int]
) -> float:
    """Largest |z_after / z_before - 1|, with and without a previous image where depth uses it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((FRAMES, 3, *size), generator=generator)
    height, width = size
    K = torch.tensor([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
    K = K.expand(FRAMES, 3, 3)
    change = 0.0
    for previous in (None, images.roll(1, 3) if before.previous_for_depth else None):
        ratio = after(images, previous, K)[0] / before(images, previous, K)[0]
        found = float((ratio - 1).abs().max())
        change = max(change, math.inf if math.isnan(found) else found)  # max() would lose a NaN
    return change
