"""How well moving things are found, and how well their motion is measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MIN_OBJECT_PIXELS = 50
BANDS_M = (0.0, 10.0, 20.0, 40.0, 80.0)


@dataclass
class ObjectSpeed:
    """One object in one image: its true speed (m/s), the predicted one, its distance (m)."""

    true_mps: float
    found_mps: float
    distance_m: float


@dataclass
class MotionErrors:
    """Sums over images: every pixel with ground truth counts once, whatever its clip.

    Dynamic is what moves at 1 m/s or more relative to the ground. In an image without anything
    dynamic, all that is found is false.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0
    error_m: float = 0.0
    zero_m: float = 0.0
    objects: list[ObjectSpeed] = field(default_factory=list)

    @classmethod
    def of(cls, content: dict) -> MotionErrors:
        """From what dataclasses.asdict made of one."""
        return cls(**{**content, "objects": [ObjectSpeed(**o) for o in content["objects"]]})

    def add(
        self,
        found: np.ndarray,
        velocity: np.ndarray,
        dynamic: np.ndarray,
        true_velocity: np.ndarray,
        depth: np.ndarray,
        valid: np.ndarray,
        instances: np.ndarray | None,
        seconds: float,
    ) -> None:
        """One image: found, dynamic, valid (H, W) bool; velocity, true_velocity (H, W, 3) m/s
        relative to the ground; depth (H, W) true metres; instances (H, W) ids, 0 = background;
        seconds: between the two images the motion was read from.

        A velocity that is not finite where something moves counts as zero.
        """
        valid = valid & np.isfinite(true_velocity).all(-1)
        self.true_positive += int((found & dynamic & valid).sum())
        self.false_positive += int((found & ~dynamic & valid).sum())
        self.false_negative += int((~found & dynamic & valid).sum())
        self.true_negative += int((~found & ~dynamic & valid).sum())
        moving = dynamic & valid
        if not moving.any():
            return
        seen = np.nan_to_num(velocity[moving], nan=0.0, posinf=0.0, neginf=0.0)
        true = true_velocity[moving]
        self.error_m += seconds * float(np.linalg.norm(seen - true, axis=-1).sum())
        self.zero_m += seconds * float(np.linalg.norm(true, axis=-1).sum())
        if instances is not None:
            self._add_objects(seen, true, depth[moving], instances[moving])

    def _add_objects(
        self, seen: np.ndarray, true: np.ndarray, depth: np.ndarray, ids: np.ndarray
    ) -> None:
        for name in np.unique(ids[ids > 0]):
            own = ids == name
            if own.sum() >= MIN_OBJECT_PIXELS:
                speeds = (float(np.linalg.norm(np.median(v[own], 0))) for v in (true, seen))
                self.objects.append(ObjectSpeed(*speeds, float(np.median(depth[own]))))

    def table(self) -> dict[str, float | None]:
        """{f1, precision, recall, iou, epe_m, epe_zero_m, speed_error_mps, false_share, ...}.

        Pixels: precision, recall, f1, iou of dynamic; false_share of the static pixels found
        dynamic. epe_m: mean over moving pixels of the error of the translation between the two
        images; epe_zero_m: that of predicting none. speed_error_mps: mean over objects and images
        of |speed of the median velocity - true speed|. None where there is nothing to measure.
        """
        tp, fp, fn = self.true_positive, self.false_positive, self.false_negative
        moving, still = tp + fn, fp + self.true_negative
        return {
            "f1": _share(2 * tp, 2 * tp + fp + fn),
            "precision": _share(tp, tp + fp),
            "recall": _share(tp, moving),
            "iou": _share(tp, tp + fp + fn),
            "false_share": _share(fp, still),
            "epe_m": _share(self.error_m, moving),
            "epe_zero_m": _share(self.zero_m, moving),
            "speed_error_mps": _mean([abs(o.true_mps - o.found_mps) for o in self.objects]),
            "speed_mps": _mean([o.true_mps for o in self.objects]),
            "objects": len(self.objects),
        }

    def speed_over_distance(self) -> dict[str, dict[str, float | None]]:
        """{"0 to 10 m": {objects, speed_mps, speed_error_mps}, ...}: per band of distance the
        number of objects, their mean true speed and the mean error of the speed.
        """
        rows = {}
        for near, far in zip(BANDS_M, BANDS_M[1:], strict=False):
            own = [o for o in self.objects if near <= o.distance_m < far]
            rows[f"{near:g} to {far:g} m"] = {
                "objects": len(own),
                "speed_mps": _mean([o.true_mps for o in own]),
                "speed_error_mps": _mean([abs(o.true_mps - o.found_mps) for o in own]),
            }
        return rows


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
