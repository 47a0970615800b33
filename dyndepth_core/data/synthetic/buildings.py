"""Houses, walls, fences and hedges. Local frame: x along the street, which lies at +y (the layout
turns it by its heading)."""

from __future__ import annotations

import numpy as np

from .faces import ALPHA, CASTER, LEAF, TWO_SIDED, Builder, Faces, corners

_BASE = -2.5  # metres a wall goes below its ground level, for slopes


def house(
    ids: dict[str, int],
    rng: np.random.Generator,
    width: float,
    deep: float,
    storeys: int,
    facades: int,
    style: str,
) -> Faces:
    """A building of storeys of about 3 m with shops, balconies, cornices or a gabled roof.

    The street is at +y in the local frame.
    """
    build = Builder(ids)
    w, h = width / 2, deep / 2
    storey = float(rng.uniform(2.8, 3.5))
    tile = f"facade{int(rng.integers(facades))}"
    tint = tuple(rng.uniform(0.72, 1.15) * rng.uniform(0.93, 1.07, 3))
    metres = (float(rng.uniform(9.5, 14.0)), storey * 4)
    at = (float(rng.integers(0, 4)) / 4, float(rng.integers(0, 4)) / 4)
    shop = style in ("canyon", "town", "boulevard") and rng.random() < 0.6
    ground = 3.8 if shop else 0.0
    top = ground + storeys * storey
    if shop:
        build.ring(
            corners(-w, w, -h, h, 0.0),
            corners(-w, w, -h, h, ground),
            "shops",
            tint,
            (16.0, 16.0 * 3.8 / 4.0),
            (float(rng.random()), float(rng.integers(0, 4)) / 4),
            CASTER,
        )
        if rng.random() < 0.5:
            a = float(rng.uniform(-0.8, 0.2)) * w
            b = a + float(rng.uniform(0.4, 0.8)) * w
            color, out = tuple(rng.uniform(0.15, 0.8, 3)), h + float(rng.uniform(0.6, 1.3))
            build.quad(
                (a, h, 3.2),
                (b, h, 3.2),
                (b, out, 2.6),
                (a, out, 2.6),
                "cloth",
                color,
                flags=TWO_SIDED | CASTER,
            )
    build.ring(
        corners(-w, w, -h, h, _BASE),
        corners(-w, w, -h, h, 0.0),
        "bark" if rng.random() < 0.1 else "plain",
        tuple(0.5 * np.array(tint)),
    )
    low, high = corners(-w, w, -h, h, ground), corners(-w, w, -h, h, top)
    rep = (metres[0], metres[1])
    # top of the wall on a storey line of the tile
    build.ring(low, high, tile, tint, rep, at, CASTER)
    roof_tint = tuple(
        np.array([(0.9, 0.45, 0.35), (0.55, 0.55, 0.6), (0.8, 0.7, 0.6)][int(rng.integers(3))])
        * rng.uniform(0.7, 1.1)
    )
    if storeys <= 3 and rng.random() < (0.85 if style in ("suburb", "open") else 0.4):
        _gable(build, rng, w, h, top, tile, tint, roof_tint, metres)
    else:
        edge = 0.3
        build.box(
            -w - edge,
            w + edge,
            -h - edge,
            h + edge,
            top,
            top + float(rng.uniform(0.25, 0.7)),
            "plain",
            tuple(0.8 * np.array(tint)),
            "roof",
            roof_tint,
            (3.0, 3.0),
            flags=CASTER,
        )
        if rng.random() < 0.5:
            x, y = rng.uniform(-0.5, 0.5, 2) * (w, h)
            build.box(
                x - 1.4,
                x + 1.4,
                y - 1.2,
                y + 1.2,
                top,
                top + 2.4,
                "plank",
                (0.9, 0.9, 0.9),
                flags=CASTER,
            )
    _front(build, rng, w, h, ground, top, storey, shop, style)
    return build.faces()


def _gable(build, rng, w, h, top, tile, tint, roof_tint, metres) -> None:  # noqa: ANN001
    rise, o = float(rng.uniform(0.35, 0.8)) * min(w, h), 0.35
    if rng.random() < 0.5:  # ridge along the street
        ridge = [(-w - o, 0.0, top + rise), (w + o, 0.0, top + rise)]
        rep = (2 * w / 4.0, h / 4.0)
        build.quad(
            ridge[1],
            ridge[0],
            (-w - o, h + o, top - 0.1),
            (w + o, h + o, top - 0.1),
            "roof",
            roof_tint,
            rep,
            flags=CASTER,
        )
        build.quad(
            ridge[0],
            ridge[1],
            (w + o, -h - o, top - 0.1),
            (-w - o, -h - o, top - 0.1),
            "roof",
            roof_tint,
            rep,
            flags=CASTER,
        )
        for s in (-1, 1):
            apex, a, b = (s * w, 0.0, top + rise), (s * w, s * -h, top), (s * w, s * h, top)
            build.quad(
                apex, apex, b, a, tile, tint, (2 * h / metres[0], rise / metres[1]), flags=TWO_SIDED
            )
    else:
        ridge = [(0.0, -h - o, top + rise), (0.0, h + o, top + rise)]
        rep = (2 * h / 4.0, w / 4.0)
        build.quad(
            ridge[0],
            ridge[1],
            (w + o, h + o, top - 0.1),
            (w + o, -h - o, top - 0.1),
            "roof",
            roof_tint,
            rep,
            flags=CASTER | TWO_SIDED,
        )
        build.quad(
            ridge[1],
            ridge[0],
            (-w - o, -h - o, top - 0.1),
            (-w - o, h + o, top - 0.1),
            "roof",
            roof_tint,
            rep,
            flags=CASTER | TWO_SIDED,
        )
        for s in (-1, 1):
            apex, a, b = (0.0, s * h, top + rise), (w, s * h, top), (-w, s * h, top)
            build.quad(
                apex, apex, b, a, tile, tint, (2 * w / metres[0], rise / metres[1]), flags=TWO_SIDED
            )
    x = float(rng.uniform(-0.6, 0.6)) * w
    build.box(x - 0.35, x + 0.35, -0.6, 0.3, top, top + rise + 0.9, "plank", (1.0, 0.6, 0.5))


def _front(build, rng, w, h, ground, top, storey, shop, style) -> None:  # noqa: ANN001
    if style in ("canyon", "town", "boulevard") and rng.random() < 0.45:  # balconies
        columns = max(int(2 * w // 5), 1)
        tint = tuple(np.full(3, rng.uniform(0.25, 0.85)))
        for k in range(columns):
            if rng.random() < 0.3:
                continue
            x = -w + (k + 0.5) * 2 * w / columns
            for z in np.arange(ground + (0.0 if shop else storey), top - 1.0, storey):
                build.box(
                    x - 1.1,
                    x + 1.1,
                    h,
                    h + 1.1,
                    z - 0.1,
                    z + 0.9,
                    "plank",
                    tint,
                    flags=CASTER if z < 9 else 0,
                )
    elif rng.random() < 0.3 and not shop:  # a bay or porch
        x = float(rng.uniform(-0.6, 0.6)) * w
        build.box(
            x - 1.3,
            x + 1.3,
            h,
            h + 1.2,
            -1.0,
            min(top, storey * 2) - 0.4,
            "facade0",
            (0.95, 0.95, 0.95),
            "roof",
            repeat=(10.0, storey * 4),
            flags=CASTER,
        )
    if not shop:
        x = float(rng.uniform(-0.7, 0.7)) * w
        y = h + 0.02
        build.quad(
            (x + 0.55, y, 2.2),
            (x - 0.55, y, 2.2),
            (x - 0.55, y, 0.0),
            (x + 0.55, y, 0.0),
            "plank",
            tuple(rng.uniform(0.25, 1.2, 3)),
            (0.3, 1.0),
        )


def fence(ids: dict[str, int], rng: np.random.Generator, kind: str, length: float = 30.0) -> Faces:
    """A hedge, wall or plank fence along x; or a distant line of trees."""
    build = Builder(ids)
    if kind == "treeline":
        height = float(rng.uniform(6, 13))
        for _ in range(3):
            y, x = float(rng.uniform(-4, 4)), float(rng.uniform(-5, 5))
            a, b, z = x - length / 2, x + length / 2, height * float(rng.uniform(0.75, 1.1))
            shade = float(rng.uniform(0.7, 1.15))
            build.quad(
                (a, y, z),
                (b, y, z),
                (b, y, -1.5),
                (a, y, -1.5),
                "treeline",
                (shade, shade, shade),
                (length / 16.0, 1.0),
                (float(rng.random()), 0.0),
                flags=ALPHA | TWO_SIDED | LEAF,
            )
        return build.faces()
    a = length / 2
    which = int(rng.integers(3))
    height = float(rng.uniform(0.7, 2.0))
    if which == 0:
        build.box(
            -a,
            a,
            -0.35,
            0.35,
            -1.0,
            height,
            "hedge",
            (1.0, 1.0, 1.0),
            "hedge",
            None,
            (1.6, 1.6),
            flags=CASTER,
        )
    elif which == 1:
        tint = tuple(np.array([1.0, 0.95, 0.9]) * rng.uniform(0.7, 1.3))
        build.box(
            -a, a, -0.14, 0.14, -1.0, height, "slab", tint, "plain", None, (2.0, 2.0), flags=CASTER
        )
    else:
        build.box(
            -a,
            a,
            -0.05,
            0.05,
            -1.0,
            height,
            "plank",
            (1.0, 1.0, 1.0),
            "plain",
            (0.4, 0.35, 0.3),
            (2.2, 2.2),
            flags=CASTER,
        )
    return build.faces()
