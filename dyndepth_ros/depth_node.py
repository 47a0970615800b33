"""The depth node: camera images in, depth, clouds and diagnostics out."""

from __future__ import annotations

import functools
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from dyndepth_core.inference.loading import between_steps
from dyndepth_core.inference.vehicle_odometry import VehicleOdometry
from dyndepth_ros import diagnostics
from dyndepth_ros.calibrator import Calibrator
from dyndepth_ros.image_input import ImageInput, subscribe
from dyndepth_ros.notices import CoreLog, Notices
from dyndepth_ros.odometry_input import OdometryInput, make_odometry
from dyndepth_ros.outputs import Outputs
from dyndepth_ros.parameters import NodeConfig, Parameters
from dyndepth_ros.pipeline import Pipeline, describe, load_predictor
from dyndepth_ros.process import giving_way, run
from dyndepth_ros.worker import Worker

SILENCE_S = 5.0  # without an image the log says so
IDLE_S = 0.2  # that a step of loading a model waits for frames; then both go on side by side
RELOAD_S = 5.0  # for a model that is being loaded when the node closes
SYNTHETIC = (
    "running a bundled model, trained on a SYNTHETIC world. It knows no real street: do not drive "
    "by it. Train one on your own video (dyndepth train) and set the parameter `model`"
)


def logged(transition: Callable[..., Any]) -> Callable[..., Any]:
    """Log what a transition raises; rclpy itself swallows it without a word."""

    @functools.wraps(transition)
    def guarded(self: LifecycleNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception:
            self.get_logger().error(f"{transition.__name__}:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR

    return guarded


class DepthNode(LifecycleNode):
    """Lifecycle node; topics, services and parameters as the README lists them.

    The spin thread only takes messages; the worker's thread decodes, predicts and publishes.
    configure loads the model and advertises, activate subscribes; deactivate and cleanup undo them.
    """

    def __init__(self) -> None:
        super().__init__("depth_node")
        self._settings = Parameters(self, NodeConfig)
        self._notices = Notices(self.get_logger())
        self._core_log = CoreLog(self.get_logger(), self._notices).attach()
        self._statistics = diagnostics.Statistics()
        self._worker: Worker | None = None
        self._pipeline: Pipeline | None = None
        self._outputs: Outputs | None = None
        self._images: ImageInput | None = None
        self._camera_info: Any = None
        self._odometry: VehicleOdometry | None = None
        self._odometry_input: OdometryInput | None = None
        self._reloading: threading.Thread | None = None
        self._stuck = False  # a thread of it that could not be ended
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a paused simulation still reports
        self.create_timer(1.0, self._report, clock=steady)
        self.create_timer(0.5, self._check_images, clock=steady)
        self._reload_done = self.create_guard_condition(lambda: None)
        self.create_service(
            Trigger, "~/reload_model", self._on_reload,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )  # fmt: skip

    @property
    def config(self) -> NodeConfig:
        """The parameters as they are now."""
        return self._settings.config

    def start(self) -> bool:
        """Configure and activate, if autostart is on; False when that failed."""
        if not self.config.autostart:
            return True
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def close(self) -> bool:
        """End the threads; False when one is stuck and the process has to end without it."""
        self._core_log.detach()
        stopped = self._stop_worker()
        if self._reloading is not None:
            self._reloading.join(RELOAD_S)
            stopped = stopped and not self._reloading.is_alive()
        return stopped and not self._stuck

    def _stop_worker(self) -> bool:
        return self._worker is None or self._worker.stop()

    # -- lifecycle: what each transition makes, its mirror takes away --------------------------

    @logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model on the worker thread, advertise the outputs."""
        self.get_logger().info(f"loading {self.config.model or 'the bundled model'}")
        self._worker = Worker("depth")
        self._odometry = make_odometry(self.config)
        loading = self._worker.call(lambda: load_predictor(self.config, self._odometry))
        try:
            self._outputs = Outputs(self, self._on_mismatch, self.config.publish_odometry)
            predictor = loading.result()
        except (ValueError, OSError, RuntimeError, CancelledError) as error:
            if self.context.ok():  # else Ctrl-C took the context away: nothing to complain about
                self.get_logger().error(f"cannot configure: {error}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        calibrator = Calibrator(
            self.resolve_topic_name("image"), self.resolve_topic_name("camera_info"),
            self.config.rectify, self._notices,
        )  # fmt: skip
        self._pipeline = Pipeline(
            predictor, calibrator, self._outputs, self._statistics, self._notices,
            lambda: self.config, lambda: self.get_clock().now().nanoseconds, self.context.ok,
        )  # fmt: skip
        self._announce(predictor)
        return super().on_configure(state)

    @logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop the model and the publishers."""
        self._release()
        return super().on_cleanup(state)

    @logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe; frames are worked on from now on."""
        self._worker.start(self._pipeline)
        self._statistics.restart()
        self._camera_info = subscribe(
            self, CameraInfo, "camera_info", self._pipeline.calibrator.camera_info,
            self._on_mismatch,
        )  # fmt: skip
        self._images = ImageInput(
            self, self.config.image_transport, self._on_image, self._on_mismatch
        )
        self._images.check()
        if self._odometry is not None:
            self._odometry_input = OdometryInput(
                self, self.config.odometry, self._odometry, self._on_mismatch
            )
        return super().on_activate(state)

    @logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; returns when no frame is in work any more."""
        self._unsubscribe()
        self._worker.pause()
        return super().on_deactivate(state)

    @logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take everything away, from whichever state."""
        self._unsubscribe()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed in an unforeseen way: back to unconfigured, to try again."""
        self.get_logger().error(f"a transition from {state.label} failed; now unconfigured")
        self._unsubscribe()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _unsubscribe(self) -> None:
        if self._images is not None:
            self._images.stop()
            self.destroy_subscription(self._camera_info)
        if self._odometry_input is not None:
            self._odometry_input.stop()
        self._images, self._camera_info, self._odometry_input = None, None, None

    def _release(self) -> None:
        self._stuck = not self._stop_worker() or self._stuck
        if self._outputs is not None:
            self._outputs.destroy()
        self._worker, self._outputs, self._pipeline = None, None, None

    # -- callbacks of the spin thread: short, none of them computes ----------------------------

    def _on_image(self, msg: Any) -> None:
        if self._worker is not None:
            self._statistics.received(dropped=not self._worker.give(msg))

    def _check_images(self) -> None:
        if self._images is not None:
            self._images.check()

    def _on_mismatch(self, advice: str) -> None:
        self._notices.warn(advice, advice)

    def _report(self) -> None:
        pipeline = self._pipeline
        scale = pipeline.predictor.scale if pipeline else None
        learned = pipeline.predictor.scale_filter if pipeline else None
        situation = diagnostics.Situation(
            # with its namespace, or several cameras are one to an aggregator
            node=self.get_fully_qualified_name().lstrip("/"),
            state=self._state_machine.current_state[1],
            image_topic=self._images.topic if self._images else "",
            publishers=self._images.publishers if self._images else 0,
            calibration=pipeline.calibrator.state if pipeline else "",
            model=describe(pipeline.predictor) if pipeline else {},
            model_parameter=self.config.model,
            scale_source=scale.source if scale else "",
            scale_value=scale.value if scale else 0.0,
            scale_variance=scale.variance if scale else 0.0,
            scale_report=learned.report() if learned else {},
            scale_fault=learned.fault if learned else "",
            wanted=bool(pipeline and pipeline.can_give(self._outputs.wanted())),
        )
        now = self._statistics.snapshot()
        if self._images is not None and now.seconds_since_input > SILENCE_S:
            self._notices.warn("silence", diagnostics.silence(situation, now))
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics.report(stamp, situation, now))

    async def _on_reload(self, _: Trigger.Request, reply: Trigger.Response) -> Trigger.Response:
        """Load on a thread of its own while frames go on, then swap between two frames."""
        if self._pipeline is None:
            reply.message = "not configured: the model is loaded by configure"
            return reply
        loaded: Future = Future()
        # what a transition takes away meanwhile is not mixed with what another makes
        parts = self._pipeline, self._worker, self._odometry
        self._reloading = threading.Thread(
            target=self._reload, args=(loaded, *parts), name="reload", daemon=True
        )
        self._reloading.start()
        reply.success, reply.message = await loaded
        return reply

    def _reload(
        self, done: Future, pipeline: Pipeline, worker: Worker, odometry: VehicleOdometry | None
    ) -> None:
        try:
            with giving_way(), between_steps(lambda: worker.wait_idle(IDLE_S)):
                predictor = load_predictor(self.config, odometry)
            old = pipeline.predictor
            worker.call(lambda: pipeline.swap(predictor)).result()
            del old  # its memory is given back here, not between two frames
            self._announce(predictor)
            done.set_result((True, f"now running {_in_words(predictor)}"))
        except Exception as error:  # whatever it was, the old model goes on
            text = f"model not changed, the old one goes on: {error}"
            if self._pipeline is not pipeline:
                text = "model not changed: the node was cleaned up meanwhile; configure loads it"
            self.get_logger().error(text)
            done.set_result((False, text))
        self._reload_done.trigger()  # wakes the spin thread, which then sends the reply

    def _announce(self, predictor: Any) -> None:
        from dyndepth_core.inference.model_file import BUNDLED

        if predictor.path in BUNDLED.values():
            given = "" if self.config.model else "no model given: "
            self.get_logger().warning(given + SYNTHETIC)
        text = f"depth in {predictor.scale.source} scale by {_in_words(predictor)}"
        self.get_logger().info(text)


def _in_words(predictor: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in describe(predictor).items() if value)


def main(args: list[str] | None = None) -> int:
    """Entry point of `depth_node`."""
    return run("depth_node", DepthNode, args)


if __name__ == "__main__":
    sys.exit(main())
