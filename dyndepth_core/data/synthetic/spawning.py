"""Who appears where: the first population of a street, and who comes later, mostly out of sight."""

from __future__ import annotations

import math

import numpy as np

from .agents import FIRST_AGENT, Agent
from .junctions import Junctions
from .mount import PACE
from .streets import Network
from .vehicles import CAR_SHARE


class Spawner:
    """Adds agents to the list it shares with the traffic; agents[0] is the ego."""

    def __init__(
        self,
        rng: np.random.Generator,
        network: Network,
        junctions: Junctions,
        scenario: str,
        lengths: list[float],
        people: int,
        walking: bool = False,
    ):
        self.rng, self.network, self.junctions, self.scenario = rng, network, junctions, scenario
        self.lengths, self.people = lengths, people
        style = network.style
        self.lanes = [-(k + 0.5) * style.lane for k in range(style.lanes)]
        self.busy = float(rng.uniform(0.4, 1.0))
        self.serial = 0
        self.time = 0.0
        self.next = {"oncoming": 0.0, "beside": 0.0, "cross": 0.0, "lead": 0.0, "jay": 0.0}
        # lane and speed of the ego's car; the cars around are spread by them in any case
        self.lane = lane = self.lanes[int(rng.integers(style.lanes))]
        self.cruise = cruise = float(np.clip(rng.normal(9.3, 2.3), 4.5, 15.0))
        start = self._start()
        v = 0.0 if scenario == "stand" else cruise
        self.ego = Agent(0, "ego", start, lane, v, cruise, d_wish=lane)
        self.agents: list[Agent] = [self.ego]
        self._populate()
        if walking:  # on the right pavement, between its trees and the houses
            self.ego.d = self.ego.d_wish = -(style.half + max(0.62 * style.pavement, 1.2))
            self.ego.v = self.ego.wish = PACE

    def _start(self) -> float:
        net = self.network
        if self.scenario == "turn":
            corner = net.legs[0]["t1"] - net.radius
            return net.s_at(net.legs[0], corner) - float(self.rng.uniform(3.0, 22.0))
        ahead = [k for k, c in enumerate(net.crossings) if c["s"] > 25.0]
        if self.scenario in ("stand", "stop"):
            back = 1.5 if self.scenario == "stand" else float(self.rng.uniform(14.0, 26.0))
            k = ahead[0]
            self.junctions.lights[k] = [True, 12.0 if self.scenario == "stand" else 6.0]
            return self.junctions.line(k, 1) - back
        return float(self.rng.uniform(0.0, 30.0))

    def _new(self, kind: str, s: float, d: float, v: float, wish: float, **more) -> Agent:  # noqa: ANN003
        self.serial += 1
        model = int(self.rng.choice(len(self.lengths), p=CAR_SHARE))
        agent = Agent(
            FIRST_AGENT + self.serial % 30000,
            kind,
            s,
            d,
            v,
            wish,
            model=model,
            length=self.lengths[model] if kind != "pedestrian" else 0.5,
            d_wish=d,
            **more,
        )
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
            line = [self.junctions.line(k, 1) for k, light in self.junctions.lights.items()]
            s = ego.s + gap + 4.5
            if line:  # the lead waits at the light and the ego behind it
                s = min(line[0] - 3.0, s) if self.scenario == "stop" else line[0] - 2.8
                if self.scenario == "stand":
                    ego.s = s - 2.25 - 4.4 - float(rng.uniform(0.8, 3.0))
                else:
                    ego.s = min(ego.s, s - 14.0)
            self._new("car", s, self.lane, ego.v * min(factor, 1.0), self.cruise * factor)
        for s in np.arange(ego.s + 12.0, ego.s + 160.0, 1.0):
            if rng.random() < 0.028 * self.busy:
                self._oncoming(float(s))
        if style.lanes == 2:
            other = self.lanes[0] + self.lanes[1] - self.lane
            for _ in range(int(rng.integers(1, 4))):
                s = ego.s + float(rng.uniform(-18, 35))
                if all(a.kind == "ego" or abs(a.s - s) > 9 or a.d != other for a in self.agents):
                    faster = float(rng.uniform(1.0, 4.5)) * rng.choice([1, 1, -1])
                    self._new(
                        "overtaker",
                        s,
                        other,
                        max(ego.v + faster, 0.0) if ego.v else 0.0,
                        self.cruise + faster,
                    )
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
            self._new(
                "pedestrian",
                s + float(self.rng.uniform(0, 10)),
                d * float(self.rng.choice([-1.0, 1.0])),
                v,
                v,
                direction=int(self.rng.choice([-1, 1])),
            )

    def spawn(self, before: float) -> None:
        """Whoever is due now; before is the ego's s one step ago."""
        rng, ego, now = self.rng, self.ego, self.time
        if now > self.next["oncoming"]:
            self.next["oncoming"] = now + float(rng.exponential(3.2 / self.busy)) + 1.0
            self._oncoming(ego.s + 170.0)
        if now > self.next["beside"]:
            self.next["beside"] = now + float(rng.exponential(7.0)) + 3.0
            if len(self.lanes) == 2:
                other = self.lanes[0] + self.lanes[1] - self.lane
                s = ego.s - 24.0
                if all(abs(a.s - s) > 12 or abs(a.d - other) > 1 for a in self.agents):
                    self._new(
                        "overtaker", s, other, ego.v + 3.0, self.cruise + float(rng.uniform(2, 5))
                    )
            elif self.scenario != "stand":
                self._overtake(ego.s - 22.0)
        if now > self.next["lead"]:
            self.next["lead"] = now + float(rng.uniform(6.0, 14.0))
            if not any(a.kind == "car" and 0 < a.s - ego.s < 175 for a in self.agents):
                self._new(
                    "car",
                    ego.s + 165.0,
                    self.lane,
                    0.7 * self.cruise,
                    self.cruise * float(rng.uniform(0.5, 0.9)),
                )
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
            walkers = [
                a
                for a in self.agents
                if a.kind == "pedestrian"
                and a.v > 0
                and not a.v_d
                and 14.0 + 2.4 * ego.v < a.s - ego.s < 65.0
            ]
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
