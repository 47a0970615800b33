"""What the name of a row means: method, plug-in, variants, and the rows whose models it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..config import parse_method

# what a variant sets; several may follow each other
VARIANTS = {
    "_files": ("objective.masks.source=files",),
    "_oracle": ("objective.masks.source=truth",),
    "_temporal": ("objective.motion_aware.distillation=false",),
    "_distillation": ("objective.motion_aware.temporal=false",),
    "_published": ("objective.motion_aware.gradient=published",),
}
MASKS = ("_files", "_oracle")  # of rows that read masks which lie beside the images
FINETUNED = "_finetuned"
MINER = "residual_motion"  # its model finds what moves, unless a variant says whose masks to take
# of a training that goes on from a model: nothing has to be found from nothing
FINETUNE = (
    "objective.pose_first=0", "objective.pyramid=1", "objective.freeze_teacher=1", "train.lr=5e-5",
    "train.warmup=0.05",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How a row is trained: method, METHOD[+PLUGIN]; settings beyond the budget's; start: row whose
    model it begins with (then it takes the budget's finetune_steps); miner: row whose model finds
    what moves; control: row it is to be compared with; takes: row whose stages are taken over where
    they are the same; times: the budget of the others.
    """

    method: str
    settings: tuple[str, ...] = ()
    start: str | None = None
    miner: str | None = None
    control: str | None = None
    takes: str | None = None
    times: float = 1.0

    @property
    def needs(self) -> list[str]:
        """Rows that must be there, those to be trained before this one first."""
        needed = (self.start, self.miner, self.takes, self.control)
        return [*dict.fromkeys(name for name in needed if name is not None)]


# mined_supervision trains several networks one after the other; its control is the scene's network
# alone, trained equally long without labels. The rest of its time is for what is not training:
# mining, masks and labels take nothing from train.minutes (11 to 14 minutes of one core at quick).
LONG = 3.0
TRAINED = 0.75
SCENE = "residual_motion_long"
# Variants have the scene and what was mined of the row without one; the last network also has the
# time of the stages that they do without.
PLAIN = "mined_supervision"
MINED = {
    "_contact": ("objective.alignment=contact", "objective.shares.final=0.43"),
    "_rounds": ("objective.rounds=2",),
    "_files": ("objective.masks=files", "objective.shares.final=0.51"),
    "_oracle": ("objective.masks=oracle", "objective.shares.final=0.51"),
}
# the published losses, and what the paper takes away from them or adds; by optical flow the motion
# network would see depth, and what moves would be learned from a loss that is not the paper's
PUBLISHED = "residual_motion_published"
PAPER = ("objective.both_ways=true", "data.source_offsets=1", "network.motion_flow=false")
ABLATIONS = {
    "": (),
    "_l1": ("objective.sparsity_norm=l1",),
    "_no_depth": ("network.motion_depth=false",),
    "_no_cycle": ("objective.rotation_cycle=0", "objective.translation_cycle=0"),
    "_files": ("objective.foreground=files",),
}
# our defaults are for trainings of thousands of steps
SC_PAPER = (
    "objective.geometry=0.5", "objective.smoothness=0.1", "objective.both_ways=true",
    "objective.lending=1", "objective.lenders=all", "objective.consistent_from=0",
    "objective.mean_over=valid", "objective.self_discovered=true",
)  # fmt: skip
METRIC = ("objective.metric_odometry=0.05",)
WHOLE = {
    "sc_depth_published": Recipe("sc_depth", SC_PAPER, control="sc_depth"),
    "residual_motion_metric": Recipe("residual_motion", METRIC, control="residual_motion"),
    "many_depth_fast": Recipe("many_depth", ("network.variant=fast",), control="many_depth"),
    **{
        PUBLISHED + end: Recipe("residual_motion", PAPER + own, control=PUBLISHED if end else None)
        for end, own in ABLATIONS.items()
    },
    SCENE: Recipe("residual_motion", times=LONG),
    PLAIN: Recipe(PLAIN, control=SCENE, times=LONG * TRAINED),
    **{
        PLAIN + end: Recipe(PLAIN, own, control=PLAIN, takes=PLAIN, times=LONG * TRAINED)
        for end, own in MINED.items()
    },
}


def recipe(name: str) -> Recipe:
    """Read METHOD[+PLUGIN][_finetuned][_VARIANT ...]; ValueError says what is wrong.

    A plug-in and `_finetuned`, the same training without it, go on from the model of the METHOD
    row; dynamic_depth from that of many_depth, as published. WHOLE are read whole.
    """
    if name in WHOLE:
        return WHOLE[name]
    plain, variants = name, []
    while (found := next((v for v in VARIANTS if plain.endswith(v)), None)) is not None:
        plain, variants = plain.removesuffix(found), [found, *variants]
    finetuned = plain.endswith(FINETUNED)
    plain = plain.removesuffix(FINETUNED)
    method, plugin = parse_method(plain)
    if finetuned and plugin:
        raise ValueError(f"row {name!r}: a plug-in is a fine-tuning already; leave {FINETUNED} out")
    masked = plugin is not None or method == "dynamic_depth"
    of_masks = [v for v in variants if v in MASKS]
    misplaced = of_masks and variants[-1] not in MASKS  # truth is read where the name ends so
    strange = (variants and not masked) or (set(variants) - {*MASKS} and not plugin)
    if len(of_masks) > 1 or misplaced or strange:
        raise ValueError(
            f"row {name!r}: {', '.join(variants)} does not fit; give a plug-in any of the "
            f"variants, another method that uses masks {' or '.join(MASKS)}, one of these two at "
            "the end"
        )
    settings = tuple(s for v in variants for s in VARIANTS[v])
    found = Recipe(plain, settings)
    if masked and not of_masks:
        found = replace(found, miner=MINER)
    if plugin or finetuned:
        suffix = "".join(of_masks) if method == "dynamic_depth" else ""
        control = f"{method}{FINETUNED}{suffix}" if plugin else None
        found = replace(found, start=method, control=control)
    elif method == "dynamic_depth":
        found = replace(found, start="many_depth", control=f"many_depth{FINETUNED}")
    if found.start is not None:
        found = replace(found, settings=(*FINETUNE, *found.settings))
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """The rows and all that they need, each after those it is made from."""
    found: list[str] = []

    def add(name: str) -> None:
        if name not in found:
            for needed in recipe(name).needs:
                add(needed)
            found.append(name)

    for name in names:
        add(name)
    return found


def trained_once(methods: Iterable[str]) -> set[str]:
    """Of the rows that `methods` need, those that are there only for others to go on from or to
    find what moves: every repetition begins with the same model.
    """
    methods = [*methods]
    hows = [recipe(name) for name in in_order(methods)]
    compared = {*methods, *(how.control for how in hows)}
    return {name for how in hows for name in (how.start, how.miner) if name} - compared


def depth_of(name: str) -> int:
    """How many rows must be trained one after the other before this one, which is made from their
    models or stages.
    """
    how = recipe(name)
    needed = (how.start, how.miner, how.takes)
    return max((1 + depth_of(other) for other in needed if other), default=0)
