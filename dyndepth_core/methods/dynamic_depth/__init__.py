"""DynamicDepth (Feng et al., ECCV 2022): many_depth whose cost volume and loss see moving objects
as if they stood; written from the paper's mathematics.
"""

from dyndepth_core.methods.base import MethodInfo
from dyndepth_core.methods.dynamic_depth.objective import (
    DynamicDepthConfig,
    DynamicDepthGraph,
    DynamicDepthObjective,
)
from dyndepth_core.methods.many_depth.config import ManyDepthNetworkConfig
from dyndepth_core.methods.masks import masked_stages

METHOD = MethodInfo(
    "dynamic_depth",
    DynamicDepthConfig,
    DynamicDepthObjective,
    DynamicDepthGraph,
    network_class=ManyDepthNetworkConfig,
    stages=masked_stages,
)
