"""Names in `--methods` that are a method with settings of its own, or with a longer training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import parse_method


@dataclass(frozen=True)
class Variant:
    """method: METHOD or METHOD+PLUGIN; settings: of the config tree; times: the budget of others;
    control: the row that must stand beside it, empty where none must.
    """

    method: str
    settings: tuple[str, ...] = ()
    times: float = 1.0
    control: str = ""


# mined_supervision trains several networks one after the other
LONG = 3.0
CONTROL = "residual_motion_long"
VARIANTS = {
    "mined_supervision": Variant("mined_supervision", (), LONG, CONTROL),
    "mined_supervision_contact": Variant(
        "mined_supervision", ("objective.alignment=contact",), LONG, CONTROL
    ),
    "mined_supervision_rounds": Variant(
        "mined_supervision", ("objective.rounds=2",), LONG, CONTROL
    ),
    "mined_supervision_files": Variant(
        "mined_supervision", ("objective.masks=files",), LONG, CONTROL
    ),
    "mined_supervision_oracle": Variant(
        "mined_supervision", ("objective.masks=oracle",), LONG, CONTROL
    ),
    # the scene's network alone, trained equally long without labels
    CONTROL: Variant("residual_motion", (), LONG),
}


def get_variant(name: str) -> Variant:
    """What a row is; ValueError as parse_method."""
    if name not in VARIANTS:
        parse_method(name)
    return VARIANTS.get(name, Variant(name))


def with_controls(names: Sequence[str]) -> list[str]:
    """The rows in order, each control that is missing before the first row that needs it."""
    found: list[str] = []
    for name in names:
        control = get_variant(name).control
        if control and control not in names and control not in found:
            found.append(control)
        found.append(name)
    return found
