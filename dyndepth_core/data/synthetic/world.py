"""A clip of the synthetic driving world: a seeded street, its traffic, a camera driving through."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import models
from .actors import Actors
from .atlas import Atlas
from .faces import CASTER
from .ground import visible
from .layout import Assets, Layout
from .light import ShadowMap, draw_weather, sky
from .look import Look, draw_look, expose
from .mount import CarMount, HandMount, draw_camera
from .paint import PERIOD, albedo, draw_paint
from .raster import Grid, View
from .render import gather, object_colors, trace
from .streets import Network
from .style import draw_style
from .terrain import ground_pose
from .textures import TILE_IDS, make_atlas
from .traffic import Traffic
from .vehicles import car_models

CAMERAS = ("car", "hand", "vehicle")
MAX_DEPTH = 250.0  # metres; what is farther counts as sky (16-bit depth files end at 256 m)


@dataclass(frozen=True)
class Frame:
    """One rendered frame with its ground truth.

    image uint8 (H, W, 3) RGB; depth float32 (H, W) metres along z, 0 = sky; instances int32 (H, W),
    0 = background; dynamic bool (H, W), moves at 1 m/s or more; velocity float32 (H, W, 3) m/s
    relative to the ground in this frame's optical axes; T_world_cam float64 (4, 4); odometry of the
    vehicle, none when walking; stamp_ns; road bool (H, W).
    """

    image: np.ndarray
    depth: np.ndarray
    instances: np.ndarray
    dynamic: np.ndarray
    velocity: np.ndarray
    T_world_cam: np.ndarray
    odometry: dict[str, float] | None
    stamp_ns: int
    road: np.ndarray


class World:
    """Everything about one clip follows from (seed, clip); frames may be asked for in any order.

    camera: one of CAMERAS. car: each clip has its own camera on a car. hand: in the hand of a
    walker on the pavement. vehicle: one camera for all clips of a seed, and no car is like it.
    """

    def __init__(
        self,
        seed: int,
        clip: int,
        size: tuple[int, int] = (128, 416),
        frames: int | None = None,
        rate_hz: float = 10.0,
        camera: str = "car",
    ):
        if camera not in CAMERAS:
            raise ValueError(f"camera {camera!r}: choose one of {', '.join(CAMERAS)}")
        height, width = size
        if height < 16 or width < 16:
            raise ValueError(f"size {height}x{width} is too small, give at least 16x16 pixels")
        if rate_hz <= 0:
            raise ValueError(f"rate_hz is {rate_hz}, it must be above 0")
        self.seed, self.clip, self.size, self.frames, self.rate_hz = (
            seed,
            clip,
            size,
            frames,
            rate_hz,
        )
        rng = np.random.default_rng((seed, clip, 1))
        self.style = draw_style(rng)
        self.scenario = str(
            rng.choice(["drive", "turn", "stop", "stand"], p=[0.70, 0.14, 0.07, 0.09])
        )
        self.walking = walking = camera == "hand"
        if walking:  # lights are for cars
            self.scenario = "drive"
        self.grade = float(rng.choice([0.0, 1.0], p=[0.15, 0.85]) * rng.uniform(0.01, 0.058))
        first = (
            float(rng.uniform(130, 190))
            if self.scenario == "turn"
            else float(rng.uniform(280, 450))
        )
        self.network = Network(
            np.random.default_rng((seed, clip, 2)), self.style, first, self.grade
        )
        other = camera == "vehicle"
        rng = np.random.default_rng((seed, 1 << 20, 3) if other else (seed, clip, 3))
        self.calib = draw_camera(rng, size, other)
        self.grid = Grid.of(self.calib.K, size)
        self.mount = HandMount.draw(rng) if walking else CarMount.draw(rng, other)
        self.look = draw_look(rng) if other else Look()
        self.weather = draw_weather(np.random.default_rng((seed, clip, 4)))
        rng = np.random.default_rng((seed, clip, 6))
        ids = TILE_IDS
        cars = car_models(ids, rng)
        self.assets = Assets(ids, cars, models.trees(ids, rng), models.furniture(ids, rng))
        self.layout = Layout(
            self.network, self.assets, int(np.random.default_rng((seed, clip, 7)).integers(1 << 31))
        )
        self.paint = draw_paint(rng)
        self.shade = (float(rng.uniform(0.62, 1.2)),)
        people = int(
            rng.choice([2, 5, 9, 14]) * (0.4 if self.style.name in ("open", "works") else 1)
        )
        self.traffic = Traffic(
            np.random.default_rng((seed, clip, 8)),
            self.network,
            self.scenario,
            1.0 / rate_hz,
            [car.length for car in cars],
            people,
            walking,
        )
        self.actors = Actors(ids, cars, self.network, self.traffic, rng)
        self.shadow = ShadowMap(self.weather.sun)

    @cached_property
    def atlas(self) -> Atlas:
        """The textures; most of the time a new world takes, so drawn with the first frame."""
        return make_atlas(np.random.default_rng((self.seed, self.clip, 5)))

    def camera_pose(self, i: int) -> np.ndarray:
        """T_world_cam (4, 4) at frame i: on a car or a walker that follows the road."""
        ego = self.traffic.at(i)[1].agents[0]
        x, y, heading, _ = self.network.place(ego.s, ego.d)
        self.network.surround(x, y)
        T_world_body = np.eye(4)
        T_world_body[:3, :3], z = ground_pose(self.network.height, x, y, heading)
        T_world_body[:3, 3] = x, y, self.network.footing(x, y) if self.walking else z
        return T_world_body @ self.mount.pose(i / self.rate_hz, ego.v, ego.accel)

    def render(self, i: int) -> Frame:
        """Frame i >= 0; motion goes on for as long as frames are asked for."""
        if i < 0:
            raise ValueError(f"frame {i} asked for, frames count from 0")
        T = self.camera_pose(i)
        origin = np.append(np.round(T[:2, 3] / PERIOD) * PERIOD, 0.0)
        view = View(self.grid, T[:3, :3], T[:3, 3] - origin, origin)
        self.shadow.origin = origin[:2]
        heading = math.atan2(T[1, 2], T[0, 2])
        static = self.layout.visible(T[0, 3], T[1, 3])
        moving = self.actors.at(i)
        self._shadows(T, heading, static, moving)
        hits = trace(gather([*static, (np.zeros(3), moving.faces)], view), view, self.atlas)
        streets = [s.moved(*origin[:2]) for s in self.network.near(T[0, 3], T[1, 3])]
        ground = visible(self.network, streets, view, hits.inv_z)
        return self._shade(i, view, T, hits, ground, streets, moving)

    def forget(self, i: int) -> None:
        """Frames before i will not be asked for again: a camera that runs for ever would fill the
        memory with where everybody was and with houses left behind.
        """
        self.traffic.forget(i)
        self.layout.built.clear()

    def _shadows(self, T: np.ndarray, heading: float, static: list, moving) -> None:  # noqa: ANN001
        z = float(self.network.height(T[0, 3], T[1, 3]))
        if self.shadow.window(T[0, 3], T[1, 3], heading, z):
            for origin, faces in static:
                self.shadow.cast(faces.verts[(faces.flags & CASTER) > 0] + origin)
            self.shadow.freeze()
        faces = moving.faces
        self.shadow.cast(faces.verts[(faces.flags & CASTER) > 0])
        parked = self.layout.outlines(T[0, 3], T[1, 3])
        self.shadow.contact(moving.outlines + parked)

    def _shade(self, i, view, T, hits, ground, streets, moving) -> Frame:  # noqa: ANN001
        grid, weather = self.grid, self.weather
        color = np.zeros((grid.height * grid.width, 3), np.float32)
        inv = hits.inv_z.ravel().copy()
        face = hits.face.ravel().copy()
        base = albedo(
            ground, self.network, streets, self.atlas, self.paint, grid, view.R, self.shade
        )
        lit = self.shadow.lit(ground.x, ground.y, ground.z + 0.03)
        sky_share = self.shadow.open(ground.x, ground.y) * np.where(ground.side, 0.8, 1.0)
        ambient, sun = (c.astype(np.float32) for c in (weather.ambient, weather.sun_color))
        base *= sky_share[:, None] * ambient + (lit * max(weather.sun[2], 0.0))[:, None] * sun
        color[ground.index] = base
        inv[ground.index] = ground.inv_z
        face[ground.index] = -1
        index = np.flatnonzero(face >= 0)
        color[index] = object_colors(hits, index, view, self.atlas, weather, self.shadow)
        fog = np.exp(-1.0 / (np.maximum(inv, 1e-9) * weather.haze)).astype(np.float32)[:, None]
        color *= fog
        color += (1 - fog) * weather.horizon.astype(np.float32)
        empty = np.flatnonzero(inv <= 0)
        if empty.size:
            j, k = empty % grid.width, empty // grid.width
            rays = np.stack([(j - grid.cx) / grid.f, (k - grid.cy) / grid.f, np.ones(j.size)], 1)
            color[empty] = sky(weather, self.atlas, rays @ view.R.T)
        shape = (grid.height, grid.width)
        noise = np.random.default_rng((self.seed, self.clip, 9, i))
        image = expose(color.reshape(*shape, 3), weather, self.look, i / self.rate_hz, noise)
        return self._frame(
            i,
            image,
            T,
            inv.reshape(shape)[1::2, 1::2],
            face.reshape(shape)[1::2, 1::2],
            hits,
            ground,
            moving,
        )

    def _frame(self, i, image, T, inv, face, hits, ground, moving) -> Frame:  # noqa: ANN001
        h, w = self.size
        depth = np.where(inv > 1.0 / MAX_DEPTH, 1.0 / np.maximum(inv, 1e-9), 0.0).astype(np.float32)
        seen = (face >= 0) & (depth > 0)
        instances = np.where(seen, hits.faces.instance[face], 0).astype(np.int32)
        mover = np.where(seen, hits.faces.mover[face], 0)
        dynamic = moving.dynamic[mover]
        K = self.calib.K
        velocity = np.zeros((h, w, 3), np.float32)
        v, u = np.nonzero(mover > 0)
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.size)], 1)
        points = (rays * depth[v, u, None]) @ T[:3, :3].T + T[:3, 3]
        m = mover[v, u]
        moved = moving.linear[m] + np.cross(moving.angular[m], points - moving.centre[m])
        velocity[v, u] = moved @ T[:3, :3]
        road = np.zeros(self.grid.width * self.grid.height, bool)
        road[ground.index] = ground.dist < 0
        road = road.reshape(self.grid.height, -1)[1::2, 1::2] & (depth > 0)
        return Frame(
            image,
            depth,
            instances,
            dynamic,
            velocity,
            T,
            None if self.walking else self.odometry(i),
            int(round(i * 1e9 / self.rate_hz)),
            road,
        )

    def odometry(self, i: int) -> dict[str, float]:
        """Wheel odometry of the vehicle at frame i in the world frame."""
        ego = self.traffic.at(i)[1].agents[0]
        x, y, heading, curvature = self.network.place(ego.s, ego.d)
        self.network.surround(x, y)
        R, z = ground_pose(self.network.height, x, y, heading)
        w = math.sqrt(max(1.0 + R[0, 0] + R[1, 1] + R[2, 2], 1e-12)) / 2
        if w > 1e-3:
            q = [
                (R[2, 1] - R[1, 2]) / (4 * w),
                (R[0, 2] - R[2, 0]) / (4 * w),
                (R[1, 0] - R[0, 1]) / (4 * w),
                w,
            ]
        else:
            q = [0.0, 0.0, 1.0, 0.0]
        rate = ego.v * curvature / max(1.0 - ego.d * curvature, 0.3)
        return dict(
            zip(
                ("tx", "ty", "tz", "qx", "qy", "qz", "qw", "speed", "yaw_rate"),
                map(float, (x, y, z, *q, ego.v, rate)),
                strict=True,
            )
        )
