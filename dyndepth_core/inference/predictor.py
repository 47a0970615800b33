"""The Predictor: a camera image in, depth and cloud out, on CPU or GPU."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dyndepth_core.data.transforms import image_tensor, plan_fit
from dyndepth_core.geometry.camera import check_K
from dyndepth_core.instances.motion import Motion

from .cloud import CloudWriter
from .device import autocast_dtype, is_out_of_memory, resolve_device
from .fold import fold_graph
from .history import MAX_GAP_S, Camera, History, check_image
from .loading import step
from .model_file import find_model, load_model
from .model_meta import ModelMeta
from .motion import MotionReader
from .output import OutputPlan, OutputSize, Staging, copy_down
from .scale import ScaleState, model_scale
from .scale_filter import ScaleFilter, Seen

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
BACKENDS = ("torch",)


@dataclass
class Prediction:
    """Depth of one image.

    depth: float32 (h, w) along z, in metres if `scale.is_metric`, NaN where the network saw no
    image. K: (3, 3) float64 of that depth image. image: uint8 (h, w, 3) RGB, pixel for pixel that
    of depth. scale: the factor already applied. T_src_tgt: float64 (4, 4), coordinates in this
    camera to those of the previous frame, None where the model has no ego-motion. motion: what
    moves, velocities, mask and objects; None where the model has no object motion, on the first
    frame and without stamps. timings_ms: prepare (to the network's input), network (to depth on the
    host).
    history_reset: why frames before this one were forgotten, empty when they were not.
    """

    depth: np.ndarray
    K: np.ndarray
    image: np.ndarray
    scale: ScaleState
    T_src_tgt: np.ndarray | None = None
    motion: Motion | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    history_reset: str = ""
    _device_cloud: np.ndarray | None = field(default=None, repr=False)

    @property
    def velocity(self) -> np.ndarray | None:
        """That of `motion`, float32 (h, w, 3)."""
        return None if self.motion is None else self.motion.velocity


class Predictor:
    """Runs a model file on images. Not thread-safe: one thread calls it.

    model: see find_model; None = the bundled one. device: auto, cpu, cuda, cuda:N. precision: auto
    (float32 on a CPU, half on a GPU), fp32, fp16, bf16. assumed_scale: factor on the depth of a
    model without metric scale. Raises ValueError or FileNotFoundError for a model, device,
    precision or backend that cannot be used. has_ego_motion, has_object_motion: what `motion=True`
    can give; None until the second frame, which may be one of `warm_up`.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "torch",
        assumed_scale: float = 1.0,
    ) -> None:
        self.path: Path | None = find_model(model)
        graph, meta = load_model(self.path)
        self._start(graph, meta, device, precision, backend, assumed_scale)

    @classmethod
    def from_graph(
        cls,
        graph: nn.Module,
        meta: ModelMeta,
        *,
        device: str = "auto",
        precision: str = "auto",
        assumed_scale: float = 1.0,
    ) -> Predictor:
        """Predictor of an inference graph in memory (a model in training); the graph is copied and
        stays as it is.
        """
        self = cls.__new__(cls)
        self.path = None
        self._start(
            copy.deepcopy(graph).float().cpu(), meta, device, precision, "torch", assumed_scale
        )
        return self

    def _start(
        self,
        graph: nn.Module,
        meta: ModelMeta,
        device: str,
        precision: str,
        backend: str,
        assumed_scale: float,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r}: this dyndepth has {', '.join(BACKENDS)}")
        self.meta, self.input_size = meta, meta.input_size
        self.scale = model_scale(meta, assumed_scale)
        self.scale_filter: ScaleFilter | None = None  # set it to learn `scale` on line
        self.device = resolve_device(device)
        self._autocast = autocast_dtype(precision, self.device)
        self._graph = graph.eval().requires_grad_(False)
        fold_graph(self._graph, self.input_size, meta.canonical_focal)
        self._graph.to(memory_format=torch.channels_last)
        self._plans: dict[str, tuple[Camera, OutputPlan]] = {}
        self._told = ""  # what of the images the network does not see; once for each shape
        self._cloud_writer: CloudWriter | None = None
        self._staging = Staging(self.device)
        self._latest: Prediction | None = None
        self._uses_previous = getattr(graph, "previous_for_depth", False)
        gap = getattr(graph, "max_gap_s", None)
        self._history, self._motion = History(gap or MAX_GAP_S), MotionReader(meta)
        self.has_ego_motion: bool | None = None
        self.has_object_motion: bool | None = None
        self._on_device(lambda: self._graph.to(self.device))

    def reset(self) -> None:
        """Forget the frames seen so far; the next one starts a new history."""
        self._history.clear()
        self._motion.clear()

    def warm_up(self) -> None:
        """Run dummy frames, so that first-time work does not slow the first real one."""
        self.reset()
        for _ in range(2):  # the second has a history: another branch of the network
            step()
            self(np.zeros((*self.input_size, 3), np.uint8), motion=True)
        self.reset()

    def __call__(
        self,
        image: np.ndarray,
        K: np.ndarray | None = None,
        stamp_ns: int | None = None,
        *,
        output_size: OutputSize = "model",
        cloud: bool = False,
        motion: bool = False,
    ) -> Prediction:
        """Predict depth of one image, uint8 (H, W, 3) RGB, free of lens distortion.

        K: (3, 3) pixels of that image; None = it is taken to have the model's canonical focal
        length, so that depth is right only up to the ratio of the focal lengths. stamp_ns: a jump
        back, a gap over 2 s (or what the model says), another size or another K forgets the
        history; depth is then that of a single image, as on the first frame. output_size: at the
        model's size, or resampled to the input's. cloud: on a GPU also compute the cloud there,
        for `write_cloud`. motion: also estimate ego-motion and velocities, where the model can (it
        costs another network). Raises ValueError for an image or K that cannot be used; the history
        then stays as it was.
        """
        start = time.perf_counter()
        check_image(image)
        K = None if K is None else check_K(K)
        if output_size not in ("model", "input"):
            raise ValueError(f"output_size={output_size!r}: choose model or input")
        camera = Camera.of(image, K)
        fitted = self._plan(camera, K, output_size).fit.image(image)
        fitted = np.require(fitted, requirements="CW")  # of a message it may be a read-only view
        reset = self._history.follow(camera, stamp_ns)
        if reset:
            self._motion.clear()
        prepared = time.perf_counter()

        def work() -> tuple[Prediction, Tensor, Any]:
            plan = self._plan(camera, K, output_size)  # again: after a fall-back for another device
            return self._run(image, fitted, plan, cloud, motion, stamp_ns)

        result, tensor, state = self._on_device(work)
        self._history.advance(tensor, state, camera, stamp_ns)
        if self._latest is not None:
            self._latest._device_cloud = None  # its memory is this frame's by now
        self._latest = result
        result.history_reset = reset
        result.timings_ms = {
            "prepare": 1e3 * (prepared - start),
            "network": 1e3 * (time.perf_counter() - prepared),
        }
        return result

    def write_cloud(self, prediction: Prediction, out: np.ndarray) -> None:
        """Write the cloud of a prediction into `out`, float32 (h, w, 4) x y z rgb, the message's
        own buffer.
        """
        if prediction._device_cloud is not None:
            np.copyto(out, prediction._device_cloud)
            return
        size = prediction.depth.shape
        if self._cloud_writer is None or not self._cloud_writer.fits(prediction.K, size):
            self._cloud_writer = CloudWriter(prediction.K, size)
        self._cloud_writer.write(prediction.depth, prediction.image, out)

    def _plan(self, camera: Camera, K: np.ndarray | None, output_size: OutputSize) -> OutputPlan:
        """The plan for this camera, kept until it or the device changes."""
        known = self._plans.get(output_size)
        if known is not None and known[0] == camera and known[1].device == self.device:
            return known[1]
        fit = plan_fit(camera.size, self.input_size, K)
        if fit.lost and fit.lost != self._told:
            self._told = fit.lost
            logger.warning("%s: a model of another data.size would see them whole", fit.lost)
        if K is None:  # such that the network-size image is the canonical camera, centred
            (height, width), focal = self.input_size, self.meta.canonical_focal
            canonical = [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
            K = fit.inverse_K(np.array(canonical, np.float64))
        plan = OutputPlan(fit, K, output_size, self.device)
        self._plans[output_size] = (camera, plan)
        return plan

    @torch.inference_mode()
    def _run(
        self,
        image: np.ndarray,
        fitted: np.ndarray,
        plan: OutputPlan,
        cloud: bool,
        motion: bool,
        stamp_ns: int | None,
    ) -> tuple[Prediction, Tensor, Any]:
        """Network and output on the device; returns with them what the next frame needs of this."""
        on_cpu, history = self.device.type == "cpu", self._history
        pixels = None if on_cpu else self._staging.upload("fitted", fitted)
        if pixels is None:
            tensor = image_tensor(fitted)
        else:  # (1, 3, h, w) by strides alone: images lie in memory as channels_last wants them
            tensor = pixels.permute(2, 0, 1)[None].to(torch.float32).mul_(1 / 255)
        previous = history.image if motion or self._uses_previous else None
        autocast = self._autocast
        with torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None):
            depth, residual, T, state = self._graph(tensor, previous, plan.K_network, history.state)
        if self.scale_filter is not None:
            seen = Seen(depth[0, 0], plan.K_network[0], plan.fit.valid)
            self.scale = self.scale_filter.update(stamp_ns, history.stamp_ns, T, seen)
        found = None
        if previous is not None:
            self.has_ego_motion, self.has_object_motion = T is not None, residual is not None
        if residual is not None and stamp_ns is not None and history.stamp_ns is not None:
            stamps = stamp_ns, history.stamp_ns
            of_image = depth[0, 0], residual[0], T[0]
            found = self._motion.read(*of_image, plan, stamps, self.scale.value)
        depth = plan.depth(depth[0, 0]).mul_(self.scale.value)
        if T is not None:
            T = T[0].to("cpu", torch.float64).numpy()
            T[:3, 3] *= self.scale.value
        registered = fitted if plan.output_size == "model" else image
        device_cloud = None
        if on_cpu:
            depth = depth.numpy()
        elif cloud:
            rgb = pixels if registered is fitted else self._staging.upload("image", image)
            depth, device_cloud = copy_down(plan, depth, rgb, self._staging)
        else:
            depth, _ = copy_down(plan, depth, None, self._staging)
        result = Prediction(depth, plan.K.copy(), registered, self.scale, T, found)
        result._device_cloud = device_cloud
        return result, tensor, state

    def _on_device(self, work: Callable[[], Result]) -> Result:
        """Do `work`; when the GPU has no memory left, say so once and do it, and all that follows,
        on the CPU.
        """
        try:
            return work()
        except RuntimeError as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
            remedy = "free its memory and reload the model"
            logger.error("%s ran out of memory, the CPU goes on, slower; %s", self.device, remedy)
        self.device, self._autocast = torch.device("cpu"), None
        self._graph.to(self.device)
        self._plans.clear()
        self._staging = Staging(self.device)
        self.reset()
        torch.cuda.empty_cache()
        return work()
