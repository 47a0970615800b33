"""Measurements of `dyndepth benchmark` of parts of networks: what a cost volume costs on the
vehicle, what depthwise convolutions cost a training.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch

from dyndepth_core.evaluation.speed import DECODER, FOCAL
from dyndepth_core.evaluation.timing import Gate, Row, interleave
from dyndepth_core.inference.model_meta import ModelMeta
from dyndepth_core.inference.predictor import Predictor
from dyndepth_core.methods import build_graph
from dyndepth_core.methods.many_depth.config import ManyDepthNetworkConfig
from dyndepth_core.networks import depthwise
from dyndepth_core.networks.encoders import Encoder

ENCODER = "efficientnet_lite0"
VOLUME = ("planes", "inverse_planes", "match_channels", "fuse_channels", "window", "blend")
MOST = 2.0  # times the network of one image that the fast variant may take


def many_depth(device: torch.device, rounds: int, size: tuple[int, int]) -> Row:
    """The fast variant of many_depth beside the faithful one and the network of a single image,
    all as the Predictor runs them on a video, batch 1.
    """
    calls = {
        "ours": _video(_graph(size, "fast"), device, size),
        "faithful": _video(_graph(size, "faithful"), device, size),
        "single image": _video(_graph(size, None), device, size),
    }
    times = interleave(calls, rounds)
    ratio = float(np.median(times["ours"] / times["single image"]))
    return Row(
        work=f"many_depth, variant fast, {ENCODER}",
        input=f"1x3x{size[0]}x{size[1]} and what the image before left",
        timer="Predictor call: image to float, ego-motion refined to flow, volume, network, depth",
        precision="fp16" if device.type == "cuda" else "fp32",
        ms=float(np.median(times["ours"])),
        others={k: float(np.median(t)) for k, t in times.items() if k != "ours"},
        gates=[Gate("times the network of one image", ratio, MOST)],
    )


def depthwise_gradient(rounds: int, size: tuple[int, int], batch: int = 3) -> Row:
    """Forward and backward pass of the encoder in a training, our weight gradient of depthwise
    convolutions beside torch's; on the CPU, the only place that has one of ours.
    """
    torch.manual_seed(0)
    encoder = Encoder(ENCODER).train().to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, *size).to(memory_format=torch.channels_last)

    def ours() -> None:
        encoder.zero_grad()
        sum(x.mean() for x in encoder(images)).backward()

    def plain() -> None:
        largest, depthwise.LARGEST = depthwise.LARGEST, -1
        try:
            ours()
        finally:
            depthwise.LARGEST = largest

    times = interleave({"ours": ours, "plain": plain}, rounds)
    return Row(
        work=f"{ENCODER} in a training",
        input=f"{batch}x3x{size[0]}x{size[1]}",
        timer="forward and backward pass of the encoder",
        plain="torch's own gradient of every depthwise convolution",
        precision="fp32",
        ms=float(np.median(times["ours"])),
        plain_ms=float(np.median(times["plain"])),
        speedup=float(np.median(times["plain"] / times["ours"])),
    )


def _graph(size: tuple[int, int], variant: str | None) -> tuple[torch.nn.Module, ModelMeta]:
    architecture = {
        "method": "monodepth", "encoder": ENCODER, "decoder_channels": DECODER,
        "canonical_focal": FOCAL, "min_depth": 0.1, "max_depth": 100.0,
    }  # fmt: skip
    if variant is not None:
        config = ManyDepthNetworkConfig(variant=variant)
        fields = {name: getattr(config, name) for name in (*VOLUME, "pose_downscale")}
        own = {"method": "many_depth", "pose_encoder": ENCODER, "teacher": False, **fields}
        architecture |= own
    torch.manual_seed(0)
    graph = build_graph(architecture).eval()
    meta = ModelMeta(
        method=architecture["method"], architecture=graph.architecture, input_size=size,
        canonical_focal=FOCAL, depth_range=(0.1, 100.0),
    )  # fmt: skip
    return graph, meta


def _video(
    model: tuple[torch.nn.Module, ModelMeta], device: torch.device, size: tuple[int, int]
) -> Callable[[], object]:
    """A call is the next frame of a picture that drifts by."""
    predictor = Predictor.from_graph(*model, device=str(device))
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(noise, (9, 9), 0)
    frames = [np.ascontiguousarray(np.roll(picture, 3 * k, 1)) for k in range(8)]
    K = np.array([[FOCAL, 0, (size[1] - 1) / 2], [0, FOCAL, (size[0] - 1) / 2], [0, 0, 1]])
    count = 0

    def call() -> object:
        nonlocal count
        count += 1
        return predictor(frames[count % len(frames)], K, count * 100_000_000)

    return call
