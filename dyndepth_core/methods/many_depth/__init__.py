"""ManyDepth (Watson et al., CVPR 2021): depth from this image and a cost volume of the one before,
held by a teacher of one image; written from the paper's mathematics.
"""

from dyndepth_core.methods.base import MethodInfo
from dyndepth_core.methods.many_depth.config import ManyDepthConfig, ManyDepthNetworkConfig
from dyndepth_core.methods.many_depth.graph import ManyDepthGraph
from dyndepth_core.methods.many_depth.objective import ManyDepthObjective

METHOD = MethodInfo(
    "many_depth",
    ManyDepthConfig,
    ManyDepthObjective,
    ManyDepthGraph,
    network_class=ManyDepthNetworkConfig,
)
