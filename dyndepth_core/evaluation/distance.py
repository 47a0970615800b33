"""Error over distance: where in the scene a method goes wrong."""

from __future__ import annotations

import numpy as np

from dyndepth_core.evaluation.metrics import median_ratio, valid_depth

EDGES = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0)  # metres of true depth


class DistanceErrors:
    """Mean |g - p| / g per bin of true depth, static and dynamic pixels apart, over all images
    added; p after the image's median ratio.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((2, len(EDGES) - 1))
        self._counts = np.zeros((2, len(EDGES) - 1), dtype=np.int64)

    def add(self, gt: np.ndarray, predicted: np.ndarray, dynamic: np.ndarray | None) -> None:
        """Add an image: truth and prediction (H, W), dynamic (H, W) bool or None."""
        valid = valid_depth(gt) & np.isfinite(predicted) & (predicted > 0)
        if not valid.any():
            return
        truth, guess = gt[valid], predicted[valid]
        error = np.abs(truth - guess * median_ratio(truth, guess)) / truth
        moves = np.zeros(truth.shape, bool) if dynamic is None else dynamic[valid]
        at = np.clip(np.digitize(truth, EDGES) - 1, 0, len(EDGES) - 2)
        for k, chosen in enumerate((~moves, moves)):
            size = len(EDGES) - 1
            self._sums[k] += np.bincount(at[chosen], error[chosen], size)
            self._counts[k] += np.bincount(at[chosen], minlength=size)

    def table(self) -> dict[str, list]:
        """{edges_m, static, dynamic: mean errors or None, static_pixels, dynamic_pixels}."""
        result: dict[str, list] = {"edges_m": list(EDGES)}
        for k, name in enumerate(("static", "dynamic")):
            result[name] = [
                float(s / n) if n else None
                for s, n in zip(self._sums[k], self._counts[k], strict=True)
            ]
            result[f"{name}_pixels"] = self._counts[k].tolist()
        return result
