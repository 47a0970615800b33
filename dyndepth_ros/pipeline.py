"""One frame from message to published depth; runs on the worker thread only."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import CompressedImage

from dyndepth_ros import conversions
from dyndepth_ros.calibrator import Calibrator, NoCalibration
from dyndepth_ros.diagnostics import Statistics
from dyndepth_ros.notices import Notices
from dyndepth_ros.odometry_input import attach_scale
from dyndepth_ros.outputs import IN_METRES, OBJECTS, TOPICS, Outputs
from dyndepth_ros.parameters import NodeConfig

if TYPE_CHECKING:
    from dyndepth_core.inference.predictor import Predictor
    from dyndepth_core.inference.vehicle_odometry import VehicleOdometry

NO_OBJECT_MOTION = (
    "the model ({}) has no object motion: nothing will come on ~/motion/... To get it, train with "
    "dyndepth train --method residual_motion, set the parameter `model`, call ~/reload_model"
)
NO_EGO_MOTION = (
    "the model ({}) has no ego-motion: nothing will come on ~/odometry. Take the model file that "
    "dyndepth train wrote, not one exported for depth alone"
)
RELATIVE = (
    "the model has no metric scale, so that speeds in m/s are unknown: nothing will come on {}. "
    "Give it a scale, or set allow_relative_velocity to get speeds that are only as right as "
    "assumed_scale"
)


def load_predictor(config: NodeConfig, odometry: VehicleOdometry | None = None) -> Predictor:
    """Load and warm up the model of the parameters, to learn its scale from `odometry` and the
    camera's height where these are known; ValueError or OSError when it is unusable.
    """
    # Here and nowhere earlier, because this imports torch: the node is on the graph before.
    import torch

    from dyndepth_core.inference.predictor import Predictor

    if config.threads:
        torch.set_num_threads(config.threads)
    predictor = Predictor(
        config.model or None,
        device=config.device,
        precision=config.precision,
        backend=config.backend,
        assumed_scale=config.assumed_scale,
    )
    predictor.warm_up()
    attach_scale(predictor, odometry, config)
    return predictor


def describe(predictor: Predictor) -> dict[str, str]:
    """What runs, for the log and /diagnostics."""
    height, width = predictor.input_size
    return {
        "model": str(predictor.path),
        "method": predictor.meta.method,
        "model_size": f"{width}x{height}",
        "device": str(predictor.device),
        "license": predictor.meta.license,
    }


def output_camera(
    K: np.ndarray, size: tuple[int, int], predictor: Predictor, config: NodeConfig
) -> tuple[np.ndarray, tuple[int, int]]:
    """K (3, 3) and size (h, w) of the depth that images of K and size (H, W) would give."""
    from dyndepth_core.data.transforms import plan_fit

    if config.output_size == "input":
        return K, size
    fit = plan_fit(size, predictor.input_size, K)
    return fit.K(K), fit.out_size


class Pipeline:
    """Decodes, undistorts, predicts, publishes; a frame it cannot use costs that frame only."""

    def __init__(
        self,
        predictor: Predictor,
        calibrator: Calibrator,
        outputs: Outputs,
        statistics: Statistics,
        notices: Notices,
        config: Callable[[], NodeConfig],
        now_ns: Callable[[], int],
        is_alive: Callable[[], bool],
    ) -> None:
        self.predictor, self.calibrator = predictor, calibrator
        self._outputs, self._statistics, self._notices = outputs, statistics, notices
        self._config, self._now_ns, self._is_alive = config, now_ns, is_alive
        self._ego: Any = None  # EgoPath, once odometry was wanted

    def __call__(self, msg: Any) -> None:
        """Work on one Image or CompressedImage; never raises."""
        try:
            self._frame(msg)
        except NoCalibration as error:
            self._reject("calibration", str(error))
        except ValueError as error:
            self._reject(f"frame {str(error)[:20]}", f"frame skipped, history reset: {error}")
        except Exception:
            if not self._is_alive():
                return  # Ctrl-C in the middle of a frame: the publishers have gone
            text = traceback.format_exc()
            self._reject("internal", "")
            self._notices.error("internal", f"frame skipped, history reset, going on:\n{text}")

    def swap(self, predictor: Predictor) -> None:
        """Go on with another model; its history starts with the next frame."""
        self.predictor = predictor
        self._ego = None
        for kind in ("no object motion", "no ego-motion", "relative"):
            self._notices.forget(kind)

    def _learns_scale(self) -> bool:
        """Whether ego-motion is of use to the scale, though nobody subscribed to it."""
        scale_filter = self.predictor.scale_filter
        return scale_filter is not None and scale_filter.needs_motion

    def _reject(self, kind: str, text: str) -> None:
        self._statistics.bad()
        self.predictor.reset()
        if text:
            self._notices.warn(kind, text)

    def _frame(self, msg: Any) -> None:
        started, config = time.perf_counter(), self._config()
        wanted = self._possible(self._outputs.wanted())
        if not wanted:
            self.predictor.reset()  # what comes after an idle time does not follow what was before
            self._statistics.unwanted()
            return
        decode = (
            conversions.compressed_to_rgb
            if isinstance(msg, CompressedImage)
            else conversions.image_to_rgb
        )
        image, K = self.calibrator(decode(msg), config)
        if wanted == {"camera_info"}:  # known without running the network
            K, size = output_camera(K, image.shape[:2], self.predictor, config)
            self._outputs.publish_camera_info(msg.header, K, size)
            network_ms = None
        else:
            prediction = self.predictor(
                image, K, conversions.stamp_ns(msg.header.stamp),
                output_size=config.output_size, cloud=bool(wanted & {"points", "moving_points"}),
                motion=bool(wanted & (OBJECTS | {"odometry"})) or self._learns_scale(),
            )  # fmt: skip
            allowed = self._allowed(wanted, prediction, config)
            self._outputs.publish(
                allowed, msg.header, prediction, self.predictor.write_cloud, config,
                self._follow(allowed, msg, prediction),
            )  # fmt: skip
            network_ms = prediction.timings_ms["network"]
        done = time.perf_counter()
        latency = (self._now_ns() - conversions.stamp_ns(msg.header.stamp)) * 1e-9
        self._statistics.published(latency, network_ms, 1e3 * (done - started))

    def _possible(self, wanted: frozenset[str]) -> frozenset[str]:
        """`can_give`; says once what is missing."""
        predictor = self.predictor
        if wanted & OBJECTS and predictor.has_object_motion is False:
            self._notices.once("no object motion", NO_OBJECT_MOTION.format(predictor.meta.method))
        if "odometry" in wanted and predictor.has_ego_motion is False:
            self._notices.once("no ego-motion", NO_EGO_MOTION.format(predictor.meta.method))
        return self.can_give(wanted)

    def can_give(self, wanted: frozenset[str]) -> frozenset[str]:
        """Without what this model cannot give."""
        if self.predictor.has_object_motion is False:
            wanted -= OBJECTS
        return wanted - {"odometry"} if self.predictor.has_ego_motion is False else wanted

    def _allowed(
        self, wanted: frozenset[str], prediction: Any, config: NodeConfig
    ) -> frozenset[str]:
        """Without what claims m/s that nobody stands for; says once what is held back."""
        if prediction.scale.is_metric or config.allow_relative_velocity:
            return wanted
        if held := wanted & IN_METRES:
            self._notices.once("relative", RELATIVE.format(_topics(held)))
        return wanted - IN_METRES

    def _follow(self, wanted: frozenset[str], msg: Any, prediction: Any) -> Any:
        """The camera's EgoState, where odometry is wanted; its path begins with the first one that
        may be published, so that it has one unit.
        """
        if "odometry" not in wanted:
            self._ego = None
            return None
        if self._ego is None:
            from dyndepth_core.inference.motion import EgoPath

            self._ego = EgoPath()
        return self._ego.step(prediction.T_src_tgt, conversions.stamp_ns(msg.header.stamp))


def _topics(names: frozenset[str]) -> str:
    return ", ".join(sorted(TOPICS[name][0] for name in names))
