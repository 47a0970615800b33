"""Which pixels and depths a published evaluation counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyndepth_core.evaluation.metrics import MAX_DEPTH, MIN_DEPTH


@dataclass(frozen=True)
class Protocol:
    """Crop (top, bottom, left, right as fractions of the size, truncated to pixels) and depth
    range in metres."""

    name: str
    says: str
    crop: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)
    depth_range: tuple[float, float] = (MIN_DEPTH, MAX_DEPTH)
    aspect: float | None = None

    def mask(self, height: int, width: int) -> np.ndarray:
        """Bool (H, W) of the pixels that count; ValueError when the image cannot be of this
        benchmark."""
        if self.aspect is not None and abs(width / height / self.aspect - 1) > 0.1:
            raise ValueError(
                f"protocol {self.name}: made for images {self.aspect:g} times as wide as high,"
                f" but the ground truth is {width}x{height}; use --protocol native"
            )
        top, bottom, left, right = self.crop
        mask = np.zeros((height, width), dtype=bool)
        mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = (
            True
        )
        return mask


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("native", "every pixel with ground truth, 1e-3 < z < 80 m"),
        # Garg et al. 2016 as every KITTI Eigen table since applies it.
        Protocol(
            "kitti-eigen",
            "Garg crop, 1e-3 < z < 80 m",
            (0.40810811, 0.99189189, 0.03594771, 0.96405229),
            aspect=3.3,
        ),
        # ManyDepth 2021: of 1024x2048, rows 256 to 768 and columns 192 to 1856.
        Protocol(
            "cityscapes",
            "rows 256-768, columns 192-1856 of 1024x2048, 1e-3 < z < 80 m",
            (0.25, 0.75, 0.09375, 0.90625),
            aspect=2.0,
        ),
        # Dynamo-Depth 2023: no crop, 75 m.
        Protocol("waymo", "no crop, 1e-3 < z < 75 m", depth_range=(MIN_DEPTH, 75.0)),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name; ValueError lists the known ones."""
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def with_crop(protocol: Protocol, text: str) -> Protocol:
    """The protocol with the crop 'top,bottom,left,right' (fractions); ValueError when it is no
    crop."""
    try:
        crop = tuple(float(v) for v in text.split(","))
    except ValueError:
        crop = ()
    if len(crop) != 4 or not (0 <= crop[0] < crop[1] <= 1 and 0 <= crop[2] < crop[3] <= 1):
        raise ValueError(
            f"--crop {text!r}: give top,bottom,left,right as fractions, such as 0.44,1,0,1"
        )
    rows = f"rows {crop[0]:g}-{crop[1]:g}, columns {crop[2]:g}-{crop[3]:g} of the size"
    return Protocol(
        f"{protocol.name}, {rows}",
        f"{rows}, {protocol.depth_range[0]:g} < z < {protocol.depth_range[1]:g} m",
        crop,
        protocol.depth_range,
        protocol.aspect,
    )
