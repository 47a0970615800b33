"""Metres on line: the scale of a model's depth from odometry and from the camera's height."""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from .ground_plane import fit_ground
from .log_scale import BY_GROUND, BY_MODEL, LogScale, Measurement, Ratios
from .mount import down_in_camera
from .odometry_ratio import SILENT_S, OdometryRatio, listed
from .scale import ScaleSource, ScaleState
from .vehicle_odometry import KMH, VehicleOdometry

if TYPE_CHECKING:  # the node is on the graph before torch is loaded
    from torch import Tensor

logger = logging.getLogger(__name__)

Kind = Literal["odometry", "ground_plane"]

GATE = 6.63  # chi-square, 1 degree of freedom: one good measurement in 100 is refused
ACQUIRE, ACQUIRE_S = 10, 0.9  # measurements and seconds of driving until a scale is known
# So many measurements in a row, over so much time, agreeing with each other and not with the state:
# the state is wrong. A wheel slips for less.
REACQUIRE, REACQUIRE_S = 30, 5.0
AGREE = 0.5  # spread of log ratios beyond which they say nothing
STANDING = 0.3  # m/s
GROUND_PERIOD_S = 0.2  # neighbouring frames show the same road, and the same error
GROUND_NOISE = 0.1  # relative, of one fit: pitch and slope of the road
LEAST_ERROR = 0.02  # relative: the gain of wheel odometry, which nothing here can see
VAGUE = 0.3  # relative error of a metric model that states none


class Seen(NamedTuple):
    """A frame's depth (h, w) in units of the model, K (3, 3) of it, and the rows and columns of it
    that show the image.
    """

    depth: Tensor
    K: Tensor
    valid: tuple[slice, slice]


class ScaleFilter:
    """Estimates the scale of one model; `update` once a frame, on the thread of the Predictor.

    prior: what the model file says (`model_scale`). odometry: None = none. camera_height: metres
    above the road, None = unknown, then no plane is fitted; height_error: relative, how well it is
    known. down: (3,) of `down_in_camera`. min_speed: m/s below which odometry is not used. Raises
    ValueError for a camera height or speed that is not positive.

    state: the scale of the latest frame. used, counts: how many measurements were used, and why the
    others were not. fault: what is wrong with the odometry, in words.
    """

    def __init__(
        self,
        prior: ScaleState,
        odometry: VehicleOdometry | None = None,
        camera_height: float | None = None,
        *,
        height_error: float = 0.1,
        down: np.ndarray | None = None,
        min_speed: float = 1.5,
    ) -> None:
        for name, value in (("camera_height", camera_height), ("min_speed", min_speed)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}: give a positive number")
        self._prior, self._camera_height = prior, camera_height
        self._down = down_in_camera(None) if down is None else down
        self._odometry = None if odometry is None else OdometryRatio(odometry, min_speed)
        self._filter = LogScale(height_error)
        self.used: Counter[str] = Counter()
        self.counts: Counter[str] = Counter() if odometry is None else self._odometry.counts
        self._wrong_unit = ""
        self._ratios: dict[Kind, Ratios] = {"odometry": Ratios(), "ground_plane": Ratios()}
        self._refused: dict[Kind, Ratios] = {kind: Ratios(2 * REACQUIRE) for kind in self._ratios}
        self._clock_s = self._ground_s = self._measured_s = -math.inf
        self._frame_s = math.inf  # from one frame to the next
        self._restart()

    @property
    def needs_motion(self) -> bool:
        """Whether the ego-motion of the next frame is of use: odometry has come in the last
        seconds, or the camera's height is about to be measured and only ego-motion can say that the
        vehicle stands. That costs the pose network in those frames, whatever is subscribed to.
        """
        next_s = self._clock_s + 1.5 * self._frame_s  # frames do not come quite regularly
        if self._camera_height is not None and next_s - self._ground_s >= GROUND_PERIOD_S:
            return True
        return self._odometry is not None and self._odometry.silence(self._clock_s) <= SILENT_S

    @property
    def fault(self) -> str:
        """What is wrong with the odometry, in words; empty when nothing is."""
        if self._odometry is None:
            return ""
        return self._odometry.absent(self._clock_s) or self._wrong_unit or self._odometry.fault

    def update(
        self, stamp_ns: int | None, previous_ns: int | None, T_src_tgt: Tensor | None, seen: Seen
    ) -> ScaleState:
        """The scale to apply to this frame.

        stamp_ns, previous_ns: of this frame and the one before it. T_src_tgt: (1, 4, 4) in units of
        the model, None where there is none. Without a stamp nothing is learned. A frame is measured
        when its odometry has come, perhaps with a later frame.
        """
        if stamp_ns is None:
            return self.state
        now = stamp_ns * 1e-9
        if now < self._clock_s:
            self._start_over()
        found = []
        if self._odometry is not None:
            found = self._odometry.measure(stamp_ns, previous_ns, T_src_tgt)
        due = self._camera_height is not None and now - self._ground_s >= GROUND_PERIOD_S
        if self._moving(now, previous_ns, T_src_tgt):
            self._filter.drift(min(max(now - self._clock_s, 0.0), 1.0))
            if due:
                self._ground(now, seen)
        elif due and T_src_tgt is not None:  # else the next frame is asked for ego-motion
            self._ground_s = now
        for one in found:
            if self._measured_s < one.when:
                self._filter.wait(min(one.when - self._measured_s, 60.0))
            self._measured_s = one.when
            self._take("odometry", one)
        self._clock_s, self._frame_s = now, now - self._clock_s
        self.state = self._state()
        return self.state

    def _start_over(self) -> None:
        """The clock was set back, as by a bag that is looped: keep the scale alone."""
        for ratios in self._ratios.values():
            ratios.clear()
        self._forget_refused()
        self._moved = True
        self._ground_s = self._measured_s = -math.inf
        if self._odometry is not None:
            self._odometry.clear()

    def _moving(self, now: float, previous_ns: int | None, T: Tensor | None) -> bool:
        """Whether the vehicle moves, by its odometry, else by the ego-motion, where a frame has
        none as that of the frame before; True if unknown.

        While it stands, every frame has the same error, which would be taken for ever more certain.
        """
        speed = self._odometry.speed(now) if self._odometry is not None else None
        if speed is not None:
            return abs(speed) > STANDING
        if T is not None and previous_ns is not None:
            metres = float(T[0, :3, 3].double().norm()) * self.state.value
            slow = metres <= STANDING * (now - previous_ns * 1e-9)
            self._moved = not (slow and self.state.is_metric)
        return self._moved

    def _ground(self, now: float, seen: Seen) -> None:
        """Measure the camera's height."""
        self._ground_s = now
        ground = fit_ground(*seen, self._down)
        if ground is None:
            self.counts["no_ground_plane"] += 1
            return
        z = math.log(self._camera_height / ground.height)
        self._take("ground_plane", Measurement(now, z, BY_GROUND, GROUND_NOISE**2))

    def _take(self, kind: Kind, new: Measurement) -> None:
        """Feed one measurement to the filter, if it can be believed; else count why not."""
        reason = self._refusal(kind, new)
        if kind == "odometry":
            self._odometry.judged(reason)
        elif reason:
            self.counts[reason] += 1

    def _refusal(self, kind: Kind, new: Measurement) -> str:
        """Feed one measurement to the filter; in one word why it was not used, empty if it was."""
        ratios, state = self._ratios[kind], self._filter
        ratios.add(new)
        if kind == "odometry" and self._is_wrong_unit():
            return "km_per_hour"
        variance = new.variance + ratios.noise**2
        if self._source == "relative":
            if len(ratios) >= ACQUIRE and ratios.span >= ACQUIRE_S and not self._waits(kind):
                return self._acquire(kind, ratios)
        elif len(ratios) < ACQUIRE:
            pass  # their noise is not known yet, and anything would pass
        elif state.surprise(new.z, variance, new.h) <= GATE:
            state.correct(new.z, variance, new.h)
            self.used[kind] += 1
            self._refused[kind].clear()  # only so many in a row speak against the state
            self._name_source(kind)
        else:
            if kind == "odometry" or self._source != "odometry":
                refused = self._refused[kind]
                refused.add(new)
                wrong = len(refused) >= REACQUIRE and refused.span >= REACQUIRE_S
                if wrong and not self._ground_agrees(kind):
                    return self._acquire(kind, refused)
            return f"{kind}_innovation"
        return ""

    def _waits(self, kind: Kind) -> bool:
        """Whether odometry lets the ground plane speak first, which alone can tell km/h."""
        if kind == "ground_plane" or self._camera_height is None:
            return False
        return len(self._ratios["ground_plane"]) < ACQUIRE and self._ratios[kind].span < 3.0

    def _acquire(self, kind: Kind, ratios: Ratios) -> str:
        """Begin (again) with the median of several measurements that agree; in one word why not."""
        if ratios.spread > AGREE:
            return f"{kind}_inconsistent"
        middle = ratios.middle()
        self._filter.begin(middle.z, middle.variance, middle.h)
        if self._source != "relative":
            value = math.exp(self._filter.mean[0])
            logger.warning("scale changed from %.3g to %.3g by %s", self.state.value, value, kind)
        self._source = kind
        self._forget_refused()
        return ""

    def _forget_refused(self) -> None:
        """Forget what was refused."""
        for refused in self._refused.values():
            refused.clear()
        if self._odometry is not None:
            self._odometry.lately.clear()

    def _ground_agrees(self, kind: Kind) -> bool:
        """Whether the ground plane stands by the state against odometry: then the wheels slip."""
        ground = self._ratios["ground_plane"]
        if kind != "odometry" or len(ground) < ACQUIRE:
            return False
        return self._filter.surprise(ground.median, GROUND_NOISE**2, BY_GROUND) <= GATE

    def _name_source(self, kind: Kind) -> None:
        """Who stands behind the value from now on: odometry before a model that states less error
        than the camera's height has, before the camera's height.
        """
        sure = self._source == "checkpoint" and self._prior.variance < self._filter.cov[2, 2]
        if kind == "ground_plane" and (self._source == "odometry" or sure):
            return
        if self.used[kind] >= ACQUIRE:
            self._source = kind

    def _is_wrong_unit(self) -> bool:
        """Whether odometry is steadily 3.6 times what the ground or a metric model say."""
        odometry, ground = self._ratios["odometry"], self._ratios["ground_plane"]
        if len(odometry) < ACQUIRE:
            return bool(self._wrong_unit)
        if len(ground) >= ACQUIRE:  # off by the pitch and the load of the car
            evidence, who, tolerance = ground.median, "the camera's height", 0.35
        elif self._prior.is_metric:
            evidence, who, tolerance = math.log(self._prior.value), "the metric model", 0.12
        else:
            return False
        wrong = abs(odometry.median - evidence - KMH) < tolerance
        if wrong and not self._wrong_unit:
            self._wrong_unit = f"odometry is 3.6 times what {who} says: km/h taken for m/s"
            logger.warning("%s. It is not used; publish m/s (REP 103)", self._wrong_unit)
            if self._source == "odometry":
                self._restart()
        elif not wrong:
            self._wrong_unit = ""
        return wrong

    def _restart(self) -> None:
        """Back to what the model file says."""
        self._source: ScaleSource = self._prior.source
        self.state = self._prior
        self._forget_refused()
        self._moved = True
        if self._prior.is_metric:
            known = math.isfinite(self._prior.variance)
            variance = self._prior.variance / self._prior.value**2 if known else VAGUE**2
            variance = max(variance, LEAST_ERROR**2)
            self._filter.begin(math.log(self._prior.value), variance, BY_MODEL)

    def _state(self) -> ScaleState:
        if self._source == "relative" or (self._source == "checkpoint" and not self.used):
            return self._prior
        value = math.exp(self._filter.mean[0])
        variance = value**2 * (float(self._filter.cov[0, 0]) + LEAST_ERROR**2)
        return ScaleState(value, variance, self._source)

    def report(self) -> dict[str, str]:
        """For /diagnostics: what was used, what was not and why."""
        out = {"scale_used": listed(self.used), "scale_not_used": listed(self.counts)}
        if self._odometry is not None:
            out |= self._odometry.report(self._clock_s, self._filter.mean[1])
        return out
