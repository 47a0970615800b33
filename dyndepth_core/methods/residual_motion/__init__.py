"""Depth, ego-motion and a dense residual translation field, learned together from plain video (Li
et al., CoRL 2020), written from the paper's mathematics.
"""

from dyndepth_core.methods.base import MethodInfo
from dyndepth_core.methods.residual_motion.config import (
    ResidualMotionConfig,
    ResidualNetworkConfig,
)
from dyndepth_core.methods.residual_motion.graph import ResidualMotionGraph
from dyndepth_core.methods.residual_motion.hints import stages
from dyndepth_core.methods.residual_motion.objective import ResidualMotionObjective

METHOD = MethodInfo(
    "residual_motion",
    ResidualMotionConfig,
    ResidualMotionObjective,
    ResidualMotionGraph,
    network_class=ResidualNetworkConfig,
    stages=stages,
)
