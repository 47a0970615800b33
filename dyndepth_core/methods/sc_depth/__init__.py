"""SC-Depth V1 (Bian et al., NeurIPS 2019, IJCV 2021): depth that keeps one scale over a video,
written from the papers' mathematics.
"""

from dyndepth_core.methods.base import MethodInfo
from dyndepth_core.methods.sc_depth.objective import (
    SCDepthConfig,
    SCDepthGraph,
    SCDepthObjective,
)

METHOD = MethodInfo("sc_depth", SCDepthConfig, SCDepthObjective, SCDepthGraph)
