"""Places the agents of the traffic as geometry: poses, velocities, walking limbs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from . import models, vehicles
from .agents import Agent
from .faces import Faces, join, yaw_matrix
from .streets import Network
from .terrain import ground_pose
from .traffic import Traffic
from .vehicles import CarModel

_STRIDE = 1.45  # metres per two steps


@dataclass
class Moving:
    """Faces in world metres and, per mover (0 = static), the rigid motion of its part:
    velocity of a point X is linear + angular x (X - centre)."""

    faces: Faces
    linear: np.ndarray
    angular: np.ndarray
    centre: np.ndarray
    dynamic: np.ndarray
    outlines: list[np.ndarray]


class Actors:
    """Geometry of everything that can move by itself in one world."""

    def __init__(
        self,
        ids: dict[str, int],
        cars: list[CarModel],
        network: Network,
        traffic: Traffic,
        rng: np.random.Generator,
    ):
        self.cars, self.network, self.traffic = cars, network, traffic
        # by serial number, or every first car of every world would have the same colour
        self._paint = rng.integers(len(vehicles.PAINTS), size=4096)
        self.people = [models.pedestrian_parts(ids, rng) for _ in range(8)]
        self._empty = cars[0].faces.take(np.zeros(0, int))

    def pose(self, agent: Agent) -> tuple[float, float, float]:
        """World x, y and heading of a car or person."""
        if agent.kind == "crosser":
            street = self.network.crossings[agent.crossing]["street"]
            side = street.offset + agent.d
            if street.axis == 0:
                return agent.s, side, 0.0 if agent.direction > 0 else math.pi
            return side, agent.s, math.copysign(math.pi / 2, agent.direction)
        x, y, heading, _ = self.network.place(agent.s, agent.d)
        if agent.kind == "pedestrian":
            if agent.v_d:
                heading += math.copysign(math.pi / 2, agent.v_d)
            elif agent.direction < 0:
                heading += math.pi
            return x, y, heading
        along = max(agent.v, 1.0) * agent.direction
        heading += (
            math.atan2(agent.v_d, along)
            if agent.direction > 0
            else math.pi - math.atan2(agent.v_d, -along)
        )
        return x, y, heading

    def _placed(self, agent: Agent) -> tuple[np.ndarray, np.ndarray]:
        x, y, heading = self.pose(agent)
        if agent.kind != "pedestrian":
            R, z = ground_pose(self.network.height, x, y, heading)
            return R, np.array([x, y, z])
        return yaw_matrix(heading), np.array([x, y, self.network.footing(x, y)])

    def at(self, i: int) -> Moving:
        """All agents at frame i; velocities are central differences of the simulated poses, so they
        hold between this frame and either neighbour up to the acceleration."""
        before, now, after = self.traffic.at(i)
        past = {a.ident: a for a in before.agents}
        future = {a.ident: a for a in after.agents}
        dt = self.traffic.dt * self.traffic.substeps
        ego = now.agents[0]
        parts, rows = [], [(np.zeros(3), np.zeros(3), np.zeros(3), False)]
        outlines = []
        for agent in now.agents[1:]:
            if agent.kind == "crosser":
                if abs(self.network.crossings[agent.crossing]["s"] - ego.s) > 170:
                    continue
            elif not -30.0 < agent.s - ego.s < 200.0:
                continue
            R, t = self._placed(agent)
            a, b = past.get(agent.ident, agent), future.get(agent.ident, agent)
            span = dt * ((a is not agent) + (b is not agent))
            linear, angular = np.zeros(3), np.zeros(3)
            if span > 0:
                (R0, t0), (R1, t1) = self._placed(a), self._placed(b)
                if agent.kind == "pedestrian":  # turning on the spot is not a rotation rate
                    R0 = R1 = R
                linear = (t1 - t0) / span
                angular = _rate(R0, R1, span)
            moves = bool(np.linalg.norm(linear) >= 1.0)
            if agent.kind == "pedestrian":
                self._person(agent, R, t, linear, moves, parts, rows)
                size = (0.22, 0.25)
            else:
                model = self.cars[agent.model]
                paint = vehicles.PAINTS[self._paint[agent.ident % self._paint.size]]
                faces = model.faces.tinted(vehicles.PAINT, paint)
                parts.append(faces.moved(R, t).owned(agent.ident, len(rows)))
                rows.append((linear, angular, t, moves))
                size = (model.length / 2, model.width / 2)
            outlines.append(outline(R, t, *size))
        columns = [np.array([row[k] for row in rows]) for k in range(4)]
        return Moving(join(parts) if parts else self._empty, *columns, outlines)

    def _person(self, agent, R, t, linear, moves, parts, rows) -> None:  # noqa: ANN001
        prefab = self.people[agent.ident % len(self.people)]
        speed = math.hypot(agent.v, agent.v_d)
        phase = 2 * math.pi * (agent.walked / _STRIDE + (agent.ident % 17) / 17)
        rate = 2 * math.pi * speed / _STRIDE
        for name in models.LIMBS:
            swing = {
                "body": 0.0,
                "leg_left": 0.42,
                "leg_right": -0.42,
                "arm_left": -0.32,
                "arm_right": 0.32,
            }[name]
            if speed == 0.0:
                swing *= 0.12
            angle = swing * math.sin(phase)
            turn = swing * math.cos(phase) * rate  # about the person's y axis (left)
            c, s = math.cos(angle), math.sin(angle)
            limb = R @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
            joint = t + R @ np.array(models.JOINTS[name], float)
            parts.append(prefab[name].moved(limb, joint).owned(agent.ident, len(rows)))
            rows.append((linear, R[:, 1] * turn, joint, moves))


def outline(R: np.ndarray, t: np.ndarray, a: float, b: float) -> np.ndarray:
    """World x, y (4, 2) of a footprint of half length a and half width b."""
    corners = np.array([(a, b, 0), (a, -b, 0), (-a, -b, 0), (-a, b, 0)])
    return (corners @ R.T + t)[:, :2]


def _rate(R0: np.ndarray, R1: np.ndarray, span: float) -> np.ndarray:
    """Angular velocity (3,) that turns R0 into R1 within span seconds (small angles)."""
    D = R1 @ R0.T
    w = np.array([D[2, 1] - D[1, 2], D[0, 2] - D[2, 0], D[1, 0] - D[0, 1]]) / 2
    return w / span
