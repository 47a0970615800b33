"""The measurements of `dyndepth benchmark` that need no ROS: ours and the pinned plain variant
in turn."""

from __future__ import annotations

import array
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch

from dyndepth_core import config as configs
from dyndepth_core.data.sample import Sample
from dyndepth_core.data.transforms import image_tensor, plan_fit
from dyndepth_core.evaluation.timing import Gate, Row, interleave
from dyndepth_core.inference.cloud import CloudWriter
from dyndepth_core.inference.model_meta import ModelMeta
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.losses.photometric import image_stats, ssim_error
from dyndepth_core.methods import get_method
from dyndepth_core.methods.depth_pose_graph import DepthPoseGraph
from dyndepth_core.training.schedule import make_optimizer

FOCAL = 240.0
DECODER = (16, 32, 64, 128, 256)
EARLY = 0.1  # share of the training done: the dear part of it, with the image pyramid in the loss


class Reference:
    """The modules of test/reference, the pinned plain variants of a source checkout."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "training_step.py").is_file():
            raise ValueError(
                f"{folder}: no plain variants in it; give --reference the folder test/reference"
                " of a source checkout"
            )
        name = "dyndepth_plain_variants"
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules[name] = package
        spec.loader.exec_module(package)
        self._name = name

    def module(self, name: str) -> ModuleType:
        """One of its modules: networks, training_step, ssim, cloud, preprocess."""
        return importlib.import_module(f"{self._name}.{name}")


def find_reference(folder: Path | None) -> Reference | None:
    """The plain variants: of `folder`, else of the working directory, else None (an
    installation)."""
    if folder is not None:
        return Reference(folder)
    here = Path("test/reference")
    return Reference(here) if (here / "training_step.py").is_file() else None


def _row(
    times: dict[str, np.ndarray],
    gate: tuple[str, float] | None = None,
    **fields: object,
) -> Row:
    """A row of interleaved times; gate: least speed-up over plain, where plain was measured."""
    others = {k: float(np.median(t)) for k, t in times.items() if k not in ("ours", "plain")}
    row = Row(ms=float(np.median(times["ours"])), others=others, **fields)
    if "plain" in times:
        row.plain_ms = float(np.median(times["plain"]))
        row.speedup = float(np.median(times["plain"] / times["ours"]))
        if gate is not None:
            row.gates.append(Gate(gate[0], row.speedup, gate[1], at_least=True))
    else:
        row.plain = ""
    return row


def _settle(device: torch.device) -> Callable[[], None]:
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda: None


def network_forward(
    reference: Reference | None, device: torch.device, rounds: int, size: tuple[int, int]
) -> Row:
    """ResNet-18 depth network, batch 1, as the Predictor runs it, against plain eager."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    K = np.array([[FOCAL, 0, (size[1] - 1) / 2], [0, FOCAL, (size[0] - 1) / 2], [0, 0, 1]])
    graph = DepthPoseGraph(
        encoder="resnet18", decoder_channels=DECODER, canonical_focal=FOCAL, min_depth=0.1,
        max_depth=100.0,
    )  # fmt: skip
    meta = ModelMeta(
        method="monodepth",
        architecture=graph.architecture,
        input_size=size,
        canonical_focal=FOCAL,
        depth_range=(0.1, 100.0),
    )
    predictor = Predictor.from_graph(graph.eval(), meta, device=str(device))
    variants: dict[str, Callable[[], object]] = {"ours": lambda: predictor(image, K)}
    if reference is not None:
        plain = reference.module("networks").DepthNet(scales=(0,)).eval().to(device)
        plain.load_state_dict(graph.depth_net.state_dict())
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255).contiguous()
        tensor = tensor.to(device)

        def run_plain() -> object:
            with torch.no_grad():
                return plain(tensor)

        variants["plain"] = run_plain
    return _row(
        interleave(variants, rounds, _settle(device)),
        ("speed-up over plain eager", 1.3),
        work="ResNet-18 depth network",
        input=f"1x3x{size[0]}x{size[1]}",
        timer="Predictor call: uint8 image to float, network, depth; plain: network alone",
        plain="eager, NCHW, batch norm not folded",
        precision="fp16" if device.type == "cuda" else "fp32",
    )


def random_sample(batch: int, size: tuple[int, int], device: torch.device) -> Sample:
    """A batch of noise with two sources, the shape of a real one."""
    generator = torch.Generator().manual_seed(0)
    tgt = torch.rand((batch, 3, *size), generator=generator)
    src = torch.rand((batch, 2, 3, *size), generator=generator)
    K = torch.tensor([[FOCAL, 0, (size[1] - 1) / 2], [0, FOCAL, (size[0] - 1) / 2], [0, 0, 1]])
    return Sample(
        tgt=tgt,
        src=src,
        tgt_net=tgt,
        src_net=src,
        K=K.expand(batch, 3, 3).contiguous(),
        K_known=torch.ones(batch, dtype=torch.bool),
        dt=torch.tensor([[-0.1, 0.1]]).expand(batch, 2).contiguous(),
        video=torch.zeros(batch, dtype=torch.long),
        flipped=torch.zeros(batch, dtype=torch.bool),
        index=torch.arange(batch),
    ).to(device)


def make_objective(device: torch.device, *overrides: str) -> tuple[torch.nn.Module, object]:
    """`monodepth` with the published networks, ResNet-18, and its configuration."""
    names = ("encoder=resnet18", "pose_encoder=resnet18", "pretrained=false", "pose_downscale=1")
    tree = configs.load(
        method="monodepth", overrides=[f"network.{n}" for n in names] + [*overrides]
    )
    objective = get_method("monodepth").objective_class(tree, ["noise"], FOCAL)
    return objective.to(device, memory_format=torch.channels_last).train(), tree


def training_step(
    reference: Reference | None,
    device: torch.device,
    rounds: int,
    size: tuple[int, int],
    batch: int = 4,
) -> Row:
    """One optimiser step of monodepth, ResNet-18 for depth and pose, against the plain step."""
    objective, tree = make_objective(device)
    optimizer = make_optimizer(objective, tree.train)
    sample = random_sample(batch, size, device).channels_last()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(sample, EARLY).total.backward()
        optimizer.step()

    found = objective.predict(sample, EARLY)
    found.disps = {s: d.detach().requires_grad_() for s, d in found.disps.items()}
    found.T_src_tgt = found.T_src_tgt.detach().requires_grad_()

    def loss() -> None:
        objective.losses(sample, found, EARLY).total.backward()

    variants: dict[str, Callable[[], object]] = {"ours": step, "loss of ours": loss}
    if reference is not None:
        plain = reference.module("training_step").PlainStep().to(device).train()
        plain_optimizer = torch.optim.Adam(plain.parameters(), 1e-4)
        past, future = sample.src[:, 0].contiguous(), sample.src[:, 1].contiguous()
        tgt = sample.tgt.contiguous()

        def plain_step() -> None:
            plain_optimizer.zero_grad()
            plain(tgt, past, future, sample.K).backward()
            plain_optimizer.step()

        variants["plain"] = plain_step
    return _row(
        interleave(variants, rounds, _settle(device)),
        ("speed-up over the plain step", 1.5),
        work="training step of monodepth, ResNet-18 depth and pose",
        input=f"{batch} targets and 2 sources, 3x{size[0]}x{size[1]}",
        timer="forward, loss, backward, optimiser; no data loading",
        plain="NCHW, five avg_pool SSIM, four scales, a pose pass per source, nothing shared",
        precision="fp32",
    )


def ssim(
    reference: Reference | None, device: torch.device, rounds: int, size: tuple[int, int]
) -> Row:
    """SSIM forward and backward to one image."""
    a = torch.rand((4, 3, *size), device=device, requires_grad=True)
    b = torch.rand((4, 3, *size), device=device)

    def ours() -> None:
        a.grad = None
        ssim_error(image_stats(a), image_stats(b)).mean().backward()

    variants: dict[str, Callable[[], object]] = {"ours": ours}
    if reference is not None:
        plain_error = reference.module("ssim").ssim_error

        def plain() -> None:
            a.grad = None
            plain_error(a, b).mean().backward()

        variants["plain"] = plain
    return _row(
        interleave(variants, rounds, _settle(device)),
        work="SSIM 3x3, forward and backward",
        input=f"4x3x{size[0]}x{size[1]}",
        timer="both images' statistics, error, gradient to one",
        plain="five avg_pool2d",
        precision="fp32",
    )


def cloud(reference: Reference | None, rounds: int, size: tuple[int, int], limit_ms: float) -> Row:
    """Depth and colour to the data of a PointCloud2, against naive numpy and a copy of that
    data."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 80, size).astype(np.float32)
    rgb = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    K = np.array([[500.0, 0, size[1] / 2], [0, 500.0, size[0] / 2], [0, 0, 1]])
    message = array.array("B", bytes(16 * size[0] * size[1]))  # what a node's message holds
    points = np.frombuffer(message, np.float32).reshape(*size, 4)
    copy, writer = np.empty_like(points), CloudWriter(K, size)
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: writer.write(depth, rgb, points),
        "memcpy": lambda: np.copyto(copy, points),
    }
    if reference is not None:
        plain = reference.module("cloud").cloud_data
        variants["plain"] = lambda: plain(depth, rgb, K)
    times = interleave(variants, rounds)
    row = _row(
        times,
        work="depth to PointCloud2 x y z rgb",
        input=f"{size[1]}x{size[0]}",
        timer="into the message's own array",
        plain="coordinate grids, structured array, bytes, message's array",
        precision="fp32",
    )
    row.gates.append(Gate("milliseconds", row.ms, limit_ms))
    over = float(np.median(times["ours"] / times["memcpy"]))
    row.gates.append(Gate("times a copy of the same bytes", over, 4.0))
    return row


def preprocessing(reference: Reference | None, rounds: int) -> Row:
    """1080p BGR image to the network's input."""
    bgr = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    fit = plan_fit((1080, 1920), (192, 640))

    def ours() -> object:
        return image_tensor(cv2.cvtColor(fit.image(bgr), cv2.COLOR_BGR2RGB))

    variants: dict[str, Callable[[], object]] = {"ours": ours}
    if reference is not None:
        plain = reference.module("preprocess").preprocess
        variants["plain"] = lambda: plain(bgr, (192, 640))
    row = _row(
        interleave(variants, rounds),
        work="1080p BGR to network input",
        input="1920x1080 uint8 to 1x3x192x640",
        timer="crop and resize, then colour order and floats; mean and std are the network's",
        plain="floats first, then resize (stretched), then mean and std",
        precision="fp32",
    )
    row.gates.append(Gate("milliseconds", row.ms, 1.5))
    return row
