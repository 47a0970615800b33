"""The agents of the traffic simulation, and what their motion looks like from the ego."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_AGENT = 30001


@dataclass
class Agent:
    """A car or a person. On the route: s, d and direction; on a cross street: s along its axis."""

    ident: int
    kind: str  # ego, car, oncoming, overtaker, crosser, pedestrian
    s: float
    d: float
    v: float
    wish: float
    direction: int = 1
    model: int = 0
    length: float = 4.4
    d_wish: float = 0.0
    v_d: float = 0.0
    accel: float = 0.0
    crossing: int = -1
    walked: float = 0.0
    committed: bool = False


@dataclass(frozen=True)
class Snapshot:
    """All agents at one frame; the first is the ego."""

    agents: tuple[Agent, ...]


def motions(snapshot: Snapshot, reach: float = 60.0) -> set[str]:
    """Names of the motions within reach (m) of the ego: lead_same, lead_slow, lead_fast, oncoming,
    overtaking, overtaken, crossing, pedestrian, crossing_pedestrian, ego_standing, ego_driving."""
    ego, *others = snapshot.agents
    out = {"ego_standing" if ego.v < 0.3 else "ego_driving"}
    for agent in others:
        if agent.kind == "crosser":
            if agent.v >= 1.0:
                out.add("crossing")
        elif abs(agent.s - ego.s) > reach:
            continue
        elif agent.kind == "pedestrian":
            if agent.v_d:
                out.add("crossing_pedestrian")
            elif agent.v >= 1.0:
                out.add("pedestrian")
        elif agent.direction < 0:
            out.add("oncoming")
        elif abs(agent.d - ego.d) < 1.0 and agent.s > ego.s:
            gain = agent.v - ego.v
            out.add("lead_same" if abs(gain) < 1 else "lead_fast" if gain > 0 else "lead_slow")
        elif abs(agent.v - ego.v) > 1.0:
            out.add("overtaking" if agent.v > ego.v else "overtaken")
    return out
