"""What one clip's streets look like: canyon, town, suburb, boulevard, open road or industrial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Style:
    """What one clip's streets look like."""

    name: str
    lanes: int  # per direction
    lane: float  # width, m
    parking: float  # width of the parking strip on each side, 0 = none
    pavement: float
    half: float  # centre line to kerb
    setback: tuple[float, float]  # pavement to facade
    storeys: tuple[int, int]
    gap: tuple[float, float]  # between buildings
    trees: float  # per 10 m and side
    verge: str  # tile behind the pavement


def draw_style(rng: np.random.Generator) -> Style:
    """Canyon, town, suburb, boulevard, open road or industrial."""
    name = str(
        rng.choice(
            ["canyon", "town", "suburb", "boulevard", "open", "works"],
            p=[0.2, 0.24, 0.2, 0.14, 0.1, 0.12],
        )
    )
    lanes = 2 if name == "boulevard" or rng.random() < 0.2 else 1
    lane = rng.uniform(2.9, 3.6)
    parking = 2.1 if name in ("canyon", "town", "suburb") or rng.random() < 0.4 else 0.0
    setback, storeys, gap, tree = {
        "canyon": ((0.0, 0.4), (4, 7), (0.0, 0.3), 0.15),
        "town": ((0.0, 3.0), (2, 5), (0.0, 7.0), 0.45),
        "suburb": ((3.5, 9.0), (1, 2), (3.0, 12.0), 0.8),
        "boulevard": ((1.0, 8.0), (3, 7), (2.0, 14.0), 1.0),
        "open": ((10.0, 45.0), (1, 3), (20.0, 60.0), 0.7),
        "works": ((3.0, 18.0), (1, 3), (4.0, 25.0), 0.3),
    }[name]
    pavement = rng.uniform(1.6, 4.2)
    verge = "slab" if name == "canyon" else str(rng.choice(["grass", "grass", "gravel", "slab"]))
    return Style(
        name,
        lanes,
        lane,
        parking,
        pavement,
        lanes * lane + parking + 0.25,
        setback,
        storeys,
        gap,
        tree,
        verge,
    )
