"""Lights, stop lines and cross traffic: who must stop where, and who may go."""

from __future__ import annotations

import math

import numpy as np

from .agents import Agent
from .streets import Network


class Junctions:
    """The crossings of the route; agents[0] is always the ego."""

    def __init__(self, rng: np.random.Generator, network: Network):
        self.rng, self.network = rng, network
        self.lights: dict[int, list] = {}  # [red, seconds left once the ego is near]

    def line(self, k: int, direction: int) -> float:
        """Route s of the stop line of crossing k for a direction."""
        crossing = self.network.crossings[k]
        return crossing["s"] - direction * (crossing["street"].half + 4.6)

    def red(self, k: int, ego: Agent) -> bool:
        """Whether the route is stopped at crossing k; drawn when it first matters."""
        if k not in self.lights:
            near = self.network.crossings[k]["s"] - ego.s
            chance = 0.06 if near > 60.0 else 0.0
            self.lights[k] = [bool(self.rng.random() < chance), float(self.rng.uniform(4.0, 8.0))]
        return self.lights[k][0]

    def tick(self, ego: Agent, dt: float) -> None:
        """Let the lights near the ego run on."""
        for k, light in self.lights.items():
            if light[0] and self.line(k, 1) - ego.s < 30.0:
                light[1] -= dt
                if light[1] <= 0.0 or ego.s > self.line(k, 1) + 3.0:
                    light[0] = False

    def stop_distance(self, agent: Agent, agents: list[Agent]) -> float:
        """Metres to where a car must stop for a light, a crossing car or a person, or inf."""
        out = math.inf
        for k, crossing in enumerate(self.network.crossings):
            if abs(crossing["s"] - agent.s) > 90.0:
                continue
            line = (self.line(k, agent.direction) - agent.s) * agent.direction - agent.length / 2
            if line < -1.5 or (line < agent.v**2 / 9.0 and agent.v > 1.0):
                continue
            room = self.network.style.half + 3.0
            blocked = any(
                a.crossing == k and abs(a.s - crossing["centre"]) < room
                for a in agents
                if a.kind == "crosser"
            )
            if self.red(k, agents[0]) or blocked:
                out = min(out, max(line, 0.1))
        for person in agents:
            if person.kind == "pedestrian" and person.v_d != 0.0:
                ahead = (person.s - agent.s) * agent.direction - agent.length / 2 - 2.0
                side = person.d + person.v_d * 1.5
                if -1.0 < ahead < 45.0 and min(abs(person.d - agent.d), abs(side - agent.d)) < 2.2:
                    out = min(out, max(ahead, 0.1))
        return out

    def cross_accel(self, agent: Agent, agents: list[Agent]) -> float:
        """Acceleration (m/s^2) of a car on a cross street, which yields to the route."""
        crossing = self.network.crossings[agent.crossing]
        room = self.network.style.half + 4.2
        to_line = (crossing["centre"] - agent.s) * agent.direction - room - agent.length / 2
        gap, v_lead = 1e3, agent.wish
        for other in agents:
            if (
                other is not agent
                and other.crossing == agent.crossing
                and other.direction == agent.direction
            ):
                ahead = (other.s - agent.s) * agent.direction - (other.length + agent.length) / 2
                if 0.0 < ahead < gap:
                    gap, v_lead = ahead, other.v
        if not agent.committed and -0.5 < to_line < gap:
            if to_line < agent.v**2 / 4.0 + 2.0 and self._free(
                agent, crossing, to_line + 2 * room + 6.0, agents
            ):
                agent.committed = True
            else:
                gap, v_lead = max(to_line, 0.1), 0.0
        v = agent.v
        desired = 2.0 + max(v * 0.8 + v * (v - v_lead) / 3.8, 0.0)
        accel = 2.0 * (1.0 - (v / agent.wish) ** 4 - (desired / gap) ** 2)
        return min(max(accel, -6.0), 2.2)

    def _free(self, agent: Agent, crossing: dict, way: float, agents: list[Agent]) -> bool:
        """Whether nobody on the route reaches the crossing while this car is on it."""
        need = way / max(agent.v, 3.0) + 0.8
        for other in agents:
            if other.kind == "crosser":
                continue
            if other.kind == "pedestrian":
                if abs(other.s - crossing["s"]) < crossing["street"].half and other.v:
                    return False
                continue
            ahead = (crossing["s"] - other.s) * other.direction
            box = crossing["street"].half + 3.0 + other.length / 2
            if ahead < -box or ahead > 110.0:
                continue
            line = (self.line(agent.crossing, other.direction) - other.s) * other.direction
            if self.red(agent.crossing, agents[0]) and line > other.length / 2 - 0.5:
                continue
            if ahead - box < max(other.v, 2.5) * need:
                return False
        return True
