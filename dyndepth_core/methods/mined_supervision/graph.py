"""Inference of mined_supervision: that of residual_motion, nothing of the mining is left."""

from __future__ import annotations

import torch
from torch import Tensor

from dyndepth_core.methods.residual_motion.graph import (
    ResidualMotionArchitecture,
    ResidualMotionGraph,
)


class MinedSupervisionArchitecture(ResidualMotionArchitecture):
    """lateral_only: residuals have no part along the axis."""

    lateral_only: bool = False


class MinedSupervisionGraph(ResidualMotionGraph):
    """See ResidualMotionGraph; keyword arguments: those of MinedSupervisionArchitecture."""

    method = "mined_supervision"
    architecture_class = MinedSupervisionArchitecture

    def forward(
        self, image: Tensor, previous_image: Tensor | None, K: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """See InferenceGraph."""
        depth, residual, T, state = super().forward(image, previous_image, K, state)
        if residual is not None and self.architecture["lateral_only"]:
            residual = torch.cat(
                (residual[:, :2], torch.zeros_like(residual[:, :1]), residual[:, 3:]), 1
            )
        return depth, residual, T, state
