"""Everything that moves: the ego, cars in its lane, beside it, oncoming and crossing, pedestrians.

Cars follow the intelligent driver model (Treiber, Hennecke, Helbing 2000) along the route's
reference line or a cross street; red lights, crossing people and tight bends slow them down.
The simulation only goes forward, one fixed step per frame, so frame i never depends on which
frames were asked for before.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .agents import Agent, Snapshot
from .junctions import Junctions
from .spawning import Spawner
from .streets import STEP, Network


class Traffic:
    """The simulation of one clip."""

    def __init__(
        self,
        rng: np.random.Generator,
        network: Network,
        scenario: str,
        dt: float,
        lengths: list[float],
        people: int,
        walking: bool = False,
    ):
        self.network = network
        self.substeps = max(int(math.ceil(dt / 0.1 - 1e-6)), 1)
        self.dt = dt / self.substeps
        self.junctions = Junctions(rng, network)
        self.spawner = Spawner(rng, network, self.junctions, scenario, lengths, people, walking)
        self.ego = self.spawner.ego
        self.history: list[Snapshot | None] = []  # None: forgotten
        self._first = 0  # frame that is still known
        for _ in range(3):
            self._advance()

    def at(self, i: int) -> tuple[Snapshot, Snapshot, Snapshot]:
        """Snapshots before, at and after frame i >= 0; ValueError for one that was forgotten."""
        if i < self._first:
            raise ValueError(f"frame {i} was forgotten: only those from {self._first} on are known")
        while len(self.history) < i + 3:
            self._advance()
        return self.history[i], self.history[i + 1], self.history[i + 2]

    def forget(self, i: int) -> None:
        """Frames before i will not be asked for again."""
        for k in range(self._first, min(i, len(self.history) - 3)):
            self.history[k], self._first = None, k + 1

    def _advance(self) -> None:
        if self.history:
            for _ in range(self.substeps):
                self._step()
        self.history.append(Snapshot(tuple(replace(agent) for agent in self.spawner.agents)))

    def _step(self) -> None:
        self.network.extend(self.ego.s + 450.0)
        dt, ego, agents = self.dt, self.ego, self.spawner.agents
        self.spawner.time += dt
        before = ego.s
        self.junctions.tick(ego, dt)
        for agent in agents:
            if agent.kind == "pedestrian":
                agent.accel = 0.0
            elif agent.kind == "crosser":
                agent.accel = self.junctions.cross_accel(agent, agents)
            else:
                agent.accel = self._accel(agent, agents)
        for agent in agents:
            self._move(agent, dt)
        self.spawner.spawn(before)
        self.spawner.agents = [a for a in agents if a is ego or self._alive(a)]

    def _move(self, agent: Agent, dt: float) -> None:
        if agent.kind == "pedestrian":
            agent.s += agent.direction * agent.v * dt
            agent.d += agent.v_d * dt
            agent.walked += math.hypot(agent.v, agent.v_d) * dt
            if (
                agent.v_d
                and abs(agent.d) > self.network.style.half + 0.8
                and agent.d * agent.v_d > 0
            ):
                agent.v, agent.v_d = abs(agent.v_d), 0.0
            return
        agent.v = max(agent.v + agent.accel * dt, 0.0)
        if agent.kind == "crosser":
            agent.s += agent.direction * agent.v * dt
            return
        k = int(np.clip((agent.s + 200.0) / STEP, 0, len(self.network.ref) - 1))
        curvature = float(self.network.ref[k, 3])
        if (
            agent.kind == "overtaker"
            and self.network.style.lanes == 1
            and agent.s - self.ego.s > 12.0
            and agent.d_wish > 0
        ):
            agent.d_wish = self.ego.d
        pull = 1.2 * (agent.d_wish - agent.d) - 2.0 * agent.v_d
        agent.v_d += float(np.clip(pull, -1.5, 1.5)) * dt
        if agent.v < 0.3:
            agent.v_d = 0.0
        agent.d += agent.v_d * dt
        agent.s += agent.direction * agent.v / max(1.0 - agent.d * curvature, 0.3) * dt

    def _accel(self, agent: Agent, agents: list[Agent]) -> float:
        gap, v_lead = 1e3, agent.wish
        for other in agents:
            if (
                other is agent
                or other.kind in ("pedestrian", "crosser")
                or other.direction != agent.direction
                or abs(other.d - agent.d) > 1.6
            ):
                continue
            ahead = (other.s - agent.s) * agent.direction - (other.length + agent.length) / 2
            if -2.0 < ahead < gap:
                gap, v_lead = max(ahead, 0.1), other.v
        stop = self.junctions.stop_distance(agent, agents)
        if stop < gap:
            gap, v_lead = max(stop, 0.1), 0.0
        wish = min(agent.wish, self._bend_speed(agent))
        v = agent.v
        headway = 0.9 if agent.kind != "ego" else 0.75
        desired = 2.2 + max(v * headway + v * (v - v_lead) / (2 * math.sqrt(1.6 * 2.2)), 0.0)
        accel = 1.6 * (1.0 - (v / max(wish, 0.1)) ** 4 - (desired / gap) ** 2)
        return min(max(accel, -5.0), 1.8)

    def _bend_speed(self, agent: Agent) -> float:
        ref, limit = self.network.ref, 99.0
        for look in (0.0, 6.0, 12.0, 20.0, 28.0):
            k = int(np.clip((agent.s + agent.direction * look + 200.0) / STEP, 0, len(ref) - 1))
            top2 = 2.4 / max(abs(float(ref[k, 3])), 1e-4)
            limit = min(limit, math.sqrt(top2 + 2 * 1.6 * look))
        return limit

    def _alive(self, agent: Agent) -> bool:
        if agent.kind == "crosser":
            crossing = self.network.crossings[agent.crossing]
            gone = (agent.s - crossing["centre"]) * agent.direction > 75.0
            return not gone and crossing["s"] > self.ego.s - 45.0
        return -45.0 < agent.s - self.ego.s < 205.0
