"""Supervision of moving regions mined from plain video (Nguyen et al., CVPR 2024), written from the
paper's mathematics: static depth and motion, objects from what moves, their shape on its own, their
scale from what stands, and with that labels.
"""

from dyndepth_core.methods.base import MethodInfo
from dyndepth_core.methods.mined_supervision.config import MinedSupervisionConfig
from dyndepth_core.methods.mined_supervision.graph import MinedSupervisionGraph
from dyndepth_core.methods.mined_supervision.objective import MinedSupervisionObjective
from dyndepth_core.methods.mined_supervision.stages import stages
from dyndepth_core.methods.residual_motion.config import ResidualNetworkConfig

METHOD = MethodInfo(
    "mined_supervision",
    MinedSupervisionConfig,
    MinedSupervisionObjective,
    MinedSupervisionGraph,
    network_class=ResidualNetworkConfig,
    stages=stages,
    # ten minutes on a vehicle are no time to mine in; its networks are the same
    goes_on_as="residual_motion",
)
