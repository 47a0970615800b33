"""Everything that moves: the ego, cars in its lane, beside it, oncoming and crossing, pedestrians.

Cars follow the intelligent driver model (Treiber, Hennecke, Helbing 2000) along the route's
reference line or a cross street; red lights, crossing people and tight bends slow them down.
The simulation only goes forward, one fixed step per frame, so frame i never depends on which
frames were asked for before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .models import CAR_SHARE
from .streets import STEP, Network

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


class Traffic:
    """The simulation of one clip."""

    def __init__(self, rng: np.random.Generator, network: Network, scenario: str, dt: float,
                 lengths: list[float], people: int):
        self.rng, self.network, self.scenario = rng, network, scenario
        self.substeps = max(int(math.ceil(dt / 0.1 - 1e-6)), 1)
        self.dt = dt / self.substeps
        self.lengths, self.people = lengths, people
        style = network.style
        self.lanes = [-(k + 0.5) * style.lane for k in range(style.lanes)]
        self.busy = float(rng.uniform(0.4, 1.0))
        self.lights: dict[int, list] = {}
        self.serial = 0
        self.time = 0.0
        lane = self.lanes[int(rng.integers(style.lanes))]
        cruise = float(np.clip(rng.normal(9.3, 2.3), 4.5, 15.0))
        start = self._start(cruise)
        v = 0.0 if scenario == "stand" else cruise
        self.ego = Agent(0, "ego", start, lane, v, cruise, d_wish=lane)
        self.agents: list[Agent] = [self.ego]
        self.next = {"oncoming": 0.0, "beside": 0.0, "cross": 0.0, "lead": 0.0, "jay": 0.0}
        self._populate()
        self.history: list[Snapshot] = []
        for _ in range(3):
            self._advance()

    def at(self, i: int) -> tuple[Snapshot, Snapshot, Snapshot]:
        """Snapshots before, at and after frame i >= 0."""
        while len(self.history) < i + 3:
            self._advance()
        return self.history[i], self.history[i + 1], self.history[i + 2]

    def _advance(self) -> None:
        if self.history or self.time > 0:
            for _ in range(self.substeps):
                self._step()
        self.time += 1e-9
        self.history.append(Snapshot(tuple(replace(agent) for agent in self.agents)))

    def _start(self, cruise: float) -> float:
        net = self.network
        if self.scenario == "turn":
            corner = net.legs[0]["t1"] - net.radius
            return net.s_at(net.legs[0], corner) - float(self.rng.uniform(3.0, 22.0))
        ahead = [k for k, c in enumerate(net.crossings) if c["s"] > 25.0]
        if self.scenario in ("stand", "stop"):
            back = 1.5 if self.scenario == "stand" else float(self.rng.uniform(14.0, 26.0))
            k = ahead[0]
            self.lights[k] = [True, 12.0 if self.scenario == "stand" else 6.0]
            return self._line(k, 1) - back
        return float(self.rng.uniform(0.0, 30.0))

    def _line(self, k: int, direction: int) -> float:
        crossing = self.network.crossings[k]
        return crossing["s"] - direction * (crossing["street"].half + 4.6)

    def _new(self, kind: str, s: float, d: float, v: float, wish: float, **more) -> Agent:  # noqa: ANN003
        self.serial += 1
        model = int(self.rng.choice(len(self.lengths), p=CAR_SHARE))
        agent = Agent(FIRST_AGENT + self.serial % 30000, kind, s, d, v, wish, model=model,
                      length=self.lengths[model] if kind != "pedestrian" else 0.5, d_wish=d, **more)
        self.agents.append(agent)
        return agent

    def _populate(self) -> None:
        rng, ego, style = self.rng, self.ego, self.network.style
        lead = str(rng.choice(["same", "slow", "fast", "none"], p=[0.4, 0.2, 0.16, 0.24]))
        if lead != "none":
            factor = {"same": 1.0, "slow": rng.uniform(0.45, 0.75), "fast": 1.45}[lead]
            gap = float(rng.uniform(6.5, 15.0)) if self.scenario != "stand" else 3.0
            if lead == "fast":
                gap *= 0.8
            line = [self._line(k, 1) for k, light in self.lights.items()]
            s = ego.s + gap + 4.5
            if line:  # the lead waits at the light and the ego behind it
                s = min(line[0] - 3.0, s) if self.scenario == "stop" else line[0] - 2.8
                if self.scenario == "stand":
                    ego.s = s - 2.25 - 4.4 - float(rng.uniform(0.8, 3.0))
                else:
                    ego.s = min(ego.s, s - 14.0)
            self._new("car", s, ego.d, ego.v * min(factor, 1.0), ego.wish * factor)
        for s in np.arange(ego.s + 12.0, ego.s + 160.0, 1.0):
            if rng.random() < 0.028 * self.busy:
                self._oncoming(float(s))
        if style.lanes == 2:
            other = self.lanes[0] + self.lanes[1] - ego.d
            for _ in range(int(rng.integers(1, 4))):
                s = ego.s + float(rng.uniform(-18, 35))
                if all(a.kind == "ego" or abs(a.s - s) > 9 or a.d != other for a in self.agents):
                    faster = float(rng.uniform(1.0, 4.5)) * rng.choice([1, 1, -1])
                    self._new("overtaker", s, other, max(ego.v + faster, 0.0) if ego.v else 0.0,
                              ego.wish + faster)
        elif rng.random() < 0.3 and self.scenario == "drive":
            self._overtake(ego.s - float(rng.uniform(-4, 10)))
        for s in np.arange(ego.s - 5.0, ego.s + 115.0, 10.0):
            self._walkers(float(s))

    def _oncoming(self, s: float) -> None:
        v = float(self.rng.uniform(5.5, 12.5))
        lane = -self.lanes[int(self.rng.integers(len(self.lanes)))]
        if all(a.direction > 0 or a.d != lane or abs(a.s - s) > 12 for a in self.agents):
            self._new("oncoming", s, lane, v, v, direction=-1)

    def _overtake(self, s: float) -> None:
        """A car in the oncoming lane of a narrow street, passing the ego."""
        lane = -self.lanes[0]
        clear = all(a.direction > 0 or not -10 < a.s - self.ego.s < 100 for a in self.agents)
        if clear and self.ego.v > 3:
            fast = self.ego.v + float(self.rng.uniform(3.0, 5.5))
            self._new("overtaker", s, lane, fast, fast)
            self.next["oncoming"] = max(self.next["oncoming"], self.time + 8.0)

    def _walkers(self, s: float) -> None:
        style = self.network.style
        for _ in range(int(self.rng.poisson(0.075 * self.people))):
            v = float(self.rng.uniform(1.0, 1.7)) if self.rng.random() < 0.8 else 0.0
            d = style.half + float(self.rng.uniform(0.5, style.pavement - 0.5))
            self._new("pedestrian", s + float(self.rng.uniform(0, 10)),
                      d * float(self.rng.choice([-1.0, 1.0])), v, v,
                      direction=int(self.rng.choice([-1, 1])))

    # --- one step ---------------------------------------------------------------------------
    def _step(self) -> None:
        self.network.extend(self.ego.s + 450.0)
        dt, ego = self.dt, self.ego
        self.time += dt
        before = ego.s
        self._signals()
        for agent in self.agents:
            if agent.kind == "pedestrian":
                agent.accel = 0.0
            elif agent.kind == "crosser":
                agent.accel = self._cross_accel(agent)
            else:
                agent.accel = self._accel(agent)
        for agent in self.agents:
            self._move(agent, dt)
        self._spawn(before)
        self.agents = [a for a in self.agents if a is ego or self._alive(a)]

    def _move(self, agent: Agent, dt: float) -> None:
        if agent.kind == "pedestrian":
            agent.s += agent.direction * agent.v * dt
            agent.d += agent.v_d * dt
            agent.walked += math.hypot(agent.v, agent.v_d) * dt
            if agent.v_d and abs(agent.d) > self.network.style.half + 0.8 and agent.d * agent.v_d > 0:
                agent.v, agent.v_d = abs(agent.v_d), 0.0
            return
        agent.v = max(agent.v + agent.accel * dt, 0.0)
        if agent.kind == "crosser":
            agent.s += agent.direction * agent.v * dt
            return
        k = int(np.clip((agent.s + 200.0) / STEP, 0, len(self.network.ref) - 1))
        curvature = float(self.network.ref[k, 3])
        if agent.kind == "overtaker" and len(self.lanes) == 1 \
                and agent.s - self.ego.s > 12.0 and agent.d_wish > 0:
            agent.d_wish = self.ego.d
        pull = 1.2 * (agent.d_wish - agent.d) - 2.0 * agent.v_d
        agent.v_d += float(np.clip(pull, -1.5, 1.5)) * dt
        if agent.v < 0.3:
            agent.v_d = 0.0
        agent.d += agent.v_d * dt
        agent.s += agent.direction * agent.v / max(1.0 - agent.d * curvature, 0.3) * dt

    def _accel(self, agent: Agent) -> float:
        gap, v_lead = 1e3, agent.wish
        for other in self.agents:
            if other is agent or other.kind in ("pedestrian", "crosser") \
                    or other.direction != agent.direction or abs(other.d - agent.d) > 1.6:
                continue
            ahead = (other.s - agent.s) * agent.direction - (other.length + agent.length) / 2
            if -2.0 < ahead < gap:
                gap, v_lead = max(ahead, 0.1), other.v
        stop = self._stop_distance(agent)
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

    def _stop_distance(self, agent: Agent) -> float:
        """Metres to where this car must stop for a light, a crossing car or a person; inf if none."""
        out = math.inf
        for k, crossing in enumerate(self.network.crossings):
            if abs(crossing["s"] - agent.s) > 90.0:
                continue
            line = (self._line(k, agent.direction) - agent.s) * agent.direction - agent.length / 2
            if line < -1.5 or (line < agent.v**2 / 9.0 and agent.v > 1.0):
                continue
            room = self.network.style.half + 3.0
            blocked = any(a.crossing == k and abs(a.s - crossing["centre"]) < room
                          for a in self.agents if a.kind == "crosser")
            if self._red(k) or blocked:
                out = min(out, max(line, 0.1))
        for person in self.agents:
            if person.kind == "pedestrian" and person.v_d != 0.0:
                ahead = (person.s - agent.s) * agent.direction - agent.length / 2 - 2.0
                side = person.d + person.v_d * 1.5
                if -1.0 < ahead < 45.0 and min(abs(person.d - agent.d), abs(side - agent.d)) < 2.2:
                    out = min(out, max(ahead, 0.1))
        return out

    # --- lights and cross traffic -------------------------------------------------------------
    def _red(self, k: int) -> bool:
        if k not in self.lights:
            near = self.network.crossings[k]["s"] - self.ego.s
            chance = 0.06 if near > 60.0 else 0.0
            self.lights[k] = [bool(self.rng.random() < chance), float(self.rng.uniform(4.0, 8.0))]
        return self.lights[k][0]

    def _signals(self) -> None:
        for k, light in self.lights.items():
            if light[0] and self._line(k, 1) - self.ego.s < 30.0:
                light[1] -= self.dt
                if light[1] <= 0.0 or self.ego.s > self._line(k, 1) + 3.0:
                    light[0] = False

    def _cross_accel(self, agent: Agent) -> float:
        crossing = self.network.crossings[agent.crossing]
        room = self.network.style.half + 4.2
        to_line = (crossing["centre"] - agent.s) * agent.direction - room - agent.length / 2
        gap, v_lead = 1e3, agent.wish
        for other in self.agents:
            if other is not agent and other.crossing == agent.crossing \
                    and other.direction == agent.direction:
                ahead = (other.s - agent.s) * agent.direction - (other.length + agent.length) / 2
                if 0.0 < ahead < gap:
                    gap, v_lead = ahead, other.v
        if not agent.committed and -0.5 < to_line < gap:
            if to_line < agent.v**2 / 4.0 + 2.0 and self._free(agent, crossing, to_line + 2 * room + 6.0):
                agent.committed = True
            else:
                gap, v_lead = max(to_line, 0.1), 0.0
        v = agent.v
        desired = 2.0 + max(v * 0.8 + v * (v - v_lead) / 3.8, 0.0)
        accel = 2.0 * (1.0 - (v / agent.wish) ** 4 - (desired / gap) ** 2)
        return min(max(accel, -6.0), 2.2)

    def _free(self, agent: Agent, crossing: dict, way: float) -> bool:
        """Whether nobody on the route reaches the crossing while this car is on it."""
        need = way / max(agent.v, 3.0) + 0.8
        for other in self.agents:
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
            line = (self._line(agent.crossing, other.direction) - other.s) * other.direction
            if self._red(agent.crossing) and line > other.length / 2 - 0.5:
                continue
            if ahead - box < max(other.v, 2.5) * need:
                return False
        return True

    def _spawn(self, before: float) -> None:
        rng, ego, now = self.rng, self.ego, self.time
        if now > self.next["oncoming"]:
            self.next["oncoming"] = now + float(rng.exponential(3.2 / self.busy)) + 1.0
            self._oncoming(ego.s + 170.0)
        if now > self.next["beside"]:
            self.next["beside"] = now + float(rng.exponential(7.0)) + 3.0
            if len(self.lanes) == 2:
                other = self.lanes[0] + self.lanes[1] - ego.d
                s = ego.s - 24.0
                if all(abs(a.s - s) > 12 or abs(a.d - other) > 1 for a in self.agents):
                    self._new("overtaker", s, other, ego.v + 3.0, ego.wish + float(rng.uniform(2, 5)))
            elif self.scenario != "stand":
                self._overtake(ego.s - 22.0)
        if now > self.next["lead"]:
            self.next["lead"] = now + float(rng.uniform(6.0, 14.0))
            if not any(a.kind == "car" and 0 < a.s - ego.s < 175 for a in self.agents):
                self._new("car", ego.s + 165.0, ego.d, 0.7 * ego.wish, ego.wish * float(rng.uniform(0.5, 0.9)))
        if now > self.next["cross"]:
            first = now < 0.25
            self.next["cross"] = now + float(rng.exponential(1.8)) + 0.9 if not first else 0.0
            self._spawn_crosser(first)
            if first:
                for _ in range(3):
                    self._spawn_crosser(True)
                self.next["cross"] = now + 0.8
        if now > self.next["jay"]:
            self.next["jay"] = now + float(rng.exponential(6.0)) + 0.5
            walkers = [a for a in self.agents if a.kind == "pedestrian" and a.v > 0 and not a.v_d
                       and 14.0 + 2.4 * ego.v < a.s - ego.s < 65.0]
            if walkers:
                person = walkers[int(rng.integers(len(walkers)))]
                person.v_d = -math.copysign(float(rng.uniform(1.1, 1.8)), person.d)
                person.v = 0.0
        if int(ego.s / 10.0) != int(before / 10.0):
            self._walkers(ego.s + 110.0)

    def _spawn_crosser(self, anywhere: bool) -> None:
        rng, ego = self.rng, self.ego
        ahead = [k for k, c in enumerate(self.network.crossings) if 6.0 < c["s"] - ego.s < 120.0]
        if not ahead:
            return
        k = ahead[0] if rng.random() < 0.75 else ahead[int(rng.integers(len(ahead)))]
        crossing = self.network.crossings[k]
        direction = int(rng.choice([-1, 1]))
        away = float(rng.uniform(14.0, 50.0)) if anywhere else float(rng.uniform(42.0, 62.0))
        s = crossing["centre"] - direction * away
        if all(a.crossing != k or abs(a.s - s) > 9.0 for a in self.agents):
            v = float(rng.uniform(5.5, 10.5))
            street = crossing["street"]
            lane = -direction * street.lane / 2 if street.axis == 0 else direction * street.lane / 2
            self._new("crosser", s, lane, v, v, direction=direction, crossing=k)

    def _alive(self, agent: Agent) -> bool:
        if agent.kind == "crosser":
            crossing = self.network.crossings[agent.crossing]
            gone = (agent.s - crossing["centre"]) * agent.direction > 75.0
            return not gone and crossing["s"] > self.ego.s - 45.0
        return -45.0 < agent.s - self.ego.s < 205.0
